"""Every component within the tolerance of its own maximum, at the paper's settings, against brute force."""

import numpy as np
import physics_reference as reference
import pytest

from sm_search.config.simulation_settings import Scan
from sm_search.physics.system_matrix import TOLERANCE, simulate

EXTREMES = [
    (diameter, fx_khz, nd, which)
    for diameter in (30, 70)
    for fx_khz, nd in ((10, 49), (30, 99))
    for which in ("low", "high")
]


def own_errors(diameter: float, fx_khz: float, nd: int, which: str, steps: int) -> np.ndarray:
    """Error of each component relative to its own maximum over the voxels, shape (C·K,)."""
    chosen = reference.settings("brownian", size=(4, 3), orders=(12, 12))
    scan = Scan(core_diameter_nm=diameter, fx_khz=fx_khz, nd=nd)
    actual = simulate(chosen, scan, which).values_CKN
    expected = reference.brownian_by_lines(chosen, scan, which, steps)
    return (np.abs(actual - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).ravel()


@pytest.mark.parametrize(("diameter", "which", "steps"), [(30, "low", 2048), (30, "high", 4096)])
def test_all_168_components_are_accurate(diameter: float, which: str, steps: int) -> None:
    assert own_errors(diameter, 30, 49, which, steps).max() < TOLERANCE


@pytest.mark.benchmark
def test_accuracy_table() -> None:
    print("\ncore nm  fx kHz  N_d  field   largest error  median (of each component's own maximum)")
    for diameter, fx_khz, nd, which in EXTREMES:
        errors = own_errors(diameter, fx_khz, nd, which, 16384)
        print(f"{diameter:7} {fx_khz:7} {nd:4}  {which:5} {errors.max():14.1e} {np.median(errors):8.1e}")
        assert errors.max() < TOLERANCE
