"""Reading MDF calibration files, leniently: ours and those of other programs.

Shapes: C receive channels, K frequencies, N foreground frames (voxels, x fastest), E background frames.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Grid
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_parts import (
    Frames,
    build,
    field_settings,
    flag,
    frames,
    lissajous,
    mixing_orders,
    numbers,
    require_finite,
    require_if_present,
    tracer,
    undo,
    unit,
)
from sm_search.physics.receive import signal_to_noise
from sm_search.physics.system_matrix import SystemMatrix

CORRECTIONS = ("isBackgroundCorrected", "isTransferFunctionCorrected")


def read_mdf(path: str | Path, *, check_values: bool = True) -> SystemMatrix:
    """Read a calibration file: ours, or another's with one period per frame and a 2-D Lissajous drive (N_d, N_d+1).

    Where the file holds a transfer function and does not say that it was corrected, values and background are divided
    by it, as the field does. They are otherwise taken as stored: no conversion factor is applied, and no background is
    subtracted. Background frames may lie anywhere. `framePermutation` documents how frames were reordered, it is not
    undone: stored frames are in grid order. The values of a plain file (ours, without a transfer function) are a
    read-only memory map: copy what is to be changed.

    The SNR is the stored one, else that of the background frames if there are at least two; else there is none.

    Args:
        check_values: read all values once, to see that they are finite, and for an SNR that is not stored. Without, a
            plain file of any size opens at once, and `values_CKN[c, k]` reads that component alone.

    Raises:
        DataError: one line naming the file, the field, the value and the rule.
    """
    # Absurd numbers overflow to inf, which the rules then refuse.
    with np.errstate(all="ignore"), Hdf5File(path) as file:
        grid = _grid(file)
        nd, fx_hz = lissajous(file)
        found = frames(file)
        _, components, count = found.values_CKN.shape
        if count != grid.voxels:
            rule = f"{count} foreground frames: must be one per voxel, {grid.voxels}"
            raise file.fault("/measurement/isBackgroundFrame", rule)
        if check_values:
            require_finite(file.path, found.values_CKN)
            if found.background_CKE is not None:
                require_finite(file.path, found.background_CKE, "background frame")
        orders = mixing_orders(file, nd, components, "/calibration/_mixingOrders")
        return SystemMatrix(
            found.values_CKN,
            orders,
            grid,
            field_settings(file),
            fx_hz,
            nd,
            tracer(file),
            unit(file),
            found.background_CKE,
            _snr(file, found, check_values),
            corrections=frozenset(name for name in CORRECTIONS if flag(file, name, default=False)),
        )


def _snr(file: Hdf5File, found: Frames, may_compute: bool) -> NDArray[np.float64] | None:
    field = "/calibration/snr"
    if file.find(field) is not None:
        channels, components, _ = found.values_CKN.shape
        return numbers(file, field, "f", channels * components).reshape(channels, components)
    if found.background_CKE is None or not may_compute:
        return None
    return signal_to_noise(found.values_CKN, found.background_CKE)


def read_field(path: str | Path, field: str) -> Any:
    """One field such as "/experiment/_seed": a str, int, float or complex if it is scalar, else an array.

    Raises:
        DataError: no such file or field, or one too large (128 MiB) or too strange to read.
    """
    with Hdf5File(path) as file:
        value = file.read(field)
        return value.item() if value.ndim == 0 else value


def _grid(file: Hdf5File) -> Grid:
    size = numbers(file, "/calibration/size", "i", 3)
    fov_m = numbers(file, "/calibration/fieldOfView", "f", 3)
    if size[2] != 1:
        raise file.fault("/calibration/size", f"{size.tolist()}: must be one slice, n_z = 1")
    require_if_present(file, "/calibration/order", "xyz")
    if file.find("/calibration/fieldOfViewCenter") is not None:
        centre = numbers(file, "/calibration/fieldOfViewCenter", "f", 3)
        if np.any(centre != 0):
            raise file.fault("/calibration/fieldOfViewCenter", f"{centre.tolist()}: must be the origin")
    fov_mm = (undo(fov_m[0], 1e-3), undo(fov_m[1], 1e-3))
    return build(file, "/calibration/size, fieldOfView", Grid, size=(int(size[0]), int(size[1])), fov_mm=fov_mm)
