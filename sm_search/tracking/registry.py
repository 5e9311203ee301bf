"""The model registry: a checkpoint becomes a version of a registered model, and aliases say which one counts.

`challenger` is the version registered last, as long as it is not champion, `champion` the one that passed the gate,
`previous` the champion before it.
"""

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import mlflow.artifacts
from mlflow.entities import LoggedModel
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from sm_search.config.errors import CheckpointError, TrackingError
from sm_search.data.atomic import sha256
from sm_search.diffusion.checkpoint import WEIGHTS_FILE
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.tracking.champion import CHALLENGER, ensure_registered, model_aliases
from sm_search.tracking.logged_models import (
    CHECKPOINT_IN_MODEL,
    MODEL_NAME_IN_RUN,
    check_checkpoint,
    log_model,
    logged_models,
)
from sm_search.tracking.names import check_name
from sm_search.tracking.records import is_active
from sm_search.tracking.store import Store

MODEL_NAME = "sm-search"

MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
RUN_URI = re.compile(r"runs:/(?P<run_id>[0-9a-f]{32})/(?P<path>[^/].*)")
URI_RULE = "must be models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/PATH or a checkpoint folder"


def register(
    store: Store,
    run_id: str,
    checkpoint_folder: Path,
    name: str = MODEL_NAME,
    tags: Mapping[str, str] | None = None,
    example: SystemMatrix | None = None,
) -> int:
    """Register a checkpoint as a version, stored with its run if it is not yet; the alias `challenger` moves to it.

    Args:
        tags: for the version: dataset hash, split, seed spread, baselines.
        example: see `log_model`.

    Returns:
        The number of the new version.

    Raises:
        CheckpointError: the folder is not a checkpoint.
        TrackingError: the store refuses, or there is no such run.
    """
    check_name("model", name)
    logged = log_model(store, run_id, checkpoint_folder, example)
    with store.asked(f"registering {checkpoint_folder} as model {name!r}"):
        ensure_registered(store, name)
        # The stored location rather than models:/<id>: that form is resolved against MLflow's global tracking URI.
        created = store.client.create_model_version(
            name, logged.artifact_location, run_id=run_id, tags=dict(tags or {}), model_id=logged.model_id
        )
        # MLflow's pages link model and version by this tag. A server sets it; without one it is left to the client.
        tagged = store.client.get_logged_model(logged.model_id).tags
        known = json.loads(tagged.get(MLFLOW_MODEL_VERSIONS, "[]"))
        own = {"name": name, "version": str(created.version)}
        if own not in known:
            store.client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*known, own])})
    set_challenger(store, name, int(created.version))
    return int(created.version)


def set_challenger(store: Store, name: str, version: int) -> None:
    """Move the alias `challenger` to a version."""
    with store.asked(f"model {name!r}, version {version}"):
        store.client.set_registered_model_alias(name, CHALLENGER, str(version))


def find_version(store: Store, name: str, run_id: str, tags: Mapping[str, str]) -> int | None:
    """The first version of a registered model that came from a run and has these tags; None if there is none."""
    check_name("model", name)
    found: list[int] = []
    with store.asked(f"versions of model {name!r}"):
        token: str | None = ""
        while token is not None:
            page = store.client.search_model_versions(f"name = '{name}'", page_token=token or None)
            found += [int(v.version) for v in page if v.run_id == run_id and tags.items() <= v.tags.items()]
            token = page.token or None
    return min(found, default=None)


def version_tags(store: Store, name: str, version: int) -> dict[str, str]:
    """The tags that a version was registered with.

    Raises:
        TrackingError: no such model or version.
    """
    with store.asked(f"model {name!r}, version {version}"):
        return dict(store.client.get_model_version(name, str(version)).tags)


def download_model(store: Store, uri: str) -> Path:
    """A local checkpoint folder for a model URI, to be read: where the store keeps it, if that is on this machine, or
    else a temporary one that goes when the process ends.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID/PATH`, or a folder, which is returned as it is.

    Raises:
        CheckpointError: the URI is of another kind, or what it points to is not a checkpoint.
        TrackingError: the store has no such model, version, alias, run or artifact.
    """
    if Path(uri).is_dir():
        check_checkpoint(Path(uri), uri)
        return Path(uri)
    location, subfolder = _artifact_location(store, uri)
    place = urlsplit(location)
    kept = Path(unquote(place.path)) if place.scheme == "file" else None
    root = kept or _temporary_folder()
    with store.asked(f"download of {uri!r}"):
        folder = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/{subfolder}",
                dst_path=None if kept else str(root),  # without one MLflow names files of this machine where they lie
                tracking_uri=store.uri,
                registry_uri=store.uri,
            )
        )
    if not folder.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(f"{uri}: was stored outside the folder of its artifacts")
    check_checkpoint(folder, uri)
    return folder


def describe_model(store: Store, uri: str) -> str:
    """The name of a model for files and tables: an alias becomes its version, a folder its name and weights' hash."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        return uri if RUN_URI.fullmatch(uri) else f"{Path(uri).name} ({sha256(Path(uri, WEIGHTS_FILE))[:12]})"
    version = match["version"] or _version_of(store, uri, match["name"], match["alias"])
    return f"models:/{match['name']}/{version}"


def source_model(store: Store, uri: str) -> tuple[str | None, str | None]:
    """The run that a model came from, and the model's own id there; None for what it has not, as a folder has neither.

    Raises:
        TrackingError: no such model, version or alias.
    """
    if match := RUN_URI.fullmatch(uri):
        model = _run_model(store, match)
        return match["run_id"], model.model_id if model else None
    if match := MODEL_URI.fullmatch(uri):
        number = match["version"] or _version_of(store, uri, match["name"], match["alias"])
        with store.asked(f"model {uri!r}"):
            version = store.client.get_model_version(match["name"], str(number))
        # MLflow's database tells a version only where its files lie.
        models = logged_models(store, version.run_id) if version.run_id and is_active(store, version.run_id) else []
        return version.run_id, next((m.model_id for m in models if m.artifact_location == version.source), None)
    return None, None


def _run_model(store: Store, match: re.Match[str]) -> LoggedModel | None:
    """The logged model behind `runs:/RUN_ID/checkpoint`; studies of earlier versions have a plain folder there."""
    if match["path"].rstrip("/") != MODEL_NAME_IN_RUN:
        return None
    return next(iter(logged_models(store, match["run_id"])), None)


def _artifact_location(store: Store, uri: str) -> tuple[str, str]:
    """The plain URI of the artifacts behind a model or run URI, and the folder of the checkpoint in there."""
    if match := MODEL_URI.fullmatch(uri):
        name, alias = match["name"], match["alias"]
        version = int(match["version"]) if alias is None else _version_of(store, uri, name, alias)
        with store.asked(f"model {uri!r}"):
            return store.client.get_model_version_download_uri(name, str(version)), CHECKPOINT_IN_MODEL
    if match := RUN_URI.fullmatch(uri):
        if ".." in PurePosixPath(match["path"]).parts:
            raise CheckpointError(f"{uri}: '..' would leave the run's artifacts")
        if model := _run_model(store, match):
            return model.artifact_location, CHECKPOINT_IN_MODEL
        with store.asked(f"run {match['run_id']!r}"):
            return str(store.client.get_run(match["run_id"]).info.artifact_uri), match["path"].rstrip("/")
    raise CheckpointError(f"{uri!r}: {URI_RULE}")


def _version_of(store: Store, uri: str, name: str, alias: str) -> int:
    aliases = model_aliases(store, name)
    if alias not in aliases:
        known = ", ".join(f"{known} (version {version})" for known, version in sorted(aliases.items()))
        raise TrackingError(f"{uri}: model {name!r} has no alias {alias!r}; it has {known or 'none'}")
    return aliases[alias]


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sm-search-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
