"""Common random numbers: what is measured on an image depends neither on its batch nor on the other images."""

import numpy as np
import pytest
from _pytest.monkeypatch import MonkeyPatch
from hypothesis import given, settings
from hypothesis import strategies as st

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.evaluation import validation as room
from sm_search.evaluation.validation import ScheduleScorer, Scores, Validation, pieces, spread_order
from sm_search.training import Trainer

SCHEDULE = ScheduleSettings(sampler="ddpm", steps=3, eta_max=0.2, fresh_condition_noise=True)


def scores(trainer: Trainer, validation: Validation, schedules: list[ScheduleSettings]) -> Scores:
    return ScheduleScorer(trainer.ema, trainer.settings.diffusion, validation)(schedules, 0, len(validation))


def same(found: Scores, expected: Scores, images: list[int] | slice = slice(None)) -> bool:
    """To the rounding of single precision."""
    return all(np.allclose(found[name], expected[name][:, images], rtol=1e-5) for name in ("val_psnr_db", "val_ssim"))


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


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300))
def test_every_beginning_of_the_spread_order_is_spread_evenly(size: int) -> None:
    """The largest gap between the first n of N images is at most 4 N/n."""
    order = spread_order(size)
    assert sorted(order) == list(range(size))
    for n in range(1, size + 1):
        gaps = np.diff([-1, *sorted(order[:n]), size])
        assert gaps.max() <= 4 * size / n


def test_an_image_has_the_same_scores_in_every_batch_and_subset(
    validation: Validation, trainer: Trainer, monkeypatch: MonkeyPatch
) -> None:
    diffusion = trainer.settings.diffusion
    whole = scores(trainer, validation, [SCHEDULE])
    assert np.ptp(whole["val_psnr_db"]) > 0.1
    assert same(scores(trainer, validation, [SCHEDULE]), whole)
    # Matrix products of other sizes round differently, and nothing else may differ.
    assert same(scores(trainer, validation.subset(3), [SCHEDULE]), whole, [0, 4, 7])
    assert same(scores(trainer, validation.spread_out(), [SCHEDULE]), whole, [0, 4, 2, 6, 1, 5, 3, 7])
    assert same(ScheduleScorer(trainer.ema, diffusion, validation)([SCHEDULE], 2, 5), whole, [2, 3, 4])
    monkeypatch.setattr(room, "BATCH", 3)
    assert same(scores(trainer, validation, [SCHEDULE]), whole)


def test_many_schedules_at_once_score_as_one_at_a_time(validation: Validation, trainer: Trainer) -> None:
    schedules = [
        ScheduleSettings(sampler=sampler, steps=steps, eta_max=0.3, samples=1 + steps % 2)  # type: ignore[arg-type]
        for sampler in ("ddim", "paper", "ddpm", "dpmpp")
        for steps in (1, 4, 2)
    ]
    together = scores(trainer, validation, schedules)
    for s, schedule in enumerate(schedules):
        alone = scores(trainer, validation, [schedule])
        assert same({name: values[s : s + 1] for name, values in together.items()}, alone)
        means = {name: pytest.approx(values.mean(), rel=1e-9) for name, values in alone.items()}
        assert validation.metrics(trainer.ema, trainer.settings.diffusion, schedule) == means
    assert len(np.unique(together["val_psnr_db"].mean(1).round(6))) > 6


def test_pieces_cover_everything_once_and_fit_the_batch() -> None:
    schedules = [ScheduleSettings(steps=1 + i % 5) for i in range(7)]
    for batch in (1, 3, 8, 20, 1000):
        work = list(pieces(schedules, 2, 10, batch))
        cells = [(s, image) for chosen, first, last in work for s in chosen for image in range(first, last)]
        assert sorted(cells) == [(s, image) for s in range(7) for image in range(2, 10)]
        assert all(len(chosen) * (last - first) <= batch for chosen, first, last in work)
    assert len(work) == 1


def test_another_schedule_sees_the_same_noise(validation: Validation, trainer: Trainer) -> None:
    diffusion = trainer.settings.diffusion
    base = validation.metrics(trainer.ema, diffusion, SCHEDULE)
    hardly = validation.metrics(trainer.ema, diffusion, SCHEDULE.model_copy(update={"eta_max": 0.2 + 1e-7}))
    assert hardly["val_psnr_db"] == pytest.approx(base["val_psnr_db"], abs=1e-3)
    other = validation.metrics(trainer.ema, diffusion, SCHEDULE.model_copy(update={"eta_max": 50.0}))
    assert abs(other["val_psnr_db"] - base["val_psnr_db"]) > 0.01


def test_a_model_that_diverges_has_no_metrics(validation: Validation, trainer: Trainer, diverging: object) -> None:
    with pytest.raises(DivergenceError, match="sampler ddpm, 3 steps"):
        validation.metrics(diverging, trainer.settings.diffusion, SCHEDULE)  # type: ignore[arg-type]
