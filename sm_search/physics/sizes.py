"""The distribution of core diameters, as a few diameters and their shares of the core volume."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import hermite
from numpy.typing import NDArray

NEGLIGIBLE_SHARE = 1e-18
"""A share of the core volume that is left out: |M/M_s| ≤ 1, so that it drowns in the rounding of the others."""


@dataclass(frozen=True)
class Sizes:
    """S core diameters in m, and the share of the core volume that each stands for (sum 1)."""

    diameter_m_S: NDArray[np.float64]
    share_S: NDArray[np.float64]


def core_sizes(median_m: float, spread: float, nodes: int) -> Sizes:
    """Gauss–Hermite nodes in ln d for cores whose number is log-normal in d.

    A response per volume of core material is Σ n·V·M / Σ n·V. Weighting a log-normal distribution with V ∝ d³ leaves
    its width and moves its median to d·exp(3σ²) (Hatch and Choate 1929).

    Args:
        spread: σ, the standard deviation of ln d; 0 gives one size.
        nodes: `MagnetisationModel.size_nodes` of the spread.
    """
    if spread == 0:
        return Sizes(np.array([median_m]), np.ones(1))
    roots_S, weights_S = hermite.hermgauss(nodes)
    counts_S = weights_S > NEGLIGIBLE_SHARE * math.sqrt(math.pi)
    diameter_m_S = median_m * np.exp(3 * spread**2 + math.sqrt(2) * spread * roots_S[counts_S])
    return Sizes(diameter_m_S, weights_S[counts_S] / math.sqrt(math.pi))
