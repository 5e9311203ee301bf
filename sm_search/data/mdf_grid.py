"""The voxels of a calibration file: its grid, and the order in which it stores them.

Shapes: N foreground frames, one a voxel, in our order with x fastest.
"""

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import AGREEMENT, Grid
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_parts import build, flag, numbers, require_if_present, undo

OFF_CENTRE = 0.1
"""A measured position belongs to the voxel whose centre is nearer than this share of a voxel."""


def read_grid(file: Hdf5File) -> Grid:
    """One slice of cells around the origin."""
    size = numbers(file, "/calibration/size", "i", 3)
    fov_m = numbers(file, "/calibration/fieldOfView", "f", 3)
    if size[2] != 1:
        rule = f"{size.tolist()}: must be one slice, n_z = 1; of a volume only the plane z = 0, as a file"
        raise file.fault("/calibration/size", rule)
    require_if_present(file, "/calibration/order", "xyz")
    if file.find("/calibration/fieldOfViewCenter") is not None:
        centre_m = numbers(file, "/calibration/fieldOfViewCenter", "f", 3)
        if np.abs(centre_m).max() > AGREEMENT * np.abs(fov_m[:2]).max():
            raise file.fault("/calibration/fieldOfViewCenter", f"{centre_m.tolist()} m: must be the origin")
    fov_mm = (undo(fov_m[0], 1e-3), undo(fov_m[1], 1e-3))
    return build(file, "/calibration/size, fieldOfView", Grid, size=(int(size[0]), int(size[1])), fov_mm=fov_mm)


def stored_order(file: Hdf5File, grid: Grid, place_N: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Which stored foreground frame each voxel is; None where frame n is voxel n.

    /calibration/positions tells, frame by frame in the order stored, or in the order measured where a permutation made
    a grid of it. Without positions, frames of a meandering grid that were not permuted go back and forth along x.

    Args:
        place_N: when the frames were measured.

    Raises:
        FieldError: the positions are not those of the grid.
    """
    positions, meander = "/calibration/positions", "/calibration/isMeanderingGrid"
    permuted = flag(file, "isFramePermutation", default=False)
    if file.find(positions) is not None:
        voxel_N = _voxels(file, positions, grid)
        if permuted and np.array_equal(voxel_N[np.argsort(np.argsort(place_N))], np.arange(grid.voxels)):
            return None
        order_N = np.argsort(voxel_N)
    elif file.find(meander) is not None and int(numbers(file, meander, "i", 1)[0]) == 1 and not permuted:
        index_YX = np.arange(grid.voxels).reshape(grid.size[1], grid.size[0])
        index_YX[1::2] = index_YX[1::2, ::-1]
        order_N = index_YX.ravel()
    else:
        return None
    return None if np.array_equal(order_N, np.arange(grid.voxels)) else order_N


def _voxels(file: Hdf5File, field: str, grid: Grid) -> NDArray[np.int64]:
    """The voxel of each position."""
    position_m = numbers(file, field, "f", 3 * grid.voxels).reshape(grid.voxels, 3)
    axes = []
    for axis, (fov_m, count) in enumerate(zip(grid.fov_m, grid.size, strict=True)):
        at_N = position_m[:, axis] / (fov_m / count) + (count - 1) / 2
        nearest_N = np.round(at_N)
        off_N = np.abs(at_N - nearest_N)
        if not (off_N.max() <= OFF_CENTRE and nearest_N.min() >= 0 and nearest_N.max() < count):
            worst = position_m[int(np.argmax(off_N))].tolist()
            raise file.fault(field, f"{worst} m: must be a centre of the grid of size and fieldOfView, like all others")
        axes.append(nearest_N.astype(np.int64))
    voxel_N = axes[1] * grid.size[0] + axes[0]
    if len(np.unique(voxel_N)) < grid.voxels:
        raise file.fault(field, f"must have each of the {grid.voxels} voxels of the grid once")
    return voxel_N
