"""Recorded trials, and a cluster with a simulated clock that replays them: a study of 200 trials in a second or two.

The searcher and the scheduler are the study's own; only training is looked up. `record_trials.py` made the records.
"""

import csv
import heapq
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.tune.schedulers import TrialScheduler
from scipy.interpolate import RBFInterpolator

from sm_search.search.space.ranges import Choice
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import load_space
from sm_search.search.space.tree import parameters_of
from sm_search.search.study.asha import make_asha
from sm_search.search.study.optuna_searcher import OptunaSearcher

RECORDED = Path(__file__).parent / "recorded"
SMOOTHING = 1e-2


class RecordedTrials:
    """What a trial would report, from recorded ones: thin-plate splines through them over the unit cube of the space.

    Attributes:
        steps: training steps at which there are records, ascending.
        metric_TS, seconds_TS: of the T recorded trials at these S steps; seconds are from the trial's start.
    """

    def __init__(self, space: Space, rows: list[dict[str, str]]) -> None:
        self.leaves = parameters_of(space.outer_tree())
        self.steps = [int(name.removeprefix("psnr_")) for name in rows[0] if name.startswith("psnr_")]
        whole = [row for row in rows if row[f"psnr_{self.steps[-1]}"]]
        self.points = [{name: leaf.read(row[name]) for name, leaf in self.leaves.items()} for row in whole]
        self.metric_TS, self.seconds_TS = (
            np.array([[float(row[f"{what}_{steps}"]) for steps in self.steps] for row in whole])
            for what in ("psnr", "seconds")
        )
        self._spline = self.spline(np.arange(len(whole)))

    def unit(self, point: Mapping[str, Any]) -> list[float]:
        """A point in the unit cube; a choice is a corner of its own."""
        coordinates: list[float] = []
        for name, leaf in self.leaves.items():
            if isinstance(leaf, Choice):
                coordinates += [float(value == point[name]) for value in leaf.choice[1:]]
            else:
                coordinates.append(leaf.position(point[name]))
        return coordinates

    def spline(self, trials: NDArray[np.integer]) -> RBFInterpolator:
        """Metric and logarithm of the seconds at all steps, from some of the trials."""
        values = np.hstack([self.metric_TS, np.log(self.seconds_TS)])[trials]
        places = np.array([self.unit(self.points[trial]) for trial in trials])
        return RBFInterpolator(places, values, smoothing=SMOOTHING)

    def look_up(self, points: list[Mapping[str, Any]]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Metric and seconds of P points at all steps, (P, S) each."""
        found = self._spline(np.array([self.unit(point) for point in points]))
        metric, log_seconds = np.split(found, 2, axis=1)
        return metric, np.maximum.accumulate(np.exp(log_seconds), axis=1)


def recorded_space() -> Space:
    """The space of the recorded trials."""
    return load_space(RECORDED / "space.yaml")


def recorded() -> RecordedTrials:
    """Those that lie beside this file."""
    with (RECORDED / "trials.csv").open() as stream:
        return RecordedTrials(recorded_space(), list(csv.DictReader(stream)))


@dataclass
class Replay:
    """A study on a simulated cluster.

    Attributes:
        curve: (seconds, best metric so far) at each trial that reached the full budget.
        steps: training steps of all trials.
        worker_seconds: for which a worker trained.
        ended: when the last trial did.
    """

    curve: list[tuple[float, float]] = field(default_factory=list)
    steps: int = 0
    worker_seconds: float = 0.0
    ended: float = 0.0

    @property
    def best(self) -> float:
        return self.curve[-1][1] if self.curve else -math.inf

    def best_at(self, seconds: float) -> float:
        return max((best for when, best in self.curve if when <= seconds), default=-math.inf)

    def first_at(self, value: float) -> float:
        """Seconds until a trial had it; infinite if none had."""
        return next((when for when, best in self.curve if best >= value), math.inf)


def replay(
    space: Space,
    trials: RecordedTrials,
    workers: int,
    *,
    searcher: OptunaSearcher | None = None,
    scheduler: Any = None,
) -> Replay:
    """Run a study as Ray Tune does on so many workers: another suggestion waits while they are busy, a rung's report is
    judged when it comes, and a stopped trial frees its worker at once.
    """
    searcher = searcher or OptunaSearcher(space, capacity=lambda: workers)
    scheduler = scheduler or make_asha(space)
    told, rungs = Replay(), space.rungs()
    at = [trials.steps.index(rung) for rung in rungs]
    waiting: deque[SimpleNamespace] = deque()
    due: list[tuple[float, int, int, SimpleNamespace]] = []
    suggested, clock, busy, is_over = 0, 0.0, 0, False
    while True:
        while not is_over and suggested < space.budget.trials:
            point = searcher.suggest(str(suggested))
            if not isinstance(point, dict):
                is_over = point is not None
                break
            metric, seconds = trials.look_up([point])
            trial = SimpleNamespace(trial_id=str(suggested), metric=metric[0][at], seconds=seconds[0][at])
            waiting.append(trial)
            suggested += 1
        while waiting and busy < workers:
            trial = waiting.popleft()
            scheduler.on_trial_add(None, trial)
            heapq.heappush(due, (clock + trial.seconds[0], int(trial.trial_id), 0, trial))
            busy += 1
        if not due:
            return told
        clock, number, rung, trial = heapq.heappop(due)
        result = {space.metric: float(trial.metric[rung]), "training_step": rungs[rung]}
        stops = scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
        is_full = rung == len(rungs) - 1
        if not (stops or is_full):
            searcher.on_trial_result(trial.trial_id, result)
            heapq.heappush(due, (clock + trial.seconds[rung + 1] - trial.seconds[rung], number, rung + 1, trial))
            continue
        searcher.on_trial_complete(trial.trial_id, result)
        busy -= 1
        told.ended = clock
        told.steps += rungs[rung]
        told.worker_seconds += float(trial.seconds[rung])
        if is_full:
            told.curve.append((clock, max(told.best, result[space.metric])))
