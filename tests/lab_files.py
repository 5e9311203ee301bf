"""Calibration files as a lab has them: measured, not in our order, with background, and of an origin of their own."""

import dataclasses
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
