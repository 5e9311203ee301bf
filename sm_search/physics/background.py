"""What a receiver hears without a sample: noise and the drive's own lines, and what a scanner subtracts of it.

Shapes: C receive channels, K components, N foreground and E background frames, F = N + E frames; ω in rad/s.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sm_search.config.receive_settings import FeedThrough, ReceiveSettings
from sm_search.config.streams import stream

DRIFT_WAVES = 4
"""Half waves of a drift over the measurement: the slow part of 1/f noise."""

Complex = NDArray[np.complex128]
Times = NDArray[np.float64] | NDArray[np.int64]
Subtraction = Literal["mean", "interpolated"]


def frame_times(frames: int, background: int) -> NDArray[np.float64]:
    """When each stored frame was measured, 0 to 1: the background frames, stored last, were spread evenly, the first
    of them before all others and the last behind; shape (F,)."""
    count_N, count_E = np.arange(frames), np.arange(background)
    # Of equal ranks the background comes first, but for the last one.
    rank_E = count_E * frames / max(1, background - 1)
    rank_N = count_N + 0.5
    return np.concatenate((rank_N, rank_E)) / max(1, frames)


def measured_order(time_F: NDArray[np.float64]) -> NDArray[np.int64]:
    """The 1-based place, in the order of measurement, of every stored frame; shape (F,)."""
    place_F = np.empty(len(time_F), dtype=np.int64)
    place_F[np.argsort(time_F, kind="stable")] = np.arange(1, len(time_F) + 1)
    return place_F


def noise_level(settings: ReceiveSettings, omega_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """√(1 + f_corner/f + (f/f_rise)²), shape (K,): the noise at f over the white one's."""
    khz_K = np.abs(omega_K) / (2e3 * math.pi)
    rise_K = (khz_K / settings.noise_rise_khz) ** 2 if settings.noise_rise_khz else 0.0
    return np.sqrt(1 + settings.noise_corner_khz / khz_K + rise_K)


def feed_through(
    settings: FeedThrough,
    orders: tuple[tuple[int, int], ...],
    drives_t: tuple[float, float],
    time_F: NDArray[np.float64],
    channels: int,
    seed: int,
    scanner: str,
    measurement: str,
) -> Complex:
    """The lines at the drives' harmonics, (m, 0) and (0, m), in V at the receiver's input, shape (C, K, F).

    Args:
        seed: of the drift.
        scanner: names the stream of the lines' phases, which are the scanner's whatever the seed.
        measurement: names that of the drift.
    """
    lines_CKF = np.zeros((channels, len(orders), len(time_F)), dtype=complex)
    for k, (m_x, m_y) in enumerate(orders):
        if (m_x and m_y) or not 1 <= m_x + m_y <= settings.harmonics:
            continue
        drive, m = (0, m_x) if m_x else (1, m_y)
        decay = 10 ** (-settings.decay_db * (m - 1) / 20)
        amplitude_v = 1e-6 * settings.uv_per_mt * 1e3 * drives_t[drive] * decay
        for channel in range(channels):
            phase = 2 * math.pi * stream(0, "feed-through", scanner, channel, drive, m).random()
            share = 1.0 if channel == drive else settings.coupling
            drift_F = slow_drift(time_F, seed, measurement, channel, drive, m)
            line_F = np.exp(1j * phase) * (1 + 0.01 * settings.drift_percent * drift_F)
            lines_CKF[channel, k] = share * amplitude_v * line_F
    return lines_CKF


def slow_drift(time_F: NDArray[np.float64], seed: int, *names: str | int) -> Complex:
    """Σ_n z_n·cos(πnt)/n of complex normal z_n, with an expected mean square of 1, shape (F,)."""
    n_W = np.arange(1, DRIFT_WAVES + 1)
    parts = stream(seed, "drift", *names).standard_normal((DRIFT_WAVES, 2))
    drawn_W = (parts[:, 0] + 1j * parts[:, 1]) / n_W / math.sqrt(np.sum(1 / n_W**2))
    return np.asarray(np.cos(math.pi * time_F[:, None] * n_W) @ drawn_W, dtype=np.complex128)


def without_background(
    values_CKN: Complex,
    background_CKE: Complex,
    time_N: Times,
    time_E: Times,
    how: Subtraction,
    blocks: Sequence[NDArray[np.int64]] | None = None,
) -> tuple[Complex, Complex]:
    """Foreground frames less their background, and what is left of the background frames, whose scatter is the noise.

    `mean` is that of all background frames. `interpolated` lies between the means of neighbouring blocks of them, by
    when they were measured, and outside the blocks equals the nearest; of a block is left what its neighbours do not
    tell of it. So a drift that is gone from the values counts for no noise either.

    Args:
        time_N, time_E: when the frames were measured, in any unit.
        blocks: which background frames were measured one after another, in order; by default each is a block.
    """
    if blocks is None:
        blocks = list(np.argsort(time_E)[:, None])
    if how == "mean" or len(blocks) == 1:
        mean_CK1 = background_CKE.mean(axis=-1, keepdims=True)
        return values_CKN - mean_CK1, background_CKE - mean_CK1
    mean_CKB = np.stack([background_CKE[..., block].mean(axis=-1) for block in blocks], axis=-1)
    time_B = np.array([time_E[block].mean() for block in blocks])
    left_CKE = np.empty_like(background_CKE)
    for at, block in enumerate(blocks):
        beside = [other for other in (at - 1, at + 1) if 0 <= other < len(blocks)]
        left_CKE[..., block] = background_CKE[..., block] - _between(
            mean_CKB[..., beside], time_B[beside], time_B[[at]]
        )
    return values_CKN - _between(mean_CKB, time_B, time_N), left_CKE


def _between(mean_CKB: Complex, time_B: Times, time_N: Times) -> Complex:
    """Linear between the blocks, the nearest outside them, shape (C, K, N)."""
    before_N = np.clip(np.searchsorted(time_B, time_N) - 1, 0, max(0, len(time_B) - 2))
    after_N = np.minimum(before_N + 1, len(time_B) - 1)
    span_N = np.where(after_N > before_N, time_B[after_N] - time_B[before_N], 1.0)
    weight_N = np.clip((time_N - time_B[before_N]) / span_N, 0.0, 1.0)
    return np.asarray((1 - weight_N) * mean_CKB[..., before_N] + weight_N * mean_CKB[..., after_N])
