"""What is known of a trial when it has ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from sm_search.evaluation.scores import COSTS, SCORES, sign
from sm_search.search.space.constraints import broken
from sm_search.search.space.space import Space
from sm_search.tracking.runs import TrialState

METRICS = (*SCORES, *COSTS, "training_step", "training_seconds", "validation_seconds", "images_per_second")

NO_RUNG = "the search was over before its first rung"
MAX_REASON = 500


@dataclass(frozen=True)
class TrialSummary:
    """One finished trial.

    Attributes:
        reports: what it reported at each rung.
        seeds: the metric with each seed if it was confirmed.
        front: its schedules that no other one of it beats, in a study with several objectives.
        infeasible: why it cannot win, if it cannot.
    """

    trial_id: str
    state: TrialState
    params: dict[str, Any]
    metrics: dict[str, float]
    error: str | None
    reports: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    seeds: tuple[float, ...] = ()
    front: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    infeasible: str | None = None


def outcome(result: Mapping[str, Any], space: Space) -> TrialState:
    """How a trial ended, from its last report."""
    if "error" in result or space.metric not in result:
        return "failed"
    return "complete" if result["training_step"] == space.training_steps() else "pruned"


def last_line(text: str) -> str:
    """Where a traceback says what happened; empty for no text."""
    lines = text.strip().splitlines()
    return lines[-1].strip()[:MAX_REASON] if lines else ""


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a report that belong in MLflow."""
    return {name: float(result[name]) for name in METRICS if name in result}


def summary(result: tune.Result, space: Space) -> TrialSummary:
    """One trial as Tune's snapshot has it."""
    last = result.metrics or {}
    state: TrialState = "failed" if result.error else outcome(last, space)
    error = last_line(str(result.error)) if result.error else last.get("error")
    if state == "failed" and error is None:
        error = NO_RUNG
    reports = sorted((report for _, report in result.best_checkpoints), key=lambda report: report["training_step"])
    return TrialSummary(
        trial_id=Path(result.path).name,
        state=state,
        params=dict(result.config or {}),
        metrics={} if state == "failed" else numbers(last),
        error=error,
        reports=tuple(reports),
        front=tuple(last.get("schedule_front", ())),
        infeasible=broken(space.constraints, last) if state == "complete" else None,
    )


def ranked(space: Space, trials: Sequence[TrialSummary]) -> list[TrialSummary]:
    """Complete trials first; of these those that may win, then confirmed ones, by their mean or the metric."""
    order = {"complete": 0, "pruned": 1, "failed": 2}
    mean = f"{space.metric}_mean"

    def key(trial: TrialSummary) -> tuple[int, bool, bool, float, str]:
        value = sign(space.metric) * trial.metrics.get(mean, trial.metrics.get(space.metric, 0.0))
        return order[trial.state], trial.infeasible is not None, mean not in trial.metrics, -value, trial.trial_id

    return sorted(trials, key=key)
