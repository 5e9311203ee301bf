"""Reading runs: the studies of a store, their trials, and the best of these."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from sm_search.config.errors import TrackingError
from sm_search.evaluation.scores import sign
from sm_search.tracking.names import EXPERIMENT, INFEASIBLE, KIND, PARENT, STATE, STUDY, TRIAL, check_name
from sm_search.tracking.store import Store


@dataclass(frozen=True)
class RunRecord:
    """One run as stored.

    Attributes:
        trial_id: None for the study itself.
        params: values as text: JSON, but for strings, which stand as they are.
        metrics: the last value of each.
        status: MLflow's word: RUNNING, FINISHED, FAILED or KILLED.
        ended_ms: end in Unix milliseconds, None before a first end.
    """

    run_id: str
    study: str
    trial_id: str | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    status: str
    tags: Mapping[str, str]
    started_ms: int
    ended_ms: int | None

    @property
    def may_win(self) -> bool:
        """Trained to the full budget, within its study's constraints."""
        return self.state == "complete" and INFEASIBLE not in self.tags

    @property
    def state(self) -> str | None:
        """`running`, `complete`, `pruned`, `failed` or `interrupted`: how the search saw the trial last."""
        return self.tags.get(STATE)


def study_runs(store: Store, study: str) -> tuple[RunRecord, list[RunRecord]]:
    """The run of a study, and the runs of its trials in the order of their start.

    Raises:
        TrackingError: no such study; the message lists those that exist.
    """
    parent = find_study(store, study)
    if parent is None:
        deleted = next(search_runs(store, _of_study(study), ViewType.DELETED_ONLY), None)
        if deleted is not None:
            raise TrackingError(
                f"study {study!r}: its run was deleted; `mlflow runs restore --run-id {deleted.run_id}` brings it "
                "back, and likewise those of its trials"
            )
        known = sorted({record.study for record in search_runs(store, f"tags.{KIND} = 'study'")})
        raise TrackingError(f"study {study!r}: not in {store.uri}; it has {', '.join(known) or 'no study yet'}")
    return parent, find_trials(store, parent)


def best_trials(store: Store, study: str, metric: str = "val_psnr_db", n: int = 1) -> list[RunRecord]:
    """The `n` best completed trials of a study by the last value of `metric`, best first, ties by trial id.

    Pruned and failed trials do not count: they were not trained to the end. Those that cannot win (`INFEASIBLE`) come
    last, and trials that were trained with several seeds before others, by their mean `<metric>_mean`.

    Raises:
        TrackingError: no such study, or no completed trial that has the metric.
    """
    trials = study_runs(store, study)[1]
    complete = [record for record in trials if record.state == "complete"]
    if not complete:
        raise TrackingError(f"study {study!r}: none of its {len(trials)} trials was trained to the full budget yet")
    scored = [record for record in complete if metric in record.metrics]
    if not scored:
        known = sorted({name for record in complete for name in record.metrics})
        raise TrackingError(
            f"study {study!r}: none of its {len(complete)} completed trials has the metric {metric!r}"
            f"; they have {', '.join(known) or 'none'}"
        )
    mean = f"{metric}_mean"

    def rank(record: RunRecord) -> tuple[bool, bool, float, str]:
        value = record.metrics.get(mean, record.metrics[metric])
        return INFEASIBLE in record.tags, mean not in record.metrics, -sign(metric) * value, record.trial_id or ""

    return sorted(scored, key=rank)[:n]


def best_of_study(store: Store, study: str) -> list[RunRecord]:
    """The completed trials of a study, best first by the metric that it maximised.

    Raises:
        TrackingError: no such study, or no completed trial.
    """
    parent, trials = study_runs(store, study)
    metric = parent.params.get("metric")
    if metric is None:
        raise TrackingError(f"study {study!r}: does not say which metric it maximised; was it begun by `sweep`?")
    return best_trials(store, study, metric, n=len(trials))


def get_run(store: Store, run_id: str) -> RunRecord:
    """One run by its id.

    Raises:
        TrackingError: there is no such run, or it is not one of ours.
    """
    with store.asked(f"run {run_id!r}"):
        run = store.client.get_run(run_id)
    if KIND not in run.data.tags:
        raise TrackingError(f"{store.uri}: run {run_id!r}: has no tag {KIND!r}, so it is not a run of sm_search")
    return run_record(run)


def metric_history(store: Store, run_id: str, metric: str) -> list[tuple[int, float]]:
    """All logged (step, value) of one metric, by step; empty when the run never logged it."""
    return sorted((step, value) for _, step, value in timed_history(store, run_id, metric))


def timed_history(store: Store, run_id: str, metric: str) -> list[tuple[int, int, float]]:
    """All logged (time, step, value) of one metric in the order of their times, in ms since 1970."""
    with store.asked(f"metric {metric!r} of run {run_id!r}"):
        history = store.client.get_metric_history(run_id, metric)
    return sorted((point.timestamp, point.step, point.value) for point in history)


def read_study_text(store: Store, study: str, artifact_file: str) -> str:
    """The text of one of a study's artifacts.

    Raises:
        TrackingError: no such study or artifact.
    """
    with tempfile.TemporaryDirectory() as folder:
        return download_study_file(store, study, artifact_file, Path(folder)).read_text(encoding="utf-8")


def read_trial_text(store: Store, trial: RunRecord, artifact_file: str) -> str:
    """The text of one of a trial's artifacts.

    Raises:
        TrackingError: no such artifact.
    """
    with tempfile.TemporaryDirectory() as folder, store.asked(f"{artifact_file!r} of trial {trial.trial_id!r}"):
        return Path(store.client.download_artifacts(trial.run_id, artifact_file, folder)).read_text(encoding="utf-8")


def download_study_file(store: Store, study: str, artifact_file: str, folder: Path) -> Path:
    """One of a study's artifacts as a local file in `folder`.

    Raises:
        TrackingError: no such study or artifact.
    """
    parent, _ = study_runs(store, study)
    with store.asked(f"{artifact_file!r} of study {study!r}"):
        return Path(store.client.download_artifacts(parent.run_id, artifact_file, str(folder)))


def find_study(store: Store, study: str) -> RunRecord | None:
    """The run of a study, or None; the oldest one should there be two."""
    check_name("study", study)
    return next(search_runs(store, _of_study(study)), None)


def _of_study(study: str) -> str:
    return f"tags.{KIND} = 'study' and tags.{STUDY} = '{study}'"


def is_active(store: Store, run_id: str) -> bool:
    """Whether a run is there and not deleted, as runs are in MLflow's pages: then nothing can be added to it."""
    with store.asked(f"run {run_id!r}"):
        try:
            return bool(store.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False


def find_trials(store: Store, parent: RunRecord, trial_id: str | None = None) -> list[RunRecord]:
    """The runs below a study's run, oldest first; with a `trial_id` those of that trial."""
    query = f"tags.`{PARENT}` = '{parent.run_id}'"
    if trial_id is not None:
        check_name("trial", trial_id)
        query += f" and tags.{TRIAL} = '{trial_id}'"
    return list(search_runs(store, query))


def search_runs(store: Store, query: str, which: str = ViewType.ACTIVE_ONLY) -> Iterator[RunRecord]:
    """Our runs that match a query in MLflow's language, oldest first.

    Raises:
        TrackingError: the experiment that holds them was deleted, or the store does not answer.
    """
    with store.asked(f"search for runs with {query}"):
        experiment = store.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            require_active(experiment)
        token = "" if experiment else None
        while token is not None:
            page = store.client.search_runs(
                [experiment.experiment_id], query, which, order_by=["start_time ASC"], page_token=token or None
            )
            yield from map(run_record, page)
            token = page.token or None


def require_active(experiment: Experiment) -> None:
    """Refuse an experiment that was deleted in MLflow's pages: what it holds is neither seen nor added to."""
    if experiment.lifecycle_stage != "active":
        back = f"`mlflow experiments restore --experiment-id {experiment.experiment_id}` brings it back"
        raise ValueError(f"the experiment {experiment.name!r} is deleted; {back}")


def run_record(run: Run) -> RunRecord:
    """A run as MLflow's client gives it."""
    return RunRecord(
        run_id=run.info.run_id,
        study=run.data.tags.get(STUDY, ""),
        trial_id=run.data.tags.get(TRIAL),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        status=run.info.status,
        tags=dict(run.data.tags),
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
    )
