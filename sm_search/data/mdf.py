"""System matrices as MDF v2.1.0 calibration files (arXiv 1602.06072): written strictly, read leniently.

Shapes: C receive channels, K frequencies, N foreground frames (voxels, x fastest), E background frames.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sm_search.config.errors import DataError
from sm_search.data.mdf_fields import (
    Value,
    common_fields,
    frame_fields,
    grid_fields,
    optional_field,
    save_fields,
    slice_thickness_m,
    trajectory_fields,
)
from sm_search.data.mdf_frames import CHANNELS
from sm_search.data.mdf_provenance import BASE, DIVIDER, INDUCTION
from sm_search.data.mdf_reading import read_field, read_mdf
from sm_search.physics.scanner_axes import exchanged_axes, scanner_channels
from sm_search.physics.system_matrix import SystemMatrix, chosen_channels

__all__ = ["read_field", "read_mdf", "write_mdf"]

DESCRIPTIONS = {
    "A/m": "System matrix: magnetisation of the core material at each voxel",
    "V": "System matrix: voltage induced by a point sample at each voxel",
}


def write_mdf(
    path: str | Path,
    sm: SystemMatrix,
    *,
    uuid: str,
    time: str,
    averages: int = 1,
    provenance: Mapping[str, Value] = MappingProxyType({}),
    extra: Mapping[str, Value] = MappingProxyType({}),
) -> None:
    """Write a calibration file, atomically; equal arguments give equal bytes wherever and whenever they are written.

    Without provenance the file is of a simulation; its tracer has the nominal concentration 1 mol/L and the volume of a
    voxel. The values stay in the unit of `sm`.
    Background frames follow the others. Values that still contain a transfer function are stored as they are, beside
    it, and marked as not corrected. All is along the scanner's own axes, where those of `sm` are exchanged.

    Args:
        sm: values_CKN of shape (C, K, N), all finite, K distinct frequencies; stored in the order given.
        uuid: identifies the file, canonical text; study and experiment get identifiers derived from it.
        time: creation time, UTC, `yyyy-mm-ddThh:mm:ss.ms`.
        averages: repetitions behind each frame.
        provenance: of a file that was made of another one, standard fields by path (`read_provenance`).
        extra: user fields by path, such as {"/experiment/_seed": 7}; the last name starts with `_`;
            those of /tracer come from `sm.tracer`. They are stored as they are.

    Raises:
        DataError: a value breaks a rule (nothing is written then), or the disk refuses the file.
    """
    path = Path(path)
    shape = np.shape(sm.values_CKN)
    expected = (len(sm.mixing_orders), sm.grid.voxels * len(sm.heights_m))
    if len(shape) != 3 or shape[1:] != expected:
        raise DataError(
            f"{path}: /measurement/data: shape {shape} of values_CKN: must be (C, {expected[0]}, {expected[1]})"
        )
    fields, channels = trajectory_fields(path, sm), scanner_channels(sm)
    if sm.axes == "yxz":
        if shape[0] == 1:
            fields[CHANNELS] = ["y"]
        sm = exchanged_axes(chosen_channels(sm, channels))
    fields |= common_fields(path, sm, uuid, time, averages) | _calibration_fields(path, sm)
    of_other = set() if _has_drive_of(provenance, sm) else {BASE, DIVIDER}
    fields |= {name: value for name, value in provenance.items() if name not in of_other}
    if INDUCTION in provenance:
        factor_C = np.ravel(provenance[INDUCTION])
        fields[INDUCTION] = factor_C[[channel for channel in channels if channel < len(factor_C)]]
    save_fields(path, fields | frame_fields(path, sm, fast_frame_axis=True), extra)


def _has_drive_of(provenance: Mapping[str, Value], sm: SystemMatrix) -> bool:
    """A dataset calls frequencies the same that are nearly so; base frequency and dividers of a file are exact."""
    if BASE not in provenance or DIVIDER not in provenance:
        return False
    higher_hz = np.max(provenance[BASE] / np.asarray(provenance[DIVIDER]))
    return math.isclose(higher_hz, sm.fx_hz, rel_tol=1e-9)


def _calibration_fields(path: Path, sm: SystemMatrix) -> dict[str, Value]:
    slice_m = slice_thickness_m(sm)
    channels, components, _ = sm.values_CKN.shape
    snr_JCK = None if sm.snr_CK is None else sm.snr_CK[None]
    return {
        "/experiment/description": DESCRIPTIONS.get(sm.unit, "System matrix"),
        "/experiment/name": "system matrix",
        "/experiment/subject": "point sample",
        "/tracer/concentration": np.array([1.0]),
        "/tracer/volume": np.array([math.prod(sm.grid.voxel_m) * slice_m * 1e3]),
        "/calibration/method": "simulation",
        **{f"/calibration/{name}": value for name, value in grid_fields(sm).items()},
        **optional_field(path, "/calibration/snr", snr_JCK, (1, channels, components)),
        "/calibration/_mixingOrders": np.array(sm.mixing_orders, dtype=np.int64),
    }
