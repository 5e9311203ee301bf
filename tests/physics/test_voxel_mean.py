"""The mean over a voxel against a dense mean of the response at points."""

import numpy as np
import physics_reference as reference
import pytest
from numpy.polynomial import legendre

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.simulation_settings import Grid, Scan
from sm_search.physics import voxel_mean
from sm_search.physics.system_matrix import simulate

SCAN = Scan(core_diameter_nm=30, fx_khz=25, nd=7)


def chosen(magnetisation: str, fov_mm: tuple[float, float]) -> DatasetSettings:
    settings = reference.settings(magnetisation, size=(3, 2), voxel="mean")
    return settings.model_copy(update={"grid": Grid(size=(3, 2), fov_mm=fov_mm)})


@pytest.mark.parametrize(("which", "points"), [("low", 12), ("high", 24)])
@pytest.mark.parametrize("fov_mm", [(6.0, 5.0), (40.0, 1.0)])
def test_equilibrium(monkeypatch: pytest.MonkeyPatch, fov_mm: tuple[float, float], which: str, points: int) -> None:
    """Closed forms along each axis: nothing is left of the averaging in the error."""
    settings = chosen("equilibrium", fov_mm)
    matrix = simulate(settings, SCAN, which)
    if fov_mm[0] > 20:
        points *= 3
    roots, weights = legendre.leggauss(points)
    centres = reference.voxels(settings)
    expected = np.zeros_like(matrix.values_CKN)
    for x, share_x in zip(roots / 2 * fov_mm[0] / 3 * 1e-3, weights / 2, strict=True):
        for y, share_y in zip(
            *(legendre.leggauss(12)[0] / 2 * fov_mm[1] / 2 * 1e-3, legendre.leggauss(12)[1] / 2), strict=True
        ):
            monkeypatch.setattr(reference, "voxels", lambda _, x=x, y=y: centres + np.array([x, y]))
            expected += (
                share_x
                * share_y
                * reference.equilibrium_matrix(settings, SCAN, which, 160 * 8 * (1 if which == "low" else 4))
            )
    monkeypatch.undo()
    assert reference.worst(matrix.values_CKN, expected) < 1e-6
    assert matrix.tracer["voxel"] == "mean"
    at_points = simulate(settings.model_copy(update={"voxel": "point"}), SCAN, which).values_CKN
    assert reference.worst(at_points, expected) > 1e-3


def test_brownian_states_what_it_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = chosen("brownian", (3.75, 2.5))  # the voxels of 32 × 32 over 40 mm
    matrix = simulate(settings, SCAN, "high")
    assert matrix.tracer["pointsPerVoxel"] == 36
    assert matrix.tracer["tolerance"] == voxel_mean.MEAN_TOLERANCE

    def dense(width: tuple[float, float]) -> voxel_mean.VoxelPoints:
        x_P, weight_P = legendre.leggauss(15)
        return [
            (x * width[0] / 2, y * width[1] / 2, wx * wy / 4)
            for x, wx in zip(x_P, weight_P, strict=True)
            for y, wy in zip(x_P, weight_P, strict=True)
        ]

    monkeypatch.setattr(voxel_mean, "voxel_points", dense)
    expected = simulate(settings, SCAN, "high").values_CKN
    assert reference.worst(matrix.values_CKN, expected) < voxel_mean.MEAN_TOLERANCE
    monkeypatch.setattr(voxel_mean, "voxel_points", lambda width: voxel_mean.CENTRE)
    assert reference.worst(simulate(settings, SCAN, "high").values_CKN, expected) > 1e-3


def test_a_voxel_too_wide_states_no_tolerance() -> None:
    wide = Scan(core_diameter_nm=50, fx_khz=25, nd=7)
    settings = reference.settings("brownian", size=(1, 1), orders=(1, 0), voxel="mean")
    assert simulate(settings, wide, "high").tracer["tolerance"] == 1.0
