"""How much later a condition's signals come than those of the training scans.

A delay turns component k by exp(−iω_k t). A particle's relaxation turns it too, and differently for each particle, but
it also makes the high frequencies faint: so the amplitudes and the trajectory tell what phases to expect, and what is
left of the phases is fitted by a line in frequency. Phases are doubled, as in `scan_features`: a pattern and its
negative agree.

Shapes: S training scans, F features, K components, P = 2K cosines and sines of them, T delays that are tried.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.regression.kernel_ridge import KernelRidge
from sm_search.regression.scan_features import TRAJECTORY_FEATURES, trajectories
from sm_search.regression.training_domain import LEFT_OUT, MARGIN, MISCOVERAGE

STEP_US = 0.05
DELAYS_US = STEP_US * np.arange(-400, 401)
"""Tried ones: finer than a tenth of the period of the highest component, and further than a cable is long.

Of these those below a quarter of the drive's period: half a period turns doubled phases by nearly whole turns, as both
drives are nearly as fast, and is hardly to be told from none.
"""

SMALLEST_US = 0.1
"""A delay that never counts as more than usual, as `training_domain.SMALLEST`."""

COHERENT = 0.9
"""Share of the expected phases that a line has to explain: below, the condition differs by more than a delay."""

MOST_SCANS = 256
"""What more training scans would add to the phases to expect is less than the smallest delay."""


@dataclass(frozen=True)
class DelayCheck:
    """From amplitudes and trajectory to the doubled phases of a scan.

    Attributes:
        orders_K2: mixing orders of the components, of the drive along the receive channel first.
        limit_us: `MARGIN` times the conformal quantile of the delays that are found in the training scans, each left
            out with its neighbours. Where these have delays of their own, it is as large as they are.
    """

    expected: KernelRidge
    orders_K2: NDArray[np.int64]
    limit_us: float

    @staticmethod
    def fitted(features_SF: Tensor, orders: Sequence[tuple[int, int]]) -> "DelayCheck":
        """From `scan_features` of the training scans."""
        chosen = np.unique(np.linspace(0, len(features_SF) - 1, min(len(features_SF), MOST_SCANS)).astype(int))
        rows_SF, orders_K2 = features_SF[chosen].double(), np.array(orders)
        amplitudes_SF, phases_SP = _parts(rows_SF)
        expected = KernelRidge.fitted(amplitudes_SF, phases_SP)
        residual_SP, _ = expected.leave_out(phases_SP, round(LEFT_OUT * len(rows_SF)))
        found_us = []
        for frequency_hz, nd, phases, residual in zip(*trajectories(rows_SF), phases_SP, residual_SP, strict=True):
            # As of the x-channel: in the y-channel the other drive is the faster one, which turns a delay by 1/N_d.
            orders_K = orders_K2 @ np.array([1.0, nd.item() / (nd.item() + 1)])
            found_us.append(abs(_fitted(phases, phases - residual, frequency_hz.item(), orders_K)[0]))
        rank = min(math.ceil((1 - MISCOVERAGE) * (len(found_us) + 1)), len(found_us))
        return DelayCheck(expected, orders_K2, MARGIN * max(SMALLEST_US, sorted(found_us)[rank - 1]))

    def delay_us(
        self, features_F: Tensor, frequency_hz: float, ratio: float, clear_K: NDArray[np.bool_] | None = None
    ) -> float | None:
        """How much later than expected a scan with these features comes; None where that is not how it differs.

        Args:
            frequency_hz: of the drive along the receive channel.
            ratio: of the other drive's frequency to it.
            clear_K: components whose phases are not those of noise; None for all.
        """
        amplitudes_1F, phases_1P = _parts(features_F.double()[None])
        orders_K = self.orders_K2 @ np.array([1.0, ratio])
        delay_us, coherence = _fitted(phases_1P[0], self.expected(amplitudes_1F[0]), frequency_hz, orders_K, clear_K)
        return delay_us if coherence >= COHERENT else None


def _parts(features_SF: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes and trajectory; cosines and sines of the doubled phases."""
    components = (features_SF.shape[1] - TRAJECTORY_FEATURES) // 3
    amplitudes_SF = torch.cat((features_SF[:, :components], features_SF[:, -TRAJECTORY_FEATURES:]), 1)
    return amplitudes_SF, features_SF[:, components : 3 * components]


def _fitted(
    phases_P: Tensor,
    expected_P: Tensor,
    frequency_hz: float,
    orders_K: NDArray[np.float64],
    clear_K: NDArray[np.bool_] | None = None,
) -> tuple[float, float]:
    """The delay, µs, and the share of the expected phases that agree with it: max_t Re Σ_k z_k z̄'_k exp(2iω_k t).

    Args:
        frequency_hz: of the drive.
        orders_K: the components' frequencies in units of it.
        clear_K: components that count; None for all.
    """
    (real, imaginary), (real_e, imaginary_e) = (
        part.numpy().reshape(2, -1) for part in (phases_P.double(), expected_P.double())
    )
    product_K = (real + 1j * imaginary) * (real_e - 1j * imaginary_e)
    if clear_K is not None:
        product_K *= clear_K
    delays_us = DELAYS_US[np.abs(DELAYS_US) < 0.25e6 / frequency_hz]
    # Powers of one step: some times as fast as so many exponentials.
    doubled_K = 4j * np.pi * 1e-6 * frequency_hz * orders_K
    turns_TK = np.tile(np.exp(STEP_US * doubled_K), (len(delays_us), 1))
    turns_TK[0] = np.exp(delays_us[0] * doubled_K)
    agreement_T = (np.cumprod(turns_TK, axis=0) @ product_K).real
    total = float(np.abs(product_K).sum())
    best = int(np.argmax(agreement_T))
    return float(delays_us[best]), float(agreement_T[best]) / total if total > 0 else 0.0
