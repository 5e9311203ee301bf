"""Scanners whose faster drive is along y.

All that computes has the faster drive along x. Of another scanner x and y are exchanged when its files are read
(`SystemMatrix.axes` is then "yxz"), and back again in what is written and shown: files and images have its own axes.

Shapes: C receive channels, N voxels with x fastest, F frames, background behind the others; Y and X pixels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.physics.system_matrix import SystemMatrix

_SettingsT = TypeVar("_SettingsT", FieldSettings, Grid)


def exchanged(values: Sequence[Any] | NDArray[Any]) -> tuple[Any, ...]:
    """Values along x, y and perhaps others, those of x and y exchanged."""
    return tuple(values[1::-1]) + tuple(values[2:])


def scanner_order(axes: str, values: Sequence[Any] | NDArray[Any]) -> tuple[Any, ...]:
    """Values along our axes, x first, in the order of the scanner's, or the other way round."""
    return exchanged(values) if axes == "yxz" else tuple(values)


def along_scanner(axes: str, settings: _SettingsT) -> _SettingsT:
    """Fields or a grid of our axes along the scanner's, or the other way round."""
    pairs = {name: scanner_order(axes, value) for name, value in settings if isinstance(value, tuple)}
    return settings.model_copy(update=pairs)


def exchanged_axes(sm: SystemMatrix) -> SystemMatrix:
    """The matrix with x and y exchanged in all but the order of its receive channels, which files tell by name."""
    voxel_N, order_F = exchanged_voxels(sm.grid, len(sm.heights_m)), sm.measured_order_F
    if order_F is not None:
        order_F = np.concatenate((order_F[voxel_N], order_F[len(voxel_N) :]))
    return dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN[..., voxel_N],
        mixing_orders=tuple(map(exchanged, sm.mixing_orders)),
        grid=along_scanner("yxz", sm.grid),
        field=along_scanner("yxz", sm.field),
        measured_order_F=order_F,
        deviation_CKN=None if sm.deviation_CKN is None else sm.deviation_CKN[..., voxel_N],
        origin_m=exchanged(sm.origin_m),
        axes="xyz" if sm.axes == "yxz" else "yxz",
    )


def exchanged_voxels(grid: Grid, planes: int) -> NDArray[np.int64]:
    """Where each voxel of the exchanged grid, x fastest, is on this one, (N,)."""
    size_x, size_y = grid.size
    return np.arange(planes * grid.voxels).reshape(planes, size_y, size_x).swapaxes(1, 2).ravel()


def scanner_images(axes: str, images_YX: NDArray[Any]) -> NDArray[Any]:
    """Images with our axes, (…, Y, X), along the scanner's, or the other way round."""
    return images_YX.swapaxes(-1, -2) if axes == "yxz" else images_YX


def scanner_channels(sm: SystemMatrix) -> list[int]:
    """Our receive channels in the order of the scanner's."""
    return list(scanner_order(sm.axes, range(len(sm.values_CKN))))


def scanner_values(sm: SystemMatrix, values_CKN: NDArray[Any]) -> NDArray[Any]:
    """Values for the channels and voxels of the matrix, in the order of the scanner's."""
    if sm.axes == "xyz":
        return values_CKN
    return values_CKN[scanner_channels(sm)][..., exchanged_voxels(sm.grid, len(sm.heights_m))]
