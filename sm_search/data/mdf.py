"""System matrices as MDF v2.1.0 calibration files (arXiv 1602.06072): written strictly, read leniently.

Shapes: J periods (here 1), C receive channels, K frequencies, N frames (voxels, x fastest), D drive channels (here 2),
F frequencies per drive channel (here 1), V samples of a Lissajous period.
"""

import math
import re
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.data.atomic import atomic_path
from sm_search.data.mdf_reading import MAX_ND, read_field, read_mdf, require_finite
from sm_search.physics.system_matrix import SystemMatrix

__all__ = ["read_field", "read_mdf", "write_mdf"]

VERSION = "2.1.0"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,3}")
_GROUPS = "study|experiment|scanner|acquisition|drivefield|receiver|measurement|calibration"
_USER_FIELD = re.compile(rf"/((?:{_GROUPS}|_\w+)/)*_\w+")

Value = str | bool | int | float | list[str] | NDArray[Any]


def write_mdf(
    path: str | Path,
    sm: SystemMatrix,
    *,
    uuid: str,
    time: str,
    extra: Mapping[str, Value] = MappingProxyType({}),
) -> None:
    """Write a calibration file, atomically; equal arguments give equal bytes wherever and whenever they are written.

    The tracer has the nominal concentration 1 mol/L and the volume of a voxel; the values stay in A/m.

    Args:
        sm: values_CKN of shape (C, K, N), all finite, K distinct frequencies; stored in the order given.
        uuid: identifies the file, canonical text; study and experiment get identifiers derived from it.
        time: creation time, UTC, `yyyy-mm-ddThh:mm:ss.ms`.
        extra: user fields by path, such as {"/experiment/_seed": 7}; the last name starts with `_`;
            those of /tracer come from `sm.tracer`.

    Raises:
        DataError: a value breaks a rule (nothing is written then), or the disk refuses the file.
    """
    path = Path(path)
    fields = _fields(path, sm, uuid, time)
    for field, value in extra.items():
        if not _USER_FIELD.fullmatch(field) or field in fields:
            raise DataError(f"{path}: {field}: a user field needs a new path, '_' before its last name, not /tracer")
        fields[field] = value
    image = _image(path, fields)
    with atomic_path(path) as temporary:
        temporary.write_bytes(image)


def _fields(path: Path, sm: SystemMatrix, uuid: str, time: str) -> dict[str, Value]:
    """All fields of the file by path, the large one last."""
    index_K = _checked_frequency_index(path, sm)
    channels, _, voxels = sm.values_CKN.shape
    # V/2 + 1 must exceed every k: the smallest even number of samples per x period that does.
    per_period = 2 * (int(index_K.max()) // (sm.nd + 1) + 1)
    points = per_period * (sm.nd + 1)
    base_hz = sm.fx_hz * sm.nd
    cycle_s = (sm.nd + 1) / sm.fx_hz
    gradient_x, gradient_y = sm.field.gradients_t_per_m
    voxel_m = [fov / n for fov, n in zip(sm.grid.fov_m, sm.grid.size, strict=True)]
    slice_m = min(voxel_m)
    flags = {f"/measurement/{name}": False for name in _FLAGS} | {
        f"/measurement/{name}": True for name in ("isFastFrameAxis", "isFourierTransformed", "isFrequencySelection")
    }
    return {
        **_descriptions(path, uuid, time),
        "/tracer/concentration": np.array([1.0]),
        "/tracer/volume": np.array([math.prod(voxel_m) * slice_m * 1e3]),
        **_tracer_fields(path, sm.tracer),
        "/acquisition/gradient": np.diag([-gradient_x, -gradient_y, gradient_x + gradient_y])[None, None],
        "/acquisition/numAverages": 1,
        "/acquisition/numFrames": voxels,
        "/acquisition/numPeriodsPerFrame": 1,
        "/acquisition/startTime": time,
        "/acquisition/drivefield/baseFrequency": base_hz,
        "/acquisition/drivefield/cycle": cycle_s,
        "/acquisition/drivefield/divider": np.array([[sm.nd], [sm.nd + 1]], dtype=np.int64),
        "/acquisition/drivefield/numChannels": 2,
        "/acquisition/drivefield/phase": np.full((1, 2, 1), math.pi / 2),
        "/acquisition/drivefield/strength": np.array(sm.field.drives_t).reshape(1, 2, 1),
        "/acquisition/drivefield/waveform": np.array([["sine"], ["sine"]], dtype=object),
        "/acquisition/receiver/bandwidth": points / (2 * cycle_s),
        "/acquisition/receiver/numChannels": channels,
        "/acquisition/receiver/numSamplingPoints": points,
        "/acquisition/receiver/unit": "A/m",
        "/calibration/fieldOfView": np.array([*sm.grid.fov_m, slice_m]),
        "/calibration/fieldOfViewCenter": np.zeros(3),
        "/calibration/method": "simulation",
        "/calibration/order": "xyz",
        "/calibration/size": np.array([*sm.grid.size, 1], dtype=np.int64),
        "/calibration/_mixingOrders": np.array(sm.mixing_orders, dtype=np.int64),
        **flags,
        "/measurement/frequencySelection": index_K + 1,
        "/measurement/isBackgroundFrame": np.zeros(voxels, dtype=np.int8),
        "/measurement/_axes": ["period", "channel", "frequency", "frame"],
        "/measurement/data": np.asarray(sm.values_CKN, dtype=np.complex128)[None],
    }


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


def _checked_frequency_index(path: Path, sm: SystemMatrix) -> NDArray[np.int64]:
    """The K frequency indices k, once the system matrix is known to fit into a file."""
    shape = np.shape(sm.values_CKN)
    expected = (len(sm.mixing_orders), sm.grid.voxels)
    if len(shape) != 3 or shape[1:] != expected or 0 in shape:
        raise DataError(
            f"{path}: /measurement/data: shape {shape} of values_CKN: must be (C, {expected[0]}, {expected[1]})"
        )
    if not 1 <= sm.nd <= MAX_ND or not 0 < sm.fx_hz < math.inf:
        raise DataError(f"{path}: fx_hz {sm.fx_hz!r}, nd {sm.nd!r}: must be positive, nd at most {MAX_ND}")
    index_K = sm.frequency_index()
    if index_K.min() < 0 or len(np.unique(index_K)) < len(index_K):
        raise DataError(f"{path}: /measurement/frequencySelection: mixing orders must give distinct k ≥ 0 (nd {sm.nd})")
    require_finite(path, sm.values_CKN)
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
        "/experiment/description": "System matrix: magnetisation of the core material at each voxel",
        "/experiment/isSimulation": True,
        "/experiment/name": "system matrix",
        "/experiment/number": 1,
        "/experiment/subject": "point sample",
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
