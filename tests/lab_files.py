"""Calibration files as a lab has them: measured, not in our order, with background, and of an origin of their own."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_fields import slice_thickness_m
from sm_search.physics.system_matrix import SystemMatrix

LAB = {
    "/tracer/name": ["perimag"],
    "/tracer/concentration": np.array([0.1]),
    "/scanner/name": "pre-clinical",
    "/calibration/method": "robot",
    "/experiment/isSimulation": False,
}


def as_measured(path: Path, sm: SystemMatrix) -> None:
    """Background in two blocks, shuffled positions, frequencies ascending, numbers to be converted, float32 fields."""
    order = np.argsort(sm.frequency_index())
    planes, size = len(sm.heights_m), sm.grid.size
    shuffled = np.random.default_rng(3).permutation(sm.grid.voxels * planes)
    orders = tuple(sm.mixing_orders[k] for k in order)
    sm = dataclasses.replace(sm, values_CKN=sm.values_CKN[:, order][..., shuffled], mixing_orders=orders)
    feed_through = 1e-3 * np.exp(1j * np.arange(2 * len(orders))).reshape(2, -1, 1)
    noise = np.random.default_rng(4).normal(size=(2, len(orders), 6)) * 1e-18
    background = feed_through + noise - noise.mean(axis=-1, keepdims=True)
    stored = dataclasses.replace(sm, values_CKN=sm.values_CKN + feed_through, background_CKE=background)
    uuid, time = "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", "2025-01-31T12:00:00.000"
    write_mdf(path, stored, uuid=uuid, time=time, averages=1000, provenance=LAB)
    z_N, y_N, x_N = np.unravel_index(shuffled, (planes, size[1], size[0]))
    x, y = (0.04 / n * (at_N - (n - 1) / 2) for n, at_N in zip(size, (x_N, y_N), strict=True))
    z = np.array(sm.heights_m)[z_N] + sm.origin_m[2]
    with h5py.File(path, "r+") as h5:
        data = h5["/measurement/data"][()] / 500
        for name in ("/measurement/data", "/calibration/fieldOfView", "/calibration/_mixingOrders", "/time"):
            del h5[name]
        h5["/measurement/data"] = data
        h5["/calibration/fieldOfView"] = np.array([0.04, 0.04, planes * slice_thickness_m(sm)], np.float32)
        h5["/calibration/positions"] = np.stack([x, y, z], axis=1)
        h5["/acquisition/receiver/dataConversionFactor"] = np.array([[500.0, 0.0]] * 2)
        h5["/time"] = "2025-01-31T12:00:00"


DRIVE, RECEIVER = "/acquisition/drivefield", "/acquisition/receiver"
FROM_X_TO_Y = {
    f"{DRIVE}/divider": (0,),
    f"{DRIVE}/phase": (1,),
    f"{DRIVE}/strength": (1,),
    f"{DRIVE}/waveform": (0,),
    f"{RECEIVER}/dataConversionFactor": (0,),
    f"{RECEIVER}/inductionFactor": (0,),
    f"{RECEIVER}/transferFunction": (0,),
    "/acquisition/gradient": (2, 3),
    "/acquisition/offsetField": (2,),
    "/calibration/_conditionInNoise": (0,),
    "/calibration/_deviation": (0,),
    "/calibration/_expectedError": (0,),
    "/calibration/_intervalFactors": (0,),
    "/calibration/_mixingOrders": (1,),
    "/calibration/deltaSampleSize": (0,),
    "/calibration/fieldOfView": (0,),
    "/calibration/fieldOfViewCenter": (0,),
    "/calibration/positions": (1,),
    "/calibration/size": (0,),
    "/calibration/snr": (1,),
    "/experiment/_concentrationFieldOfView": (0,),
    "/measurement/_mixingOrders": (1,),
    "/reconstruction/fieldOfView": (0,),
    "/reconstruction/fieldOfViewCenter": (0,),
    "/reconstruction/size": (0,),
}
"""Axes of fields along which the first entry is x and the second y."""


def mirrored(source: Path, target: Path, common: int = 1) -> Path:
    """The file of a scanner that is the mirror image: what is along x is along y there, drives, coils and sample alike.

    Args:
        common: dividers of the target have it as a factor.
    """
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "r+") as h5:
        for name, axes in FROM_X_TO_Y.items():
            for axis in axes if name in h5 else ():
                rows = np.moveaxis(h5[name][()], axis, 0)
                _replace(h5, name, np.moveaxis(np.concatenate((rows[1::-1], rows[2:])), 0, axis))
        if "calibration" in h5:
            frames = [*_voxels(h5, "calibration")]
            for name in ("/measurement/data", "/measurement/framePermutation", "/calibration/_deviation"):
                if name in h5:
                    values = h5[name][()]
                    _replace(h5, name, np.concatenate((values[..., frames], values[..., len(frames) :]), axis=-1))
        if "/measurement/data" in h5:
            # Frames first in a measurement, last in a calibration; of two channels.
            _replace(h5, "/measurement/data", np.flip(h5["/measurement/data"][()], 1 if "calibration" in h5 else 2))
        if "/experiment/_concentration" in h5:
            _replace(h5, "/experiment/_concentration", h5["/experiment/_concentration"][()].T)
        if "/reconstruction/data" in h5:
            _replace(h5, "/reconstruction/data", h5["/reconstruction/data"][()][:, [*_voxels(h5, "reconstruction")]])
        if f"{DRIVE}/divider" in h5:
            _replace(h5, f"{DRIVE}/divider", common * h5[f"{DRIVE}/divider"][()])
            _replace(h5, f"{DRIVE}/baseFrequency", common * h5[f"{DRIVE}/baseFrequency"][()])
    return target


def _voxels(h5: h5py.File, group: str) -> Iterator[int]:
    """Where each voxel of the file was, whose size is exchanged already; frames with positions stay in place."""
    size_x, size_y, size_z = h5[f"/{group}/size"][()].tolist()
    if f"/{group}/positions" in h5:
        yield from range(size_x * size_y * size_z)
        return
    for z in range(size_z):
        for y in range(size_y):
            for x in range(size_x):
                yield (z * size_x + x) * size_y + y


def _replace(h5: h5py.File, name: str, values: np.ndarray) -> None:
    del h5[name]
    h5[name] = values


def fields_of(path: Path) -> dict[str, np.ndarray]:
    """All fields of a file."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset):
            found[f"/{name}"] = np.asarray(node[()])

    with h5py.File(path) as h5:
        h5.visititems(keep)
    return found
