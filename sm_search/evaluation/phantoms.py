"""Two-dimensional concentration phantoms for the reconstruction check.

Shapes: N voxels with x fastest. Coordinates u, v run from −1 to 1 over the shorter side of the field of view, so that
shapes keep their proportions; outside of a shape the concentration is 0, inside at most 1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import SettingsError
from sm_search.config.simulation_settings import Grid
from sm_search.physics.system_matrix import voxel_centres

SUBVOXELS = 8
"""Points per voxel and axis: a voxel's value is the mean over the points, so edges mean the same on every grid."""

Array = NDArray[np.float64]


def require_phantom(name: str) -> None:
    """Refuse a name that is none.

    Raises:
        SettingsError: no such phantom; the message lists them.
    """
    if name not in PHANTOMS:
        raise SettingsError(f"phantom {name!r}: does not exist; there are {', '.join(PHANTOMS)}")


def phantom(name: str, grid: Grid) -> Array:
    """The concentration in each voxel, between 0 and 1, shape (N,).

    Raises:
        SettingsError: no such phantom.
    """
    require_phantom(name)
    x_N, y_N = voxel_centres(grid)
    half_m = min(grid.fov_m) / 2
    voxel_x, voxel_y = grid.voxel_m
    offsets = (np.arange(SUBVOXELS) + 0.5) / SUBVOXELS - 0.5
    total_N = np.zeros(grid.voxels)
    for dy in offsets:
        for dx in offsets:
            total_N += PHANTOMS[name]((x_N + dx * voxel_x) / half_m, (y_N + dy * voxel_y) / half_m)
    return total_N / SUBVOXELS**2


def resample(values_YX: Array, source: Grid, target: Grid) -> Array:
    """The mean of a concentration over each voxel of another grid with the same centre; 0 outside of its own."""
    weights = [
        _overlap(n, fov, m, goal)
        for n, fov, m, goal in zip(source.size, source.fov_m, target.size, target.fov_m, strict=True)
    ]
    return weights[1] @ values_YX @ weights[0].T


def _overlap(count: int, fov_m: float, target_count: int, target_fov_m: float) -> Array:
    """The share of each voxel of the target that lies in each of the source, along one axis; shape (target, source)."""
    edges = fov_m * (np.arange(count + 1) / count - 0.5)
    goal = target_fov_m * (np.arange(target_count + 1) / target_count - 0.5)
    length = np.minimum(goal[1:, None], edges[None, 1:]) - np.maximum(goal[:-1, None], edges[None, :-1])
    return np.maximum(length, 0) * (target_count / target_fov_m)


def _dots(u: Array, v: Array) -> Array:
    """Discs of five sizes in pairs, one gap being one diameter; the upper of each pair has half the concentration."""
    result = np.zeros_like(u)
    for centre, radius in ((-0.65, 0.15), (-0.2, 0.11), (0.15, 0.08), (0.43, 0.06), (0.66, 0.045)):
        for sign, concentration in ((-1, 1.0), (1, 0.5)):
            result[np.hypot(u - centre, v - sign * 2 * radius) < radius] = concentration
    return result


def _bars(u: Array, v: Array) -> Array:
    """Groups of three vertical and three horizontal bars, each group finer than the last (after USAF 1951)."""
    result = np.zeros_like(u)
    for width, left, bottom in ((0.12, -0.7, -0.75), (0.08, -0.8, 0.2), (0.05, 0.27, 0.25)):
        for bar in range(3):
            begin, length = 2 * bar * width, 5 * width
            vertical = _box(u, v, left + begin, bottom, width, length)
            horizontal = _box(u, v, left + length + 1.5 * width, bottom + begin, length, width)
            result[vertical | horizontal] = 1.0
    return result


def _shape(u: Array, v: Array) -> Array:
    """The letter P: straight edges, corners, a curve and a hole."""
    stem = _box(u, v, -0.5, -0.75, 0.25, 1.5)
    distance = np.hypot(u + 0.05, v - 0.3)
    bowl = (distance < 0.45) & (distance > 0.2) & (u >= -0.05)
    arms = _box(u, v, -0.5, 0.5, 0.45, 0.25) | _box(u, v, -0.5, -0.15, 0.45, 0.25)
    return (stem | bowl | arms).astype(np.float64)


def _vessel(u: Array, v: Array) -> Array:
    """A vessel that forks; its left branch has a stenosis to a third of the width."""
    trunk = _segment(u, v, (0.0, -0.75), (0.0, -0.05), 0.14, 0.14)
    left = _segment(u, v, (0.0, -0.05), (-0.3, 0.35), 0.11, 0.04) | _segment(u, v, (-0.3, 0.35), (-0.6, 0.8), 0.04, 0.1)
    right = _segment(u, v, (0.0, -0.05), (0.6, 0.8), 0.11, 0.09)
    return (trunk | left | right).astype(np.float64)


def _box(u: Array, v: Array, left: float, bottom: float, width: float, height: float) -> NDArray[np.bool_]:
    return (u >= left) & (u < left + width) & (v >= bottom) & (v < bottom + height)


def _segment(
    u: Array, v: Array, begin: tuple[float, float], end: tuple[float, float], radius_begin: float, radius_end: float
) -> NDArray[np.bool_]:
    """Points within a radius of a line segment; the radius changes linearly along it."""
    du, dv = end[0] - begin[0], end[1] - begin[1]
    along = np.clip(((u - begin[0]) * du + (v - begin[1]) * dv) / (du * du + dv * dv), 0, 1)
    distance = np.hypot(u - begin[0] - along * du, v - begin[1] - along * dv)
    return distance < radius_begin + along * (radius_end - radius_begin)


PHANTOMS: dict[str, Callable[[Array, Array], Array]] = {
    "dots": _dots,
    "bars": _bars,
    "shape": _shape,
    "vessel": _vessel,
}
