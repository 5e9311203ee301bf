"""Spectra of the effective-field model (Martsenyuk, Raikher and Shliomis 1974): equations in `effective_field_kernel`.

Shapes: N voxels, C receive channels, D = 3 components of M, K mixing orders; P = N_d+1 lines in a Lissajous period, I
steps in a line, J stages of a step.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import MixingOrders
from sm_search.physics.effective_field_kernel import BATCH, MEETS, spectra
from sm_search.physics.linear_relaxation import cos_sin, projection_tables
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.moment_spectrum import along_axes

Floats = NDArray[np.float64]

STABLE = 5.0
"""Longest step in units of 1/(the largest rate); the method is stable up to about 6."""

LEAST_STEPS, STEPS_PER_ROOT = 6, 6.2
"""A first guess of the steps in a line, beside one for each wanted order: for every root of (largest rate)/f_x."""

PROBES = BATCH
"""Voxels on which the number of steps is tried first. On half as many the error of large cores was found up to seven
times too small, as they turn within a tenth of a voxel, on these up to 2.3 times."""

FINER, FINE_ENOUGH = 1.3, 1.12
"""How many times as many steps tell the error of a number of them, and down to how many."""

TENFOLD = 0.28
"""About so large a share of its steps more has a tenth of the error."""

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
    sensitivity_CDN: Floats,
    steps: int | None = None,
) -> tuple[NDArray[np.complex128], int]:
    """SM_k/M_s as channels of these sensitivities receive it, shape (C, K, N), and the steps in a line.

    The number of steps is one whose result on some voxels differs from that with enough more by less than
    0.4 of `TOLERANCE` in every component, relative to its maximum over these voxels; what drowns in rounding apart.

    Args:
        beta: ξ/B in 1/T.
        tau_s: Brownian time τ_B.
        steps: as many, even; by default enough.

    Raises:
        DataError: the steady state is not reached in `ROUNDS` periods, or not resolved by `MOST_STEPS`.
    """
    steps = steps or _enough_steps(field, beta, tau_s, orders)
    return integrate(field, beta, tau_s, orders, sensitivity_CDN, steps), steps


def _enough_steps(field: LissajousField, beta: float, tau_s: float, orders: MixingOrders) -> int:
    """By trial on some voxels, in few lines: how many there are changes what a line needs by some percent only.

    Stability needs some at the largest field, where e follows b at the rate ξ/τ_B.
    """
    voxels = field.static_3N.shape[1]
    spread = (np.arange(PROBES) * (math.sqrt(5) - 1) / 2 % 1 * voxels).astype(np.int64)
    few = min(field.nd, 2 * max(orders.max_x, orders.max_y) + 1)  # with fewer components would share a frequency
    probes, rounds = replace(field.at(np.unique(spread)), nd=few), ROUNDS * (field.nd + 1) // (few + 1)
    plane_CDN = along_axes(2, probes.static_3N.shape[1])
    rate = max(1.0, beta * field.largest_t) / (tau_s * field.fx_hz)
    guess = LEAST_STEPS + orders.max_x + orders.max_y + STEPS_PER_ROOT * math.sqrt(rate)
    steps, finest = _even(max(rate / STABLE, guess)), 0
    while steps < MOST_STEPS:
        if finest < steps * FINE_ENOUGH:
            finest = _even(steps * FINER)
            exact = integrate(probes, beta, tau_s, orders, plane_CDN, finest, rounds)
        apart = 2.5 * difference(integrate(probes, beta, tau_s, orders, plane_CDN, steps, rounds), exact) / TOLERANCE
        if apart < 1:
            return steps
        tenths = math.log10(1.5 * apart) if apart < 1e4 else 4.0  # also where too few steps have run away
        steps = _even(steps * (1 + TENFOLD * tenths))
    raise DataError(f"effective-field: not resolved by {MOST_STEPS} steps in a drive period")


def _even(steps: float) -> int:
    return 2 * math.ceil(steps / 2)


def difference(values_CKN: NDArray[np.complex128], other_CKN: NDArray[np.complex128]) -> float:
    """Largest of any component relative to its own maximum; rounding of the strongest component is allowed."""
    size_CK = np.abs(other_CKN).max(axis=-1)
    rounding = ROUNDING * size_CK.max() / TOLERANCE
    return float((np.abs(values_CKN - other_CKN).max(axis=-1) / np.maximum(size_CK, rounding)).max())


def integrate(
    field: LissajousField,
    beta: float,
    tau_s: float,
    orders: MixingOrders,
    sensitivity_CDN: Floats,
    steps: int,
    rounds: int | None = None,
) -> NDArray[np.complex128]:
    """With a given number of steps in a line, even, and of Lissajous periods at most; `ROUNDS` if none is given.

    Harmonic q (of f_x) of M at I instants of a line holds all c_{q+mI}, that of its slope each of them q + mI times.
    From both together q − I drops out, by far the largest of what is too much: Σ (1 + m)·c_{q+mI} is left.
    """
    scheme, offset_J = runge_kutta()
    lines, (channels, _, voxels) = field.nd + 1, sensitivity_CDN.shape
    u_I = (np.arange(steps) + 0.5) / steps
    stage_IJ = u_I[:, None] + offset_J / steps
    line_P = (field.nd * np.arange(lines) / lines) % 1.0
    values_N2CXY, apart_N = np.zeros((voxels, 2, 2 * channels, orders.max_x + 1, orders.max_y + 1)), np.empty(voxels)
    place_N = batched(field.static_3N)
    field_N33 = np.stack(field.at(place_N).voxel_vectors(beta), axis=1)
    axes = (0, 1, 2) if field_N33[..., 2].any() else (0, 1)
    spectra(
        axes,
        np.ascontiguousarray(field_N33[..., axes]),
        np.ascontiguousarray(sensitivity_CDN[:, axes][..., place_N].transpose(2, 0, 1)),
        (cos_sin(stage_IJ)[0], cos_sin(stage_IJ * (field.nd / lines)), cos_sin(line_P)),
        1 / (field.fx_hz * steps * tau_s),
        scheme,
        min(1.0, beta * field.drive_t),
        rounds or ROUNDS,
        projection_tables(orders, field.nd, u_I, np.full(steps, 1 / steps)),
        values_N2CXY,
        apart_N,
    )
    if not (apart_N < MEETS).all():
        raise DataError(
            f"effective-field: no steady state in {rounds or ROUNDS} Lissajous periods, as the particle turns in "
            f"{tau_s:.3g} s and a period is {lines / field.fx_hz:.3g} s"
        )
    values_NCK = (values_N2CXY[:, 0] + 1j * values_N2CXY[:, 1]).reshape(voxels, 2 * channels, -1)[..., 1:]
    moment_NCK, slope_NCK = values_NCK[:, :channels], values_NCK[:, channels:]
    harmonic_K = np.array([m_x + m_y * field.nd / lines for m_x, m_y in orders.pairs()])
    values_CKN = np.empty((channels, len(harmonic_K), voxels), dtype=np.complex128)
    values_CKN[..., place_N] = ((1 - harmonic_K / steps) * moment_NCK + slope_NCK / 2j / math.pi).transpose(1, 2, 0)
    return values_CKN


def batched(static_3N: Floats) -> NDArray[np.int64]:
    """The order in which voxels of a batch have similar fields, so that most of it takes one branch of the kernel."""
    voxels = static_3N.shape[1]
    strips = math.ceil(math.sqrt(voxels / BATCH))
    rank_N = np.argsort(np.argsort(static_3N[1], kind="stable"), kind="stable")
    return np.lexsort((static_3N[0], rank_N * strips // voxels))


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
