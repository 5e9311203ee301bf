"""Equations weighted by how far they may be off."""

import dataclasses

import numpy as np
import pytest

from sm_search.config.errors import DataError
from sm_search.data.dataset import Dataset
from sm_search.evaluation.image_comparison import LOW, TRUE, WEIGHTED, images_of
from sm_search.evaluation.phantoms import phantom
from sm_search.evaluation.reconstruction import image_quality, measure, reconstruct
from sm_search.evaluation.row_weights import equation_deviation, matrix_variance
from sm_search.physics.receive import noise_deviation
from sm_search.physics.system_matrix import SystemMatrix


def complex_normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


@pytest.fixture(scope="module")
def sm(tiny_dataset: Dataset) -> SystemMatrix:
    """A voltage, as many random components as make the phantom's image unique."""
    high = next(iter(tiny_dataset.pairs("test"))).high
    orders = tuple((m_x, m_y) for m_x in range(1, 11) for m_y in range(1, 11))
    values = complex_normal(np.random.default_rng(0), 1, len(orders), high.grid.voxels)
    return dataclasses.replace(high, values_CKN=values, mixing_orders=orders, nd=29, unit="V")


@pytest.fixture(scope="module")
def concentration_N(sm: SystemMatrix) -> np.ndarray:
    return phantom("shape", sm.grid)


def test_white_noise_weighs_nothing(sm: SystemMatrix, concentration_N: np.ndarray) -> None:
    signal_CK = measure(sm, concentration_N, noise_level=0.1)
    whitened = reconstruct(sm, signal_CK, sweeps=5, weighting="whitening", noise_CK=np.full(signal_CK.shape, 1e-7))
    np.testing.assert_allclose(whitened, reconstruct(sm, signal_CK, sweeps=5), rtol=1e-9, atol=1e-12)


def test_the_receiver_s_gain_at_a_frequency_does_not_change_a_whitened_image(
    sm: SystemMatrix, concentration_N: np.ndarray
) -> None:
    random = np.random.default_rng(1)
    noise_CK, gain_CK = random.uniform(0.5, 2, size=(1, 100)), random.uniform(0.1, 10, size=(1, 100))
    signal_CK = measure(sm, concentration_N) + noise_CK * complex_normal(random, 1, 100)
    louder = dataclasses.replace(sm, values_CKN=gain_CK[..., None] * sm.values_CKN)
    quiet = reconstruct(sm, signal_CK, sweeps=5, weighting="whitening", noise_CK=noise_CK)
    loud = reconstruct(louder, gain_CK * signal_CK, sweeps=5, weighting="whitening", noise_CK=gain_CK * noise_CK)
    np.testing.assert_allclose(loud, quiet, rtol=1e-8, atol=1e-12)
    assert not np.allclose(reconstruct(louder, gain_CK * signal_CK, sweeps=5), quiet, rtol=0.01)


def test_the_variance_of_an_equation_is_that_of_draws(sm: SystemMatrix, concentration_N: np.ndarray) -> None:
    random = np.random.default_rng(2)
    shape = sm.values_CKN.shape
    deviation_CKN = random.uniform(0, 1, size=shape)
    draws = [(deviation_CKN * complex_normal(random, *shape)) @ concentration_N for _ in range(400)]
    found_CK = matrix_variance(dataclasses.replace(sm, deviation_CKN=deviation_CKN), concentration_N)
    np.testing.assert_allclose(found_CK, np.mean(np.abs(draws) ** 2, axis=0), rtol=0.25)
    # Of a measured matrix each value has the noise of its component.
    noise_K = random.uniform(1, 3, size=100)
    measured = dataclasses.replace(sm, background_CKE=noise_K[:, None] * complex_normal(random, 1, 100, 2000))
    expected_K = noise_K**2 * np.sum(concentration_N**2)
    np.testing.assert_allclose(matrix_variance(measured, concentration_N)[0], expected_K, rtol=0.15)


def test_noise_that_is_not_known_is_that_of_the_residuals() -> None:
    residual_K = 0.3 * complex_normal(np.random.default_rng(3), 4000)
    sigma_K = equation_deviation(None, np.zeros(4000), residual_K)
    np.testing.assert_allclose(sigma_K, 0.3, rtol=0.05)
    np.testing.assert_allclose(equation_deviation(np.array([3.0]), np.array([16.0]), residual_K[:1]), 5.0)
    assert (equation_deviation(None, np.zeros(3), np.zeros(3)) > 0).all(), "of a perfect first image"


@pytest.mark.parametrize("known", [True, False])
def test_a_matrix_that_knows_where_it_is_wrong_images_better(
    sm: SystemMatrix, concentration_N: np.ndarray, known: bool
) -> None:
    random = np.random.default_rng(4)
    deviation_CKN = np.zeros(sm.values_CKN.shape)
    deviation_CKN[:, ::3] = 0.5
    wrong = dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN + deviation_CKN * complex_normal(random, *sm.values_CKN.shape),
        deviation_CKN=deviation_CKN,
    )
    signal_CK = measure(sm, concentration_N, noise_level=0.01)
    noise_CK = np.full(signal_CK.shape, 0.01 * np.abs(signal_CK).max()) if known else None

    def psnr_db(**options: object) -> float:
        found = [reconstruct(wrong, signal_CK, regularisation=each, **options) for each in (1e-3, 1e-2, 1e-1)]  # type: ignore[arg-type]
        return max(image_quality(image.reshape(12, 12), concentration_N.reshape(12, 12))[0] for image in found)

    assert psnr_db(weighting="uncertainty", noise_CK=noise_CK) > psnr_db() + (3 if known else 1)


def test_what_nothing_tells_of_is_not_weighted_by(sm: SystemMatrix, concentration_N: np.ndarray) -> None:
    signal_CK = measure(sm, concentration_N)
    with pytest.raises(DataError, match="no noise is known to whiten by; reconstruct without"):
        reconstruct(sm, signal_CK, weighting="whitening")
    with pytest.raises(DataError, match="there is no uncertainty to weight by; reconstruct without"):
        reconstruct(sm, signal_CK, weighting="uncertainty", noise_CK=np.ones(signal_CK.shape))
    assert noise_deviation(np.zeros((1, 100, 20), dtype=complex)) is None, "a simulation without noise"


def test_a_method_that_states_its_deviation_is_compared_with_and_without(tiny_dataset: Dataset) -> None:
    (pair,) = tiny_dataset.pairs("test")
    # Said of the true matrix: the weights may not ruin its image, and are those that were said.
    deviation_K1 = np.abs(pair.high.values_CKN).max() * np.geomspace(1e-4, 0.1, pair.high.values_CKN.shape[1])[:, None]
    stated = dataclasses.replace(pair.high, deviation_CKN=np.broadcast_to(deviation_K1, pair.high.values_CKN.shape))
    rows = {row.method: row for row in images_of({"exact": stated}, pair, tiny_dataset.settings, "shape")}
    assert list(rows) == ["true high gradient", "exact", "exact" + WEIGHTED, "low gradient"]
    assert 1e-3 < abs(rows["exact" + WEIGHTED].psnr_db - rows["exact"].psnr_db) < 0.5


def test_a_matrix_whose_own_noise_is_known_is_compared_with_and_without(tiny_dataset: Dataset) -> None:
    (pair,) = tiny_dataset.pairs("test")
    noise_CKE = 1e-3 * np.abs(pair.low.values_CKN).max() * complex_normal(np.random.default_rng(5), 2, 8, 20)
    noisy = dataclasses.replace(pair, low=dataclasses.replace(pair.low, background_CKE=noise_CKE))
    rows = {row.method: row.psnr_db for row in images_of({}, noisy, tiny_dataset.settings, "shape")}
    assert list(rows) == [TRUE, LOW, LOW + WEIGHTED]
    assert abs(rows[LOW + WEIGHTED] - rows[LOW]) > 1e-3
