"""What may be thrown away: checkpoints and synthesised files of old, low-ranking trials. Never a registered model."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sm_search.config.errors import TrackingError
from sm_search.tracking.logged_models import MODEL_NAME_IN_RUN, logged_models
from sm_search.tracking.names import KIND
from sm_search.tracking.records import RunRecord, best_trials, find_trials, search_runs, study_runs
from sm_search.tracking.store import Store

DISPOSABLE = (MODEL_NAME_IN_RUN, "synthesis")
"""Folders of a trial, or its model, that may go; figures, tables and everything else in the database stay."""
MS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Removal:
    """One folder of artifacts that may go.

    Attributes:
        rank: place of the trial among the completed ones of its study, 1 for the best; None for any other trial.
        age_days: since the end of the trial.
    """

    run_id: str
    study: str
    trial_id: str
    folder: str
    size_bytes: int
    rank: int | None
    age_days: float


def plan_removals(store: Store, keep_best: int, older_than_days: float, study: str | None = None) -> list[Removal]:
    """The folders of ended trials that are older than that, not among the best of their study, and not registered.

    Raises:
        TrackingError: no such study, or the store does not answer.
    """
    parents = [study_runs(store, study)[0]] if study else list(search_runs(store, f"tags.{KIND} = 'study'"))
    registered, found = registered_runs(store), []
    for parent in parents:
        if parent.status == "RUNNING":
            continue  # its driver lives, or it can be resumed
        ranks = _ranks(store, parent)
        for trial in find_trials(store, parent):
            rank = ranks.get(trial.run_id)
            age_days = (time.time() * 1000 - (trial.ended_ms or time.time() * 1000)) / MS_PER_DAY
            best = rank is not None and rank <= keep_best
            if trial.status == "RUNNING" or best or age_days < older_than_days or trial.run_id in registered:
                continue
            for folder in DISPOSABLE:
                size = _size(store, trial.run_id, folder)
                if size:
                    name = trial.trial_id or ""
                    found.append(Removal(trial.run_id, trial.study, name, folder, size, rank, age_days))
    return found


def remove(store: Store, removal: Removal) -> None:
    """Delete one folder of artifacts; what was registered since it was planned stays.

    Raises:
        TrackingError: the trial was registered meanwhile, or the store does not delete.
    """
    if removal.run_id in registered_runs(store):
        raise TrackingError(f"trial {removal.trial_id!r} of study {removal.study!r}: was registered meanwhile; kept")
    if removal.folder not in DISPOSABLE:
        raise AssertionError(removal.folder)
    with store.asked(f"deleting {removal.folder!r} of trial {removal.trial_id!r}"):
        own = _own_files(store, removal.run_id)
        if own.list_artifacts(removal.folder):
            own.delete_artifacts(removal.folder)
        for model in logged_models(store, removal.run_id) if removal.folder == MODEL_NAME_IN_RUN else ():
            files = get_artifact_repository(model.artifact_location, tracking_uri=store.uri)
            # First the entry: files without an entry are less of a trap than an entry without files.
            store.client.delete_logged_model(model.model_id)
            for item in files.list_artifacts():
                files.delete_artifacts(item.path)


def registered_runs(store: Store) -> set[str]:
    """The runs behind all versions of all registered models."""
    runs: set[str] = set()
    token: str | None = ""
    with store.asked("versions of all models"):
        while token is not None:
            page = store.client.search_model_versions(page_token=token or None)
            runs.update(version.run_id for version in page if version.run_id)
            token = page.token or None
    return runs


def _ranks(store: Store, parent: RunRecord) -> dict[str, int]:
    try:
        best = best_trials(store, parent.study, parent.params.get("metric", "val_psnr_db"), n=1_000_000)
    except TrackingError:
        return {}  # none came to its end
    return {trial.run_id: rank for rank, trial in enumerate(best, 1)}


def _size(store: Store, run_id: str, folder: str) -> int:
    """Bytes of a folder of a trial, and of its models."""
    with store.asked(f"files of run {run_id!r}"):
        size = sum(_sizes(_own_files(store, run_id), folder))
        for model in logged_models(store, run_id) if folder == MODEL_NAME_IN_RUN else ():
            size += sum(_sizes(get_artifact_repository(model.artifact_location, tracking_uri=store.uri)))
    return size


def _own_files(store: Store, run_id: str) -> ArtifactRepository:
    """The files of a run; MLflow's client would list those of its model among them."""
    return get_artifact_repository(store.client.get_run(run_id).info.artifact_uri, tracking_uri=store.uri)


def _sizes(files: ArtifactRepository, folder: str | None = None) -> Iterator[int]:
    for item in files.list_artifacts(folder):
        if item.is_dir:
            yield from _sizes(files, item.path)
        else:
            yield item.file_size or 0
