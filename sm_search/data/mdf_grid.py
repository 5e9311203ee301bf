"""The voxels of a calibration file: its grid, its planes, and the order in which it stores them.

Shapes: N foreground frames, one a voxel, in our order with x fastest and z slowest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import AGREEMENT, Grid
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_parts import build, field_free_point_m, flag, numbers, require_if_present, undo

OFF_CENTRE = 0.1
"""A measured position belongs to the voxel whose centre is nearer than this share of a voxel."""

MAX_PLANES = 1024

Metres = tuple[float, float, float]


@dataclass(frozen=True)
class Volume:
    """Where the voxels are.

    Attributes:
        grid: of each plane, around the field-free point.
        heights_m: z of each plane above the field-free point.
        origin_m: the field-free point in the coordinates of the scanner.
        centre_m: of the whole grid, in the coordinates of the scanner.
        slice_m: distance of the planes; of a lone one whatever the file says that it is thick.
    """

    grid: Grid
    heights_m: tuple[float, ...]
    origin_m: Metres
    centre_m: Metres
    slice_m: float

    @property
    def voxels(self) -> int:
        return self.grid.voxels * len(self.heights_m)


def read_volume(file: Hdf5File) -> Volume:
    """One or several planes of cells, around the field-free point in x and y."""
    grid, planes, slice_m = read_grid(file)
    centre_m, origin_m = read_centre(file)
    height_m = 0.0 if np.allclose(centre_m, origin_m, rtol=0, atol=_slack_m(file)) else float(centre_m[2] - origin_m[2])
    steps = [2 * at + 1 - planes for at in range(planes)]
    heights_m = tuple(float(f"{height_m + step * slice_m / 2 if step else height_m:.12g}") for step in steps)
    return Volume(grid, heights_m, _metres(origin_m), _metres(centre_m), slice_m)


def read_grid(file: Hdf5File) -> tuple[Grid, int, float]:
    """The cells of a plane, how many planes there are, and how far apart."""
    size = numbers(file, "/calibration/size", "i", 3)
    fov_m = numbers(file, "/calibration/fieldOfView", "f", 3).astype(np.float64)
    if not 1 <= size[2] <= MAX_PLANES:
        raise file.fault("/calibration/size", f"{size.tolist()}: must be 1 to {MAX_PLANES} planes along z")
    require_if_present(file, "/calibration/order", "xyz")
    fov_mm = (undo(fov_m[0], 1e-3), undo(fov_m[1], 1e-3))
    grid = build(file, "/calibration/size, fieldOfView", Grid, size=(int(size[0]), int(size[1])), fov_mm=fov_mm)
    if size[2] > 1 and not fov_m[2] > 0:
        raise file.fault("/calibration/fieldOfView", f"{fov_m.tolist()} m: must be positive along z")
    return grid, int(size[2]), float(fov_m[2]) / int(size[2])


def read_centre(file: Hdf5File) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centre of the grid and the field-free point, (3,) each, which differ in z alone."""
    centre, centre_m, origin_m = "/calibration/fieldOfViewCenter", np.zeros(3), field_free_point_m(file)
    if file.find(centre) is not None:
        centre_m = numbers(file, centre, "f", 3).astype(np.float64)
    if not np.allclose(centre_m[:2], origin_m[:2], rtol=0, atol=_slack_m(file)):
        where = f"{centre_m.tolist()} m"
        if origin_m.any():
            rule = f"moves the field-free point to {origin_m.tolist()} m: must be in x and y the grid's centre, {where}"
            raise file.fault("/acquisition/offsetField", rule)
        rule = f"{where}: must be in x and y the field-free point, the origin as long as no offsetField moves it"
        raise file.fault(centre, rule)
    return centre_m, origin_m


def _slack_m(file: Hdf5File) -> float:
    return float(AGREEMENT * np.abs(numbers(file, "/calibration/fieldOfView", "f", 3)[:2]).max())


def _metres(values: NDArray[np.float64]) -> Metres:
    x, y, z = values.tolist()
    return x, y, z


def stored_order(file: Hdf5File, volume: Volume, place_N: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Which stored foreground frame each voxel is; None where frame n is voxel n.

    /calibration/positions tells, frame by frame in the order stored, or in the order measured where a permutation made
    a grid of it. Without positions, frames of a meandering grid that were not permuted go back and forth along x, and
    from plane to plane along y.

    Args:
        place_N: when the frames were measured.

    Raises:
        FieldError: the positions are not those of the grid.
    """
    positions, meander = "/calibration/positions", "/calibration/isMeanderingGrid"
    permuted = flag(file, "isFramePermutation", default=False)
    if file.find(positions) is not None:
        voxel_N = _voxels(file, positions, volume)
        if permuted and np.array_equal(voxel_N[np.argsort(np.argsort(place_N))], np.arange(volume.voxels)):
            return None
    elif file.find(meander) is not None and int(numbers(file, meander, "i", 1)[0]) == 1 and not permuted:
        voxel_N = _meandering(volume)
    else:
        return None
    order_N = np.argsort(voxel_N)
    return None if np.array_equal(order_N, np.arange(volume.voxels)) else order_N


def _meandering(volume: Volume) -> NDArray[np.int64]:
    """The voxel of each frame: x goes back in odd rows, counted over all planes, y in odd planes (MPIFiles.jl)."""
    (size_x, size_y), planes = volume.grid.size, len(volume.heights_m)
    z_ZYX, y_ZYX, x_ZYX = np.indices((planes, size_y, size_x))
    x_ZYX = np.where((y_ZYX + z_ZYX) % 2 == 1, size_x - 1 - x_ZYX, x_ZYX)
    y_ZYX = np.where(z_ZYX % 2 == 1, size_y - 1 - y_ZYX, y_ZYX)
    return ((z_ZYX * size_y + y_ZYX) * size_x + x_ZYX).ravel()


def _voxels(file: Hdf5File, field: str, volume: Volume) -> NDArray[np.int64]:
    """The voxel of each position."""
    grid, planes = volume.grid, len(volume.heights_m)
    position_m = numbers(file, field, "f", 3 * volume.voxels).reshape(volume.voxels, 3) - np.array(volume.centre_m)
    # A lone plane is as thick as its voxels are wide, whatever the file says; it is not told from another by less.
    steps_m = (*grid.voxel_m, volume.slice_m if planes > 1 else 5 * min(grid.voxel_m))
    axes = []
    for axis, (step_m, count) in enumerate(zip(steps_m, (*grid.size, planes), strict=True)):
        at_N = position_m[:, axis] / step_m + (count - 1) / 2
        nearest_N = np.round(at_N)
        off_N = np.abs(at_N - nearest_N)
        if not (off_N.max() <= OFF_CENTRE and nearest_N.min() >= 0 and nearest_N.max() < count):
            outside_N = off_N + 2 * (np.clip(nearest_N, 0, count - 1) != nearest_N)
            worst = (position_m + np.array(volume.centre_m))[int(np.argmax(outside_N))].tolist()
            raise file.fault(field, f"{worst} m: must be a centre of the grid of size and fieldOfView, like all others")
        axes.append(nearest_N.astype(np.int64))
    voxel_N = (axes[2] * grid.size[1] + axes[1]) * grid.size[0] + axes[0]
    if len(np.unique(voxel_N)) < volume.voxels:
        raise file.fault(field, f"must have each of the {volume.voxels} voxels of the grid once")
    return voxel_N
