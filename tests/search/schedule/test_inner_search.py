"""The inner search: never worse than where it began, repeatable, frugal, not stopped by a schedule that diverges."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from _pytest.monkeypatch import MonkeyPatch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import DiffusionSettings, ScheduleSettings
from sm_search.evaluation.validation import ScheduleScorer, Scores, Validation
from sm_search.search.pareto import pareto_front
from sm_search.search.schedule.base_schedule import base_schedule, early_schedules
from sm_search.search.schedule.inner_search import ScheduleSearch, search_schedule
from sm_search.search.schedule.race import Race, rungs, search_images
from sm_search.search.space.space import Space
from sm_search.search.study.trial import search_trial_schedule
from sm_search.training import Trainer

TREE = {"sampler": "ddim", "steps": {"choice": [1, 2, 3]}, "eta_max": {"float": [0.0, 1.0]}}


def run(trainer: Trainer, validation: Validation, tree: Any = TREE, **changes: Any) -> ScheduleSearch:
    arguments: dict[str, Any] = {"metric": "val_psnr_db", "trials": 6, "images": 4, "seed": 3, **changes}
    denoiser = arguments.pop("denoiser", trainer.ema)
    return search_schedule(denoiser, trainer.settings.diffusion, tree, validation, **arguments)


def scored(trainer: Trainer, images: Validation, schedule: ScheduleSettings) -> dict[str, float]:
    """Means over all images, of one schedule alone."""
    found = ScheduleScorer(trainer.ema, trainer.settings.diffusion, images)([schedule], 0, len(images))
    return {name: float(values.mean()) for name, values in found.items()}


@pytest.mark.parametrize("metric", ["val_psnr_db", "val_ssim"])
def test_the_base_is_tried_first_and_the_best_is_at_least_as_good(
    trainer: Trainer, validation: Validation, metric: str
) -> None:
    found = run(trainer, validation, metric=metric)
    assert len(found.trials) in (8, 9), "two to begin with, six asked for, and the best with noise without it, if new"
    assert len({trial.schedule for trial in found.trials}) == len(found.trials)
    perturbed = [trial for trial in found.trials if trial.schedule.eta_max > 0]
    twin = max(perturbed, key=lambda trial: trial.value or 0.0).schedule.model_copy(update={"eta_max": 0.0})
    assert twin.essential() in [trial.schedule for trial in found.trials]
    assert found.trials[0].schedule == base_schedule(TREE) == ScheduleSettings(sampler="ddim", steps=3)
    assert [trial.schedule for trial in found.trials[:2]] == early_schedules(TREE)
    values = [trial.value for trial in found.trials]
    best = next(trial for trial in found.trials if trial.schedule == found.best)
    assert best.value == max(v for v in values if v is not None)
    assert len(set(values)) > 3
    for trial in found.trials:
        expected = scored(trainer, search_images(validation, 4), trial.schedule)
        assert trial.state == "complete"
        assert trial.metrics == pytest.approx(expected, rel=1e-5)
        assert trial.value == trial.metrics[metric]
        assert trial.estimate == pytest.approx(trial.value)
        assert trial.evaluations == trial.schedule.steps
    assert found.metrics == validation.metrics(trainer.ema, trainer.settings.diffusion, found.best)


def test_a_bad_neighbourhood_is_compared_with_the_outside_and_kept(trainer: Trainer, validation: Validation) -> None:
    found = run(trainer, validation, {"eta_max": {"float": [50.0, 60.0]}})
    assert found.trials[0].schedule == base_schedule({"eta_max": {"float": [50.0, 60.0]}})
    assert found.best.eta_max >= 50, "what the space does not hold is not chosen, however good"
    outside = found.trials[-1]
    assert (outside.schedule.eta_max, outside.params) == (0.0, {})
    assert all(trial.value < outside.value for trial in found.trials[:-1])


@pytest.mark.parametrize(
    ("leaf", "value"),
    [({"choice": [0, 1, 4]}, 4), ({"int": [1, 32]}, 8), ({"int": [16, 32]}, 16), ({"choice": [64, 16]}, 16), (5, 5)],
)
def test_the_base_is_the_nearest_of_the_space_to_the_default(leaf: Any, value: int) -> None:
    assert base_schedule({"steps": leaf}).steps == value
    assert base_schedule({"sampler": {"choice": ["ddpm", "paper"]}}).sampler == "ddpm"


@pytest.mark.parametrize(
    ("tree", "steps"),
    [
        ({"steps": {"choice": [0, 12, 2]}}, [12, 2]),
        ({"steps": {"int": [0, 16]}}, [8, 1]),
        ({"steps": {"int": [4, 32], "log": True}}, [8, 4]),
        ({"steps": {"choice": [0]}}, [0]),
        ({"steps": 5, "eta_max": {"float": [0.0, 1.0]}}, [5]),
        ({}, [8]),
    ],
)
def test_early_rungs_judge_by_the_base_and_by_the_fewest_steps(tree: Any, steps: list[int]) -> None:
    assert [schedule.steps for schedule in early_schedules(tree)] == steps


def test_the_best_of_a_few_is_chosen_by_the_metric_and_diverged_ones_are_not(
    trainer: Trainer, validation: Validation
) -> None:
    denoiser, diffusion = trainer.ema, trainer.settings.diffusion
    few = [ScheduleSettings(steps=3, eta_max=eta) for eta in (9.0, 0.0, 1e30)]
    for metric in ("val_psnr_db", "val_ssim"):
        chosen, metrics = validation.best(denoiser, diffusion, few, metric)
        assert chosen == few[1]
        assert metrics == pytest.approx(validation.metrics(denoiser, diffusion, few[1]), rel=1e-5)
    with pytest.raises(DivergenceError):
        validation.best(denoiser, diffusion, few[2:], "val_psnr_db")


def test_the_same_seed_finds_the_same_and_another_does_not(trainer: Trainer, validation: Validation) -> None:
    first, again, other = (run(trainer, validation, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.trials != other.trials


def test_each_trial_of_a_study_draws_schedules_of_its_own(trainer: Trainer, validation: Validation) -> None:
    """A study that begins each search with its best schedules would else see nothing new."""
    space = Space.model_validate(
        {"study": "s", "schedule": {"eta_max": {"float": [0.0, 1.0]}}, "budget": {"images": 4}}
    )
    other = copy.copy(trainer)
    other.settings = trainer.settings.model_copy(update={"learning_rate": 1e-3})
    drawn = [
        {trial.params.get("eta_max") for trial in search_trial_schedule(space, each, validation, "cpu", 6).trials}
        for each in (trainer, trainer, other)
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == len(drawn[2]) == 7, "six, and None for those that are not drawn"
    assert drawn[0] & drawn[2] == {None}


def counting(measured: list[tuple[ScheduleSettings, int, int]], measure: Any) -> Any:
    def counted(schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        measured.extend((schedule, begin, end) for schedule in schedules)
        return measure(schedules, begin, end)

    return counted


def test_no_image_is_sampled_twice_under_one_schedule(trainer: Trainer, validation: Validation) -> None:
    measured: list[tuple[ScheduleSettings, int, int]] = []
    scorer = ScheduleScorer(trainer.ema, trainer.settings.diffusion, search_images(validation, 8))
    tree = {"steps": {"choice": [1, 2]}, "w_max": {"choice": [1.0, 1.1]}}
    found = run(trainer, validation, tree, trials=32, images=8, measure=counting(measured, scorer))
    assert len(found.trials) == 4, "the base, which is one of the four choices, and the others"
    seen = [(schedule, image) for schedule, begin, end in measured for image in range(begin, end)]
    assert len(seen) == len(set(seen))
    assert len({schedule for schedule, _, _ in measured}) == 4
    assert {schedule for schedule, _ in seen} == {trial.schedule for trial in found.trials}


def test_a_schedule_that_diverges_is_failed_and_not_fatal(trainer: Trainer, validation: Validation) -> None:
    scorer = ScheduleScorer(trainer.ema, trainer.settings.diffusion, search_images(validation, 4))

    def measure(schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        fine = np.array([schedule.steps != 1 for schedule in schedules])[:, None]
        return {name: np.where(fine, values, np.nan) for name, values in scorer(schedules, begin, end).items()}

    found = run(trainer, validation, trials=10, measure=measure)
    failed = [trial for trial in found.trials if trial.state == "diverged"]
    assert failed
    assert all(trial.schedule.steps == 1 and trial.value is None and trial.metrics == {} for trial in failed)
    assert found.best.steps != 1


def test_a_model_that_diverges_under_every_schedule_is_an_error(
    trainer: Trainer, validation: Validation, diverging: Any
) -> None:
    with pytest.raises(DivergenceError, match="none of 8 schedules"):
        run(trainer, validation, denoiser=diverging)


def test_given_schedules_are_asked_for_before_any_other(trainer: Trainer, validation: Validation) -> None:
    first = [{"steps": 2, "eta_max": 0.25}, {"steps": 3, "eta_max": 0.5}]
    found = run(trainer, validation, initial_points=first)
    asked = [trial.params for trial in found.trials if trial.params]
    assert asked[:2] == first
    assert len(asked) == 6


BRANCHES = {
    "gamma": {"float": [0.5, 3.0]},
    "sampler": {
        "one_of": [
            {"sampler": "paper", "eta_max": {"float": [0.1, 0.9]}},
            {"sampler": "ddim", "steps": {"int": [2, 4]}, "eta_max": {"float": [0.0, 1.0]}},
        ]
    },
}


def test_a_space_with_branches_begins_in_the_default_sampler_s_and_is_searched_in_all(
    trainer: Trainer, validation: Validation, monkeypatch: MonkeyPatch
) -> None:
    assert [(s.sampler, s.steps) for s in early_schedules(BRANCHES)] == [("ddim", 4), ("ddim", 2)]
    first = [BRANCHES["sampler"]["one_of"][0]]
    assert base_schedule({"sampler": {"one_of": first}}) == ScheduleSettings(sampler="paper", eta_max=0.1)
    monkeypatch.setattr("sm_search.search.schedule.inner_search.search_images", lambda *_: range(64))
    found = run(trainer, validation, BRANCHES, trials=32, images=64, measure=Made(64))
    asked = [trial for trial in found.trials if trial.params]
    assert {trial.schedule.sampler for trial in asked} == {"paper", "ddim"}
    assert all("sampler.paper.eta_max" in trial.params for trial in asked if trial.schedule.sampler == "paper")
    assert found.best.eta_max == pytest.approx(0.3, abs=0.1)


def test_a_schedule_of_one_step_is_one_of_a_space_that_always_perturbs(
    trainer: Trainer, validation: Validation, monkeypatch: MonkeyPatch
) -> None:
    """Its one step is at t = T, where η is 0: it draws what an unperturbed one draws, and yet the space holds it."""
    monkeypatch.setattr("sm_search.search.schedule.inner_search.search_images", lambda *_: range(64))
    tree = {"steps": {"choice": [1, 2]}, "eta_max": {"float": [0.9, 1.0]}}
    found = run(trainer, validation, tree, images=64, measure=Made(64))
    assert (found.best.steps, found.best.eta_max) == (1, 0.0)
    tree = {"steps": 2, "eta_max": {"float": [0.9, 1.0]}}
    assert run(trainer, validation, tree, images=64, measure=Made(64)).best.eta_max >= 0.9


def test_nothing_to_search_gives_the_fixed_schedule(trainer: Trainer, validation: Validation) -> None:
    found = run(trainer, validation, {"steps": 3, "eta_max": 0.25})
    assert found.best == ScheduleSettings(steps=3, eta_max=0.25)
    assert len(found.trials) == 1


class Made:
    """Scores made up: PSNR falls by the distance of η_max from 0.3, noise of the image on it that all share."""

    def __init__(self, images: int) -> None:
        self.noise = np.random.default_rng(0).normal(0, 3, images)

    def __call__(self, schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        own = np.array([30 - 10 * abs(schedule.eta_max - 0.3) for schedule in schedules])[:, None]
        steps = np.array([0.5 * np.log2(schedule.steps) for schedule in schedules])[:, None]
        values = own + steps + self.noise[begin:end]
        return {"val_psnr_db": values, "val_ssim": values / 100}


def test_a_race_drops_the_bad_early_and_finds_the_best() -> None:
    """24 schedules of one cost: the noise of the images, far larger than the differences, cancels in each pair."""
    scores = Made(64)
    race = Race(scores, "val_psnr_db", 64, DiffusionSettings())
    schedules = [ScheduleSettings(eta_max=0.025 * i) for i in range(24)]
    for begin in (0, 8, 16):
        race.run(schedules[begin : begin + 8])
    trials = [race.trial({}, schedule) for schedule in schedules]
    assert race.best(24) == schedules[12]
    seen = [trial.images for trial in trials]
    assert set(seen) <= {8, 16, 32, 64}
    assert seen[12] == 64
    assert sum(seen) < 0.4 * 24 * 64
    for trial in trials:
        assert trial.estimate == pytest.approx(scores([trial.schedule], 0, 64)["val_psnr_db"].mean())
        assert trial.state == ("complete" if trial.images == 64 else "dropped")
        assert (trial.value is None) == (trial.state == "dropped")
        assert trial.metrics["val_psnr_db"] == pytest.approx(
            30 - 10 * abs(trial.schedule.eta_max - 0.3) + 1.5 + Made(64).noise[: trial.images].mean()
        )


def test_of_schedules_that_cannot_be_told_apart_the_better_half_goes_on() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (8, 64))

    def measure(schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        values = np.array([noise[int(schedule.gamma), begin:end] for schedule in schedules])
        return {"val_psnr_db": values, "val_ssim": values / 100}

    race = Race(measure, "val_psnr_db", 64, DiffusionSettings())
    schedules = [ScheduleSettings(gamma=i) for i in range(8)]
    race.run(schedules)
    assert sorted(race.trial({}, schedule).images for schedule in schedules) == [8, 8, 8, 8, 16, 16, 32, 64]
    first = sorted(range(8), key=lambda i: -noise[i, :8].mean())
    assert [race.trial({}, schedules[i]).images > 8 for i in first] == [True] * 4 + [False] * 4


def test_a_race_keeps_what_is_cheap_for_its_quality() -> None:
    """Fewer steps are worse here, but for every number of steps one schedule is unbeaten."""
    race = Race(Made(64), "val_psnr_db", 64, DiffusionSettings())
    race.run([ScheduleSettings(eta_max=eta, steps=steps) for eta in (0.3, 0.9) for steps in (1, 2, 4, 8)])
    complete = {s for s in race.scores if race.trial({}, s).state == "complete"}
    assert complete == {ScheduleSettings(eta_max=0.3, steps=steps) for steps in (1, 2, 4, 8)}


def test_optuna_is_told_the_truth(trainer: Trainer, validation: Validation, monkeypatch: MonkeyPatch) -> None:
    studies: list[optuna.Study] = []
    create = optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **options: studies.append(create(**options)) or studies[0])
    monkeypatch.setattr("sm_search.search.schedule.inner_search.search_images", lambda *_: range(64))
    found = run(trainer, validation, {"eta_max": {"float": [0.0, 1.0]}}, trials=24, images=64, measure=Made(64))
    told = studies[0].trials
    assert len(told) == 24 == len(found.trials) - 1 - (found.trials[-1].params == {})
    assert {trial.state for trial in told} == {TrialState.COMPLETE}
    assert {trial.state for trial in found.trials} == {"complete", "dropped"}
    for frozen, trial in zip(told, found.trials[1:], strict=False):
        assert frozen.params == trial.params
        assert frozen.value == pytest.approx(trial.estimate)
        if trial.state == "complete":
            assert frozen.value == trial.value
    assert found.best.eta_max == pytest.approx(0.3, abs=0.05)


def test_the_front_is_what_nothing_beats(trainer: Trainer, validation: Validation) -> None:
    tree = {"steps": {"choice": [1, 2, 4]}, "eta_max": {"float": [0.0, 1.0]}, "samples": {"choice": [1, 3]}}
    found = run(trainer, validation, tree, trials=16)
    assert len({trial.schedule.samples for trial in found.trials}) == 2
    complete = [trial for trial in found.trials if trial.state == "complete"]
    assert any(trial.schedule == found.best for trial in found.front)
    assert [trial.evaluations for trial in found.front] == sorted(trial.evaluations for trial in found.front)
    assert len({trial.schedule for trial in found.front}) == len(found.front)

    def beats(a: Any, b: Any) -> bool:
        pairs = [(a.metrics[name], b.metrics[name]) for name in ("val_psnr_db", "val_ssim")]
        pairs += [(-a.metrics["val_crps"], -b.metrics["val_crps"]), (-a.evaluations, -b.evaluations)]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    front = {trial.schedule for trial in found.front}
    for trial in complete:
        assert (trial.schedule in front) != any(beats(other, trial) for other in complete)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_pareto_front_by_its_definition(points: list[tuple[int, int]]) -> None:
    found = pareto_front([tuple(map(float, point)) for point in points])
    for point, is_unbeaten in zip(points, found, strict=True):
        beaten = any(o[0] >= point[0] and o[1] >= point[1] and o != point for o in points)
        assert is_unbeaten != beaten


def test_the_rungs_of_a_race() -> None:
    assert rungs(96) == [12, 24, 48, 96]
    assert rungs(504) == [15, 31, 63, 126, 252, 504]
    assert rungs(15) == [15]
