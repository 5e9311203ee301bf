"""The sweep: Ray Tune, Optuna and ASHA over the outer level, every result in MLflow, resumable after any death.

It opens the study (`study.py`), builds the search or restores it, runs it (`experiment.py`), confirms the best trials,
and keeps the result (`result.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ray import tune
from ray.exceptions import RayActorError

from sm_search.compute.nodes import capacity
from sm_search.compute.ray_internals import scheduler, search_algorithm
from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.data.storage import absolute
from sm_search.search.schedule.good_schedules import GoodSchedules
from sm_search.search.space.space import Space
from sm_search.search.space.tree import parameter_names
from sm_search.search.study.asha import make_asha
from sm_search.search.study.confirmation import (
    ConfirmationCallback,
    confirmation_name,
    confirmation_points,
    with_spread,
)
from sm_search.search.study.experiment import TRIAL_RETRIES, Experiment, fit
from sm_search.search.study.folder import note_study
from sm_search.search.study.gpu_share import placed
from sm_search.search.study.recording import Announce, Recorder, Watch
from sm_search.search.study.result import SweepResult, drop_checkpoints, keep, ranked, sweep_result
from sm_search.search.study.searcher import OptunaSearcher
from sm_search.search.study.study import Study, open_log, open_study
from sm_search.search.study.trial import TrialContext, run_confirmation, run_trial
from sm_search.search.study.trial_summary import TrialSummary, summary
from sm_search.search.study.warm_start import earlier_trials
from sm_search.search.study.while_simulating import StallWatch
from sm_search.tracking.records import metric_history
from sm_search.tracking.runs import StudyLog

SEARCH = "tune"


def sweep(
    space: Space,
    data: str | Path,
    *,
    home: Path,
    tracking_uri: str | None = None,
    storage: str | None = None,
    resume: bool = False,
    while_simulating: bool = False,
    announce: Announce = lambda line: None,
    watch: Watch | None = None,
) -> SweepResult:
    """Run a study on the running Ray session, or continue it.

    Args:
        home: folder of the local state: `mlflow.db`, `artifacts/`, `studies/<name>/`.
        storage: folder or URI for Ray Tune's files, which every node must reach; by default under `home`.
        while_simulating: take a dataset that another process still simulates: each trial begins when its own files are
            there, and reports its full budget when all are.
        announce: called with one line for every finished trial.
        watch: called with where the search stands after each event.

    Raises:
        InputError: the study exists and `resume` is false, or it does not and `resume` is true, or its space or dataset
            is not the one it began with, or another process runs it, or not one trial came to its end, or the disk is
            full, or Ray went away, or a node of the session does not see data or storage, or the simulation stalled.
        TrackingError: MLflow does not take the result; it is kept, and a resumed study delivers it.
        KeyboardInterrupt: Ctrl-C, or SIGTERM in a `ray_session`; the study's runs are closed, as the message says.
    """
    dataset = Dataset.open(data, complete=not while_simulating)
    with open_study(space, dataset, home, storage, tracking_uri, resume, announce) as study:
        space = placed(space, dataset, study.store, resume, announce)
        if not resume:
            note_study(space, dataset, home, storage)
        with open_log(space, study) as log:
            search = _run_search(space, study, log, watch)
            if search.complete and dataset.missing():
                # A trial that came to its end saw all files; this process may not have looked since.
                dataset = Dataset.open(data)
                study = replace(study, dataset=dataset)
            confirmed = _confirm(space, study, search.complete)
            result = sweep_result(space, log.run_id, with_spread(space, search.trials, confirmed), search.repeated)
            keep(result, space, study, search.suspects, search.checkpoints)
            drop_checkpoints(search.results, {trial.trial_id for trial in result.kept})
            drop_checkpoints(confirmed)
        if not result.complete:
            reason = next((trial.error for trial in result.trials if trial.error), "the time budget was too short")
            raise InputError(f"study {space.study}: none of {len(result.trials)} trials came to its end: {reason}")
        if while_simulating:
            note_study(space, dataset, home, storage)
    return result


@dataclass(frozen=True)
class _Search:
    """A search that came to its end.

    Attributes:
        suspects: trials of which MLflow may lack something.
        repeated: suggestions that were answered from the record.
    """

    results: list[tune.Result]
    trials: list[TrialSummary]
    suspects: set[str]
    repeated: int

    @property
    def complete(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def checkpoints(self) -> dict[str, tune.Checkpoint]:
        return {Path(result.path).name: result.checkpoint for result in self.results}


def _run_search(space: Space, study: Study, log: StudyLog, watch: Watch | None) -> _Search:
    """Run the search, or the rest of it where it was begun."""
    for attempt in range(1 + TRIAL_RETRIES):
        is_begun = study.resume or attempt > 0
        recorder = Recorder(log, space, study.announce, watch, resumed=is_begun)
        callbacks: list[tune.Callback] = [GoodSchedules(study.place, space.metric), recorder]
        if study.dataset.missing():
            callbacks.append(StallWatch(study.dataset))
        experiment = Experiment(SEARCH, study, run_trial, _context(space, study), space.resources, callbacks)
        tuner = _restored(space, study, experiment, recorder) if is_begun else None
        tuner = tuner or _begun(space, study, experiment, log)
        results = fit(tuner, study, recorder)
        if attempt == TRIAL_RETRIES or not any(isinstance(result.error, RayActorError) for result in results):
            break
        # Ray does not try again where a worker died while it was being prepared for its trial.
        study.announce("a worker died before its trial began: it is run again")
    trials = ranked(space, [summary(result, space) for result in results])
    return _Search(results, trials, recorder.suspects, search_algorithm(tuner).repeated)


def _begun(space: Space, study: Study, experiment: Experiment, log: StudyLog) -> tune.Tuner:
    earlier = earlier_trials(study.store, space, study.dataset.content_hash(), space.warm_start)
    if space.warm_start:
        observed, initial = len(earlier.observations), len(earlier.initial_points)
        log.log_metrics(None, 0, {"warm_observations": float(observed), "warm_guesses": float(initial)})
        study.announce(
            f"warm start from {', '.join(space.warm_start)}: {observed} finished trials as observations, "
            f"{initial} as initial points"
        )
    fits = partial(capacity, space.resources.cpus, space.resources.gpu_share)
    return experiment.begin(
        search_alg=OptunaSearcher(space, earlier, fits),
        scheduler=make_asha(space),
        num_samples=space.budget.trials if parameter_names(space.outer_tree()) else 1,
        time_budget_s=60 * space.budget.minutes if space.budget.minutes else None,
    )


def _restored(space: Space, study: Study, experiment: Experiment, recorder: Recorder) -> tune.Tuner | None:
    """The tuner of a search that was begun, whose scheduler knows what its trials had reported; None if it was not."""
    tuner = experiment.restore()
    if tuner is not None:
        for trial_id, record in recorder.stored.items():
            reports = metric_history(study.store, record.run_id, space.metric)
            scheduler(tuner).remember(trial_id, reports, stopped=record.state == "pruned")
    return tuner


def _confirm(space: Space, study: Study, complete: Sequence[TrialSummary]) -> list[tune.Result]:
    """Train the best again with other seeds if the budget asks for that; an interrupted call resumes."""
    points = confirmation_points(space, complete)
    if not points:
        return []
    callbacks = [ConfirmationCallback(space.metric, len(points), study.announce)]
    confirmation = Experiment(
        confirmation_name(points),
        study,
        run_confirmation,
        _context(space, study),
        space.resources,
        callbacks,
        {"point": tune.grid_search(points)},
    )
    tuner = confirmation.restore() if study.resume else None
    return fit(tuner or confirmation.begin(), study)


def _context(space: Space, study: Study) -> TrialContext:
    dataset = study.dataset
    return TrialContext(
        space.model_dump_json(), absolute(dataset.location), dataset.content_hash(), absolute(study.place)
    )
