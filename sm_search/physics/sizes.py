"""The distribution of core diameters, as a few diameters and their shares of the core volume."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import hermite
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sizes:
    """S core diameters in m, and the share of the core volume that each stands for (sum 1)."""

    diameter_m_S: NDArray[np.float64]
    share_S: NDArray[np.float64]


def core_sizes(median_m: float, spread: float, nodes: int | None = None) -> Sizes:
    """Gauss–Hermite nodes in ln d for cores whose number is log-normal in d.

    A response per volume of core material is Σ n·V·M / Σ n·V. Weighting a log-normal distribution with V ∝ d³ leaves
    its width and moves its median to d·exp(3σ²) (Hatch and Choate 1929).

    Args:
        spread: σ, the standard deviation of ln d; 0 gives one size.
        nodes: by default `node_count`.
    """
    if spread == 0:
        return Sizes(np.array([median_m]), np.ones(1))
    roots_S, weights_S = hermite.hermgauss(node_count(spread) if nodes is None else nodes)
    return Sizes(median_m * np.exp(3 * spread**2 + math.sqrt(2) * spread * roots_S), weights_S / math.sqrt(math.pi))


def node_count(spread: float) -> int:
    """Nodes for a relative error near 1e-6.

    As a function of ln d the response has its poles at ξ = ±iπ, ωτ = ±i: π/6 away from the real line. In units of √2·σ
    that is a = π/(6√2·σ), and the error of N nodes falls like exp(−2a·√(2N)).
    """
    return 6 + math.ceil(180 * spread**2)
