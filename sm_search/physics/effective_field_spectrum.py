"""Spectra of the effective-field model (Martsenyuk, Raikher and Shliomis 1974): equations in `effective_field_kernel`.

Shapes: N voxels, D components of M, K mixing orders; P = N_d+1 lines in a Lissajous period, I steps in a line, J
stages of a step.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import MixingOrders
from sm_search.physics.effective_field_kernel import MEETS, spectra
from sm_search.physics.linear_relaxation import cos_sin, projection_tables
from sm_search.physics.lissajous_field import LissajousField

Floats = NDArray[np.float64]

STABLE = 5.0
"""Longest step in units of 1/(the largest rate); the method is stable up to about 6."""

LEAST_STEPS, STEPS_PER_ROOT = 24, 7.0
"""A first guess of the steps in a line, beside one for each wanted order: for every root of (largest rate)/f_x."""

PROBES = 12
"""Voxels on which the number of steps is tried first."""

REFINE = 1.13
"""The next number of steps, for comparison."""

MOST_STEPS = 20_000
ROUNDS = 200

TOLERANCE = 1e-6

ROUNDING = 1e-14
"""Of a component, relative to the strongest one."""


def spectrum(
    field: LissajousField,
    beta: float,
    tau_s: float,
    orders: MixingOrders,
    components: int,
    steps: int | None = None,
) -> tuple[NDArray[np.complex128], int]:
    """SM_k/M_s of the first `components` components, shape (D, K, N), and the steps in a line.

    The number of steps is the first whose result on some voxels differs from that with more steps by less than half of
    `TOLERANCE` in every component, relative to its maximum over these voxels; what drowns in rounding apart.

    Args:
        beta: ξ/B in 1/T.
        tau_s: Brownian time τ_B.
        steps: as many, even; by default enough.

    Raises:
        DataError: the steady state is not reached in `ROUNDS` periods, or not resolved by `MOST_STEPS`.
    """
    steps = steps or _enough_steps(field, beta, tau_s, orders)
    return integrate(field, beta, tau_s, orders, components, steps), steps


def _enough_steps(field: LissajousField, beta: float, tau_s: float, orders: MixingOrders) -> int:
    """By trial on a few voxels. Stability needs some at the largest field, where e follows b at the rate ξ/τ_B."""
    voxels = field.static_3N.shape[1]
    spread = (np.arange(PROBES) * (math.sqrt(5) - 1) / 2 % 1 * voxels).astype(np.int64)
    probes = field.at(np.unique(spread))
    rate = max(1.0, beta * field.largest_t) / (tau_s * field.fx_hz)
    guess = LEAST_STEPS + orders.max_x + orders.max_y + STEPS_PER_ROOT * math.sqrt(rate)
    steps = 2 * math.ceil(max(rate / STABLE, guess) / 2)
    coarse = integrate(probes, beta, tau_s, orders, 2, steps)
    while steps < MOST_STEPS:
        more = 2 * math.ceil(steps * REFINE / 2)
        fine = integrate(probes, beta, tau_s, orders, 2, more)
        if difference(coarse, fine) < TOLERANCE / 2:
            return steps
        steps, coarse = more, fine
    raise DataError(f"effective-field: not resolved by {MOST_STEPS} steps in a drive period")


def difference(values_DKN: NDArray[np.complex128], other_DKN: NDArray[np.complex128]) -> float:
    """Largest of any component relative to its own maximum; rounding of the strongest component is allowed."""
    size_DK = np.abs(other_DKN).max(axis=-1)
    rounding = ROUNDING * size_DK.max() / TOLERANCE
    return float((np.abs(values_DKN - other_DKN).max(axis=-1) / np.maximum(size_DK, rounding)).max())


def integrate(
    field: LissajousField, beta: float, tau_s: float, orders: MixingOrders, components: int, steps: int
) -> NDArray[np.complex128]:
    """With a given number of steps in a line, even."""
    scheme, offset_J = runge_kutta()
    lines, voxels = field.nd + 1, field.static_3N.shape[1]
    u_I = (np.arange(steps) + 0.5) / steps
    stage_IJ = u_I[:, None] + offset_J / steps
    line_P = (field.nd * np.arange(lines) / lines) % 1.0
    values_N2DXY, apart_N = np.zeros((voxels, 2, components, orders.max_x + 1, orders.max_y + 1)), np.empty(voxels)
    spectra(
        np.ascontiguousarray(np.stack(field.voxel_vectors(beta), axis=1)),
        (cos_sin(stage_IJ)[0], cos_sin(stage_IJ * (field.nd / lines)), cos_sin(line_P)),
        1 / (field.fx_hz * steps * tau_s),
        scheme,
        ROUNDS,
        projection_tables(orders, field.nd, u_I, np.full(steps, 1 / steps)),
        values_N2DXY,
        apart_N,
    )
    if not (apart_N < MEETS).all():
        raise DataError(
            f"effective-field: no steady state in {ROUNDS} Lissajous periods, as the particle turns in "
            f"{tau_s:.3g} s and a period is {lines / field.fx_hz:.3g} s"
        )
    values_ND2K = values_N2DXY.reshape(voxels, 2, components, -1)[..., 1:]
    return np.ascontiguousarray((values_ND2K[:, 0] + 1j * values_ND2K[:, 1]).transpose(1, 2, 0))


@cache
def runge_kutta() -> tuple[tuple[NDArray[np.int64], Floats], Floats]:
    """Coefficients and the times of the stages of Dormand and Prince's method of order 8 (Hairer, Nørsett and Wanner,
    Solving Ordinary Differential Equations I, 1993).

    Returns:
        For each stage and for the whole step the stages that count, in fours, and their weights, both (J + 1, 3, 4):
        the last four are filled up with weights of 0, and −1 begins fours that are empty. The times, (J).
    """
    from scipy.integrate import DOP853

    stages = DOP853.n_stages
    used_J3x4, weights_J3x4 = np.full((stages + 1, 12), -1), np.zeros((stages + 1, 12))
    for j, row in enumerate([*DOP853.A[:stages, :stages], DOP853.B]):
        used = np.flatnonzero(row)
        used_J3x4[j, : 4 * math.ceil(len(used) / 4)] = 0
        used_J3x4[j, : len(used)], weights_J3x4[j, : len(used)] = used, row[used]
    shape = (stages + 1, 3, 4)
    return (used_J3x4.reshape(shape), weights_J3x4.reshape(shape)), np.ascontiguousarray(DOP853.C[:stages])
