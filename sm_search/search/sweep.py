"""The sweep: Ray Tune, Optuna and ASHA over the outer level, every result in MLflow, resumable after any death."""

import fcntl
import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sm_search.config.errors import InputError, SettingsError, SmSearchError
from sm_search.data.atomic import atomic_path
from sm_search.data.dataset import Dataset
from sm_search.data.storage import absolute
from sm_search.search.searcher import RememberingASHA, TruthfulOptunaSearch
from sm_search.search.space import Space, parameter_names
from sm_search.search.trial import TrialContext, run_trial
from sm_search.tracking.records import SCHEDULES_FILE, metric_history
from sm_search.tracking.runs import StudyLog, TrialState
from sm_search.tracking.store import Store, open_store
from sm_search.training import STATE_FILE

EXPERIMENT = "tune"
STUDY_FILE = "study.json"
LOCK_FILE = "lock"
ERROR_FILE = "error.txt"
KEPT_CHECKPOINTS = 3
"""Checkpoints of the best trials that go to MLflow."""
TRIAL_RETRIES = 3
VERSIONED = ("sm-search", "ray", "optuna", "torch", "mlflow", "numpy")

Announce = Callable[[str], None]


@dataclass(frozen=True)
class TrialSummary:
    """One finished trial."""

    trial_id: str
    state: TrialState
    params: dict[str, Any]
    metrics: dict[str, float]
    error: str | None


@dataclass(frozen=True)
class SweepResult:
    """A finished study; `trials` best first."""

    study: str
    run_id: str
    metric: str
    trials: tuple[TrialSummary, ...]

    @property
    def best(self) -> TrialSummary:
        return self.trials[0]


def sweep(
    space: Space,
    data: str | Path,
    *,
    home: Path,
    tracking_uri: str | None = None,
    storage: str | None = None,
    resume: bool = False,
    announce: Announce = lambda line: None,
) -> SweepResult:
    """Run a study on the running Ray session, or continue it.

    Args:
        home: folder of the local state: `mlflow.db`, `artifacts/`, `studies/<name>/`.
        storage: folder or URI for Ray Tune's files, which every node must reach; by default under `home`.
        announce: is told of every finished trial in one line.

    Raises:
        InputError: the study exists and `resume` is false, or it does not and `resume` is true, or its space or dataset
            is not the one it began with, or another process runs it, or not one trial came to its end.
    """
    dataset = Dataset.open(data)
    check_study(space, dataset, home, resume)
    folder = _study_folder(home, space)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_driver(folder, space.study):
        if not resume:
            with atomic_path(folder / STUDY_FILE) as temporary:
                temporary.write_text(json.dumps(_identity(space, dataset), indent=1) + "\n")
        return _drive(space, dataset, folder, open_store(home, tracking_uri), storage, resume, announce)


@contextmanager
def _only_driver(folder: Path, study: str) -> Iterator[None]:
    """One process at a time drives a study; the lock ends with the process, however that ends."""
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"study {study!r}: is being run by another process, which holds {file.name}") from None
        yield


def _drive(
    space: Space,
    dataset: Dataset,
    folder: Path,
    store: Store,
    storage: str | None,
    resume: bool,
    announce: Announce,
) -> SweepResult:
    tags = {"dataset": dataset.settings.name, "dataset_hash": dataset.content_hash(), **environment_tags()}
    params = {"mode": space.mode, "seed": space.seed, "metric": space.metric, "budget": space.budget.model_dump()}
    log = StudyLog.open(store, space.study, tags=tags, params=params)
    log.log_text(None, json.dumps(space.model_dump(mode="json"), indent=1), "space.json")
    results = _tuner(space, dataset, folder, storage, store, log, announce, resume).fit()
    return _finish(space, results, log)


def _tuner(
    space: Space,
    dataset: Dataset,
    folder: Path,
    storage: str | None,
    store: Store,
    log: StudyLog,
    announce: Announce,
    resume: bool,
) -> tune.Tuner:
    context = TrialContext(space.model_dump_json(), absolute(dataset.location), dataset.content_hash())
    resources = {"cpu": space.resources.cpus, "gpu": space.resources.gpus}
    trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), resources)
    place = f"{storage.rstrip('/')}/studies/{space.study}" if storage else str(folder)
    if resume and tune.Tuner.can_restore(f"{place}/{EXPERIMENT}"):
        tuner = tune.Tuner.restore(
            f"{place}/{EXPERIMENT}", trainable, resume_unfinished=True, resume_errored=True, param_space={}
        )
        # Ray restores the callback of the dead driver, which writes to nowhere.
        tuner._local_tuner._run_config.callbacks = [TrackingCallback(log, space, announce)]
        scheduler = tuner._local_tuner._tune_config.scheduler
        for trial_id, record in log.existing_trials().items():
            results = metric_history(store, record.run_id, space.metric)
            scheduler.remember(trial_id, results, stopped=record.state == "pruned")
        return tuner
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=TruthfulOptunaSearch(space),
            scheduler=RememberingASHA(
                time_attr="training_step",
                metric=space.metric,
                mode="max",
                max_t=space.training_steps(),
                grace_period=space.budget.first_rung,
                reduction_factor=space.budget.reduction,
            ),
            num_samples=space.budget.trials if parameter_names(space.outer_tree()) else 1,
            max_concurrent_trials=space.resources.concurrent,
            time_budget_s=60 * space.budget.minutes if space.budget.minutes else None,
            reuse_actors=True,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        # All checkpoints of a trial are kept, one a rung: to delete the last but one would, for a moment, leave Tune's
        # snapshot of the study with a checkpoint that is gone, and a death in that moment would cost the trial.
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=place,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            callbacks=[TrackingCallback(log, space, announce)],
        ),
    )


def _trial_id(trial: Trial) -> str:
    return str(trial.trial_id)


class TrackingCallback(tune.Callback):
    """Writes every trial to MLflow as it goes, from the driver alone: workers need no tracking server."""

    def __init__(self, log: StudyLog | None, space: Space, announce: Announce | None) -> None:
        self.log = log
        self.space = space
        self.announce = announce
        self.logged: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles callbacks beside the experiment; connections stay with the process that opened them.
        return {**self.__dict__, "log": None, "announce": None, "logged": {}}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        assert self.log is not None
        known = self.log.existing_trials().get(trial.trial_id)
        self.logged[trial.trial_id] = int(known.metrics.get("training_step", 0)) if known else 0
        self.log.start_trial(trial.trial_id, dict(trial.config), {"backbone": _backbone(trial.config)})

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        assert self.log is not None
        if "error" in result:
            return
        step, done = result["training_step"], self.logged.get(trial.trial_id, 0)
        if step <= done:
            return  # told before the driver died
        for loss_step, loss in result["losses"]:
            if loss_step > done:
                self.log.log_metrics(trial.trial_id, loss_step, {"loss": loss})
        self.log.log_metrics(trial.trial_id, step, numbers(result))
        self.logged[trial.trial_id] = step

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._finish(trials, trial, outcome(trial.last_result or {}, self.space))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._finish(trials, trial, "failed")

    def _finish(self, trials: list[Trial], trial: Trial, state: TrialState) -> None:
        assert self.log is not None
        self.log.finish_trial(trial.trial_id, state)
        ended = 1 + sum(other.is_finished() for other in trials if other is not trial)
        result = trial.last_result or {}
        value = result.get(self.space.metric)
        if "error" in result:
            self.log.log_text(trial.trial_id, f"{result['error']}\n", ERROR_FILE)
        shown = result.get("error") or ("no result" if value is None else f"{self.space.metric} {value:.4g}")
        if self.announce is not None:
            self.announce(f"trial {ended}/{self.space.budget.trials} {trial.trial_id} {state}: {shown}")


def outcome(result: dict[str, Any], space: Space) -> TrialState:
    """How a trial ended, from its last report."""
    if "error" in result or space.metric not in result:
        return "failed"
    return "complete" if result["training_step"] == space.training_steps() else "pruned"


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """The metrics of a report that belong in MLflow."""
    names = ("val_psnr_db", "val_ssim", "training_step", "training_seconds", "validation_seconds")
    return {name: float(result[name]) for name in (*names, "images_per_second", "evaluations") if name in result}


def _finish(space: Space, results: tune.ResultGrid, log: StudyLog) -> SweepResult:
    """Summaries of all trials, the best checkpoints stored, the study closed."""
    summaries, checkpoints = [], {}
    for result in results:
        metrics = result.metrics or {}
        trial_id = str(Path(result.path).name)
        state: TrialState = "failed" if result.error else outcome(metrics, space)
        error = str(result.error).strip().splitlines()[-1] if result.error else metrics.get("error")
        finite = {} if state == "failed" else numbers(metrics)
        summaries.append(TrialSummary(trial_id, state, dict(result.config or {}), finite, error))
        checkpoints[trial_id] = result.checkpoint
    order = {"complete": 0, "pruned": 1, "failed": 2}
    summaries.sort(key=lambda trial: (order[trial.state], -trial.metrics.get(space.metric, 0.0), trial.trial_id))
    log.keep_trials({trial.trial_id for trial in summaries})
    complete = [trial for trial in summaries if trial.state == "complete"]
    for trial in complete[:KEPT_CHECKPOINTS]:
        _store_checkpoint(log, trial.trial_id, checkpoints[trial.trial_id])
    if complete:
        best = {f"best_{space.metric}": complete[0].metrics[space.metric]}
        log.log_metrics(None, len(complete), {**best, "trials_complete": len(complete), "trials": len(summaries)})
    log.finish("complete" if complete else "failed")
    if not complete:
        reason = next((trial.error for trial in summaries if trial.error), "the time budget was too short")
        raise InputError(f"study {space.study}: none of {len(summaries)} trials came to its end: {reason}")
    return SweepResult(space.study, log.run_id, space.metric, tuple(summaries))


def _store_checkpoint(log: StudyLog, trial_id: str, checkpoint: tune.Checkpoint) -> None:
    """The model goes to `checkpoint/`, the schedules tried beside it; the optimiser's state stays behind."""
    with checkpoint.as_directory() as folder:
        for file in sorted(Path(folder).iterdir()):
            if file.name == SCHEDULES_FILE:
                log.log_file(trial_id, file)
            elif file.suffix in (".json", ".safetensors") and file.name != STATE_FILE:
                log.log_file(trial_id, file, "checkpoint")


def check_study(space: Space, dataset: Dataset, home: Path, resume: bool) -> None:
    """A study is its space and its data; both are noted at its first start and compared at every other.

    Raises:
        InputError: the study exists and `resume` is false, or it does not and `resume` is true, or it is another one.
    """
    folder = _study_folder(home, space)
    path = folder / STUDY_FILE
    if not path.exists():
        if resume:
            raise InputError(f"study {space.study!r}: nothing to resume in {folder}")
        return
    if not resume:
        raise InputError(f"study {space.study!r}: exists in {folder}; use --resume, or another `study` name")
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SmSearchError(f"{path}: cannot be read: {error}") from None
    for key, value in _identity(space, dataset).items():
        if known.get(key) != value:
            raise SettingsError(
                f"study {space.study!r}: its {key} was {str(known.get(key))[:12]} and is {value[:12]}: "
                "not the same study; take another `study` name or another --home"
            )


def _study_folder(home: Path, space: Space) -> Path:
    return home.absolute() / "studies" / space.study


def _identity(space: Space, dataset: Dataset) -> dict[str, str]:
    return {"space_hash": space.space_hash(), "dataset_hash": dataset.content_hash()}


def _backbone(config: dict[str, Any]) -> str:
    return str(config.get("backbone", config.get("training.backbone", "default")))


def environment_tags() -> dict[str, str]:
    """Versions, git commit and machine, for the run."""
    tags = {f"version.{name}": version(name) for name in VERSIONED}
    tags["machine"] = f"{platform.system()} {platform.machine()}"
    tags["python"] = platform.python_version()
    try:
        here = Path(__file__).parent
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        tags["git_commit"] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        tags["git_commit"] = "unknown"
    return tags
