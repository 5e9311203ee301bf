"""Points in a voxel, for the mean over it where no closed form is known."""

import itertools

from numpy.polynomial import legendre

LEAST_POINTS, MOST_POINTS = 6, 12
XI_PER_POINT = 13.0
"""Points along an axis of a voxel, for the mean over it: one more than the least for every so much ξ."""

MEAN_TOLERANCE = 1e-3
"""Largest error of that mean in any component, relative to its own maximum, as long as `MOST_POINTS` suffice."""

VoxelPoints = list[tuple[float, float, float]]
"""Offsets from a voxel's centre along x and y, in units of ξ, and what the point counts; the sum is 1."""

CENTRE: VoxelPoints = [(0.0, 0.0, 1.0)]


def voxel_points(width_xi: tuple[float, float]) -> VoxelPoints:
    """Gauss–Legendre points for the mean over a voxel whose selection field changes by `width_xi` along x and y.

    |ξ|^1.72 leaves the response a little rough along the trajectory, so that the error falls like N⁻³ only and
    `MEAN_TOLERANCE` is what N points along an axis are chosen for. Their cost is N².
    """
    axes = []
    for width in width_xi:
        roots, weights = legendre.leggauss(min(MOST_POINTS, LEAST_POINTS + int(width / XI_PER_POINT)))
        axes.append(list(zip(roots * width / 2, weights / 2, strict=True)))
    return [(x, y, share_x * share_y) for (x, share_x), (y, share_y) in itertools.product(*axes)]
