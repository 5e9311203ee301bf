"""Common random numbers: what is measured on an image depends neither on its batch nor on the other images."""

import numpy as np
import pytest
from _pytest.monkeypatch import MonkeyPatch

from sm_search.config.errors import DivergenceError
from sm_search.config.model import ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.search import validation as room
from sm_search.search.validation import Validation
from sm_search.training import Trainer

SCHEDULE = ScheduleSettings(sampler="ddpm", steps=3, eta_max=0.2, fresh_condition_noise=True)


def test_all_components_of_all_scans_are_named(validation: Validation, tiny_dataset: Dataset) -> None:
    scans = tiny_dataset.settings.scans("validation")
    orders = tiny_dataset.settings.orders.pairs()
    assert len(validation) == len(scans) * len(orders) == len(set(validation.names))
    assert validation.targets.shape == (len(validation), 2, 12, 12)
    moduli = np.hypot(validation.targets[:, 0], validation.targets[:, 1]).max(axis=(1, 2))
    np.testing.assert_allclose(moduli, 1, rtol=1e-6)


def test_a_subset_is_spread_evenly_and_always_the_same(validation: Validation) -> None:
    subset = validation.subset(3)
    assert subset.names == validation.subset(3).names == tuple(validation.names[i] for i in (0, 4, 7))
    assert validation.subset(len(validation) + 5) is validation


def test_an_image_has_the_same_estimate_in_every_batch_and_subset(
    validation: Validation, trainer: Trainer, monkeypatch: MonkeyPatch
) -> None:
    diffusion = trainer.settings.diffusion
    whole = validation.estimates(trainer.ema, diffusion, SCHEDULE)
    assert np.ptp(whole) > 0.1
    np.testing.assert_array_equal(validation.estimates(trainer.ema, diffusion, SCHEDULE), whole)
    # Matrix products of other sizes round differently, and nothing else may differ.
    part = validation.subset(3).estimates(trainer.ema, diffusion, SCHEDULE)
    np.testing.assert_allclose(part, whole[[0, 4, 7]], atol=1e-5)
    monkeypatch.setattr(room, "BATCH", 3)
    np.testing.assert_allclose(validation.estimates(trainer.ema, diffusion, SCHEDULE), whole, atol=1e-5)


def test_another_schedule_sees_the_same_noise(validation: Validation, trainer: Trainer) -> None:
    diffusion = trainer.settings.diffusion
    base = validation.metrics(trainer.ema, diffusion, SCHEDULE)
    hardly = validation.metrics(trainer.ema, diffusion, SCHEDULE.model_copy(update={"eta_max": 0.2 + 1e-7}))
    assert hardly["val_psnr_db"] == pytest.approx(base["val_psnr_db"], abs=1e-3)
    other = validation.metrics(trainer.ema, diffusion, SCHEDULE.model_copy(update={"eta_max": 50.0}))
    assert abs(other["val_psnr_db"] - base["val_psnr_db"]) > 0.01


def test_a_model_that_diverges_has_no_metrics(validation: Validation, trainer: Trainer, diverging: object) -> None:
    with pytest.raises(DivergenceError):
        validation.metrics(diverging, trainer.settings.diffusion, SCHEDULE)  # type: ignore[arg-type]
