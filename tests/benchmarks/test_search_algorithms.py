"""Search algorithms on recorded trials: a study of 200 trials on a simulated cluster in seconds. Prints tables.

    SEEDS=0,1,2,3,4 pytest -m benchmark -s tests/benchmarks/test_search_algorithms.py
    SEEDS=… WORKERS=4,32,128 SAMPLERS=random,tpe:5,tpe:32 … -k test_algorithms     # sampler:start-up
    … -k "test_records or test_priors or test_stopping"

Values are decibels below the best of the space at the full budget, the median of the seeds, smaller is better. Time is
the simulated clock's, in units of what the mean full training takes.
"""

import math
import os
import statistics
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler
from scipy.stats import qmc, spearmanr

from sm_search.search.space.space import Space
from sm_search.search.study.asha import RememberingASHA
from tests.benchmarks.simulated_cluster import RecordedTrials, Replay, recorded, recorded_space, replay

pytestmark = pytest.mark.benchmark

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "0,1,2,3,4").split(",")]
WORKERS = [int(workers) for workers in os.environ.get("WORKERS", "4,32,128").split(",")]
SAMPLERS = os.environ.get("SAMPLERS", "random,qmc,tpe:0,tpe:5,tpe:16,tpe:64,cmaes:5").split(",")
FOLDS = 8
LOOKED_AT = 8192
"""Quasi-random points among which the best of the space is looked for."""


@pytest.fixture(scope="module")
def trials() -> RecordedTrials:
    return recorded()


@cache
def _best(trials: RecordedTrials) -> float:
    quantiles = qmc.Sobol(len(trials.leaves), rng=0).random(LOOKED_AT)
    points = [{n: leaf.at(u) for (n, leaf), u in zip(trials.leaves.items(), row, strict=True)} for row in quantiles]
    return float(trials.look_up(points)[0][:, -1].max())


def changed(space: Space, seed: int, **changes: Mapping[str, Any]) -> Space:
    """The space with another seed and other settings in some of its parts."""
    given = space.model_dump()
    return Space.model_validate({**given, "seed": seed, **{key: {**given[key], **v} for key, v in changes.items()}})


def search_of(text: str) -> dict[str, Any]:
    sampler, _, startup = text.partition(":")
    return {"sampler": sampler, **({"startup": int(startup)} if startup else {})}


def printed(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    print(f"\n{title}\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.3g}' if isinstance(cell, float) else str(cell) for cell in row)} |")


def test_records(trials: RecordedTrials) -> None:
    """How well the records tell what a trial that is not among them would report: in turn each eighth from the rest."""
    number, last = len(trials.points), len(trials.steps)
    order = np.random.default_rng(0).permutation(number)
    found = np.empty((number, 2 * last))
    places = np.array([trials.unit(point) for point in trials.points])
    for fold in np.array_split(order, FOLDS):
        found[fold] = trials.spline(np.setdiff1d(order, fold))(places[fold])
    rows = [
        (
            steps,
            float(np.sqrt(np.mean((found[:, index] - trials.metric_TS[:, index]) ** 2))),
            float(np.std(trials.metric_TS[:, index])),
            float(spearmanr(found[:, index], trials.metric_TS[:, index])[0]),
            float(spearmanr(trials.metric_TS[:, index], trials.metric_TS[:, -1])[0]),
        )
        for index, steps in enumerate(trials.steps)
    ]
    columns = ("steps", "RMS error dB", "standard deviation dB", "Spearman", "Spearman of these steps with the last")
    printed(f"{number} recorded trials, the best of the space {_best(trials):.2f} dB", columns, rows)


def test_algorithms(trials: RecordedTrials) -> None:
    """Each algorithm and start-up on clusters of several sizes, all with ASHA."""
    unit = float(trials.seconds_TS[:, -1].mean())
    for workers in WORKERS:
        told = {
            text: [replay(changed(recorded_space(), seed, search=search_of(text)), trials, workers) for seed in SEEDS]
            for text in SAMPLERS
        }
        random = told.get("random") or told[SAMPLERS[0]]
        half = statistics.median(each.curve[-1][0] for each in random) / 2
        rows = []
        for text, replays in told.items():
            pairs = zip(replays, random, strict=True)
            sooner = [other.first_at(other.best) / each.first_at(other.best) for each, other in pairs]
            rows.append((text, *_losses(trials, replays, half), statistics.median(sooner), _spent(replays)))
        columns = ("algorithm:start-up", "after half of random's time", "at the end", "sooner", "steps of all trials")
        printed(f"{workers} workers, half is {half / unit:.3g} full trainings", columns, rows)


def test_priors(trials: RecordedTrials) -> None:
    """What a right and a wrong prior do to TPE, with four workers and 60 trials."""
    space = recorded_space()
    places = {"none": None, "right": 1.0, "wrong": 0.0}
    best = max(range(len(trials.points)), key=lambda trial: trials.metric_TS[trial, -1])
    rows = []
    for name, right in places.items():
        training = dict(space.training)
        if right is not None:
            rate = trials.points[best]["learning_rate"] if right else trials.leaves["learning_rate"].at(0.0)
            width = trials.points[best]["backbone.width"] if right else 16
            training["learning_rate"] = {**training["learning_rate"], "prior": rate}
            backbone = training["backbone"]
            training["backbone"] = {**backbone, "width": {**backbone["width"], "prior": width}}
        replays = [replay(changed(space, seed, training=training, budget={"trials": 60}), trials, 4) for seed in SEEDS]
        half = statistics.median(each.curve[-1][0] for each in replays) / 2
        rows.append((name, *_losses(trials, replays, half)))
    printed("Priors, 60 trials on 4 workers", ("prior", "after half of the time", "at the end"), rows)


class Forecast:
    """Stops a trial whose learning curve, drawn on in the logarithm of the steps, ends below the best trial so far."""

    def __init__(self, space: Space) -> None:
        self.metric, self.full = space.metric, space.training_steps()
        self.told: dict[str, list[tuple[float, float]]] = {}
        self.best = -math.inf

    def on_trial_add(self, controller: Any, trial: SimpleNamespace) -> None:
        self.told[trial.trial_id] = []

    def on_trial_result(self, controller: Any, trial: SimpleNamespace, result: Mapping[str, Any]) -> str:
        curve = self.told[trial.trial_id]
        curve.append((math.log(result["training_step"]), result[self.metric]))
        if result["training_step"] == self.full:
            self.best = max(self.best, result[self.metric])
        elif len(curve) > 1:
            (before, low), (now, high) = curve[-2:]
            if high + (high - low) / (now - before) * (math.log(self.full) - now) < self.best:
                return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)


def test_stopping(trials: RecordedTrials) -> None:
    """ASHA beside Hyperband's brackets, a forecast of learning curves, and none: loss against training steps."""
    space = recorded_space()

    def asha(brackets: int, reduction: int, first: int) -> RememberingASHA:
        return RememberingASHA(
            time_attr="training_step",
            metric=space.metric,
            mode="max",
            max_t=space.training_steps(),
            grace_period=first,
            reduction_factor=reduction,
            brackets=brackets,
        )

    ways = {
        "ASHA, one in 3 from step 3 (what is used)": lambda: asha(1, 3, 3),
        "ASHA, one in 3 from step 9": lambda: asha(1, 3, 9),
        "Hyperband: ASHA in 3 brackets": lambda: asha(3, 3, 3),
        "forecast of the learning curve": lambda: Forecast(space),
        "none": lambda: asha(1, 3, 81),
    }
    workers, rows = 4, []
    told = {
        name: [
            replay(changed(space, seed, search={"sampler": "random"}), trials, workers, scheduler=_seeded(seed, make))
            for seed in SEEDS
        ]
        for name, make in ways.items()
    }
    used = next(iter(told.values()))
    for name, replays in told.items():
        # Training until it had what ASHA ends with, as simulated time: all workers are busy until then.
        ratios = [a.first_at(a.best) / each.first_at(a.best) for a, each in zip(used, replays, strict=True)]
        end = statistics.median(_best(trials) - each.best for each in replays)
        rows.append((name, end, _spent(replays), statistics.median(ratios)))
    columns = ("stopping", "at the end", "steps of all trials", "training to ASHA's best, ASHA over this")
    printed("200 random trials on 4 workers", columns, rows)


def _seeded(seed: int, make: Any) -> Any:
    np.random.seed(seed)  # noqa: NPY002 - Ray draws a trial's bracket from this stream
    return make()


def _losses(trials: RecordedTrials, replays: list[Replay], half: float) -> tuple[float, float]:
    best = _best(trials)
    return (
        statistics.median(best - each.best_at(half) for each in replays),
        statistics.median(best - each.best for each in replays),
    )


def _spent(replays: list[Replay]) -> int:
    return round(statistics.median(each.steps for each in replays))
