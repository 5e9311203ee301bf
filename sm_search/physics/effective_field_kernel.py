"""Compiled: the effective-field equation of Martsenyuk, Raikher and Shliomis along the trajectory of some voxels.

If the directions of the dipoles are always distributed as in equilibrium with some field e (in units of ξ), then
M = L(e)·ê, and the first moment of the Fokker–Planck equation is exactly (Sov. Phys. JETP 38, 413 (1974))

    τ_B de/dt = a_⊥·(b − (b·ê)ê) − a_∥·(e − (b·ê)ê),   a_⊥ = (1/ρ − 1)/2,   a_∥ = ρ/L'(e),   ρ = L(e)/e

with b the field that acts. Steps are equal and explicit (Dormand and Prince 1980, order 8): an error that is a smooth
function of time falls off with the order of a component as fast as the component does, which that of an adaptive
step would not. Of each step M and dM are kept: M alone mixes a harmonic with those above and below it by the steps in a
line, and dM tells the lower ones apart (`effective_field_spectrum.integrate`). The steady state is reached by going on
until the second round meets the first.

Loops run over W voxels side by side, so that the processor computes several at once. For that W is a constant of the
compiled code, nothing in them branches, and the arrays are flat: the compiler sees that no two of them overlap.

Shapes: W voxels of a batch, F = 3W their vectors x, y, z; P lines, I steps in a line, J stages of a step, C
receive channels, S = 2C what is kept of each: p·M and p·dM.
"""

import math

import numpy as np
from numpy.polynomial import chebyshev

from sm_search.physics.compiled import DEGREE, compiled, exp, fma, inlined, polynomial
from sm_search.physics.projection_kernel import project

BATCH = 32
"""W: more of them fill the processor's vectors no better, and take more of its cache."""

SERIES_E2 = 9.0
"""Below this e² the coefficients are polynomials in it, above they are computed from coth e."""

SATURATED_E2 = 300.0
"""Above this e² L(e) is 1 − 1/e: the rest is of the order of exp(−2e), below 1e-15."""

SMALLEST_E2 = 1e-200
"""In the place of 0, to divide by."""

MEETS = 1e-13
"""Of max(unit, e), the unit being 1 or, if less, ξ of the drive: nearer, the second round has met the first."""


def _series() -> np.ndarray:
    """Of a_⊥ and (a_∥ − a_⊥)/e² the polynomials in x = 2e²/9 − 1, lowest power first, shape (2, degree + 1).

    Chebyshev interpolation. The nearest singularities are zeros of L at e² = −20 and of L' at −13 ± 19i: the error is
    below 1e-13. Nothing cancels near e = 0: both follow from continued fractions of positive terms,
    ρ = 1/(3 + s·t) with t = 1/(5 + s/(7 + …)), s = e².
    """
    x = np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    s = (x + 1) * SERIES_E2 / 2
    rho, tail = _fraction(s, 3), _fraction(s, 5)
    across = 1 + s * tail / 2
    along = 1 / (1 + s * (tail - rho))  # from L' = 1 − s·ρ² − 2ρ and 1 = ρ·(3 + s·t)
    difference = (rho - tail) * along - tail / 2
    vandermonde = chebyshev.chebvander(x, DEGREE)
    return np.array([chebyshev.cheb2poly(np.linalg.solve(vandermonde, values)) for values in (across, difference)])


def _fraction(s: np.ndarray, first: int) -> np.ndarray:
    """1/(first + s/(first + 2 + s/(first + 4 + …)))."""
    value = np.zeros_like(s)
    for odd in range(first + 60, first - 1, -2):
        value = 1 / (odd + s * value)
    return value


ACROSS, DIFFERENCE = (tuple(map(float, powers)) for powers in _series())


@inlined
def _near(e2):
    """a_⊥ and (a_∥ − a_⊥)/e² below `SERIES_E2`."""
    x = min(e2, SERIES_E2) * (2.0 / SERIES_E2) - 1.0
    return polynomial(x, ACROSS), polynomial(x, DIFFERENCE)


@inlined
def _far(e2):
    """The same above it, with q = exp(−2e): ρ = n/(e²(1 − q)) and L' = m/(e²(1 − q)²), all divisions in one."""
    e2 = max(e2, 1.0)
    e = math.sqrt(e2)
    q = exp(-2.0 * e)
    p = 1.0 - q
    n, m = fma(e, q, e) - p, p * p - 4.0 * q * e2
    shared = 1.0 / (n * m * e2)
    across = 0.5 * (e2 * e2 * p * m * shared - 1.0)
    return across, (n * p * n * e2 * shared - across) * (n * m * shared)


@inlined
def _saturated(e2):
    """Above `SATURATED_E2`: ρ = (e − 1)/e² and L' = 1/e², so a_∥ = e − 1."""
    along = math.sqrt(e2) - 1.0
    shared = 1.0 / (along * e2)
    across = fma(0.5 * e2 * e2, shared, -0.5)
    return across, (along - across) * (along * shared)


@inlined
def _dot(a_x, a_y, a_z, b_x, b_y, b_z):
    return fma(a_x, b_x, fma(a_y, b_y, a_z * b_z))


@compiled
def _slopes(at_F, field_3F, cos_x, cos_y, rate, work_4W, slope_F):
    """de per step: `rate` is the step's length in τ_B.

    a_⊥·b + [(a_∥ − a_⊥)/e²]·(b·e)·e − a_∥·e
    """
    e2_W, be_W, across_W, difference_W = work_4W[0], work_4W[1], work_4W[2], work_4W[3]
    for f in range(3 * BATCH):
        slope_F[f] = fma(field_3F[2, f], cos_y, fma(field_3F[1, f], cos_x, field_3F[0, f]))
    far, saturated = 0, 0
    for x in range(BATCH):
        y, z = x + BATCH, x + 2 * BATCH
        e_x, e_y, e_z = at_F[x], at_F[y], at_F[z]
        e2 = _dot(e_x, e_y, e_z, e_x, e_y, e_z)
        e2_W[x], be_W[x] = e2, _dot(e_x, e_y, e_z, slope_F[x], slope_F[y], slope_F[z])
        far += 1 if e2 > SERIES_E2 else 0
        saturated += 1 if e2 > SATURATED_E2 else 0
    if saturated == BATCH:
        for w in range(BATCH):
            across_W[w], difference_W[w] = _saturated(e2_W[w])
    elif far == 0:
        for w in range(BATCH):
            across_W[w], difference_W[w] = _near(e2_W[w])
    elif far == BATCH:
        for w in range(BATCH):
            across_W[w], difference_W[w] = _far(e2_W[w])
    else:
        for w in range(BATCH):
            e2 = e2_W[w]
            near_across, near_difference = _near(e2)
            far_across, far_difference = _far(e2)
            across_W[w] = far_across if e2 > SERIES_E2 else near_across
            difference_W[w] = far_difference if e2 > SERIES_E2 else near_difference
    for x in range(BATCH):
        y, z = x + BATCH, x + 2 * BATCH
        along = rate * fma(difference_W[x], be_W[x] - e2_W[x], -across_W[x])
        across = rate * across_W[x]
        slope_F[x] = fma(across, slope_F[x], along * at_F[x])
        slope_F[y] = fma(across, slope_F[y], along * at_F[y])
        slope_F[z] = fma(across, slope_F[z], along * at_F[z])


@compiled
def _moments(e_F, slope_F, seen_3CW, work_4W, moment_WPSI, line, step):
    """What the channels see of M/M_s = ρ·e, and behind it of what a step adds at this slope: dM = ρ·de + [(L' − ρ)/e²]·(e·de)·e.

    From what `_slopes` left of e: ρ = 1/(1 + 2a_⊥) and L' = ρ/a_∥. Where a_∥ − 1 cancels, e² is as small.
    """
    e2_W, ratio_W, bent_W = work_4W[0], work_4W[2], work_4W[3]
    for x in range(BATCH):
        y, z = x + BATCH, x + 2 * BATCH
        along = fma(bent_W[x], e2_W[x], ratio_W[x])
        ratio = 1.0 / (1.0 + 2.0 * ratio_W[x])
        bend = ratio * (1.0 - along) / (along * max(e2_W[x], SMALLEST_E2))
        bent_W[x] = bend * _dot(e_F[x], e_F[y], e_F[z], slope_F[x], slope_F[y], slope_F[z])
        ratio_W[x] = ratio
    channels = seen_3CW.shape[1]
    for c in range(channels):
        for x in range(BATCH):
            y, z = x + BATCH, x + 2 * BATCH
            p_x, p_y, p_z = seen_3CW[0, c, x], seen_3CW[1, c, x], seen_3CW[2, c, x]
            e = _dot(p_x, p_y, p_z, e_F[x], e_F[y], e_F[z])
            slope = _dot(p_x, p_y, p_z, slope_F[x], slope_F[y], slope_F[z])
            moment_WPSI[x, line, c, step] = ratio_W[x] * e
            moment_WPSI[x, line, channels + c, step] = fma(ratio_W[x], slope, bent_W[x] * e)


@compiled
def _advance(e_F, slope_JF, stages_N4, weights_N4):
    """Add weighted slopes, four at a time."""
    for n in range(len(stages_N4)):
        if stages_N4[n, 0] < 0:
            return
        a_0, a_1, a_2, a_3 = weights_N4[n, 0], weights_N4[n, 1], weights_N4[n, 2], weights_N4[n, 3]
        slope_0, slope_1 = slope_JF[stages_N4[n, 0]], slope_JF[stages_N4[n, 1]]
        slope_2, slope_3 = slope_JF[stages_N4[n, 2]], slope_JF[stages_N4[n, 3]]
        for f in range(3 * BATCH):
            e_F[f] += fma(a_0, slope_0[f], a_1 * slope_1[f]) + fma(a_2, slope_2[f], a_3 * slope_3[f])


@compiled
def _round(e_F, field_3F, seen_3CW, turns, rate, scheme, unit, meets, start_PF, moment_WPSI):
    """One Lissajous period from `e_F`, which is moved on; what is seen of M/M_s and its slopes where its
    steps begin.

    Where `meets`, the round ends at the first line whose start is that of the round before. Returns how far apart the
    starts of the last line were, in units of max(unit, e).
    """
    turn_x_IJ, turn_y_2IJ, line_2P = turns
    stages_JN4, weights_JN4 = scheme
    lines, (steps, stages) = line_2P.shape[1], turn_x_IJ.shape
    slope_JF, at_F, work_4W = np.zeros((stages, 3 * BATCH)), np.empty(3 * BATCH), np.empty((4, BATCH))
    apart = 0.0
    for line in range(lines):
        apart = 0.0
        for w in range(BATCH):
            gap2, size2 = 0.0, unit * unit
            for f in (w, w + BATCH, w + 2 * BATCH):
                gap2 += (e_F[f] - start_PF[line, f]) ** 2
                size2 += e_F[f] ** 2
                start_PF[line, f] = e_F[f]
            apart = max(apart, math.sqrt(gap2 / size2))
        if meets and apart < MEETS:
            return apart
        for i in range(steps):
            for j in range(stages):
                for f in range(3 * BATCH):
                    at_F[f] = e_F[f]
                _advance(at_F, slope_JF, stages_JN4[j], weights_JN4[j])
                cos_y = line_2P[0, line] * turn_y_2IJ[0, i, j] - line_2P[1, line] * turn_y_2IJ[1, i, j]
                _slopes(at_F, field_3F, turn_x_IJ[i, j], cos_y, rate, work_4W, slope_JF[j])
                if j == 0:  # where the step begins
                    _moments(e_F, slope_JF[0], seen_3CW, work_4W, moment_WPSI, line, i)
            _advance(e_F, slope_JF, stages_JN4[stages], weights_JN4[stages])
    return apart


@compiled
def spectra(field_N33, seen_NC3, turns, rate, scheme, unit, rounds, tables, values_N2CXY, apart_N):
    """Steady state and spectrum of every voxel.

    Args:
        field_N33: static field and what the two drives add to it, in units of ξ.
        seen_NC3: sensitivity of each channel.
        turns: cos φ_x at the stages of the steps, (I, J); cos and sin of φ_y there, (2, I, J), and at the lines' begin.
        rate: the length of a step in τ_B.
        scheme: what a stage adds to e, and last the step: numbers of earlier stages, in fours, and their weights.
        unit: of e, where that is smaller.
        rounds: most Lissajous periods after the first.
        tables: of `projection_kernel.project`.
        apart_N: how far the last round was from the one before, in units of max(unit, e).
    """
    lines, steps, channels = turns[2].shape[1], turns[0].shape[0], seen_NC3.shape[1]
    turn_2YP, weight_2YL, turn_2XH = tables
    moment_WPSI, start_PF = np.empty((BATCH, lines, 2 * channels, steps)), np.empty((lines, 3 * BATCH))
    field_3F, seen_3CW, e_F = np.empty((3, 3 * BATCH)), np.empty((3, channels, BATCH)), np.empty(3 * BATCH)
    for begin in range(0, len(field_N33), BATCH):
        width = min(BATCH, len(field_N33) - begin)
        for w in range(BATCH):
            voxel = begin + min(w, width - 1)  # what is too many repeats the last
            for d in range(3):
                f = w + d * BATCH
                e_F[f] = 0.0
                for part in range(3):
                    field_3F[part, f] = field_N33[voxel, part, d]
                    e_F[f] += field_N33[voxel, part, d]
                for c in range(channels):
                    seen_3CW[d, c, w] = seen_NC3[voxel, c, d]
        start_PF[:] = np.inf
        _round(e_F, field_3F, seen_3CW, turns, rate, scheme, unit, False, start_PF, moment_WPSI)
        apart = np.inf
        for _ in range(rounds):
            apart = _round(e_F, field_3F, seen_3CW, turns, rate, scheme, unit, True, start_PF, moment_WPSI)
            if apart < MEETS:
                break
        for w in range(width):
            apart_N[begin + w] = apart
            project(moment_WPSI[w], turn_2YP, weight_2YL, turn_2XH, values_N2CXY[begin + w])
