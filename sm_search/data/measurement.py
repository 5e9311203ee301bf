"""MDF measurement files: the signal of a phantom, which a system matrix of the same scan reconstructs.

They hold spectra at the frequencies of the system matrix (`frequencySelection`), in its unit and averaged as it was, so
that MPIFiles.jl and others pair the two by index; frames first, as measurements have them. There is no calibration
group. What was measured is kept in user fields, so that an image can be rated.

Shapes: C receive channels, K frequencies, N frames, Y and X voxels of the phantom.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.data.hdf5 import FieldError, Hdf5File
from sm_search.data.mdf_fields import Value, common_fields, frame_fields, save_fields, trajectory_fields
from sm_search.data.mdf_frames import frames, without_background
from sm_search.data.mdf_parts import (
    all_reasons,
    build,
    field_free_point_m,
    field_settings,
    lissajous,
    mixing_orders,
    numbers,
    require_finite,
    require_version,
    undo,
    unit,
)
from sm_search.physics.receive import noise_deviation
from sm_search.physics.scanner_axes import along_scanner, exchanged
from sm_search.physics.system_matrix import SystemMatrix

PHANTOM = "/experiment/_phantom"
CONCENTRATION = "/experiment/_concentration"
FIELD_OF_VIEW = "/experiment/_concentrationFieldOfView"
FINER = "/experiment/_finer"
ORDERS = "/measurement/_mixingOrders"


@dataclass(frozen=True)
class Truth:
    """What was measured.

    Attributes:
        phantom: its name.
        concentration_YX: 1 is the concentration of the point sample, spread over a voxel of the system matrix.
        grid: voxels of the concentration.
        finer: how many of them lie along a side of a voxel of the system matrix.
    """

    phantom: str
    concentration_YX: NDArray[np.float64]
    grid: Grid
    finer: int


@dataclass(frozen=True)
class Measurement:
    """A signal, averaged over the frames of its file, and how it was excited; other attributes as in `SystemMatrix`.

    Attributes:
        signal_CK: in `unit`, the transfer function divided out.
        truth: what was measured, where the file tells, along the scanner's own axes, like images.
        corrections: what was done to the signal, by the reading or before, as in `SystemMatrix`.
        frames_CKF: the same of each frame; None where only the mean is known.
        origin_m: where the scanner's coordinates have the field-free point.
        noise_CK: standard deviation √E|n|² of a frame's noise, from background frames; None where they tell none.
    """

    signal_CK: NDArray[np.complex128]
    mixing_orders: tuple[tuple[int, int], ...]
    field: FieldSettings
    fx_hz: float
    nd: int
    unit: str
    truth: Truth | None
    corrections: frozenset[str] = frozenset()
    frames_CKF: NDArray[np.complex128] | None = None
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: str = "xyz"
    noise_CK: NDArray[np.float64] | None = None


def write_measurement(
    path: str | Path,
    signal: SystemMatrix,
    truth: Truth,
    *,
    uuid: str,
    time: str,
    averages: int = 1,
    extra: Mapping[str, Value] = MappingProxyType({}),
) -> None:
    """Write a measurement file, atomically; equal arguments give equal bytes.

    The tracer has the nominal concentration 1 mol/L, and the volume that the phantom would have at it.

    Args:
        signal: what the receiver has, a system matrix but for its frames, which are those of the measurement: values of
            shape (C, K, N), background behind them.
        uuid, time, averages, extra: as in `write_mdf`.

    Raises:
        DataError: a value breaks a rule (nothing is written then), or the disk refuses the file.
    """
    path = Path(path)
    assert signal.axes == "xyz", "only simulated signals are written"
    voxel_m = truth.grid.voxel_m
    slice_m = min(voxel_m) * truth.finer
    fields: dict[str, Value] = {
        "/experiment/description": "Measurement of a phantom",
        "/experiment/name": f"phantom {truth.phantom}",
        "/experiment/subject": truth.phantom,
        PHANTOM: truth.phantom,
        CONCENTRATION: np.asarray(truth.concentration_YX, dtype=np.float64),
        FIELD_OF_VIEW: np.array(truth.grid.fov_m),
        FINER: truth.finer,
        "/tracer/concentration": np.array([1.0]),
        "/tracer/volume": np.array([math.prod(voxel_m) * slice_m * 1e3 * float(truth.concentration_YX.sum())]),
        ORDERS: np.array(signal.mixing_orders, dtype=np.int64),
    }
    common = trajectory_fields(path, signal) | common_fields(path, signal, uuid, time, averages)
    save_fields(path, common | fields | frame_fields(path, signal, fast_frame_axis=False), extra)


def read_measurement(path: str | Path) -> Measurement:
    """Read a measurement with one period per frame and a 2-D Lissajous drive (N_d, N_d+1), of spectra or time signals.

    All fields are honoured or refused as in `read_mdf`: the transfer function is divided out, the mean of the
    background frames is subtracted unless the file says that it was. Frames are averaged.

    Raises:
        DataError: one line naming the file, the field, the value and the rule; if there are several reasons, all.
    """
    with np.errstate(all="ignore"), Hdf5File(path) as file:
        if file.find("/calibration/size") is not None:
            raise file.fault("/calibration/size", "is there: this is a system matrix, not a measurement")
        try:
            return _measurement(file)
        except FieldError as error:
            raise all_reasons(file, error, (require_version, lissajous, field_settings, frames)) from None


def _measurement(file: Hdf5File) -> Measurement:
    require_version(file)
    trajectory = lissajous(file)
    field = field_settings(file)
    found = frames(file)
    require_finite(file.path, found.values_CKN)
    if found.background_CKE is not None:
        require_finite(file.path, found.background_CKE, "background frame")
    found = without_background(file, found, "mean")
    orders, chosen_K = mixing_orders(file, trajectory, found.values_CKN.shape[1], ORDERS)
    x_m, y_m, z_m = field_free_point_m(file).tolist()
    if trajectory.axes == "yxz":
        orders, field, (x_m, y_m) = tuple(map(exchanged, orders)), along_scanner("yxz", field), (y_m, x_m)
    frames_CKF = np.array(found.values_CKN if chosen_K is None else found.values_CKN[:, chosen_K])
    noise_CK = noise_deviation(found.background_CKE)
    fx_hz, nd = trajectory.fx_hz, trajectory.nd
    mean_CK = frames_CKF.mean(axis=-1)
    return Measurement(
        mean_CK,
        orders,
        field,
        fx_hz,
        nd,
        unit(file),
        _truth(file),
        found.corrections,
        frames_CKF,
        (x_m, y_m, z_m),
        trajectory.axes,
        noise_CK if noise_CK is None or chosen_K is None else noise_CK[:, chosen_K],
    )


def _truth(file: Hdf5File) -> Truth | None:
    if file.find(CONCENTRATION) is None:
        return None
    concentration_YX = file.read(CONCENTRATION)
    if concentration_YX.ndim != 2:
        raise file.fault(CONCENTRATION, f"shape {concentration_YX.shape}: must have two axes, y and x")
    values = numbers(file, CONCENTRATION, "f", concentration_YX.size).reshape(concentration_YX.shape)
    if not (values.min() >= 0 and values.max() > 0):
        raise file.fault(CONCENTRATION, "must not be negative, and not 0 everywhere")
    fov_m = numbers(file, FIELD_OF_VIEW, "f", 2)
    size_y, size_x = concentration_YX.shape[0], concentration_YX.shape[1]
    fov_mm = (undo(fov_m[0], 1e-3), undo(fov_m[1], 1e-3))
    grid = build(file, f"{CONCENTRATION}, {FIELD_OF_VIEW}", Grid, size=(size_x, size_y), fov_mm=fov_mm)
    finer = int(numbers(file, FINER, "i", 1)[0])
    if finer < 1:
        raise file.fault(FINER, f"{finer}: must be at least 1")
    name = file.read(PHANTOM).ravel()
    return Truth(str(name[0]) if name.size else "", values, grid, finer)
