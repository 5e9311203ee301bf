"""What a study leaves behind: every trial in MLflow as it goes, and at the end what MLflow did not take then."""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial

from sm_search.compute.ray_internals import OWNER_DIED
from sm_search.config.errors import SettingsError, TrackingError
from sm_search.evaluation.scores import sign
from sm_search.search.driver_callback import DriverCallback
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Space
from sm_search.search.study.trial_summary import NO_RUNG, TrialSummary, last_line, numbers, outcome
from sm_search.tracking.records import RunRecord, metric_history
from sm_search.tracking.runs import TRIAL_STATUS, StudyLog, TrialState
from sm_search.tracking.store import Store

ERROR_FILE = "error.txt"
HOLD_OFF_S = 20.0
"""How long a store that did not answer is left alone: each question holds up the search."""
DISK_FAULTS = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")
RAY_ENDS_S = 3.0
"""In which a search is interrupted whose Ray has lost a process."""

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """Where a search stands.

    Attributes:
        running: trial, training step and metric of each running trial; None before its first report.
        best: the best metric of a trial at the full budget.
    """

    running: tuple[tuple[str, int, float | None], ...]
    ended: int
    trials: int
    metric: str
    best: float | None


Watch = Callable[[Progress], None]


class Recorder(DriverCallback):
    """Writes every trial to MLflow as it goes, from the driver alone: workers need no tracking server.

    A store that is away does not stop the search: what it misses is delivered at the end.

    Attributes:
        suspects: trials of which the store may lack something.
        disk_fault: what a trial that could not write said; the search stops then, since all others would fail as well.
        ended: how the trials ended that did so in this process; the reason of each that failed, None of the others.
    """

    def __init__(
        self,
        log: StudyLog | None,
        space: Space,
        announce: Announce | None,
        watch: Watch | None,
        *,
        resumed: bool,
        earlier: int = 0,
    ) -> None:
        self.log = log
        self.space = space
        self.announce = announce
        self.watch = watch
        self.earlier = earlier  # trials that ended in searches before a revision
        self.stored: Mapping[str, RunRecord] = log.existing_trials() if log and resumed else {}
        # What a dead driver could not store, nobody remembers.
        self.suspects: set[str] = set(self.stored)
        self.logged: dict[str, int] = {}
        self.disk_fault: str | None = None
        self.ended: list[str | None] = []
        self._quiet_until = 0.0

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.trial_id not in self.logged:
            stored = self.stored.get(trial.trial_id)
            self.logged[trial.trial_id] = int(stored.metrics.get("training_step", 0)) if stored else 0
        self._store(trial.trial_id, lambda log: _start(log, self.space, trial.trial_id, trial.config))
        self._show(trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._show(trials)
        if "error" in result:
            return
        step, done = result["training_step"], self.logged.get(trial.trial_id, 0)
        if step <= done:
            return  # reported before the driver or the worker died
        self._store(trial.trial_id, lambda log: _report(log, trial.trial_id, result, range(done + 1)))
        self.logged[trial.trial_id] = step

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._finish(trials, trial, outcome(trial.last_result or {}, self.space))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.announce is not None:
            step = (trial.last_result or {}).get("training_step", 0)
            self.announce(f"trial {trial.trial_id} was interrupted; it goes on from training step {step}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        file = Path(trial.error_file or "")
        text = file.read_text() if file.is_file() else ""
        self.disk_fault = next((fault for fault in DISK_FAULTS if fault in text), None)
        if self.disk_fault:
            raise OSError(self.disk_fault)
        if OWNER_DIED in text:
            # The trial did not fail. The search is interrupted before Tune asks for another one in its place.
            time.sleep(RAY_ENDS_S)
            return
        self._finish(trials, trial, "failed", last_line(text) or "it ended without a word")

    def _finish(self, trials: list[Trial], trial: Trial, state: TrialState, error: str | None = None) -> None:
        result = trial.last_result or {}
        schedule = result.get("schedule")
        if state == "failed":
            error = error or result.get("error") or NO_RUNG
        self.ended.append(None if error == NO_RUNG else error)
        self._store(trial.trial_id, lambda log: _end(log, trial.trial_id, state, error, schedule))
        shown = error or f"{self.space.metric} {result[self.space.metric]:.4g}"
        if self.announce is not None:
            ended = 1 + self.earlier + sum(other.is_finished() for other in trials if other is not trial)
            self.announce(f"trial {ended}/{self.space.budget.trials} {trial.trial_id} {state}: {shown}")
        self._show(trials)

    def _store(self, trial_id: str, action: Callable[[StudyLog], object]) -> None:
        """Store now, or leave it to `deliver` if the store does not answer."""
        assert self.log is not None
        if time.monotonic() < self._quiet_until:
            self.suspects.add(trial_id)
            return
        try:
            action(self.log)
            if not self.log.pending:
                return
            reason = "does not answer"
        except TrackingError as error:
            reason = str(error)
        if not self._quiet_until and self.announce is not None:
            self.announce(f"tracking store: {reason}; the search goes on, and stores at its end what is missing")
        self.suspects.add(trial_id)
        self._quiet_until = time.monotonic() + HOLD_OFF_S

    def _show(self, trials: Sequence[Trial]) -> None:
        if self.watch is None:
            return
        results = [(trial, trial.last_result or {}) for trial in trials]
        whole = [r[self.space.metric] for t, r in results if t.is_finished() and outcome(r, self.space) == "complete"]
        running = tuple(
            (trial.trial_id, int(result.get("training_step", 0)), result.get(self.space.metric))
            for trial, result in results
            if trial.status == Trial.RUNNING
        )
        ended = self.earlier + sum(trial.is_finished() for trial in trials)
        best = (max if sign(self.space.metric) > 0 else min)(whole, default=None)
        self.watch(Progress(running, ended, self.space.budget.trials, self.space.metric, best))

    def deliver(self, store: Store, trials: Sequence[TrialSummary]) -> StudyLog:
        """Store what the store lacks of finished trials; the study's log, with nothing pending.

        Raises:
            TrackingError: the store does not answer.
        """
        log = StudyLog.attach(store, self.space.study)
        log.keep_trials({trial.trial_id for trial in trials})
        stored = log.existing_trials()
        for trial in trials:
            record = stored.get(trial.trial_id)
            settled = record if record and _is_settled(record, trial.state) else None
            if settled and trial.trial_id not in self.suspects:
                continue
            run_id = _start(log, self.space, trial.trial_id, trial.params)
            steps = {step for step, _ in metric_history(store, run_id, "training_step")}
            losses = {step for step, _ in metric_history(store, run_id, "loss")}
            for report in trial.reports:
                if report["training_step"] not in steps:
                    _report(log, trial.trial_id, report, losses)
            error = trial.error if trial.state == "failed" else None
            schedule = trial.reports[-1].get("schedule") if trial.reports else None
            _end(log, trial.trial_id, trial.state, error, schedule, settled.ended_ms if settled else None)
        if log.pending:
            raise TrackingError(f"{store.uri}: not stored: {'; '.join(log.pending[:3])}")
        return log


def _is_settled(record: RunRecord, state: TrialState) -> bool:
    return (record.state, record.status) == (state, TRIAL_STATUS[state])


def _start(log: StudyLog, space: Space, trial_id: str, params: Mapping[str, Any]) -> str:
    try:
        tags = {"backbone": training_settings(space, params).backbone.backbone}
    except (SettingsError, KeyError):
        tags = {}  # of a trial that a revised space does not hold; its run has them
    return log.start_trial(trial_id, dict(params), tags)


def _report(log: StudyLog, trial_id: str, result: Mapping[str, Any], stored_losses: Container[int]) -> None:
    losses = [(step, {"loss": loss}) for step, loss in result["losses"] if step not in stored_losses]
    log.log_points(trial_id, [*losses, (result["training_step"], numbers(result))])


def _end(
    log: StudyLog,
    trial_id: str,
    state: TrialState,
    error: str | None,
    schedule: str | None,
    ended_ms: int | None = None,
) -> None:
    log.finish_trial(trial_id, state, schedule, ended_ms)
    if error:
        log.log_text(trial_id, f"{error}\n", ERROR_FILE)
