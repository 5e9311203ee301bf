"""The sweep: Ray Tune, Optuna and ASHA over the outer level, every result in MLflow, resumable after any death."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune.error import TuneError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from sm_search.compute.nodes import require_shared, room
from sm_search.compute.session import interrupted_gently
from sm_search.config.errors import DataError, InputError, TrackingError
from sm_search.data.dataset import Dataset
from sm_search.data.storage import absolute, is_uri
from sm_search.search.schedule.good_schedules import GoodSchedules
from sm_search.search.space.space import Space
from sm_search.search.space.tree import fixed_values, parameter_names
from sm_search.search.study.asha import make_asha
from sm_search.search.study.confirmation import (
    ConfirmationCallback,
    confirmation_name,
    confirmation_points,
    with_spread,
)
from sm_search.search.study.folder import (
    check_study,
    environment_tags,
    note_study,
    only_driver,
    storage_folder,
    study_folder,
)
from sm_search.search.study.gpu_share import GPUS_TAG, first_gpus, placed
from sm_search.search.study.recording import DISK_FAULTS, Announce, Recorder, Watch
from sm_search.search.study.replacing_files import replacing_files
from sm_search.search.study.result import RESULT_FILE, SweepResult, drop_checkpoints, keep, points, ranked
from sm_search.search.study.searcher import TruthfulOptunaSearch
from sm_search.search.study.trial import TrialContext, run_confirmation, run_trial
from sm_search.search.study.trial_summary import TrialSummary, summary
from sm_search.search.study.warm_start import Knowledge, earlier_knowledge
from sm_search.search.study.while_simulating import StallWatch
from sm_search.tracking.records import metric_history
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store

EXPERIMENT = "tune"
TRIAL_RETRIES = 3

# Tune hands these to its workers through Ray, which writes them into its logs. A node has its own.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)


@dataclass(frozen=True)
class _Study:
    """What the stages of one study share."""

    space: Space
    dataset: Dataset
    folder: Path
    store: Store
    storage: str | None
    announce: Announce

    @property
    def place(self) -> str:
        """Where Ray Tune keeps its files."""
        return storage_folder(self.storage, self.space.study) if self.storage else str(self.folder)

    @property
    def files(self) -> pyarrow.fs.FileSystem | None:
        """None for a URI, which Ray resolves; objects in S3 appear whole anyway."""
        return None if "://" in self.place else replacing_files()

    @property
    def context(self) -> TrialContext:
        data, place = absolute(self.dataset.location), absolute(self.place)
        return TrialContext(self.space.model_dump_json(), data, self.dataset.content_hash(), place)

    def trainable(self, function: Any) -> Any:
        resources = {"cpu": self.space.resources.cpus, "gpu": self.space.resources.gpu_share}
        return tune.with_resources(tune.with_parameters(function, context=self.context), resources)

    def run_config(self, name: str, callbacks: list[tune.Callback]) -> tune.RunConfig:
        # All checkpoints of a trial are kept, one a rung: to delete the last but one would, for a moment, leave Tune's
        # snapshot of the study with a checkpoint that is gone, and a death in that moment would cost the trial.
        return tune.RunConfig(
            name=name,
            storage_path=self.place,
            storage_filesystem=self.files,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            callbacks=callbacks,
        )

    def restored(
        self, name: str, trainable: Any, callbacks: list[tune.Callback], points: Mapping[str, Any] | None = None
    ) -> tune.Tuner | None:
        """The tuner of an experiment that was begun, to continue; None if it was not."""
        path = f"{self.place}/{name}"
        if not tune.Tuner.can_restore(path, storage_filesystem=self.files):
            return None
        tuner = tune.Tuner.restore(
            path,
            trainable,
            resume_unfinished=True,
            resume_errored=True,
            param_space=points or {},
            storage_filesystem=self.files,
        )
        # Ray restores the callbacks of the dead driver, which write to nowhere.
        tuner._local_tuner._run_config.callbacks = callbacks
        return tuner


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
        announce: is told of every finished trial in one line.
        watch: is told where the search stands after each event.

    Raises:
        InputError: the study exists and `resume` is false, or it does not and `resume` is true, or its space or dataset
            is not the one it began with, or another process runs it, or not one trial came to its end, or the disk is
            full, or Ray went away, or a node of the session does not see data or storage, or the simulation stalled.
        TrackingError: MLflow does not take the result; it is kept, and a resumed study delivers it.
        KeyboardInterrupt: Ctrl-C, or SIGTERM in a `ray_session`; the study's runs are closed, as the message says.
    """
    dataset = Dataset.open(data, complete=not while_simulating)
    check_study(space, dataset, home, resume, storage)
    folder = study_folder(home, space.study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_driver(folder, space.study):
            for option, place in (("--data", dataset.location), ("--storage", storage or folder)):
                require_shared(option, place, space.resources.cpus, first_gpus(space.resources))
            store = open_store(home, tracking_uri)
            space = placed(space, dataset, store, resume, announce)
            if not resume:
                note_study(space, dataset, home, storage)
            told = _drive(_Study(space, dataset, folder, store, storage, announce), resume, watch)
            if while_simulating:
                note_study(space, Dataset.open(data), home, storage)
            return told
    except OSError as error:
        # A bucket's faults have no number.
        remote = storage if storage and is_uri(storage) and error.errno is None else None
        if error.strerror not in DISK_FAULTS and not remote:
            raise
        what = " ".join(str(error.strerror or error).split())
        raise _stopped(space, f"{error.filename or remote or folder}: {what}") from None


def _stopped(space: Space, why: str) -> InputError:
    return InputError(f"study {space.study!r}: stopped: {why}; once that is mended, `sweep --resume` continues it")


def _drive(study: _Study, resume: bool, watch: Watch | None) -> SweepResult:
    space, store = study.space, study.store
    tags = {
        "dataset": study.dataset.settings.name,
        "dataset_source": absolute(study.dataset.location),
        GPUS_TAG: f"{space.resources.gpu_share:g}",
        **environment_tags(),
    }
    missing, files = study.dataset.missing(), study.dataset.expected()
    if missing:
        there = len(files) - len(missing)
        study.announce(f"{there} of {len(files)} files are simulated; each trial waits for those that it needs")
    else:
        tags["dataset_hash"] = study.dataset.content_hash()
    params = {"mode": space.mode, "seed": space.seed, "metric": space.metric, "budget": space.budget.model_dump()}
    params["fixed"] = fixed_values(space.training)
    if space.beside:
        params["objectives"] = space.objectives()
    log = StudyLog.open(store, space.study, tags=tags, params=params)
    try:
        log.log_text(None, json.dumps(space.model_dump(mode="json"), indent=1), "space.json")
        return _completed(study, log, resume, watch)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_close(space, log)) from None


def _close(space: Space, log: StudyLog) -> str:
    """Leave no run RUNNING after an interruption; what to tell the user."""
    told = f"study {space.study!r}: interrupted"
    try:
        log.finish("interrupted")
    except TrackingError as error:
        return f"{told}, and not all of its runs are closed: {error}; `sweep --resume` continues it"
    return f"{told}, its runs are closed; `sweep --resume` continues it"


def _completed(study: _Study, log: StudyLog, resume: bool, watch: Watch | None) -> SweepResult:
    space = study.space
    recorder, tuner, results = _searched(study, log, watch, resume)
    for _ in range(TRIAL_RETRIES):
        if not any(isinstance(result.error, RayActorError) for result in results):
            break
        # Ray does not try again where a worker died while it was being prepared for its trial.
        study.announce("a worker died before its trial began: it is run again")
        recorder, tuner, results = _searched(study, log, watch, resume=True)
    trials, confirmed = [summary(result, space) for result in results], []
    complete = ranked(space, [trial for trial in trials if trial.state == "complete"])
    if complete and study.dataset.missing():
        # A trial that came to its end saw all files; this process may not have looked since.
        study = replace(study, dataset=Dataset.open(study.dataset.location))
    if complete and space.budget.confirm:
        confirmed = _confirm(study, complete, resume)
        trials = with_spread(space, trials, confirmed)
    searcher = tuner._local_tuner._tune_config.search_alg
    told = SweepResult(
        study=space.study,
        run_id=log.run_id,
        metric=space.metric,
        trials=tuple(ranked(space, trials)),
        points=tuple(points(space, complete)),
        repeated=searcher.repeated,
    )
    checkpoints = {Path(result.path).name: result.checkpoint for result in results}
    keep(told, space, study.store, study.folder / RESULT_FILE, recorder.suspects, checkpoints, study.dataset)
    drop_checkpoints(results, {trial.trial_id for trial in told.kept})
    drop_checkpoints(confirmed)
    if not complete:
        reason = next((trial.error for trial in trials if trial.error), "the time budget was too short")
        raise InputError(f"study {space.study}: none of {len(trials)} trials came to its end: {reason}")
    return told


def _searched(
    study: _Study, log: StudyLog, watch: Watch | None, resume: bool
) -> tuple[Recorder, tune.Tuner, list[tune.Result]]:
    recorder = Recorder(log, study.space, study.announce, watch, resumed=resume)
    tuner = _search(study, log, recorder, resume)
    return recorder, tuner, _fit(study.space, tuner, recorder)


def _fit(space: Space, tuner: tune.Tuner, recorder: Recorder | None = None) -> list[tune.Result]:
    try:
        # Ray tells of dead workers and nodes on stdout, which belongs to our result; `Recorder` tells it in one line.
        with contextlib.redirect_stdout(io.StringIO()), interrupted_gently():
            return _begun(tuner.fit())
    except DataError as error:
        raise _stopped(space, str(error)) from None
    except (TuneError, RayError) as error:
        if recorder is not None and recorder.disk_fault:
            raise _stopped(space, f"a trial could not write: {recorder.disk_fault}") from None
        if isinstance(error, RayError):
            raise _stopped(space, f"Ray went away: {str(error).splitlines()[0]}") from None
        raise


def _begun(grid: tune.ResultGrid) -> list[tune.Result]:
    """The results of all trials but those that still waited for their turn when the time was up.

    Each with its settings, which Ray gives only where something was reported.
    """
    begun = []
    for result, trial in zip(grid, grid._experiment_analysis.trials, strict=True):
        if trial.run_metadata.start_time is not None or result.error:
            result.metrics = {"config": trial.config, **(result.metrics or {})}
            begun.append(result)
    return begun


def _search(study: _Study, log: StudyLog, recorder: Recorder, resume: bool) -> tune.Tuner:
    space = study.space
    trainable = study.trainable(run_trial)
    callbacks: list[tune.Callback] = [GoodSchedules(study.place, space.metric), recorder]
    if study.dataset.missing():
        callbacks.append(StallWatch(study.dataset))
    tuner = study.restored(EXPERIMENT, trainable, callbacks) if resume else None
    if tuner is not None:
        scheduler = tuner._local_tuner._tune_config.scheduler
        for trial_id, record in recorder.known.items():
            results = metric_history(study.store, record.run_id, space.metric)
            scheduler.remember(trial_id, results, stopped=record.state == "pruned")
        return tuner
    known = earlier_knowledge(study.store, space, study.dataset.content_hash(), space.warm_start)
    if space.warm_start:
        _tell_warm_start(study, log, known)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=TruthfulOptunaSearch(
                space, known, partial(room, space.resources.cpus, space.resources.gpu_share)
            ),
            scheduler=make_asha(space),
            num_samples=space.budget.trials if parameter_names(space.outer_tree()) else 1,
            max_concurrent_trials=space.resources.concurrent,
            time_budget_s=60 * space.budget.minutes if space.budget.minutes else None,
            reuse_actors=True,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=study.run_config(EXPERIMENT, callbacks),
    )


def _tell_warm_start(study: _Study, log: StudyLog, known: Knowledge) -> None:
    counts = {"warm_observations": float(len(known.observations)), "warm_guesses": float(len(known.guesses))}
    log.log_metrics(None, 0, counts)
    study.announce(
        f"warm start from {', '.join(study.space.warm_start)}: {len(known.observations)} finished trials as "
        f"observations, {len(known.guesses)} as first guesses"
    )


def _confirm(study: _Study, complete: Sequence[TrialSummary], resume: bool) -> list[tune.Result]:
    """Train the best again with other seeds; an interrupted call resumes."""
    points = confirmation_points(study.space, complete)
    name, grid = confirmation_name(points), {"point": tune.grid_search(points)}
    callbacks: list[tune.Callback] = [ConfirmationCallback(study.space.metric, len(points), study.announce)]
    trainable = study.trainable(run_confirmation)
    tuner = study.restored(name, trainable, callbacks, grid) if resume else None
    if tuner is None:
        tuner = tune.Tuner(
            trainable,
            param_space=grid,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=study.space.resources.concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_id,
                trial_dirname_creator=_trial_id,
            ),
            run_config=study.run_config(name, callbacks),
        )
    return _fit(study.space, tuner)


def _trial_id(trial: Trial) -> str:
    return str(trial.trial_id)
