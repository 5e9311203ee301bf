"""MDF reconstruction files: images in the group /reconstruction, with what the measurement says of its making.

Shapes: Q frames, Z, Y, X voxels, N of them with x fastest, P = N voxels and S = 1 channel of the standard (MDF v2.1.0,
section 2.9).
"""

import uuid as uuids
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sm_search.data.atomic import sha256
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_fields import VERSION, Value, grid_fields, save_fields
from sm_search.physics.system_matrix import SystemMatrix

KEPT = ("/study", "/experiment", "/tracer", "/scanner", "/acquisition")
"""Groups that are taken over from the measurement."""

_UUID_SPACE = uuids.UUID("2f6c1c94-4f0d-4a55-9f0e-7d5a3a5f1b60")


def write_reconstruction(
    path: str | Path,
    images_QZYX: NDArray[np.floating],
    place: SystemMatrix,
    measurement: str | Path,
    options: Mapping[str, Value],
    deviation_QZYX: NDArray[np.floating] | None = None,
    *,
    time: str,
) -> None:
    """Write images as an MDF file without measurement data, atomically.

    Args:
        images_QZYX: in units of the point sample of the system matrix; of one plane also (Q, Y, X).
        place: the system matrix, whose voxels they have.
        measurement: the MDF file that was reconstructed, whose study, experiment, tracer, scanner and acquisition are
            taken over.
        options: how it was reconstructed, by names that get a `_` in front.
        deviation_QZYX: standard deviation of each voxel, `_deviation` in the file.
        time: for the file, UTC, `yyyy-mm-ddThh:mm:ss.ms`.

    Raises:
        DataError: the measurement cannot be read, or the file cannot be written.
    """
    path = Path(path)
    fields: dict[str, Value] = {
        **_taken_over(measurement),
        "/version": VERSION,
        "/time": time,
        "/uuid": str(uuids.uuid5(_UUID_SPACE, f"{sha256(measurement)}/{sorted(options.items())}")),
        **{f"/reconstruction/{name}": value for name, value in grid_fields(place).items()},
        **{f"/reconstruction/_{name}": value for name, value in options.items()},
        **({} if deviation_QZYX is None else {"/reconstruction/_deviation": _voxels(deviation_QZYX)}),
        "/reconstruction/data": _voxels(images_QZYX),
    }
    save_fields(path, fields, {})


def _voxels(images_QZYX: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.ascontiguousarray(images_QZYX, dtype=np.float64).reshape(len(images_QZYX), -1, 1)


def _taken_over(measurement: str | Path) -> dict[str, Value]:
    """What is above the data; user fields of ours say what a phantom was, and are no part of an image."""
    with Hdf5File(measurement) as file:
        return {
            node.path: file.read(node.path)
            for group in KEPT
            for node in file.walk(group)
            if node.kind == "dataset" and "/_" not in node.path
        }
