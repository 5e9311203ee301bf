"""The fields that calibration and measurement files share, and the bytes of a file (MDF v2.1.0, arXiv 1602.06072).

Shapes: J periods (here 1), C receive channels, K frequencies, N foreground and E background frames, D drive channels
(here 2), F frequencies per drive channel (here 1), V samples of a Lissajous period.
"""

import math
import re
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.data.atomic import atomic_path
from sm_search.data.mdf_parts import MAX_ND, require_finite
from sm_search.physics.scanner_axes import along_scanner, scanner_order
from sm_search.physics.system_matrix import SystemMatrix

VERSION = "2.1.0"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,3}")
_GROUPS = "study|experiment|scanner|acquisition|drivefield|receiver|measurement|calibration"
_USER_FIELD = re.compile(rf"/((?:{_GROUPS}|_\w+)/)*_\w+")
_FLAGS = (
    "isBackgroundCorrected",
    "isFastFrameAxis",
    "isFourierTransformed",
    "isFramePermutation",
    "isFrequencySelection",
    "isSparsityTransformed",
    "isSpectralLeakageCorrected",
    "isTransferFunctionCorrected",
)

Value = str | bool | int | float | list[str] | NDArray[Any]


def trajectory_fields(path: Path, sm: SystemMatrix) -> dict[str, Value]:
    """Drive frequencies and components, by path; the dividers are those of the scanner's own axes.

    Raises:
        DataError: a value does not fit into a file.
    """
    index_K = _frequency_index(path, sm)
    # V/2 + 1 must exceed every k: the smallest even number of samples per x period that does.
    per_period = 2 * (int(index_K.max()) // (sm.nd + 1) + 1)
    points = per_period * (sm.nd + 1)
    base_hz = sm.fx_hz * sm.nd
    cycle_s = (sm.nd + 1) / sm.fx_hz
    return {
        "/acquisition/drivefield/baseFrequency": base_hz,
        "/acquisition/drivefield/cycle": cycle_s,
        "/acquisition/drivefield/divider": np.array([[sm.nd + sm.axes.index(name)] for name in "xy"], dtype=np.int64),
        "/acquisition/receiver/bandwidth": points / (2 * cycle_s),
        "/acquisition/receiver/numSamplingPoints": points,
        "/measurement/frequencySelection": index_K + 1,
    }


def common_fields(path: Path, sm: SystemMatrix, uuid: str, time: str, averages: int) -> dict[str, Value]:
    """All but the trajectory, the calibration group, the frames and the tracer's amount, by path.

    Args:
        sm: along the scanner's own axes, any number of frames; not the values, but all else of it is looked at.

    Raises:
        DataError: a value does not fit into a file.
    """
    shape_CK = sm.values_CKN.shape[:2]
    gradient_x, gradient_y = sm.field.gradients_t_per_m
    gradient_3 = np.array([-gradient_x, -gradient_y, gradient_x + gradient_y])
    return {
        **_descriptions(path, uuid, time),
        **_tracer_fields(path, sm.tracer),
        "/acquisition/gradient": np.diag(gradient_3)[None, None],
        **({"/acquisition/offsetField": -np.array([[sm.origin_m]]) * gradient_3} if any(sm.origin_m) else {}),
        "/acquisition/numAverages": averages,
        "/acquisition/numPeriodsPerFrame": 1,
        "/acquisition/startTime": time,
        "/acquisition/drivefield/numChannels": 2,
        "/acquisition/drivefield/phase": np.full((1, 2, 1), math.pi / 2),
        "/acquisition/drivefield/strength": np.array(sm.field.drives_t).reshape(1, 2, 1),
        "/acquisition/drivefield/waveform": np.array([["sine"], ["sine"]], dtype=object),
        "/acquisition/receiver/numChannels": shape_CK[0],
        **optional_field(path, "/acquisition/receiver/transferFunction", sm.transfer_function_CK, shape_CK),
        "/acquisition/receiver/unit": sm.unit,
    }


def frame_fields(path: Path, sm: SystemMatrix, *, fast_frame_axis: bool) -> dict[str, Value]:
    """The frames, background behind the others, with their flags; the large field last."""
    values_CKN = np.asarray(sm.values_CKN, dtype=np.complex128)
    channels, components, frames = values_CKN.shape
    require_finite(path, values_CKN)
    background = 0
    if sm.background_CKE is not None:
        background = sm.background_CKE.shape[-1]
        optional_field(path, "/measurement/data", sm.background_CKE, (channels, components, background))
        values_CKN = np.concatenate((values_CKN, sm.background_CKE), axis=-1)
    true = {"isFourierTransformed", "isFrequencySelection"} | ({"isFastFrameAxis"} if fast_frame_axis else set())
    true |= sm.corrections
    permutation: dict[str, Value] = {}
    if sm.measured_order_F is not None:
        true.add("isFramePermutation")
        order_F = optional_field(path, "/measurement/framePermutation", sm.measured_order_F, (frames + background,))
        permutation |= order_F
    frame_axis = ["period", "channel", "frequency", "frame"] if fast_frame_axis else _SLOW_AXES
    return {
        "/acquisition/numFrames": frames + background,
        **{f"/measurement/{name}": name in true for name in _FLAGS},
        **permutation,
        "/measurement/isBackgroundFrame": (np.arange(frames + background) >= frames).astype(np.int8),
        "/measurement/_axes": frame_axis,
        "/measurement/data": values_CKN[None] if fast_frame_axis else np.moveaxis(values_CKN, -1, 0)[:, None],
    }


def grid_fields(sm: SystemMatrix) -> dict[str, Any]:
    """Where the voxels are, in the scanner's coordinates; the names are those of calibration and reconstruction."""
    planes, grid = len(sm.heights_m), along_scanner(sm.axes, sm.grid)
    x_m, y_m, z_m = scanner_order(sm.axes, sm.origin_m)
    return {
        "size": np.array([*grid.size, planes], dtype=np.int64),
        "fieldOfView": np.array([*grid.fov_m, planes * slice_thickness_m(sm)]),
        "fieldOfViewCenter": np.array([x_m, y_m, z_m + sum(sm.heights_m) / planes]),
        "order": "xyz",
    }


def slice_thickness_m(sm: SystemMatrix) -> float:
    """The distance of the planes; of a lone one the smaller side of its voxels."""
    if len(sm.heights_m) > 1:
        return (sm.heights_m[-1] - sm.heights_m[0]) / (len(sm.heights_m) - 1)
    return min(sm.grid.voxel_m)


_SLOW_AXES = ["frame", "period", "channel", "frequency"]


def receive_fields(receive: ReceiveSettings) -> dict[str, Value]:
    """The receive chain as user fields, SI; nothing where it does nothing."""
    if receive.signal == "magnetisation" and not receive.noise_nv:
        return {}
    fields: dict[str, Value] = {
        "_coilSensitivity": receive.coil_sensitivity_per_m,
        "_coreVolume": receive.core_volume_nl * 1e-12,
        "_noise": receive.noise_nv * 1e-9,
        "_noiseSeed": receive.seed,
    }
    for name, khz in (
        ("_lowPass", receive.low_pass_khz),
        ("_highPass", receive.high_pass_khz),
        ("_noiseCorner", receive.noise_corner_khz or None),
        ("_noiseRise", receive.noise_rise_khz),
    ):
        if khz is not None:
            fields[name] = khz * 1e3
    if receive.delay_us:
        fields["_delay"] = receive.delay_us * 1e-6
    if receive.resonances:
        fields["_resonances"] = np.array([[1e3 * r.frequency_khz, r.quality, r.gain] for r in receive.resonances])
    if receive.background_correction != "none":
        fields["_backgroundCorrection"] = receive.background_correction
    if receive.feed_through is not None:
        fields["_feedThrough"] = receive.feed_through.model_dump_json()
    return {f"/acquisition/receiver/{name}": value for name, value in fields.items()}


def optional_field(path: Path, field: str, values: NDArray[Any] | None, shape: tuple[int, ...]) -> dict[str, Value]:
    """A field that is there unless `values` is None, once it is known to be finite and of that shape."""
    if values is None:
        return {}
    if np.shape(values) != shape or not np.all(np.isfinite(values)):
        raise DataError(f"{path}: {field}: shape {np.shape(values)}: must be {shape}, all finite")
    return {field: np.asarray(values)}


def _frequency_index(path: Path, sm: SystemMatrix) -> NDArray[np.int64]:
    """The K frequency indices k, once the scan is known to fit into a file."""
    shape = np.shape(sm.values_CKN)
    if len(shape) != 3 or shape[1] != len(sm.mixing_orders) or 0 in shape:
        raise DataError(
            f"{path}: /measurement/data: shape {shape} of values_CKN: must be (C, {len(sm.mixing_orders)}, N)"
        )
    if not 1 <= sm.nd <= MAX_ND or not 0 < sm.fx_hz < math.inf:
        raise DataError(f"{path}: fx_hz {sm.fx_hz!r}, nd {sm.nd!r}: must be positive, nd at most {MAX_ND}")
    index_K = sm.frequency_index()
    if index_K.min() < 0 or len(np.unique(index_K)) < len(index_K):
        raise DataError(f"{path}: /measurement/frequencySelection: mixing orders must give distinct k ≥ 0 (nd {sm.nd})")
    return index_K


def _descriptions(path: Path, uuid: str, time: str) -> dict[str, Value]:
    try:
        canonical = str(uuids.UUID(uuid)) == uuid
    except ValueError:
        canonical = False
    if not canonical:
        raise DataError(f"{path}: /uuid: {uuid!r}: must look like ee94cb6d-febf-47d9-bec9-e3afa59bfaf8")
    if not TIMESTAMP.fullmatch(time):
        raise DataError(f"{path}: /time: {time!r}: must look like 2025-01-31T12:00:00.000 (UTC)")
    unknown = "n.a."
    return {
        "/time": time,
        "/uuid": uuid,
        "/version": VERSION,
        "/study/description": "Simulated system matrices for conditional-diffusion synthesis",
        "/study/name": "sm_search",
        "/study/number": 1,
        "/study/uuid": str(uuids.uuid5(uuids.UUID(uuid), "study")),
        "/experiment/isSimulation": True,
        "/experiment/number": 1,
        "/experiment/uuid": str(uuids.uuid5(uuids.UUID(uuid), "experiment")),
        "/tracer/batch": [unknown],
        "/tracer/name": ["simulated"],
        "/tracer/solute": ["Fe"],
        "/tracer/vendor": [unknown],
        "/scanner/facility": unknown,
        "/scanner/manufacturer": "sm_search",
        "/scanner/name": "simulation",
        "/scanner/operator": unknown,
        "/scanner/topology": "FFP",
    }


def _tracer_fields(path: Path, tracer: Mapping[str, float | str]) -> dict[str, Value]:
    for name, value in tracer.items():
        if not re.fullmatch(r"\w+", name):
            raise DataError(f"{path}: /tracer/_{name}: a name has letters, digits and '_' only")
        if not isinstance(value, str) and not math.isfinite(value):
            raise DataError(f"{path}: /tracer/_{name}: {value!r}: must be finite")
    return {f"/tracer/_{name}": v if isinstance(v, str) else float(v) for name, v in tracer.items()}


def save_fields(path: Path, fields: Mapping[str, Value], extra: Mapping[str, Value]) -> None:
    """Write the fields and the user fields `extra` to a file, atomically.

    Raises:
        DataError: a field cannot be stored (nothing is written then), or the disk refuses the file.
    """
    for field in extra:
        if not _USER_FIELD.fullmatch(field) or field in fields:
            raise DataError(f"{path}: {field}: a user field needs a new path, '_' before its last name, not /tracer")
    image = _image(path, {**fields, **extra})
    with atomic_path(path) as temporary:
        temporary.write_bytes(image)


def _image(path: Path, fields: Mapping[str, Value]) -> bytes:
    """The bytes of the HDF5 file, built in memory: HDF5 itself does not survive a full disk."""
    with h5py.File("image", "w", driver="core", backing_store=False, libver=("earliest", "v110")) as file:
        for field, value in fields.items():
            try:
                file.create_dataset(field, data=_stored(value), track_times=False)
            except (TypeError, ValueError, LookupError, OSError, RuntimeError) as error:
                raise DataError(f"{path}: {field}: cannot be stored: {' '.join(str(error).split())}") from error
        file.flush()
        return file.id.get_file_image()


def _stored(value: Value) -> NDArray[Any]:
    """`value` in the types of the standard: Int64, Float64, Int8 for truth values, UTF-8 text."""
    array = np.asarray(value)
    if array.dtype.kind in "UO":
        return np.asarray(value, dtype=h5py.string_dtype())
    return array.astype(np.int8) if array.dtype.kind == "b" else array
