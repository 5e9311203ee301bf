"""Points in a voxel, for the mean over it where no closed form is known."""

import itertools
from typing import Literal

from numpy.polynomial import legendre

LEAST_POINTS, MOST_POINTS = 6, 12
XI_PER_POINT = 13.0
"""Points along an axis of a voxel, for the mean over it: one more than the least for every so much ξ."""

MEAN_TOLERANCE = 1e-3
"""Largest error of that mean in any component, relative to its own maximum, as long as `MOST_POINTS` suffice."""

VoxelPoints = list[tuple[float, float, float]]
"""Offsets from a voxel's centre along x and y, and what the point counts; the sum is 1."""

CENTRE: VoxelPoints = [(0.0, 0.0, 1.0)]


def points_for(
    voxel: Literal["point", "mean"], width: tuple[float, float], xi_per_unit: tuple[float, float]
) -> tuple[VoxelPoints, float]:
    """Where the response of a voxel is computed, and the largest error of any component that comes of it.

    Args:
        voxel: `point` is its centre.
        width: of a voxel along x and y, in the unit of the offsets.
        xi_per_unit: by how much the selection field changes along x and y, for the largest core.
    """
    if voxel == "point":
        return CENTRE, 0.0
    width_x, width_y = (each * xi for each, xi in zip(width, xi_per_unit, strict=True))
    points = [(x / xi_per_unit[0], y / xi_per_unit[1], share) for x, y, share in voxel_points((width_x, width_y))]
    enough = max(width_x, width_y) <= XI_PER_POINT * (MOST_POINTS - LEAST_POINTS + 1)
    return points, MEAN_TOLERANCE if enough else 1.0


def voxel_points(width_xi: tuple[float, float]) -> VoxelPoints:
    """Gauss–Legendre points, in units of ξ, for the mean over a voxel whose selection field changes by `width_xi`.

    |ξ|^1.72 leaves the response a little rough along the trajectory, so that the error falls like N⁻³ only and
    `MEAN_TOLERANCE` is what N points along an axis are chosen for. Their cost is N².
    """
    axes = []
    for width in width_xi:
        roots, weights = legendre.leggauss(min(MOST_POINTS, LEAST_POINTS + int(width / XI_PER_POINT)))
        axes.append(list(zip(roots * width / 2, weights / 2, strict=True)))
    return [(x, y, share_x * share_y) for (x, share_x), (y, share_y) in itertools.product(*axes)]
