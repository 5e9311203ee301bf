"""Metrics against cases with a known answer and against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from sm_search.config.errors import DataError
from sm_search.evaluation.metrics import (
    MAX_PSNR_DB,
    SSIM_WINDOW,
    gain_error_db,
    gaussian_ssim,
    nrmse,
    psnr_db,
    quality,
    ssim,
)


def patterns(seed: int, components: int = 3, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, size=(components, 2, side, side))


@pytest.mark.parametrize(("error", "expected"), [(2.0, 0.0), (0.2, 20.0), (0.02, 40.0), (1.0, 10 * np.log10(4))])
def test_psnr_of_a_constant_error(error: float, expected: float) -> None:
    truth = patterns(0)
    np.testing.assert_allclose(psnr_db(truth + error, truth), expected, rtol=1e-9, atol=1e-9)


def test_psnr_averages_over_both_parts_of_one_component() -> None:
    truth = np.zeros((2, 2, 16, 16))
    estimate = truth.copy()
    estimate[0, 0] = 0.2  # mean square 0.02, as the other part is exact
    estimate[1, :, 0, 0] = 1.6  # 1 of 256 pixels: mean square 0.01
    np.testing.assert_allclose(psnr_db(estimate, truth), [10 * np.log10(4 / 0.02), 10 * np.log10(4 / 0.01)])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_psnr_is_its_definition_and_symmetric(seed: int) -> None:
    estimate, truth = patterns(seed), patterns(seed + 1)
    expected = [10 * np.log10(4 / ((e - t) ** 2).mean()) for e, t in zip(estimate, truth, strict=True)]
    np.testing.assert_allclose(psnr_db(estimate, truth), expected, rtol=1e-12)
    np.testing.assert_array_equal(psnr_db(truth, estimate), psnr_db(estimate, truth))


def test_identical_images_reach_the_cap() -> None:
    truth = patterns(0)
    assert psnr_db(truth, truth).tolist() == [MAX_PSNR_DB] * 3 == [200.0] * 3
    np.testing.assert_allclose(ssim(truth, truth), 1, rtol=1e-12)


def test_psnr_of_single_precision_is_computed_in_double() -> None:
    truth = patterns(0)
    estimate = (truth + 1e-3).astype(np.float32)
    np.testing.assert_allclose(psnr_db(estimate, truth), psnr_db(estimate.astype(np.float64), truth), rtol=1e-12)


def test_ssim_is_scikit_images_mean_over_the_parts() -> None:
    truth = patterns(0)
    estimate = np.clip(truth + 0.3 * patterns(1), -1, 1)
    options = {"data_range": 2.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        np.mean([structural_similarity(e[part], t[part], **options) for part in (0, 1)])
        for e, t in zip(estimate, truth, strict=True)
    ]
    found = ssim(estimate, truth)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found > 0.2).all()
    assert (found < 0.99).all()


def test_ssim_of_constant_images_is_its_luminance_term() -> None:
    """Without variance SSIM = (2ab + C₁)/(a² + b² + C₁) with C₁ = (0.01·range)²."""
    a, b, c1 = 0.5, -0.25, 0.02**2
    found = gaussian_ssim(np.full((2, 16, 16), a), np.full((2, 16, 16), b), 2.0)
    assert found == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-9)


def test_ssim_falls_with_the_error() -> None:
    truth = patterns(0, components=1)
    values = [ssim(truth + scale * patterns(1, components=1), truth)[0] for scale in (0.0, 0.1, 0.3, 1.0, 3.0)]
    assert values == sorted(values, reverse=True)


def test_a_grid_below_the_window_is_refused() -> None:
    assert ssim(patterns(0, side=SSIM_WINDOW), patterns(1, side=SSIM_WINDOW)).shape == (3,)
    with pytest.raises(DataError, match="at least 11 × 11 voxels, not 10 × 10"):
        ssim(patterns(0, side=10), patterns(1, side=10))


def test_nrmse_exact_cases() -> None:
    truth = np.array([[[3 + 4j, 0]], [[1, 1j]], [[2, 2]]])
    np.testing.assert_allclose(nrmse(truth, truth), 0)
    np.testing.assert_allclose(nrmse(np.zeros_like(truth), truth), 1)
    np.testing.assert_allclose(nrmse(-truth, truth), 2)
    np.testing.assert_allclose(nrmse(1j * truth, truth), np.sqrt(2))
    np.testing.assert_allclose(nrmse(truth + np.array([[[5j, 0]]]), truth), [1, 5 / np.sqrt(2), 5 / np.sqrt(8)])


def test_components_that_are_zero_everywhere() -> None:
    zero, one = np.zeros((1, 2, 2), dtype=complex), np.ones((1, 2, 2), dtype=complex)
    assert (nrmse(zero, zero)[0], nrmse(one, zero)[0], nrmse(zero, one)[0]) == (0, 1, 1)
    assert (gain_error_db(zero, zero)[0], gain_error_db(zero, one)[0], gain_error_db(one, zero)[0]) == (0, 200, 200)
    np.testing.assert_allclose(gain_error_db(np.array([[[3 + 4j]]]), np.array([[[0.5]]])), 20)


def test_nrmse_counts_the_amplitude_which_the_patterns_do_not() -> None:
    p = patterns(0)
    values = p[:, 0] + 1j * p[:, 1]
    found = quality((p, p), (1.1 * values, values))
    assert found.nrmse_mean == pytest.approx(0.1)
    assert found.gain_error_db_mean == pytest.approx(20 * np.log10(1.1))
    assert found.psnr_db_mean == MAX_PSNR_DB


def test_quality_sums_up_over_components() -> None:
    truth = np.zeros((11, 2, 16, 16))
    levels = 0.1 * np.arange(1, 12)
    estimate = truth + levels[:, None, None, None]
    values = np.ones((11, 16, 16), dtype=complex)
    found = quality((estimate, truth), (values * (1 + levels[:, None, None]), values))
    psnr = np.sort(-20 * np.log10(levels / 2))
    assert found.psnr_db_mean == pytest.approx(psnr.mean())
    assert found.psnr_db_median == pytest.approx(psnr[5])
    assert found.psnr_db_p10 == pytest.approx(psnr[1])  # of 11 values the 10th percentile is the second smallest
    assert (found.nrmse_mean, found.nrmse_median, found.nrmse_p90) == pytest.approx((0.6, 0.6, 1.0))
    assert found.ssim_p10 <= found.ssim_median <= 1
    assert set(found.as_dict()) == {f"{m}_{s}" for m in ("psnr_db", "ssim") for s in ("mean", "median", "p10")} | {
        "nrmse_mean",
        "nrmse_median",
        "nrmse_p90",
        "gain_error_db_mean",
    }
