"""What a study would cost: the training steps that ASHA leaves of the worst case, and a guess at time and disk."""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import torch
from ray.tune.schedulers import TrialScheduler

from sm_search.data.dataset import Dataset
from sm_search.evaluation.validation import Validation
from sm_search.search.space.ranges import Branch
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.tree import parameters_of, suggest
from sm_search.search.study.asha import make_asha
from sm_search.search.study.gpu_memory import PROBE_LEARNING_RATE, WARM_UP_STEPS
from sm_search.search.study.trial import judging_schedules, search_trial_schedule, store_rung
from sm_search.training import Trainer, training_images

ORDERS = 20
"""Random orders of good and bad trials over which ASHA's saving is averaged."""
PROBES = 2
"""Points of the space whose speed is measured; more, where it has more branches."""
MOST_DRAWN = 100
"""Points after which a branch that none of them is in is given up."""
PROBE_S = 2.0
PROBED_SCHEDULES = 8


@dataclass(frozen=True)
class Work:
    """What a study does, in numbers.

    Attributes:
        most_steps, expected_steps: training steps of all trials; expected with ASHA, if a trial that is better at one
            rung is better at all.
        expected_reports: validations at early rungs; expected_full: trials at the full budget, which search schedules.
        confirmations: trainings with other seeds after the search.
    """

    trials: int
    most_steps: int
    expected_steps: float
    expected_reports: float
    expected_full: float
    confirmations: int


def expected_work(space: Space, trials: int) -> Work:
    """The work of `trials` trials, from ASHA's own rule on trials in random order."""
    rungs, steps, reports, full = space.rungs(), [], [], []
    for order in range(ORDERS):
        asha, ranks = make_asha(space), list(range(trials))
        random.Random(order).shuffle(ranks)
        done = 0.0
        reached = validated = 0
        for rank in ranks:
            trial = SimpleNamespace(trial_id=str(rank))
            asha.on_trial_add(None, trial)
            for rung in rungs:
                last = rung
                validated += 1
                result = {space.metric: float(rank), "training_step": rung}
                if asha.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                    break
            done += last
            reached += last == rungs[-1]
        steps.append(done)
        reports.append(validated - reached)
        full.append(reached)
    confirm = space.budget.confirm
    # The search's own seed is one of them already.
    confirmations = min(confirm.best, max(1, round(statistics.fmean(full)))) * confirm.seeds if confirm else 0
    return Work(
        trials=trials,
        most_steps=trials * rungs[-1],
        expected_steps=statistics.fmean(steps),
        expected_reports=statistics.fmean(reports),
        expected_full=statistics.fmean(full),
        confirmations=confirmations,
    )


@dataclass(frozen=True)
class UnitCosts:
    """Means over a few points of the space on this machine: seconds of a training step, of a validation and of an inner
    search, images of a step, and bytes that a rung leaves on disk.
    """

    step_s: float
    validation_s: float
    inner_search_s: float
    batch_size: float
    rung_bytes: float


def measured_costs(space: Space, dataset: Dataset, announce: Callable[[str], None]) -> UnitCosts:
    """Train and validate for some seconds at each of a few points of the space."""
    torch.set_num_threads(space.resources.threads)
    device = "cuda" if space.resources.gpu_share and torch.cuda.is_available() else "cpu"
    costs = []
    points = measured_points(space)
    for number, params in enumerate(points):
        announce(f"measuring point {number + 1} of {len(points)}: {', '.join(f'{k} {v}' for k, v in params.items())}")
        costs.append(astuple(_costs_at(space, dataset, params, device)))
    return UnitCosts(*(statistics.fmean(values) for values in zip(*costs, strict=True)))


def measured_points(space: Space) -> list[Mapping[str, Any]]:
    """The initial points of the space, then random ones: a few points, among them each branch of the space."""
    parameters = parameters_of(space.outer_tree()).items()
    missing = {(name, each) for name, leaf in parameters if isinstance(leaf, Branch) for each in leaf.choice}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=space.seed))
    for point in space.initial_points:
        study.enqueue_trial(dict(point))
    points: list[Mapping[str, Any]] = []
    for _ in range(MOST_DRAWN):
        if len(points) >= PROBES and not missing:
            break
        trial = study.ask()
        suggest(trial, space.outer_tree())
        shown = missing & set(trial.params.items())
        if len(points) < PROBES or shown:
            points.append(trial.params)
        missing -= shown
    return points


def _costs_at(space: Space, dataset: Dataset, params: Mapping[str, Any], device: str) -> UnitCosts:
    # A rate at which nothing can diverge: a step takes as long.
    settings = training_settings(space, params).model_copy(update={"learning_rate": PROBE_LEARNING_RATE})
    images, models = training_images(
        dataset, "train", settings.receive_channels, settings.mean, settings.scans, settings.diffuse
    )
    trainer = Trainer(settings, images, device)
    validation = Validation.of(dataset, models, diffuse=settings.diffuse, asked=space.asked())
    list(trainer.train(WARM_UP_STEPS))
    begin, steps = time.perf_counter(), trainer.step
    while (passed := time.perf_counter() - begin) < PROBE_S or trainer.step == steps:
        list(trainer.train(trainer.step + 1))
    step_s = passed / (trainer.step - steps)
    schedules = judging_schedules(space, params)
    begin = time.perf_counter()
    schedule, metrics = validation.best(trainer.ema, settings.diffusion, schedules, space.metric, device)
    validation_s = inner_s = time.perf_counter() - begin
    tried = min(PROBED_SCHEDULES, space.budget.schedules)
    if space.mode == "two-level" and tried:
        begin = time.perf_counter()
        search_trial_schedule(space, trainer, validation, device, schedules=tried)
        inner_s = (time.perf_counter() - begin) * space.budget.schedules / tried
    with tempfile.TemporaryDirectory() as folder:
        store_rung(Path(folder), trainer, dataset, models, schedule, metrics)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return UnitCosts(step_s, validation_s, inner_s, settings.batch_size, stored)


def workers(space: Space) -> int:
    """Trials that run at once on this machine."""
    fit = [len(os.sched_getaffinity(0)) / space.resources.cpus]
    if space.resources.gpu_share:
        fit.append(torch.cuda.device_count() / space.resources.gpu_share)
    most = min(int(each) for each in fit)
    return max(1, min(most, space.resources.concurrent or most))


def expected_seconds(space: Space, work: Work, costs: UnitCosts, at_once: int) -> float:
    """Wall-clock of the search and its confirmation; the start of Ray and MLflow comes on top."""
    regression = _full_trial_seconds(space, costs) if space.budget.regression else 0.0
    return trial_seconds(space, work, costs, at_once) / at_once + regression


def trial_seconds(space: Space, work: Work, costs: UnitCosts, at_once: int) -> float:
    """Of all trials, each for itself: what the price of an hour is multiplied by."""
    searched = _search_seconds(work, costs) * _share_in_time(space, work, costs, at_once)
    return searched + work.confirmations * (_full_trial_seconds(space, costs) + costs.inner_search_s)


def expected_cost(space: Space, hours: float) -> float | None:
    """Of trials for so many hours on the dearest nodes that the space prices; None where it prices none."""
    prices = space.budget.cost_per_hour.values()
    return hours * max(prices) if prices else None


def _full_trial_seconds(space: Space, costs: UnitCosts) -> float:
    """Training to the full budget and validations on the way."""
    return space.training_steps() * costs.step_s + (len(space.rungs()) - 1) * costs.validation_s


def expected_bytes(space: Space, work: Work, costs: UnitCosts, at_once: int) -> float:
    """On disk, or in the storage, while the study runs: each rung of each trial leaves a checkpoint."""
    searched = (work.expected_reports + work.expected_full) * _share_in_time(space, work, costs, at_once)
    return costs.rung_bytes * (searched + work.confirmations * len(space.rungs()))


def _search_seconds(work: Work, costs: UnitCosts) -> float:
    """Of all trials, one after the other."""
    validated = work.expected_reports * costs.validation_s + work.expected_full * costs.inner_search_s
    return work.expected_steps * costs.step_s + validated


def _share_in_time(space: Space, work: Work, costs: UnitCosts, at_once: int) -> float:
    """Of the search, what its time limit leaves."""
    if space.budget.minutes is None:
        return 1.0
    return min(1.0, 60 * space.budget.minutes * at_once / _search_seconds(work, costs))
