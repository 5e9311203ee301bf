"""The inner level: the sampling schedule, searched on frozen weights by Optuna.

Schedules are asked for in batches, and each batch is a race (`race.py`).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from sm_search.config.model_settings import DiffusionSettings, ScheduleSettings
from sm_search.diffusion.denoiser import Denoiser
from sm_search.evaluation.evaluation_cost import EvaluationCost
from sm_search.evaluation.scores import DIRECTIONS
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.search.pareto import pareto_front
from sm_search.search.schedule.base_schedule import UNPERTURBED, admits_unperturbed, early_schedules, is_perturbed
from sm_search.search.schedule.race import ASKED_AT_ONCE, Measure, Race, ScheduleTrial, search_images, to_maximise
from sm_search.search.space.constraints import NO_CONSTRAINTS
from sm_search.search.space.prior import expected_values
from sm_search.search.space.resolved_settings import schedule_settings
from sm_search.search.space.tree import Tree, parameter_names, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP_SCHEDULES = 9
"""Drawn at random before TPE suggests; the initial points are among them."""
REPEATS_BEFORE_RANDOM = 1
"""Races in a row without a schedule that is new, after which they are drawn at random: TPE may insist on the best."""
MOST_REPEATS = 32
"""Races in a row without a schedule that is new, after which a space counts as exhausted."""
Progress = Callable[[int, int, str], None]
"""Called with schedules done, schedules in all, and the best value so far in words."""


@dataclass(frozen=True)
class ScheduleSearch:
    """The result of an inner search.

    Attributes:
        best: the best schedule by the metric, and its `metrics` on all validation images.
        trials: every schedule tried, in order.
        front: of the schedules measured to the end those that no other one beats in the scores that are compared and
            the number of network evaluations together, the fewest evaluations first.
    """

    best: ScheduleSettings
    metrics: dict[str, float]
    trials: tuple[ScheduleTrial, ...]
    front: tuple[ScheduleTrial, ...]


def search_schedule(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    tree: Tree,
    validation: Validation,
    *,
    metric: str,
    trials: int,
    images: int,
    seed: int,
    device: str = "cpu",
    initial_points: Sequence[Mapping[str, Any]] = (),
    further: Sequence[str] = (),
    constraints: Mapping[str, str] = NO_CONSTRAINTS,
    cost: EvaluationCost | None = None,
    asked_at_once: int = ASKED_AT_ONCE,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> ScheduleSearch:
    """Search `tree` with `trials` schedules on `images` validation images; the result is measured on all of them.

    Schedules that draw the same images count as one. Those of the early rungs are tried first, and to the end, so the
    search never returns anything that looks worse than they; and at the end the best of those with noise or weight on
    the condition is tried without, so that one sees what the paper's decay does, also where the best of all does
    without. That one is chosen only if the space holds it.

    Args:
        initial_points: parameters of schedules to ask for before any other; they count as trials.
        further: other objectives of the study.
        constraints: a schedule that breaks one is chosen only where all do, and then the one that breaks them least.
        cost: of an evaluation, where a constraint is about it.
        asked_at_once: schedules of one race; the sampler learns from a race when it is over.
        measure: scores on `search_images(validation, images)`; None for one that computes them here.

    Raises:
        DivergenceError: not one schedule stayed finite.
    """
    subset = search_images(validation, images)
    scorer = measure or ScheduleScorer(denoiser, diffusion, subset, device)
    race = Race(scorer, metric, len(subset), diffusion, further, constraints, cost)
    early = early_schedules(tree)
    tried: list[tuple[dict[str, Any], ScheduleSettings]] = [({}, schedule) for schedule in early]
    outside: list[ScheduleSettings] = []
    race.finish(early)
    if parameter_names(tree):
        direction = "maximize" if DIRECTIONS[metric] == "max" else "minimize"
        study = optuna.create_study(direction=direction, sampler=_sampler(seed))
        for params in initial_points:
            study.enqueue_trial(dict(params))
        samplers, repeats = (study.sampler, optuna.samplers.RandomSampler(seed)), 0
        while (done := len(tried) - len(early)) < trials and repeats < MOST_REPEATS:
            study.sampler = samplers[repeats >= REPEATS_BEFORE_RANDOM]
            asked = [_ask(study, tree, seed, trials) for _ in range(min(asked_at_once, trials - done))]
            schedules = [schedule_settings(suggest(trial, tree)).essential() for trial in asked]
            new = [schedule for schedule in dict.fromkeys(schedules) if schedule not in race.scores]
            race.run(new)
            repeats = 0 if new else repeats + 1
            for trial, schedule in zip(asked, schedules, strict=True):
                _tell(study, trial, race.trial(dict(trial.params), schedule), race.violations(schedule))
                if schedule in new:
                    tried.append((dict(trial.params), schedule))
                    new.remove(schedule)
            if progress is not None:
                progress(len(tried) - len(early), trials, race.best_in_words())
        perturbed = [schedule for schedule in race.finished() if is_perturbed(schedule)]
        if perturbed:
            plain = race.best_of(perturbed).model_copy(update=UNPERTURBED).essential()
            if not race.is_finished(plain):
                race.finish([plain])
                tried.append(({}, plain))
                outside = [] if admits_unperturbed(tree) else [plain]
    best = race.best(len(tried), outside)
    trials_tried = tuple(race.trial(params, schedule) for params, schedule in tried)
    metrics = validation.metrics(denoiser, diffusion, best, device)
    return ScheduleSearch(best, metrics, trials_tried, _front(trials_tried, race.compared))


def _front(trials: Sequence[ScheduleTrial], compared: Sequence[str]) -> tuple[ScheduleTrial, ...]:
    complete = list({trial.schedule: trial for trial in trials if trial.state == "complete"}.values())
    scores = [{name: trial.metrics[name] for name in compared if name in trial.metrics} for trial in complete]
    unbeaten = pareto_front([to_maximise(each, t.evaluations) for each, t in zip(scores, complete, strict=True)])
    front = [trial for trial, is_unbeaten in zip(complete, unbeaten, strict=True) if is_unbeaten]
    return tuple(sorted(front, key=lambda trial: trial.evaluations))


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # The liar: a trial that runs counts as bad, so that a batch is not the same twice.
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_SCHEDULES
        )


def _ask(study: optuna.Study, tree: Tree, seed: int, trials: int) -> optuna.Trial:
    """A point to begin with, or what the sampler suggests, but for what the priors are still worth."""
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        expected = expected_values(tree, seed, len(study.get_trials(deepcopy=False)), trials)
        if expected:
            study.enqueue_trial(expected)
    return study.ask()


def _tell(study: optuna.Study, trial: optuna.Trial, measured: ScheduleTrial, violated: Mapping[str, float]) -> None:
    """What a schedule is worth; of one that was dropped, what is to be expected."""
    if measured.state == "diverged":
        study.tell(trial, state=TrialState.FAIL)
    else:
        for name, violation in violated.items():
            trial.set_constraint(name, violation)
        study.tell(trial, measured.estimate)
