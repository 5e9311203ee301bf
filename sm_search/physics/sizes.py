"""The distribution of core diameters, as a few diameters and their shares of the core volume."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import hermite
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Magnetisation

MOST_NEEL_NODES = 64

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
    """
    if spread == 0:
        return Sizes(np.array([median_m]), np.ones(1))
    roots_S, weights_S = hermite.hermgauss(nodes)
    counts_S = weights_S > NEGLIGIBLE_SHARE * math.sqrt(math.pi)
    diameter_m_S = median_m * np.exp(3 * spread**2 + math.sqrt(2) * spread * roots_S[counts_S])
    return Sizes(diameter_m_S, weights_S[counts_S] / math.sqrt(math.pi))


def node_count(spread: float, magnetisation: Magnetisation) -> int:
    """Nodes for `size_tolerance`.

    As a function of ln d the response has its poles at ξ = ±iπ and ωτ = ±i, π/6 away from the real line. In units of
    √2·σ that is a = π/(6√2·σ), and the error of N nodes falls like exp(−2a·√(2N)). The Néel time grows like exp(d³):
    its poles are far nearer, and what is affordable decides.
    """
    if magnetisation == "neel-brown":
        return min(MOST_NEEL_NODES, 6 + math.ceil(3000 * spread**2))
    if magnetisation == "brownian":
        return 6 + math.ceil(600 * spread**2)
    # At low fields order m goes like d^3m where it is not filtered: the faint high orders ask for more.
    return 10 + math.ceil(800 * spread**2)


def size_tolerance(spread: float, magnetisation: Magnetisation) -> float:
    """Largest error of any component relative to its own maximum, measured by doubling; at 22 nm for Néel."""
    if spread == 0:
        return 0.0
    return min(1.0, 1.25 * spread**2) if magnetisation == "neel-brown" else 2e-6
