"""When a search ends before its trials are used up: its target is reached, nothing gets better, the money is spent."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from sm_search.data.atomic import atomic_path
from sm_search.evaluation.scores import sign
from sm_search.search.driver_callback import DriverCallback
from sm_search.search.space.constraints import broken
from sm_search.search.space.space import Space
from sm_search.search.study.trial_summary import TrialSummary, outcome

SPENT_FILE = "spent.json"
NOTE_EVERY_S = 2.0
ANY_NODE = "*"
SECONDS_PER_HOUR = 3600.0


class Spent:
    """What trials have taken so far: in all processes that drove the study, of all trials, also of work that was lost.

    It is counted where trials run and not by what they report, so that a killed trial costs what it cost. At most the
    last seconds before a driver's death are missing.

    Attributes:
        hours: of trials, each for itself.
        cost: by `cost_per_hour`.
    """

    def __init__(self, folder: Path, cost_per_hour: Mapping[str, float]) -> None:
        self.file, self.cost_per_hour = folder / SPENT_FILE, cost_per_hour
        noted = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.hours, self.cost = float(noted.get("hours", 0.0)), float(noted.get("cost", 0.0))
        self._noted = 0.0

    def add(self, seconds: float, labels: Mapping[str, str]) -> None:
        """One trial has run for some seconds on a node with these labels."""
        self.hours += seconds / SECONDS_PER_HOUR
        self.cost += seconds / SECONDS_PER_HOUR * hourly(self.cost_per_hour, labels)

    def note(self, now: float, *, at_once: bool = False) -> None:
        """Write it down, every few seconds."""
        if at_once or now >= self._noted + NOTE_EVERY_S:
            self._noted = now
            with atomic_path(self.file) as temporary:
                temporary.write_text(json.dumps({"hours": self.hours, "cost": self.cost}) + "\n")


def hourly(cost_per_hour: Mapping[str, float], labels: Mapping[str, str]) -> float:
    """The price of an hour on a node: of the first `label=value` that it has, else that of any node."""
    fits = (
        price for name, price in cost_per_hour.items() if name in {f"{key}={value}" for key, value in labels.items()}
    )
    return next(fits, cost_per_hour.get(ANY_NODE, 0.0))


def reason_to_end(space: Space, values: Sequence[float | None], spent: Spent) -> str | None:
    """Why a search ends, if it does.

    Args:
        values: the metric of each finished trial in the order in which they ended; None where it cannot win.
    """
    stop, better = space.budget.stop, sign(space.metric)
    if space.budget.cost is not None and spent.cost >= space.budget.cost:
        return f"{spent.cost:.4g} are spent, of {space.budget.cost:g}"
    ahead = [better * value for value in values if value is not None]
    if stop is None or not ahead:
        return None
    best = better * max(ahead)
    if stop.target is not None and better * (best - stop.target) >= 0:
        return f"{space.metric} {best:.4g} reaches the target, {stop.target:g}"
    if stop.plateau is not None:
        earlier = [better * value for value in values[: -stop.plateau.trials] if value is not None]
        if earlier and max(ahead) - max(earlier) <= stop.plateau.gain:
            gained = f"the last {stop.plateau.trials} trials gained no more than {stop.plateau.gain:g}"
            return f"{gained} in {space.metric} over {better * max(earlier):.4g}"
    return None


class Spending(DriverCallback):
    """Counts what the trials of an experiment take."""

    def __init__(self, spent: Spent) -> None:
        self.spent = spent
        self._seen = time.monotonic()
        self._labels: dict[str, Mapping[str, str]] = {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        now = time.monotonic()
        seconds, self._seen = now - self._seen, now
        for trial in trials:
            if trial.status == Trial.RUNNING:
                self.spent.add(seconds, self._labels_of(trial) if self.spent.cost_per_hour else {})
        self.spent.note(now)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self.spent.note(time.monotonic(), at_once=True)

    def _labels_of(self, trial: Trial) -> Mapping[str, str]:
        address = str((trial.last_result or {}).get("node_ip", ""))
        if address not in self._labels:
            found = {node["NodeManagerAddress"]: node.get("Labels") or {} for node in ray.nodes()}
            self._labels[address] = found.get(address, next(iter(found.values()), {}))
        return self._labels[address]


class Ending(Spending):
    """Ends a search by the rules of its budget.

    Attributes:
        reason: why it ended before its trials were used up; None if it did not.
    """

    def __init__(self, space: Space, spent: Spent, before: Sequence[TrialSummary]) -> None:
        super().__init__(spent)
        self.space = space
        self.before = [_value(space, trial.state, trial.metrics, trial.infeasible) for trial in before]
        self.reason: str | None = None

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        super().on_step_end(iteration, trials, **info)
        if self.reason is None and (self.space.budget.stop or self.space.budget.cost):
            self._look([trial.last_result or {} for trial in trials if trial.is_finished()])

    def settle(self, results: Sequence[tune.Result]) -> None:
        """Of a search that is over and was resumed: why it had ended, if it was by the rules."""
        reports = [result.metrics for result in results if result.metrics and "training_step" in result.metrics]
        if self.reason is None and len(self.before) + len(reports) < self.space.budget.trials:
            self._look(reports)

    def _look(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Args:
        reports: the last one of each trial that ended.
        """
        in_order = sorted(reports, key=lambda report: float(report.get("timestamp", 0)))
        space, constraints = self.space, self.space.constraints
        values = [_value(space, outcome(each, space), each, broken(constraints, each)) for each in in_order]
        self.reason = reason_to_end(space, [*self.before, *values], self.spent)


class EndWith(tune.Stopper):
    """Ends Tune's experiment when an `Ending` has a reason, as its time limit would."""

    def __init__(self, ending: Ending | None) -> None:
        self.ending = ending

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.ending is not None and self.ending.reason is not None

    def __reduce__(self) -> tuple[type["EndWith"], tuple[None]]:
        # Ray pickles it with the experiment; a restored one gets another.
        return EndWith, (None,)


def _value(space: Space, state: str, metrics: Mapping[str, Any], infeasible: str | None) -> float | None:
    return float(metrics[space.metric]) if state == "complete" and infeasible is None else None
