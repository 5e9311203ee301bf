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
compiled code, nothing in them branches, and the arrays are flat: the compiler sees that no two of them overlap. The
number of components is one too, as the length of the tuple `axes`: fields that stay in a plane stay there.

Shapes: D = 2 or 3 components x, y and z; W voxels of a batch, F = D·W their vectors; P lines, I steps in a line, J
stages of a step; C receive channels, S = 2C what is kept of each: p·M and p·dM.
"""

import math

import numpy as np
from numpy.polynomial import chebyshev

from sm_search.physics.compiled import DEGREE, compiled, exp, fma, inlined, polynomial
from sm_search.physics.projection_kernel import project

BATCH = 64
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
def _dot(axes, a_F, b_F, w):
    """The product of two vectors of voxel w."""
    if len(axes) == 2:
        return fma(a_F[w], b_F[w], a_F[w + BATCH] * b_F[w + BATCH])
    return fma(a_F[w], b_F[w], fma(a_F[w + BATCH], b_F[w + BATCH], a_F[w + 2 * BATCH] * b_F[w + 2 * BATCH]))


@compiled
def _slopes(axes, at_F, field_3F, cos_x, cos_y, rate, work_4W, slope_F):
    """de per step: `rate` is the step's length in τ_B.

    a_⊥·b + [(a_∥ − a_⊥)/e²]·(b·e)·e − a_∥·e
    """
    e2_W, be_W, across_W, difference_W = work_4W[0], work_4W[1], work_4W[2], work_4W[3]
    for f in range(len(axes) * BATCH):
        slope_F[f] = fma(field_3F[2, f], cos_y, fma(field_3F[1, f], cos_x, field_3F[0, f]))
    far, saturated = 0, 0
    for w in range(BATCH):
        e2 = _dot(axes, at_F, at_F, w)
        e2_W[w], be_W[w] = e2, _dot(axes, at_F, slope_F, w)
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
    for w in range(BATCH):
        y, z = w + BATCH, w + 2 * BATCH
        along = rate * fma(difference_W[w], be_W[w] - e2_W[w], -across_W[w])
        across = rate * across_W[w]
        slope_F[w] = fma(across, slope_F[w], along * at_F[w])
        slope_F[y] = fma(across, slope_F[y], along * at_F[y])
        if len(axes) == 3:
            slope_F[z] = fma(across, slope_F[z], along * at_F[z])


@compiled
def _moments(axes, e_F, slope_F, seen_CF, work_4W, moment_WPSI, line, step):
    """What the channels see of M/M_s = ρ·e, and behind it of what a step adds at this slope.

    dM = ρ·de + [(L' − ρ)/e²]·(e·de)·e. From what `_slopes` left of e: ρ = 1/(1 + 2a_⊥) and L' = ρ/a_∥. Where a_∥ − 1
    cancels, e² is as small.
    """
    e2_W, ratio_W, bent_W = work_4W[0], work_4W[2], work_4W[3]
    for w in range(BATCH):
        along = fma(bent_W[w], e2_W[w], ratio_W[w])
        ratio = 1.0 / (1.0 + 2.0 * ratio_W[w])
        bend = ratio * (1.0 - along) / (along * max(e2_W[w], SMALLEST_E2))
        bent_W[w] = bend * _dot(axes, e_F, slope_F, w)
        ratio_W[w] = ratio
    channels = len(seen_CF)
    for c in range(channels):
        seen_F = seen_CF[c]
        for w in range(BATCH):
            e = _dot(axes, seen_F, e_F, w)
            moment_WPSI[w, line, c, step] = ratio_W[w] * e
            moment_WPSI[w, line, channels + c, step] = fma(ratio_W[w], _dot(axes, seen_F, slope_F, w), bent_W[w] * e)


@compiled
def _advance(axes, e_F, slope_JF, stages_N4, weights_N4):
    """Add weighted slopes, four at a time."""
    for n in range(len(stages_N4)):
        if stages_N4[n, 0] < 0:
            return
        a_0, a_1, a_2, a_3 = weights_N4[n, 0], weights_N4[n, 1], weights_N4[n, 2], weights_N4[n, 3]
        slope_0, slope_1 = slope_JF[stages_N4[n, 0]], slope_JF[stages_N4[n, 1]]
        slope_2, slope_3 = slope_JF[stages_N4[n, 2]], slope_JF[stages_N4[n, 3]]
        for f in range(len(axes) * BATCH):
            e_F[f] += fma(a_0, slope_0[f], a_1 * slope_1[f]) + fma(a_2, slope_2[f], a_3 * slope_3[f])


@compiled
def _round(axes, e_F, field_3F, seen_CF, turns, rate, scheme, unit, meets, start_PF, moment_WPSI):
    """One Lissajous period from `e_F`, which is moved on; what is seen of M/M_s and its slopes where its steps begin.

    Where `meets`, the round ends at the first line whose start is that of the round before. Returns how far apart the
    starts of the last line were, in units of max(unit, e).
    """
    turn_x_IJ, turn_y_2IJ, line_2P = turns
    stages_JN4, weights_JN4 = scheme
    lines, (steps, stages) = line_2P.shape[1], turn_x_IJ.shape
    size = len(axes) * BATCH
    slope_JF, at_F, work_4W = np.zeros((stages, size)), np.empty(size), np.empty((4, BATCH))
    apart = 0.0
    for line in range(lines):
        apart = 0.0
        for w in range(BATCH):
            gap2, size2 = 0.0, unit * unit
            for f in range(w, size, BATCH):
                gap2 += (e_F[f] - start_PF[line, f]) ** 2
                size2 += e_F[f] ** 2
                start_PF[line, f] = e_F[f]
            apart = max(apart, math.sqrt(gap2 / size2))
        if meets and apart < MEETS:
            return apart
        for i in range(steps):
            for j in range(stages):
                for f in range(size):
                    at_F[f] = e_F[f]
                _advance(axes, at_F, slope_JF, stages_JN4[j], weights_JN4[j])
                cos_y = line_2P[0, line] * turn_y_2IJ[0, i, j] - line_2P[1, line] * turn_y_2IJ[1, i, j]
                _slopes(axes, at_F, field_3F, turn_x_IJ[i, j], cos_y, rate, work_4W, slope_JF[j])
                if j == 0:  # where the step begins
                    _moments(axes, e_F, slope_JF[0], seen_CF, work_4W, moment_WPSI, line, i)
            _advance(axes, e_F, slope_JF, stages_JN4[stages], weights_JN4[stages])
    return apart


@compiled
def spectra(axes, field_N3D, seen_NCD, turns, rate, scheme, unit, rounds, tables, values_N2CXY, apart_N):
    """Steady state and spectrum of every voxel.

    Args:
        axes: as many numbers as vectors have components.
        field_N3D: static field and what the two drives add to it, in units of ξ.
        seen_NCD: sensitivity of each channel.
        turns: cos φ_x at the stages of the steps, (I, J); cos and sin of φ_y there, (2, I, J), and at the lines' begin.
        rate: the length of a step in τ_B.
        scheme: what a stage adds to e, and last the step: numbers of earlier stages, in fours, and their weights.
        unit: of e, where that is smaller.
        rounds: most Lissajous periods after the first.
        tables: of `projection_kernel.project`.
        apart_N: how far the last round was from the one before, in units of max(unit, e).
    """
    size, lines, steps, channels = len(axes) * BATCH, turns[2].shape[1], turns[0].shape[0], seen_NCD.shape[1]
    turn_2YP, weight_2YL, turn_2XH = tables
    moment_WPSI, start_PF = np.empty((BATCH, lines, 2 * channels, steps)), np.empty((lines, size))
    field_3F, seen_CF, e_F = np.empty((3, size)), np.empty((channels, size)), np.empty(size)
    for begin in range(0, len(field_N3D), BATCH):
        width = min(BATCH, len(field_N3D) - begin)
        for w in range(BATCH):
            voxel = begin + min(w, width - 1)  # what is too many repeats the last
            for d in range(len(axes)):
                f = w + d * BATCH
                e_F[f] = 0.0
                for part in range(3):
                    field_3F[part, f] = field_N3D[voxel, part, d]
                    e_F[f] += field_N3D[voxel, part, d]
                for c in range(channels):
                    seen_CF[c, f] = seen_NCD[voxel, c, d]
        start_PF[:] = np.inf
        _round(axes, e_F, field_3F, seen_CF, turns, rate, scheme, unit, False, start_PF, moment_WPSI)
        apart = np.inf
        for _ in range(rounds):
            apart = _round(axes, e_F, field_3F, seen_CF, turns, rate, scheme, unit, True, start_PF, moment_WPSI)
            if apart < MEETS:
                break
        for w in range(width):
            apart_N[begin + w] = apart
            project(moment_WPSI[w], turn_2YP, weight_2YL, turn_2XH, values_N2CXY[begin + w])
