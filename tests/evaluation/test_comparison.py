"""Methods against a truth with noise, and against the same truth without."""

from pathlib import Path

import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.data.dataset import Dataset
from sm_search.evaluation.comparison import MEASURED, compare, without_noise
from sm_search.evaluation.physicist import PhysicistFit
from sm_search.physics.receive import angular_frequencies, volts_per_magnetisation
from sm_search.physics.system_matrix import SystemMatrix, simulate
from tests.datasets import simulated


@pytest.fixture(scope="module")
def noisy(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The test scan of the tiny dataset, with noise on its voltage."""
    receive = tiny_settings.receive.model_copy(update={"noise_nv": 1e3, "background_frames": 4})
    settings = tiny_settings.model_copy(update={"receive": receive})
    return simulated(settings, tmp_path_factory.mktemp("data") / "noisy", ["test"])


class Clean:
    """Knows the truth without noise."""

    def __init__(self, dataset: Dataset) -> None:
        (self.pair,) = dataset.pairs("test")
        self.high = without_noise(self.pair, dataset.settings).high

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        return self.high


def test_without_noise_is_what_was_simulated(noisy: Dataset, tmp_path: Path) -> None:
    (scan,) = noisy.settings.scans("test")
    clean = Clean(noisy)
    expected = simulate(noisy.settings, scan, "high")
    np.testing.assert_array_equal(clean.high.values_CKN, expected.values_CKN)
    assert not np.array_equal(clean.pair.high.values_CKN, expected.values_CKN)


def test_the_measured_matrix_is_as_far_from_the_clean_one_as_its_noise(noisy: Dataset) -> None:
    clean = Clean(noisy)
    measured, model = compare({"clean": clean}, noisy, "test", noise_free=True)
    assert (measured.method, model.method) == (MEASURED, "clean")
    assert model.quality.nrmse_mean == 0
    volts_K = np.abs(volts_per_magnetisation(noisy.settings.receive, angular_frequencies(clean.high)))
    deviation_K = 1e-6 / volts_K
    size_K = np.sqrt((np.abs(clean.high.values_CKN[0]) ** 2).mean(axis=1))
    assert measured.quality.nrmse_mean == pytest.approx(float((deviation_K / size_K).mean()), rel=0.1)
    (against_noise,) = compare({"clean": clean}, noisy, "test")
    assert against_noise.quality.psnr_db_mean < model.quality.psnr_db_mean - 20


@pytest.mark.parametrize("transfer_function", ["stored", "corrected", "unknown"])
def test_a_truth_simulated_again_is_what_the_file_gives(
    tiny_settings: DatasetSettings, tmp_path: Path, transfer_function: str
) -> None:
    """Readers divide by a stored transfer function; so must whatever is compared with what they read."""
    chain = {"signal": "voltage", "low_pass_khz": 40.0, "delay_us": 3.0, "transfer_function": transfer_function}
    receive = tiny_settings.receive.model_copy(update=chain)
    dataset = simulated(tiny_settings.model_copy(update={"receive": receive}), tmp_path / "filtered", ["test"])
    (pair,) = dataset.pairs("test")
    again = without_noise(pair, dataset.settings).high
    np.testing.assert_allclose(again.values_CKN, pair.high.values_CKN, rtol=1e-12)
    physicist = PhysicistFit(dataset.settings).predict(pair.low)
    error = np.linalg.norm(physicist.values_CKN - pair.high.values_CKN) / np.linalg.norm(pair.high.values_CKN)
    assert error < 1e-3
