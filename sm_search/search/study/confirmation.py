"""The best trials of a finished search trained again with other seeds: is the winner a lucky one?"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sm_search.config.base import content_hash
from sm_search.search.driver_callback import DriverCallback
from sm_search.search.space.space import Space
from sm_search.search.study.ending import Spending, Spent
from sm_search.search.study.experiment import Experiment, fit
from sm_search.search.study.recording import Announce
from sm_search.search.study.study import Study
from sm_search.search.study.trial import run_confirmation
from sm_search.search.study.trial_summary import TrialSummary, ranked
from sm_search.tracking.records import metric_history
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store

CONFIRMATION = "confirmation"


def confirmation_points(space: Space, complete: Sequence[TrialSummary]) -> list[dict[str, Any]]:
    """Which trials are trained again with which seed offset; empty if the budget asks for none."""
    confirm = space.budget.confirm
    if confirm is None:
        return []
    return [
        {"trial_id": trial.trial_id, "seed": seed, "params": trial.params}
        for trial in complete[: confirm.best]
        for seed in range(1, confirm.seeds + 1)
    ]


def confirmation_name(points: Sequence[dict[str, Any]]) -> str:
    """Its experiment: other points are another one."""
    return f"{CONFIRMATION}-{content_hash(list(points))[:8]}"


class ConfirmationCallback(DriverCallback):
    """Announces each training that ends."""

    def __init__(self, metric: str, total: int, announce: Announce | None) -> None:
        self.metric, self.total, self.announce = metric, total, announce

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.announce is None:
            return
        ended = 1 + sum(other.is_finished() for other in trials if other is not trial)
        result, point = trial.last_result or {}, trial.config["point"]
        shown = result.get("error") or f"{self.metric} {result[self.metric]:.4g}"
        self.announce(f"seed {point['seed']} of trial {point['trial_id']} ({ended}/{self.total}): {shown}")


class Confirmation:
    """The best trials of a search trained again, if the budget asks for that.

    Attributes:
        results: as Ray Tune has them.
    """

    def __init__(self, study: Study, complete: Sequence[TrialSummary]) -> None:
        self.study = study
        self.points = confirmation_points(study.space, complete)
        self.results: list[tune.Result] = []

    def run(self) -> None:
        """Train them, or what is left of them where that was begun."""
        study, space = self.study, self.study.space
        if not self.points:
            return
        spent = Spent(study.folder, space.budget.cost_per_hour)
        callbacks: list[tune.Callback] = [
            Spending(spent),
            ConfirmationCallback(space.metric, len(self.points), study.announce),
        ]
        name, grid = confirmation_name(self.points), {"point": tune.grid_search(self.points)}
        experiment = Experiment(name, study, run_confirmation, callbacks, param_space=grid)
        tuner = experiment.restore() if study.resume else None
        self.results = fit(tuner or experiment.begin(), study)

    def ranked(self, trials: Sequence[TrialSummary]) -> list[TrialSummary]:
        """The trials of the search, best first, now that it is known which of them are."""
        return ranked(self.study.space, with_spread(self.study.space, trials, self.results))


def with_spread(space: Space, trials: Sequence[TrialSummary], results: Sequence[tune.Result]) -> list[TrialSummary]:
    """Trials with `<metric>_mean`, `<metric>_std` (sample standard deviation) and `seeds` in their metrics.

    All seeds count, that of the search included. A trial of which one seed failed gets none: it is not confirmed.
    """
    values: dict[str, dict[int, float | None]] = {}
    for result in results:
        point, last = (result.config or {})["point"], result.metrics or {}
        whole = not result.error and last.get("training_step") == space.training_steps() and "error" not in last
        values.setdefault(point["trial_id"], {})[point["seed"]] = last[space.metric] if whole else None
    confirmed = []
    for trial in trials:
        others = values.get(trial.trial_id)
        if others and None not in others.values():
            every = [trial.metrics[space.metric], *(float(others[seed] or 0.0) for seed in sorted(others))]
            mean, deviation = statistics.fmean(every), statistics.stdev(every)
            spread = {f"{space.metric}_mean": mean, f"{space.metric}_std": deviation, "seeds": float(len(every))}
            trial = replace(trial, metrics={**trial.metrics, **spread}, seeds=tuple(every))
        confirmed.append(trial)
    return confirmed


def log_spread(log: StudyLog, store: Store, run_id: str, metric: str, trial: TrialSummary) -> None:
    """The value of each seed over its number, and mean and deviation, with the trial's run."""
    if not trial.seeds or metric_history(store, run_id, f"{metric}_mean"):
        return
    for seed, value in enumerate(trial.seeds):
        log.log_metrics(trial.trial_id, seed, {f"seed_{metric}": value})
    names = (f"{metric}_mean", f"{metric}_std", "seeds")
    log.log_metrics(trial.trial_id, len(trial.seeds), {name: trial.metrics[name] for name in names})
