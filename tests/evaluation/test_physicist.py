"""The physicist's fit finds the particle that a matrix was simulated with."""

import dataclasses

import pytest

from sm_search.config.dataset_settings import preset
from sm_search.config.simulation_settings import Grid
from sm_search.data.dataset import Dataset
from sm_search.evaluation.comparison import pair_quality
from sm_search.evaluation.physicist import PhysicistFit
from sm_search.physics.receive import as_read, received
from sm_search.physics.system_matrix import simulate


def test_it_finds_core_and_shell_and_with_them_the_high_gradient_matrix(tiny_dataset: Dataset) -> None:
    (pair,) = tiny_dataset.pairs("test")
    fit = PhysicistFit(tiny_dataset.settings)
    found = fit.fit(pair.low)
    assert found.core_diameter_nm == pytest.approx(25, rel=1e-3)
    assert found.shell_thickness_nm == pytest.approx(5, rel=1e-2)
    high = fit.predict(pair.low)
    quality = pair_quality(high, pair)
    assert quality.psnr_db_mean > 60
    assert quality.nrmse_mean < 2e-3
    assert high.field == pair.high.field


def test_the_concentration_passes_through_and_another_shell_is_found(tiny_dataset: Dataset) -> None:
    settings = tiny_dataset.settings
    scan = settings.scans("test")[0].model_copy(update={"shell_thickness_nm": 9.0})
    low = simulate(settings, scan, "low")
    weak = dataclasses.replace(low, values_CKN=1e-3 * low.values_CKN)
    fit = PhysicistFit(settings)
    assert fit.fit(weak).shell_thickness_nm == pytest.approx(9, rel=1e-2)
    truth = simulate(settings, scan, "high").values_CKN
    assert abs(fit.predict(weak).values_CKN - 1e-3 * truth).max() < 1e-3 * 1e-3 * abs(truth).max()


def test_rounding_errors_have_no_say() -> None:
    """In the middle of the low-gradient matrix 120 components are below 1e-9 of the strongest, 41 below 1e-14."""
    settings = preset("paper-12")
    low = simulate(settings, settings.scans("test")[0], "low")
    found = PhysicistFit(settings).fit(low)
    assert found.core_diameter_nm == pytest.approx(30, rel=1e-3)
    assert found.shell_thickness_nm == pytest.approx(5, rel=1e-2)


def test_no_wrong_minimum_on_an_imperfect_scanner() -> None:
    """The demo's third validation scan; with four starting diameters it gave 39 nm."""
    settings = preset("demo")
    scan = settings.scans("validation")[2]
    centre = settings.model_copy(update={"grid": Grid(size=(6, 6), fov_mm=(7.5, 7.5))})
    low, _ = received(centre, scan, "low", simulate(centre, scan, "low"))
    found = PhysicistFit(centre).fit(as_read(low))
    assert found.core_diameter_nm == pytest.approx(scan.core_diameter_nm, rel=0.1)
