"""Reading MDF calibration files, leniently: ours and those of other programs.

Shapes: C receive channels, K frequencies, N foreground frames (voxels, x fastest), E background frames.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sm_search.data.hdf5 import FieldError, Hdf5File
from sm_search.data.mdf_frames import Frames, frames, without_background
from sm_search.data.mdf_grid import read_centre, read_grid, read_volume, stored_order
from sm_search.data.mdf_parts import (
    all_reasons,
    field_settings,
    lissajous,
    mixing_orders,
    numbers,
    require_finite,
    require_version,
    tracer,
    unit,
)
from sm_search.physics.background import Subtraction
from sm_search.physics.receive import signal_to_noise
from sm_search.physics.scanner_axes import exchanged_axes
from sm_search.physics.system_matrix import SystemMatrix

DEVIATION = "/calibration/_deviation"
"""User field of a synthesised file: standard deviation of each value over the draws."""

OTHER_AXIS = 4.0
"""A channel whose harmonics of the other drive have this many times the energy of those of its own belongs to it."""


def read_mdf(path: str | Path, *, check_values: bool = True, background: Subtraction = "mean") -> SystemMatrix:
    """Read a calibration file: ours, or another's with one period per frame and a 2-D Lissajous drive (N_d, N_d+1).

    Every field is honoured, or refused where it is set to something that is not served (docs/measured.md): receiver's
    numbers are converted, a transfer function that was not corrected is divided out, the background is subtracted
    unless the file says that it was, and voxels come in the order of the grid, plane by plane. Of a scanner whose
    faster drive is along y, x and y are exchanged (`SystemMatrix.axes`). The values of a plain file (ours, without
    transfer function, background to correct and such an exchange) are a read-only memory map: copy what is to be
    changed.

    The SNR is the stored one, else that of the background frames if there are at least two; else there is none.

    Args:
        check_values: read all values once, to see that they are finite and whose channels they are, and for an SNR that
            is not stored. Without, a plain file of any size opens at once, and `values_CKN[c, k]` reads that component
            alone.
        background: subtract the mean of all background frames, or what lies between those measured before and after.

    Raises:
        DataError: one line naming the file, the field, the value and the rule; if there are several reasons, all.
    """
    # Absurd numbers overflow to inf, which the rules then refuse.
    with np.errstate(all="ignore"), Hdf5File(path) as file:
        try:
            return _calibration(file, check_values, background)
        except FieldError as error:
            checks = (require_version, read_grid, read_centre, lissajous, field_settings, frames)
            raise all_reasons(file, error, checks) from None


def _calibration(file: Hdf5File, check_values: bool, background: Subtraction) -> SystemMatrix:
    require_version(file)
    volume = read_volume(file)
    trajectory = lissajous(file)
    field = field_settings(file)
    found = frames(file)
    _, components, count = found.values_CKN.shape
    if count != volume.voxels:
        rule = f"{count} foreground frames: must be one per voxel of size, {volume.voxels}"
        raise file.fault("/measurement/isBackgroundFrame", rule)
    if check_values:
        require_finite(file.path, found.values_CKN)
        if found.background_CKE is not None:
            require_finite(file.path, found.background_CKE, "background frame")
    deviation_CKN = _deviation(file, found, check_values)
    cleaned = without_background(file, found, background)
    snr_CK = _snr(file, cleaned if background == "interpolated" else found, check_values)  # as MPIFiles has the mean's
    found = cleaned
    values_CKN, background_CKE = found.values_CKN, found.background_CKE
    order_N = stored_order(file, volume, found.place_N)
    if order_N is not None:
        values_CKN = values_CKN[..., order_N]
        deviation_CKN = None if deviation_CKN is None else deviation_CKN[..., order_N]
    orders, chosen_K = mixing_orders(file, trajectory, components, "/calibration/_mixingOrders")
    if chosen_K is not None:
        values_CKN = values_CKN[:, chosen_K]
        background_CKE = None if background_CKE is None else background_CKE[:, chosen_K]
        snr_CK = None if snr_CK is None else snr_CK[:, chosen_K]
        deviation_CKN = None if deviation_CKN is None else deviation_CKN[:, chosen_K]
    sm = SystemMatrix(
        values_CKN,
        orders,
        volume.grid,
        field,
        trajectory.fx_hz,
        trajectory.nd,
        tracer(file),
        unit(file),
        background_CKE,
        snr_CK,
        corrections=found.corrections,
        heights_m=volume.heights_m,
        origin_m=volume.origin_m,
        deviation_CKN=deviation_CKN,
    )
    sm = exchanged_axes(sm) if trajectory.axes == "yxz" else sm
    if check_values:
        require_own_axis(file, sm)
    return sm


def require_own_axis(file: Hdf5File, sm: SystemMatrix) -> None:
    """Refuse a channel in the place of another, which a file without names of channels cannot tell.

    The harmonics (m, 0) of a drive are strong in the channel along it, those of the other drive, (0, m), are weak.
    """
    alone = [
        [at for at, order in enumerate(sm.mixing_orders) if order[axis] and not order[1 - axis]] for axis in (0, 1)
    ]
    if not all(alone):
        return
    for channel, values_KN in enumerate(sm.values_CKN[:2]):
        own, other = (
            float(sum(np.vdot(values_KN[k], values_KN[k]).real for k in alone[axis])) for axis in (channel, 1 - channel)
        )
        # A file without any of its own harmonics does not tell.
        if own > 0 and other > OTHER_AXIS * own:
            name, drive = sm.axes[channel], sm.axes[1 - channel]
            ratio, number = other / own, "xyz".index(name) + 1
            rule = (
                f"receive channel {number} has {ratio:.3g} times the energy at the {drive}-drive's harmonics as "
                f"at those of {name}: must be the {name}-channel"
            )
            raise file.fault("/measurement/data", rule)


def _snr(file: Hdf5File, found: Frames, may_compute: bool) -> NDArray[np.float64] | None:
    field = "/calibration/snr"
    components = found.values_CKN.shape[1]
    if file.find(field) is not None:
        values = file.read(field)
        if values.dtype.kind not in "iuf" or values.size != found.channels * components or np.isnan(values).any():
            numbers(file, field, "f", found.channels * components)
        # Without noise the ratio is infinite, or so large that it does not matter.
        snr_CK = np.clip(values.astype(np.float64), 0.0, np.finfo(np.float64).max).reshape(found.channels, components)
        return snr_CK[found.rows_C]
    if found.background_CKE is None or not may_compute:
        return None
    return signal_to_noise(found.values_CKN, found.background_CKE)


def _deviation(file: Hdf5File, found: Frames, check_values: bool) -> NDArray[np.float64] | None:
    """Of the values as they are stored, a view of the file where there is one."""
    if file.find(DEVIATION) is None:
        return None
    values, shape = file.read_large(DEVIATION), (found.channels, *found.values_CKN.shape[1:])
    if values.dtype.kind != "f" or values.shape != shape:
        raise file.fault(DEVIATION, f"{values.dtype} of shape {values.shape}: must be real, {shape}")
    if check_values and not (np.isfinite(values).all() and values.min() >= 0):
        raise file.fault(DEVIATION, "must be finite and not negative")
    in_order = found.rows_C == list(range(found.channels))
    return (values if in_order else values[found.rows_C]).astype(np.float64, copy=False)


def read_field(path: str | Path, field: str) -> Any:
    """One field such as "/experiment/_seed": a str, int, float or complex if it is scalar, else an array.

    Raises:
        DataError: no such file or field, or one too large (128 MiB) or too strange to read.
    """
    with Hdf5File(path) as file:
        value = file.read(field)
        return value.item() if value.ndim == 0 else value
