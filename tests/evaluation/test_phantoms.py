"""Phantoms: the same shape on every grid, where MDF's voxel order puts it."""

import numpy as np
import pytest

from sm_search.config.errors import SettingsError
from sm_search.config.simulation_settings import Grid
from sm_search.evaluation.phantoms import PHANTOMS, SUBVOXELS, phantom, resample


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_concentration_between_zero_and_one_with_empty_borders(name: str) -> None:
    image = phantom(name, Grid(size=(40, 32), fov_mm=(50.0, 40.0))).reshape(32, 40)
    assert image.dtype == np.float64
    assert image.min() == 0
    assert image.max() == 1
    assert 0.03 < image.mean() < 0.35
    assert not image[[0, -1]].any()
    assert not image[:, [0, -1]].any()


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_coarse_grid_shows_the_mean_of_a_fine_one(name: str) -> None:
    coarse = phantom(name, Grid(size=(16, 16))).reshape(16, 16)
    fine = phantom(name, Grid(size=(64, 64))).reshape(16, 4, 16, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse, fine, atol=1 / SUBVOXELS)
    assert coarse.mean() == pytest.approx(fine.mean(), rel=0.03)


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_wider_field_of_view_keeps_the_proportions(name: str) -> None:
    square = phantom(name, Grid(size=(20, 20), fov_mm=(40.0, 40.0))).reshape(20, 20)
    wide = phantom(name, Grid(size=(40, 20), fov_mm=(80.0, 40.0))).reshape(20, 40)
    np.testing.assert_allclose(wide[:, 10:30], square, atol=1e-12)
    assert not wide[:, :10].any()
    assert not wide[:, 30:].any()


def test_the_letter_stands_upright_with_x_fastest() -> None:
    image = phantom("shape", Grid(size=(32, 32))).reshape(32, 32)
    left, right = image[:, :16].sum(), image[:, 16:].sum()
    lower, upper = image[:16].sum(), image[16:].sum()
    assert left > right > 0
    assert upper > lower > 0


def test_exact_area_of_the_bars() -> None:
    """Six bars of width × 5 widths in each of three groups, over a square of side 2."""
    exact = 6 * 5 * (0.12**2 + 0.08**2 + 0.05**2) / 4
    assert phantom("bars", Grid(size=(250, 250))).mean() == pytest.approx(exact, rel=0.005)


def test_dots_have_two_concentrations() -> None:
    image = phantom("dots", Grid(size=(256, 256))).reshape(256, 256)
    lower, upper = image[:128], image[128:]
    assert (lower.max(), upper.max()) == (1, 0.5)
    assert lower.sum() == pytest.approx(2 * upper.sum(), rel=0.01)
    discs = np.pi * sum(r * r for r in (0.15, 0.11, 0.08, 0.06, 0.045)) / 4
    assert image.mean() == pytest.approx(1.5 * discs, rel=0.01)


def test_resampling_takes_means_and_keeps_the_amount() -> None:
    values_YX = np.random.default_rng(1).random((12, 6))
    fine, coarse = Grid(size=(6, 12), fov_mm=(30.0, 60.0)), Grid(size=(3, 4), fov_mm=(30.0, 60.0))
    expected = values_YX.reshape(4, 3, 3, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(resample(values_YX, fine, coarse), expected, rtol=1e-13)
    odd = Grid(size=(5, 7), fov_mm=(30.0, 60.0))
    assert resample(values_YX, fine, odd).mean() == pytest.approx(values_YX.mean(), rel=1e-13)
    np.testing.assert_allclose(resample(np.ones((12, 6)), fine, odd), 1, rtol=1e-13)
    np.testing.assert_allclose(resample(values_YX, fine, fine), values_YX, rtol=1e-13)


def test_resampling_to_another_field_of_view_keeps_the_centre() -> None:
    values_YX = np.random.default_rng(1).random((4, 4))
    small, wide = Grid(size=(4, 4), fov_mm=(20.0, 20.0)), Grid(size=(8, 4), fov_mm=(40.0, 20.0))
    padded = resample(values_YX, small, wide)
    np.testing.assert_allclose(padded[:, 2:6], values_YX, rtol=1e-13)
    assert not padded[:, [0, 1, 6, 7]].any()
    np.testing.assert_allclose(resample(padded, wide, small), values_YX, rtol=1e-13)


def test_an_unknown_phantom_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="phantom 'dot': does not exist; there are dots, bars, shape, vessel"):
        phantom("dot", Grid())
