"""`StudyLog`: one MLflow run per study, one child run per trial, found again when the study is resumed."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from sm_search.config.errors import DivergenceError, TrackingError
from sm_search.tracking.descriptions import study_note, trial_note
from sm_search.tracking.names import (
    DATASET,
    DATASET_HASH,
    DATASET_SOURCE,
    EXPERIMENT,
    KIND,
    NOTE,
    PARENT,
    RESUMED,
    SCHEDULE,
    SPLIT,
    STATE,
    STUDY,
    TRIAL,
    check_name,
)
from sm_search.tracking.records import RunRecord, find_study, find_trials, require_active, run_record, study_runs
from sm_search.tracking.store import STORE_ERRORS, Store, is_transient, reason

MAX_PARAM_LENGTH = 6000
MAX_BATCH = 100
SHOWN_DIGEST = 12
"""Characters of the dataset's hash: as much as a table has room for. The whole hash is in the tags."""
MAX_METRICS = 1000
NAMED_IN_ERROR = 5

BEST_FIRST = {
    "orderByKey": "metrics.`val_psnr_db`",
    "orderByAsc": False,
    "selectedColumns": [
        "metrics.`val_psnr_db`",
        "metrics.`val_ssim`",
        "metrics.`evaluations`",
        "tags.`state`",
        "tags.`backbone`",
        "tags.`schedule`",
    ],
}
"""MLflow's table of runs with the metrics, as its *Share* stores a view; opened by `?viewStateShareKey=best`."""
EXPERIMENT_TAGS = {
    "mlflow.sharedViewState.best": json.dumps(BEST_FIRST),
    # MLflow's pages for models that are trained; otherwise it shows those for language models, and calls ours agents.
    "mlflow.experimentKind": "custom_model_development",
    NOTE: "Studies of sm_search: a row is a study, `+` unfolds its trials. Add columns such as `val_psnr_db` under "
    "*Columns*; a study's own page says how to read it.",
}

TrialState = Literal["complete", "pruned", "failed"]
StudyState = Literal["complete", "failed", "interrupted"]
TRIAL_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
STUDY_STATUS = {"complete": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class StudyLog:
    """Writes one study. Metrics and outcomes wait in memory while the server is away, in order, and go with the next
    call; starting a trial and storing files need the server at once.

    Attributes:
        run_id: the study's own run.
    """

    def __init__(self, store: Store, parent: RunRecord) -> None:
        self._store = store
        self._parent = parent
        self._run_ids: dict[str, str] = {}
        self._pending: deque[tuple[str, Callable[[], None]]] = deque()
        self._last_reason = ""

    @classmethod
    def open(
        cls,
        store: Store,
        study: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        resume_trials: Collection[str] = (),
    ) -> "StudyLog":
        """Create the run of a study, or find it and continue; for the driver, of which a study has one at a time.

        Trials that a dead driver left RUNNING are marked KILLED, `resume_trials` excepted. A tag keeps the value that
        the study began with; another one now, such as that of the git commit, stands beside it as `resumed.<tag>`.

        Raises:
            TrackingError: a bad name, a store that does not answer, or a parameter that changed since the first time.
        """
        parent = find_study(store, study)
        run_tags = {**_kept(tags or {}, parent), KIND: "study", STUDY: study, SPLIT: "validation"}
        run_tags[NOTE] = study_note(study, flat(params or {}), run_tags)
        if parent is None:
            parent = _create(store, experiment_id(store), study, run_tags)
        log = cls(store, replace(parent, tags={**parent.tags, **run_tags}))
        log._write_start(f"study {study!r}", parent, run_tags, params or {})
        log._kill_running(keep=resume_trials)
        return log

    @classmethod
    def attach(cls, store: Store, study: str) -> "StudyLog":
        """The log of a study that a driver has open, for a worker: changes nothing.

        Raises:
            TrackingError: no such study; the message lists those that exist.
        """
        return cls(store, study_runs(store, study)[0])

    @property
    def run_id(self) -> str:
        return self._parent.run_id

    @property
    def pending(self) -> tuple[str, ...]:
        """What the store has not taken yet, in words."""
        return tuple(what for what, _ in self._pending)

    def existing_trials(self) -> dict[str, RunRecord]:
        """The stored trials by id; of two runs with one id the older."""
        trials: dict[str, RunRecord] = {}
        for record in find_trials(self._store, self._parent):
            trials.setdefault(record.trial_id or "", record)
        return trials

    def start_trial(
        self, trial_id: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Create the run of a trial, or find it and set it RUNNING again; the run id.

        Raises:
            TrackingError: a bad id, a store that does not answer, or a parameter that changed since the first time.
        """
        check_name("trial", trial_id)
        found = find_trials(self._store, self._parent, trial_id)
        run_tags = {
            **(tags or {}),
            KIND: "trial",
            STUDY: self._parent.study,
            TRIAL: trial_id,
            SPLIT: "validation",
            STATE: "running",
            PARENT: self.run_id,
        }
        record = found[0] if found else _create(self._store, experiment_id(self._store), trial_id, run_tags)
        self._run_ids[trial_id] = record.run_id
        self._write_start(f"trial {trial_id!r}", record, run_tags, params or {})
        return record.run_id

    def log_metrics(self, trial_id: str | None, step: int, metrics: Mapping[str, float]) -> None:
        """Store metrics at a step in one batch; `trial_id` None for the study's own.

        Raises:
            DivergenceError: a value is NaN or infinite; nothing is stored then.
            TrackingError: the store refuses them. That it is away is no error yet.
        """
        self.log_points(trial_id, [(step, metrics)])

    def log_points(self, trial_id: str | None, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Store metrics of several steps in one batch, as `log_metrics` those of one."""
        whose = self._name(trial_id)
        now = time.time_ns() // 1_000_000
        batch = []
        for step, metrics in points:
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise DivergenceError(f"{whose}: metric {name!r} at step {step} is {value}: must be finite")
                batch.append(Metric(name, float(value), now, step))
        run_id = self._run_id(trial_id)

        def write() -> None:
            for start in range(0, len(batch), MAX_METRICS):
                self._store.client.log_batch(run_id, metrics=batch[start : start + MAX_METRICS], synchronous=True)

        self._send(f"metrics of {whose} at step {points[-1][0]}", write)

    def finish_trial(
        self, trial_id: str, state: TrialState, schedule: str | None = None, ended_ms: int | None = None
    ) -> None:
        """End a trial. A pruned one is FINISHED for MLflow, with the tag `state` = pruned.

        Args:
            ended_ms: when it ended, in Unix milliseconds; None for now.

        Raises:
            TrackingError: the trial was never started, or the store refuses.
        """
        run_id = self._run_id(trial_id)

        def end() -> None:
            client = self._store.client
            note = trial_note(run_record(client.get_run(run_id)), state, schedule)
            tags = {STATE: state, NOTE: note} | ({SCHEDULE: schedule} if schedule else {})
            client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)
            client.set_terminated(run_id, TRIAL_STATUS[state], ended_ms)

        self._send(f"outcome {state!r} of trial {trial_id!r}", end)

    def set_tag(self, trial_id: str | None, name: str, value: str | None) -> None:
        """Give a run a tag, or take it away.

        Raises:
            TrackingError: the store does not answer.
        """
        run_id = self._run_id(trial_id)
        with self._store.asked(f"tag {name!r} of {self._name(trial_id)}"):
            if value is not None:
                self._store.client.set_tag(run_id, name, value, synchronous=True)
            elif name in self._store.client.get_run(run_id).data.tags:
                self._store.client.delete_tag(run_id, name)

    def log_folder(self, trial_id: str | None, folder: Path, artifact_path: str) -> None:
        """Store the files of a folder under `artifact_path`.

        Raises:
            TrackingError: there is no such folder, or the store does not take it.
        """
        if not folder.is_dir():
            raise TrackingError(f"{folder}: is not a folder, so it cannot be stored as {artifact_path!r}")
        with self._store.asked(f"folder {folder} for {self._name(trial_id)}"):
            self._store.client.log_artifacts(self._run_id(trial_id), str(folder), artifact_path)

    def log_file(self, trial_id: str | None, file: Path, artifact_path: str | None = None) -> None:
        """Store one file, a figure for example, in the artifact folder `artifact_path`.

        Raises:
            TrackingError: there is no such file, or the store does not take it.
        """
        if not file.is_file():
            raise TrackingError(f"{file}: is not a file, so it cannot be stored")
        with self._store.asked(f"file {file} for {self._name(trial_id)}"):
            self._store.client.log_artifact(self._run_id(trial_id), str(file), artifact_path)

    def log_text(self, trial_id: str | None, text: str, artifact_file: str) -> None:
        """Store `text` as the artifact `artifact_file`.

        Raises:
            TrackingError: the store does not take it.
        """
        with self._store.asked(f"text {artifact_file!r} for {self._name(trial_id)}"):
            self._store.client.log_text(self._run_id(trial_id), text, artifact_file)

    def name_dataset(self, digest: str) -> None:
        """Tell the hash of the dataset, if it was not known when the study began: to it, and to its trials.

        Raises:
            TrackingError: the store does not answer.
        """
        if DATASET_HASH in self._parent.tags:
            return
        dataset = dataset_input({**self._parent.tags, DATASET_HASH: digest})
        with self._store.asked(f"dataset of study {self._parent.study!r}"):
            for record in find_trials(self._store, self._parent):
                self._store.client.log_inputs(record.run_id, [dataset] if dataset else [])
            self._store.client.log_inputs(self.run_id, [dataset] if dataset else [])
            self._store.client.set_tag(self.run_id, DATASET_HASH, digest, synchronous=True)

    def keep_trials(self, trial_ids: Collection[str]) -> None:
        """Delete the runs of all other trials: those that a dead driver began and the resumed search never knew.

        Raises:
            TrackingError: the store does not answer.
        """
        with self._store.asked("trials that the search does not know"):
            for record in find_trials(self._store, self._parent):
                if record.trial_id not in trial_ids:
                    self._store.client.delete_run(record.run_id)

    def finish(self, state: StudyState = "complete") -> None:
        """End the study; trials still RUNNING are marked KILLED.

        Raises:
            TrackingError: the store is away; the message names what it never took.
        """
        self._send(
            f"outcome {state!r} of study {self._parent.study!r}",
            lambda: self._store.client.set_terminated(self.run_id, STUDY_STATUS[state]),
        )
        if self._pending:
            lost = "; ".join(self.pending[:NAMED_IN_ERROR])
            more = f"; and {len(self._pending) - NAMED_IN_ERROR} more" if len(self._pending) > NAMED_IN_ERROR else ""
            raise TrackingError(f"{self._store.uri}: not stored: {lost}{more}: {self._last_reason}")
        self._kill_running()
        with self._store.asked(f"description of study {self._parent.study!r}"):
            parent = run_record(self._store.client.get_run(self.run_id))
            note = study_note(parent.study, parent.params, parent.tags, find_trials(self._store, parent))
            self._store.client.set_tag(self.run_id, NOTE, note, synchronous=True)

    def _send(self, what: str, action: Callable[[], None]) -> None:
        """Put `action` behind what waits already, and deliver as much of it all as the store takes now."""
        self._pending.append((what, action))
        while self._pending:
            what, action = self._pending[0]
            try:
                action()
            except STORE_ERRORS as error:
                self._last_reason = reason(error)
                if is_transient(error):
                    return
                self._pending.popleft()
                raise TrackingError(f"{self._store.uri}: {what}: {reason(error)}") from None
            self._pending.popleft()

    def _write_start(self, whose: str, record: RunRecord, tags: Mapping[str, str], params: Mapping[str, Any]) -> None:
        """Set a run RUNNING with its tags, and add the parameters that it does not have yet."""
        texts = {name: _param_text(whose, name, value) for name, value in flat(params).items()}
        for name, text in texts.items():
            if record.params.get(name, text) != text:
                raise TrackingError(
                    f"{whose}: parameter {name!r} is {text} but was {record.params[name]} when it began; "
                    "a stored parameter cannot change: take another name"
                )
        new = [Param(name, text) for name, text in texts.items() if name not in record.params]
        with self._store.asked(f"{whose}: tags and parameters"):
            client = self._store.client
            client.update_run(record.run_id, status="RUNNING")
            client.log_batch(record.run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)
            for start in range(0, len(new), MAX_BATCH):
                client.log_batch(record.run_id, params=new[start : start + MAX_BATCH], synchronous=True)
            dataset = dataset_input({**self._parent.tags, **tags})
            if dataset is not None:
                client.log_inputs(record.run_id, [dataset])

    def _kill_running(self, keep: Collection[str] = ()) -> None:
        with self._store.asked("trials left running"):
            for record in find_trials(self._store, self._parent):
                if record.status == "RUNNING" and record.trial_id not in keep:
                    self._store.client.set_tag(record.run_id, STATE, "interrupted", synchronous=True)
                    self._store.client.set_terminated(record.run_id, "KILLED")

    def _name(self, trial_id: str | None) -> str:
        return f"study {self._parent.study!r}" if trial_id is None else f"trial {trial_id!r}"

    def _run_id(self, trial_id: str | None) -> str:
        if trial_id is None:
            return self.run_id
        if trial_id not in self._run_ids:
            found = find_trials(self._store, self._parent, trial_id)
            if not found:
                raise TrackingError(f"trial {trial_id!r}: was never started in study {self._parent.study!r}")
            self._run_ids[trial_id] = found[0].run_id
        return self._run_ids[trial_id]


def dataset_input(tags: Mapping[str, str]) -> DatasetInput | None:
    """The dataset that the tags of a run name, for MLflow's column of datasets; None if they name none."""
    if DATASET not in tags or DATASET_HASH not in tags:
        return None
    source = json.dumps({"uri": tags.get(DATASET_SOURCE, "")})
    found = Dataset(tags[DATASET], tags[DATASET_HASH][:SHOWN_DIGEST], "local", source)
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """`{"budget": {"trials": 4}}` as `{"budget.trials": 4}`: one column each in MLflow's tables."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        inner = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else flat(inner)
    return found


def _kept(tags: Mapping[str, str], parent: RunRecord | None) -> dict[str, str]:
    """The tags of a study that is opened: those that it began with, and what of them is different now."""
    before = parent.tags if parent else {}
    kept = dict(tags)
    for name, value in tags.items():
        if before.get(name, value) != value:
            later = before.get(f"{RESUMED}{name}", value)
            kept[name] = before[name]
            kept[f"{RESUMED}{name}"] = later if value in later.split(", ") else f"{later}, {value}"
    return kept


def _create(store: Store, experiment: str, name: str, tags: Mapping[str, str]) -> RunRecord:
    with store.asked(f"new run {name!r}"):
        run = store.client.create_run(experiment, tags=dict(tags), run_name=name)
    info = run.info
    return RunRecord(
        info.run_id, tags[STUDY], tags.get(TRIAL), {}, {}, info.status, dict(tags), info.start_time, info.end_time
    )


def experiment_id(store: Store) -> str:
    """The id of our experiment, created where there is none."""
    with store.asked(f"experiment {EXPERIMENT!r}"):
        experiment = store.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(store.client.create_experiment(EXPERIMENT, store.artifact_root, EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = store.client.get_experiment_by_name(EXPERIMENT)
        require_active(experiment)
        return str(experiment.experiment_id)


def _param_text(whose: str, name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) > MAX_PARAM_LENGTH:
        raise TrackingError(
            f"{whose}: parameter {name!r} has {len(text)} characters, more than the {MAX_PARAM_LENGTH} that MLflow "
            "takes; store it as text instead"
        )
    return text
