"""Pareto fronts: what no other one beats in every objective."""

from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other one beats: as large in every coordinate and larger in one."""
    if not points:
        return []
    values = np.array(points)
    at_least = np.all(values[:, None] >= values[None], axis=2)
    larger = np.any(values[:, None] > values[None], axis=2)
    return [not is_beaten for is_beaten in np.any(at_least & larger, axis=0)]
