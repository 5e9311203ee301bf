"""Fields that differ between the axes, and torch devices."""

import numpy as np
import physics_reference as reference
import pytest
import torch

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldSettings, Scan
from sm_search.physics.system_matrix import simulate

FIELDS = {
    "low": FieldSettings(gradient_t_per_m=(0.1, 0.15), drive_mt=(2.0, 1.8)),
    "high": FieldSettings(gradient_t_per_m=(0.4, 0.6), drive_mt=(8.0, 7.2)),
}


@pytest.mark.parametrize("which", ["low", "high"])
@pytest.mark.parametrize(("size", "nd"), [((4, 3), 6), ((3, 4), 7), ((4, 4), 12)])
def test_equilibrium_with_a_field_for_each_axis(size: tuple[int, int], nd: int, which: str) -> None:
    chosen = reference.settings(size=size, **FIELDS)
    scan = Scan(core_diameter_nm=28, fx_khz=25, nd=nd)
    expected = reference.equilibrium_matrix(chosen, scan, which, 800 * (nd + 1))
    assert reference.worst(simulate(chosen, scan, which).values_CKN, expected) < 1e-9


@pytest.mark.parametrize("nd", [6, 7])
def test_brownian_with_a_field_for_each_axis(nd: int) -> None:
    chosen = reference.settings("brownian", size=(3, 2), **FIELDS)
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    expected = reference.brownian_by_lines(chosen, scan, "high", 4096)
    assert reference.worst(simulate(chosen, scan, "high").values_CKN, expected) < 1e-6


def test_axes_may_be_exchanged_only_where_their_fields_are_equal() -> None:
    """Without aliases (N_d → ∞) the y-channel is the x-channel with exchanged axes."""
    scan = Scan(core_diameter_nm=20, fx_khz=25, nd=9999)
    equal = simulate(reference.settings(size=(4, 4)), scan, "low")
    x_KYX, y_KYX = equal.channel_images(0), equal.channel_images(1)
    assert np.abs(x_KYX - y_KYX).max() < 1e-13 * np.abs(x_KYX).max()
    own = simulate(reference.settings(size=(4, 4), **FIELDS), scan, "low")
    with pytest.raises(DataError, match="no exchanged x-channel"):
        own.channel_images(1)
    assert np.abs(own.values_CKN - equal.values_CKN).max() > 0.01 * np.abs(equal.values_CKN).max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("voxel", ["point", "mean"])
@pytest.mark.parametrize("magnetisation", ["equilibrium", "debye"])
def test_a_gpu_computes_the_same(magnetisation: str, voxel: str) -> None:
    chosen = reference.settings(magnetisation, size=(4, 3), voxel=voxel)
    scan = Scan(core_diameter_nm=25, fx_khz=25, nd=24)
    cpu = simulate(chosen, scan, "high").values_CKN
    gpu = simulate(chosen, scan, "high", device="cuda").values_CKN
    assert reference.worst(gpu, cpu) < 1e-9
