"""The result of a study: its trials in order, its Pareto front, and how it is kept."""

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune

from sm_search.config.errors import TrackingError
from sm_search.data.atomic import atomic_path
from sm_search.evaluation.scores import sign
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.search.pareto import pareto_front
from sm_search.search.space.constraints import broken
from sm_search.search.space.space import Space
from sm_search.search.study.confirmation import log_spread
from sm_search.search.study.earlier_searches import OUTSIDE_OF_SPACE
from sm_search.search.study.ending import Spent
from sm_search.search.study.folder import RESULT_FILE
from sm_search.search.study.recording import Recorder
from sm_search.search.study.study import Study
from sm_search.search.study.trial_summary import TrialSummary
from sm_search.tracking.logged_models import REQUIRED_FILES, log_model
from sm_search.tracking.names import ENDED, FRONT_FILE, INFEASIBLE, SCHEDULES_FILE
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store

KEPT_CHECKPOINTS = 3
"""Checkpoints of the best trials that go to MLflow, as models that can be compared, registered and served."""


@dataclass(frozen=True)
class Point:
    """What one trial reaches with one schedule.

    Attributes:
        objectives: by name, in the study's order.
        schedule: None for the trial's own.
    """

    trial_id: str
    objectives: dict[str, float]
    schedule: dict[str, Any] | None
    on_front: bool


@dataclass(frozen=True)
class SweepResult:
    """A finished study.

    Attributes:
        trials: best first: by the mean over seeds where these were asked for, else by the metric.
        points: what can be had by the objectives: each trial with each schedule on its front; none where there is only
            one objective.
        repeated: suggestions that were answered from the record.
        ended: why the search ended before its trials were used up; None if it did not.
    """

    study: str
    run_id: str
    metric: str
    trials: tuple[TrialSummary, ...]
    points: tuple[Point, ...]
    repeated: int
    ended: str | None = None

    @property
    def front(self) -> list[Point]:
        """The points that no other beats in every objective."""
        return [point for point in self.points if point.on_front]

    @property
    def best(self) -> TrialSummary:
        return self.trials[0]

    @property
    def complete(self) -> list[TrialSummary]:
        """The trials that were trained to the end, best first."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def kept(self) -> list[TrialSummary]:
        """The best complete trials, whose models stay: in MLflow, and on disk for a later `--resume`."""
        return self.complete[:KEPT_CHECKPOINTS]


def points(space: Space, complete: Sequence[TrialSummary]) -> list[Point]:
    """All that a study with several objectives reached within its constraints. On its front is what no other
    beats: none is at least as good in every objective and better in one.
    """
    if not space.further_objectives:
        return []
    objectives = space.objectives()
    # A trial that searched no schedules is one point.
    candidates: list[tuple[TrialSummary, Mapping[str, Any]]] = [
        (trial, each)
        for trial in complete
        for each in trial.front or (trial.metrics,)
        if trial.infeasible != OUTSIDE_OF_SPACE and broken(space.constraints, each) is None
    ]
    values = [{name: float(each[name]) for name in objectives} for _, each in candidates]
    unbeaten = pareto_front([tuple(sign(name) * value for name, value in each.items()) for each in values])
    reached = [
        Point(trial.trial_id, value, each.get("schedule"), is_unbeaten)
        for (trial, each), value, is_unbeaten in zip(candidates, values, unbeaten, strict=True)
    ]
    return sorted(reached, key=_best_last, reverse=True)


def _best_last(point: Point) -> list[Any]:
    return [*(sign(name) * value for name, value in point.objectives.items()), point.trial_id]


def keep(result: SweepResult, study: Study, recorder: Recorder, checkpoints: Mapping[str, tune.Checkpoint]) -> None:
    """Keep a result in the study's folder, then all of it in MLflow, and close the study's runs.

    Args:
        recorder: delivers what MLflow did not take in the search.
        checkpoints: of each trial its last one.

    Raises:
        TrackingError: MLflow does not take it all.
    """
    path = study.folder / RESULT_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(as_object(result), indent=1) + "\n")
    try:
        _store(result, study, recorder, checkpoints)
    except TrackingError as error:
        lacking = ", ".join(sorted(recorder.suspects)) or "none of its trials"
        raise TrackingError(
            f"study {study.name!r}: is finished, but not all of it is in MLflow, which lacks parts of {lacking}: "
            f"{error}; the result is in {path}, and `sweep --resume` stores the rest"
        ) from None


def _store(result: SweepResult, study: Study, recorder: Recorder, checkpoints: Mapping[str, tune.Checkpoint]) -> None:
    complete, store, dataset = result.complete, study.store, study.dataset
    log = recorder.deliver(store, result.trials)
    if not dataset.missing():
        log.name_dataset(dataset.content_hash())  # it may not have been known at the start
    log.set_tag(None, ENDED, result.ended)
    runs = log.existing_trials()
    # A trial comes to its end when all of the dataset is there.
    example = dataset.read(dataset.settings.scans("train")[0], "low") if complete else None
    for trial in result.trials:
        log.set_tag(trial.trial_id, INFEASIBLE, trial.infeasible)
    for trial in result.kept:
        if not _is_there(checkpoints[trial.trial_id]):
            continue  # it was not among the best before the study was revised, and nobody kept it
        run_id = runs[trial.trial_id].run_id
        _store_checkpoint(log, store, trial.trial_id, run_id, checkpoints[trial.trial_id], example)
    for trial in complete:
        log_spread(log, store, runs[trial.trial_id].run_id, result.metric, trial)
        if result.points:
            on_front = {"on_front": float(any(point.trial_id == trial.trial_id for point in result.front))}
            log.log_metrics(trial.trial_id, int(trial.metrics["training_step"]), on_front)
    if result.points:
        log.log_text(None, json.dumps([asdict(point) for point in result.points], indent=1), FRONT_FILE)
    if complete:
        best = {f"best_{result.metric}": complete[0].metrics[result.metric]}
        spent = Spent(study.folder, {})
        best |= {"spent_trial_hours": spent.hours, "spent_cost": spent.cost}
        counts = {"trials_complete": len(complete), "trials": len(result.trials), "trials_repeated": result.repeated}
        log.log_metrics(None, len(complete), {**best, **counts})
    log.finish("complete" if complete else "failed")


def drop_checkpoints(results: Sequence[tune.Result], kept: Collection[str] = ()) -> None:
    """Delete the checkpoints of a finished experiment, which nobody reads again: all but the last of the trials in
    `kept`, and those of failed trials, which `--resume` tries again.
    """
    for result in results:
        if result.error:
            continue
        last = result.checkpoint if Path(result.path).name in kept else None
        for checkpoint, _ in result.best_checkpoints or ():
            if last is None or checkpoint.path != last.path:
                # Gone already where a finished study is resumed.
                with suppress(OSError):
                    checkpoint.filesystem.delete_dir(checkpoint.path)


def _is_there(checkpoint: tune.Checkpoint) -> bool:
    return bool(checkpoint.filesystem.get_file_info(checkpoint.path).type != pyarrow.fs.FileType.NotFound)


def _store_checkpoint(
    log: StudyLog, store: Store, trial_id: str, run_id: str, checkpoint: tune.Checkpoint, example: SystemMatrix | None
) -> None:
    """Store the model of a trial, and the schedules that it tried; the optimiser's state stays behind."""
    with checkpoint.as_directory() as folder, tempfile.TemporaryDirectory() as model:
        if Path(folder, SCHEDULES_FILE).is_file():
            log.log_file(trial_id, Path(folder, SCHEDULES_FILE))
        for name in REQUIRED_FILES:
            shutil.copy(Path(folder, name), model)
        log_model(store, run_id, Path(model), example)


def as_object(result: SweepResult) -> dict[str, Any]:
    """A result as JSON."""
    trials = [
        {
            "trial_id": t.trial_id,
            "state": t.state,
            "params": t.params,
            "metrics": t.metrics,
            "error": t.error,
            "infeasible": t.infeasible,
        }
        for t in result.trials
    ]
    return {
        "study": result.study,
        "run_id": result.run_id,
        "metric": result.metric,
        "front": [asdict(point) for point in result.front],
        "repeated": result.repeated,
        "ended": result.ended,
        "trials": trials,
    }
