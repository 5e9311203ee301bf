"""Compiled: the effective-field equation of Martsenyuk, Raikher and Shliomis along the trajectory of some voxels.

If the directions of the dipoles are always distributed as in equilibrium with some field e (in units of ξ), then
M = L(e)·ê, and the first moment of the Fokker–Planck equation is exactly (Sov. Phys. JETP 38, 413 (1974))

    τ_B de/dt = a_⊥·(b − (b·ê)ê) − a_∥·(e − (b·ê)ê),   a_⊥ = (1/ρ − 1)/2,   a_∥ = ρ/L'(e),   ρ = L(e)/e

with b the field that acts. Steps are equal and explicit (Dormand and Prince 1980, order 8): an error that is a smooth
function of time falls off with the order of a component as fast as the component does, which that of an adaptive
step would not. The steady state is reached by going on until the second round meets the first.

Loops run over W voxels side by side, so that the processor computes several at once.

Shapes: W voxels of a batch, D = 2 or 3 components of e, P lines, I steps in a line, J stages of a step.
"""

import math

import numpy as np
from numpy.polynomial import chebyshev

from sm_search.physics.compiled import compiled, exp
from sm_search.physics.projection_kernel import project

BATCH = 32
"""W, voxels side by side."""

SERIES_E2 = 9.0
"""Below this e² the coefficients are polynomials in it, above they are computed from coth e."""

DEGREE = 16

MEETS = 1e-13
"""Of max(1, e): nearer, the second round has met the first."""


def _series() -> np.ndarray:
    """Of a_⊥, (a_∥ − a_⊥)/e² and ρ the polynomials in x = 2e²/9 − 1, lowest power first, shape (3, degree + 1).

    Chebyshev interpolation. The nearest singularities are zeros of L at e² = −20 and of L' at −13 ± 19i: the error is
    below 1e-13. Nothing cancels near e = 0: all three follow from continued fractions of positive terms,
    ρ = 1/(3 + s·t) with t = 1/(5 + s/(7 + …)), s = e².
    """
    x = np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    s = (x + 1) * SERIES_E2 / 2
    rho, tail = _fraction(s, 3), _fraction(s, 5)
    across = 1 + s * tail / 2
    along = 1 / (1 + s * (tail - rho))  # from L' = 1 − s·ρ² − 2ρ and 1 = ρ·(3 + s·t)
    difference = (rho - tail) * along - tail / 2
    vandermonde = chebyshev.chebvander(x, DEGREE)
    return np.array([chebyshev.cheb2poly(np.linalg.solve(vandermonde, values)) for values in (across, difference, rho)])


def _fraction(s: np.ndarray, first: int) -> np.ndarray:
    """1/(first + s/(first + 2 + s/(first + 4 + …)))."""
    value = np.zeros_like(s)
    for odd in range(first + 60, first - 1, -2):
        value = 1 / (odd + s * value)
    return value


SERIES = _series()


@compiled
def _slopes(stage, at_DW, field_3DW, cos_x, cos_y, dimensions, width, rate, series, work_4W, slope_JDW):
    """de per step, into `slope_JDW` at `stage`: `rate` is the step's length in τ_B."""
    for w in range(width):
        work_4W[0, w] = 0.0
        work_4W[1, w] = 0.0
    for d in range(dimensions):
        for w in range(width):
            b = field_3DW[0, d, w] + field_3DW[1, d, w] * cos_x + field_3DW[2, d, w] * cos_y
            slope_JDW[stage, d, w] = b
            work_4W[0, w] += at_DW[d, w] * at_DW[d, w]
            work_4W[1, w] += at_DW[d, w] * b
    smallest, largest = work_4W[0, 0], work_4W[0, 0]
    for w in range(width):
        smallest = min(smallest, work_4W[0, w])
        largest = max(largest, work_4W[0, w])
    if largest > SERIES_E2:
        for w in range(width):
            e2 = max(work_4W[0, w], 1.0)
            e = math.sqrt(e2)
            q = exp(-2.0 * e)
            both = 1.0 / (e * (1.0 - q))
            inverse, d = both * (1.0 - q), both * e
            rho = (1.0 + 2.0 * q * d - inverse) * inverse
            prime = inverse * inverse - 4.0 * q * d * d
            shared = 1.0 / (rho * prime)
            across = 0.5 * (shared * prime - 1.0)
            work_4W[2, w] = across
            work_4W[3, w] = (rho * rho * shared - across) * inverse * inverse
    if smallest <= SERIES_E2:
        for w in range(width):
            x = min(work_4W[0, w], SERIES_E2) * (2.0 / SERIES_E2) - 1.0
            across, difference = series[0, DEGREE], series[1, DEGREE]
            for power in range(DEGREE - 1, -1, -1):
                across = across * x + series[0, power]
                difference = difference * x + series[1, power]
            far = work_4W[0, w] > SERIES_E2
            work_4W[2, w] = work_4W[2, w] if far else across
            work_4W[3, w] = work_4W[3, w] if far else difference
    # a_⊥·b + [(a_∥ − a_⊥)/e²]·(b·e)·e − a_∥·e
    for w in range(width):
        across, difference = work_4W[2, w], work_4W[3, w]
        work_4W[1, w] = difference * (work_4W[1, w] - work_4W[0, w]) - across
    for d in range(dimensions):
        for w in range(width):
            b = slope_JDW[stage, d, w]
            slope_JDW[stage, d, w] = rate * (work_4W[2, w] * b + work_4W[1, w] * at_DW[d, w])


@compiled
def _moments(e_DW, dimensions, width, series, moment_DW):
    """L(e)/e·e."""
    for w in range(width):
        e2 = 0.0
        for d in range(dimensions):
            e2 += e_DW[d, w] * e_DW[d, w]
        far = math.sqrt(max(e2, 1.0))
        q = exp(-2.0 * far)
        rho = ((1.0 + q) / (1.0 - q) - 1.0 / far) / far
        x = min(e2, SERIES_E2) * (2.0 / SERIES_E2) - 1.0
        near = series[2, DEGREE]
        for power in range(DEGREE - 1, -1, -1):
            near = near * x + series[2, power]
        rho = rho if e2 > SERIES_E2 else near
        for d in range(dimensions):
            moment_DW[d, w] = rho * e_DW[d, w]


@compiled
def _round(e_DW, field_3DW, turns, dimensions, width, rate, scheme, series, meets, start_PDW, moment_PIDW):
    """One Lissajous period from `e_DW`, which is moved on; M/M_s at its steps.

    Where `meets`, the round ends at the first line whose start is that of the round before. Returns how far apart the
    starts of the last line were, in units of max(1, e).
    """
    turn_x_IJ, turn_y_2IJ, line_2P = turns
    a_JJ, b_J = scheme
    lines, steps, stages = line_2P.shape[1], turn_x_IJ.shape[0], len(b_J)
    slope_JDW, work_4W, at_DW = np.empty((stages, dimensions, width)), np.empty((4, width)), np.empty_like(e_DW)
    apart = 0.0
    for line in range(lines):
        apart = 0.0
        for w in range(width):
            gap2, size2 = 0.0, 1.0
            for d in range(dimensions):
                gap2 += (e_DW[d, w] - start_PDW[line, d, w]) ** 2
                size2 += e_DW[d, w] ** 2
                start_PDW[line, d, w] = e_DW[d, w]
            apart = max(apart, math.sqrt(gap2 / size2))
        if meets and apart < MEETS:
            return apart
        for i in range(steps):
            _moments(e_DW, dimensions, width, series, moment_PIDW[line, i])
            for j in range(stages):
                for d in range(dimensions):
                    for w in range(width):
                        at_DW[d, w] = e_DW[d, w]
                for k in range(j):
                    a = a_JJ[j, k]
                    if a != 0.0:
                        for d in range(dimensions):
                            for w in range(width):
                                at_DW[d, w] += a * slope_JDW[k, d, w]
                cos_y = line_2P[0, line] * turn_y_2IJ[0, i, j] - line_2P[1, line] * turn_y_2IJ[1, i, j]
                _slopes(
                    j, at_DW, field_3DW, turn_x_IJ[i, j], cos_y, dimensions, width, rate, series, work_4W, slope_JDW
                )
            for j in range(stages):
                b = b_J[j]
                if b != 0.0:
                    for d in range(dimensions):
                        for w in range(width):
                            e_DW[d, w] += b * slope_JDW[j, d, w]
    return apart


@compiled
def spectra(field_N3D, turns, rate, scheme, series, rounds, batch, tables, values_N2DXY, apart_N):
    """Steady state and spectrum of every voxel.

    Args:
        field_N3D: static field and what the two drives add to it, in units of ξ.
        turns: cos φ_x at the stages of the steps, (I, J); cos and sin of φ_y there, (2, I, J), and at the lines' begin.
        rate: the length of a step in τ_B.
        scheme: the Runge–Kutta coefficients A and B.
        rounds: most Lissajous periods after the first.
        batch: voxels side by side.
        tables: of `projection_kernel.project`.
        apart_N: how far the last round was from the one before, in units of max(1, e).
    """
    lines, steps, dimensions = turns[2].shape[1], turns[0].shape[0], field_N3D.shape[2]
    components = values_N2DXY.shape[2]
    turn_2YP, weight_2YL, turn_2XH = tables
    moment_PDL = np.zeros((lines, components, steps))
    for begin in range(0, len(field_N3D), batch):
        width = min(batch, len(field_N3D) - begin)
        field_3DW = np.empty((3, dimensions, width))
        e_DW = np.empty((dimensions, width))
        for w in range(width):
            for d in range(dimensions):
                for part in range(3):
                    field_3DW[part, d, w] = field_N3D[begin + w, part, d]
                e_DW[d, w] = field_3DW[0, d, w] + field_3DW[1, d, w] + field_3DW[2, d, w]
        start_PDW, moment_PIDW = np.empty((lines, dimensions, width)), np.empty((lines, steps, dimensions, width))
        start_PDW[:] = np.inf
        _round(e_DW, field_3DW, turns, dimensions, width, rate, scheme, series, False, start_PDW, moment_PIDW)
        apart = np.inf
        for _ in range(rounds):
            apart = _round(
                e_DW, field_3DW, turns, dimensions, width, rate, scheme, series, True, start_PDW, moment_PIDW
            )
            if apart < MEETS:
                break
        for w in range(width):
            apart_N[begin + w] = apart
            for line in range(lines):
                for c in range(min(components, dimensions)):
                    for i in range(steps):
                        moment_PDL[line, c, i] = moment_PIDW[line, i, c, w]
            project(moment_PDL, turn_2YP, weight_2YL, turn_2XH, values_N2DXY[begin + w])
