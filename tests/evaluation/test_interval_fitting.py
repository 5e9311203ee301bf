"""The intervals that go with a model: a law of known distributions, and their noise."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.intervals import LEVELS, SILENT_DB, Intervals
from sm_search.evaluation.interval_fitting import fitted_intervals, fitting_levels, with_noise
from sm_search.physics.system_matrix import SystemMatrix

DRAWS = 200


class Gaussian:
    """Draws about a mean that errs by 1, with a spread that it thinks is smaller where there is noise."""

    def __init__(self, dataset: Dataset) -> None:
        self.high = {pair.low.tracer["coreDiameter"]: pair.high for pair in dataset.pairs("validation")}
        self.random = np.random.default_rng(0)
        self.seen: set[float] = set()

    def pattern_draws(
        self, low: SystemMatrix, channel: int, count: int, voxels: np.ndarray | None = None
    ) -> np.ndarray:
        truth = ScaledImages.of(self.high[low.tracer["coreDiameter"]].channel_images(channel)).patterns
        level = low.above_noise_db(channel)
        self.seen.add(SILENT_DB if level is None else 10 * round(level / 10))
        truth = truth.reshape(*truth.shape[:2], -1)[..., voxels]
        mean = truth + self.random.standard_normal(truth.shape)
        return mean + self.spread(level) * self.random.standard_normal((count, *mean.shape))

    def distance(self, low: SystemMatrix) -> float:
        return float(low.tracer["coreDiameter"])

    @staticmethod
    def spread(noise_db: float | None) -> float:
        return 2.0 if noise_db is None else 0.5 if noise_db < 65 else 1.0


def test_each_level_of_noise_has_the_quantiles_of_its_own_scores(tiny_dataset: Dataset) -> None:
    """|error| of two normal parts over √2 standard deviations is Rayleigh-distributed: √(−ln(1−p))."""
    model = Gaussian(tiny_dataset)
    assert len(model.high) == len(tiny_dataset.settings.scans("validation"))
    found = fitted_intervals(model, tiny_dataset, DRAWS, (50.0, 140.0))
    assert found.distance == max(model.high)
    assert model.seen == set(found.noise_db) == {50.0, 60.0, 70.0, 80.0, SILENT_DB}
    for noise_db, factors in zip(found.noise_db, found.factors, strict=True):
        spread = Gaussian.spread(None if noise_db == SILENT_DB else noise_db)
        expected = [np.sqrt(-np.log(1 - level) * (1 + spread**2 / DRAWS)) / spread for level in LEVELS]
        assert factors == pytest.approx(expected, rel=0.1), noise_db


def test_without_noise_in_training_there_is_one_level(tiny_dataset: Dataset) -> None:
    assert fitting_levels(None) == (SILENT_DB,) == fitted_intervals(Gaussian(tiny_dataset), tiny_dataset, 8).noise_db
    assert fitting_levels((100.0, 140.0)) == (SILENT_DB,)
    assert fitting_levels((60.0, 70.0)) == (60.0, 70.0, SILENT_DB)


def test_factors_are_linear_between_levels_hold_beyond_and_grow_with_a_distance_that_no_scan_had() -> None:
    table = Intervals(draws=8, noise_db=(50.0, 60.0, 120.0), factors=((1.0, 3.0), (0.8, 2.0), (0.5, 1.4)), distance=0.5)
    assert table.at(55.0, None) == pytest.approx((0.9, 2.5))
    assert table.at(90.0, 0.5) == pytest.approx((0.65, 1.7))
    assert table.at(20.0, 0.1) == table.factors[0]
    assert table.at(None, None) == table.at(300.0, None) == table.factors[-1]
    assert table.at(60.0, 0.75) == pytest.approx((1.2, 3.0))
    assert table.model_copy(update={"distance": None}).at(60.0, 0.75) == table.factors[1]
    for levels in ((60.0, 50.0, 120.0), (50.0, 120.0), (50.0, 50.0, 120.0)):
        with pytest.raises(ValidationError, match="noise_db"):
            Intervals(draws=8, noise_db=levels, factors=table.factors)


def test_noise_is_added_up_to_a_level_and_told_by_the_background(tiny_dataset: Dataset) -> None:
    low = next(iter(tiny_dataset.pairs("validation"))).low
    assert low.above_noise_db(0) is None
    noisy = with_noise(low, 60.0, "a")
    for channel in (0, 1):
        added = (noisy.values_CKN - low.values_CKN)[channel]
        strongest = np.abs(low.values_CKN[channel]).max()
        assert 20 * np.log10(strongest / np.sqrt((np.abs(added) ** 2).mean())) == pytest.approx(60, abs=0.3)
        assert noisy.above_noise_db(channel) == pytest.approx(60, abs=3)
    # Less is asked for than there is already; a stream is told by its name.
    assert np.array_equal(with_noise(noisy, 90.0, "b").values_CKN, noisy.values_CKN)
    assert not np.array_equal(with_noise(low, 60.0, "b").values_CKN, noisy.values_CKN)
    louder = with_noise(dataclasses.replace(noisy, snr_CK=None), 50.0, "c")
    assert louder.above_noise_db(0) == pytest.approx(50, abs=3)
