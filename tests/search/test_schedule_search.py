"""The inner search: never worse than where it began, repeatable, and not stopped by a schedule that diverges."""

from typing import Any

import pytest
from _pytest.monkeypatch import MonkeyPatch

from sm_search.config.errors import DivergenceError
from sm_search.config.model import ScheduleSettings
from sm_search.evaluation.metrics import psnr_db, ssim
from sm_search.search.schedule_search import ScheduleSearch, base_schedule, search_schedule
from sm_search.search.validation import Validation
from sm_search.training import Trainer

TREE = {"sampler": "ddim", "steps": {"choice": [1, 2, 3]}, "eta_max": {"float": [0.0, 1.0]}}


def run(trainer: Trainer, validation: Validation, tree: Any = TREE, **changes: Any) -> ScheduleSearch:
    arguments: dict[str, Any] = {"metric": "val_psnr_db", "trials": 6, "images": 4, "seed": 3, **changes}
    denoiser = arguments.pop("denoiser", trainer.ema)
    return search_schedule(denoiser, trainer.settings.diffusion, tree, validation, **arguments)


@pytest.mark.parametrize(("metric", "score"), [("val_psnr_db", psnr_db), ("val_ssim", ssim)])
def test_the_base_is_tried_first_and_the_best_is_at_least_as_good(
    trainer: Trainer, validation: Validation, metric: str, score: Any
) -> None:
    found = run(trainer, validation, metric=metric)
    assert len(found.trials) == 7
    assert found.trials[0].schedule == base_schedule(TREE) == ScheduleSettings(sampler="ddim")
    values = [trial.value for trial in found.trials]
    best = next(trial for trial in found.trials if trial.schedule == found.best)
    assert best.value == max(v for v in values if v is not None)
    assert len(set(values)) > 3
    subset = validation.subset(4)
    for trial in found.trials:
        estimates = subset.estimates(trainer.ema, trainer.settings.diffusion, trial.schedule)
        assert trial.value == float(score(estimates, subset.targets).mean())
    assert found.metrics == validation.metrics(trainer.ema, trainer.settings.diffusion, found.best)


def test_a_bad_neighbourhood_returns_the_base(trainer: Trainer, validation: Validation) -> None:
    found = run(trainer, validation, {"eta_max": {"float": [50.0, 60.0]}})
    assert found.best == ScheduleSettings()
    assert all(trial.value < found.trials[0].value for trial in found.trials[1:])


def test_the_same_seed_finds_the_same_and_another_does_not(trainer: Trainer, validation: Validation) -> None:
    first, again, other = (run(trainer, validation, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.trials != other.trials


def test_a_schedule_that_was_tried_is_not_sampled_again(
    trainer: Trainer, validation: Validation, monkeypatch: MonkeyPatch
) -> None:
    sampled = []
    real = Validation.estimates

    def counted(self: Validation, denoiser: Any, diffusion: Any, schedule: ScheduleSettings, device: str) -> Any:
        sampled.append(schedule)
        return real(self, denoiser, diffusion, schedule, device)

    monkeypatch.setattr(Validation, "estimates", counted)
    found = run(trainer, validation, {"steps": {"choice": [1, 2]}}, trials=8)
    *searched, at_the_end = sampled
    assert len(found.trials) == 9
    assert len(searched) == len(set(searched)) == 3  # the base with 8 steps, and the two choices
    assert at_the_end == found.best


def test_a_schedule_that_diverges_is_failed_and_not_fatal(
    trainer: Trainer, validation: Validation, monkeypatch: MonkeyPatch
) -> None:
    real = Validation.estimates

    def limited(self: Validation, denoiser: Any, diffusion: Any, schedule: ScheduleSettings, device: str) -> Any:
        if schedule.steps == 1:
            raise DivergenceError("sampling left the finite numbers")
        return real(self, denoiser, diffusion, schedule, device)

    monkeypatch.setattr(Validation, "estimates", limited)
    found = run(trainer, validation, trials=10)
    failed = [trial for trial in found.trials if trial.value is None]
    assert failed
    assert all(trial.schedule.steps == 1 for trial in failed)
    assert found.best.steps != 1


def test_a_model_that_diverges_under_every_schedule_is_an_error(
    trainer: Trainer, validation: Validation, diverging: Any
) -> None:
    with pytest.raises(DivergenceError, match="none of 7 schedules"):
        run(trainer, validation, denoiser=diverging)


def test_nothing_to_search_gives_the_fixed_schedule(trainer: Trainer, validation: Validation) -> None:
    found = run(trainer, validation, {"steps": 3, "eta_max": 0.25})
    assert found.best == ScheduleSettings(steps=3, eta_max=0.25)
    assert len(found.trials) == 1
