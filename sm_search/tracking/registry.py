"""The model registry: a checkpoint becomes a version of a registered model, and aliases say which one counts.

`challenger` is the version registered last, as long as it is not champion, `champion` the one that passed the gate,
`previous` the champion before it.
"""

import atexit
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path, PurePosixPath

import mlflow.artifacts
import numpy as np
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from sm_search.config.errors import CheckpointError, TrackingError
from sm_search.data.atomic import sha256
from sm_search.diffusion.checkpoint import SETTINGS_FILE, WEIGHTS_FILE
from sm_search.tracking.champion import CHALLENGER, ensure_registered, model_aliases
from sm_search.tracking.records import check_name
from sm_search.tracking.store import Store

MODEL_NAME = "sm-search"
REQUIRED_FILES = (SETTINGS_FILE, WEIGHTS_FILE)
ALLOWED_SUFFIXES = (".json", ".safetensors")
CHECKPOINT_IN_MODEL = "artifacts/checkpoint"
SERVED_MODEL = Path(__file__).parent / "served_model.py"

MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
RUN_URI = re.compile(r"runs:/(?P<run_id>[0-9a-f]{32})/(?P<path>[^/].*)")
URI_RULE = "must be models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/PATH or a checkpoint folder"

# B matrices a request: (re, im) last, C channels, K components, N voxels with x fastest; each has its own f_x and N_d.
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            TensorSpec(np.dtype("float64"), (-1, -1, -1, -1, 2), "values"),
            TensorSpec(np.dtype("int64"), (-1, 2), "mixing_orders"),
            TensorSpec(np.dtype("float64"), (-1,), "fx_hz"),
            TensorSpec(np.dtype("int64"), (-1,), "nd"),
        ]
    ),
    outputs=Schema([TensorSpec(np.dtype("float64"), (-1, -1, -1, -1, 2), "values")]),
)


def register(
    store: Store, run_id: str, checkpoint_folder: Path, name: str = MODEL_NAME, tags: Mapping[str, str] | None = None
) -> int:
    """Store a checkpoint as an MLflow model of the run, register it, and move the alias `challenger` to it.

    Args:
        tags: for the version: dataset hash, split, seed spread, baselines.

    Returns:
        The number of the new version.

    Raises:
        CheckpointError: the folder is not a checkpoint.
        TrackingError: the store refuses, or there is no such run.
    """
    check_name("model", name)
    check_checkpoint(checkpoint_folder, str(checkpoint_folder))
    client = store.client
    with store.asked(f"registering {checkpoint_folder} as model {name!r}"):
        run = client.get_run(run_id)
        logged = client.create_logged_model(run.info.experiment_id, name, source_run_id=run_id)
        try:
            with tempfile.TemporaryDirectory() as folder:
                _write_model(Path(folder) / "model", checkpoint_folder, Model(run_id=run_id, model_id=logged.model_id))
                client.log_model_artifacts(logged.model_id, f"{folder}/model")
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        ensure_registered(store, name)
        # The stored location rather than models:/<id>: that form is resolved against MLflow's global tracking URI.
        created = client.create_model_version(
            name, logged.artifact_location, run_id=run_id, tags=dict(tags or {}), model_id=logged.model_id
        )
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


def download_model(store: Store, uri: str, into: Path | None = None) -> Path:
    """A local checkpoint folder for a model URI.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID/PATH`, or a folder, which is returned as it is.
        into: an empty or absent folder for the download; None for a temporary one that goes when the process ends.

    Raises:
        CheckpointError: the URI is of another kind, or what it points to is not a checkpoint.
        TrackingError: the store has no such model, version, alias, run or artifact.
    """
    if Path(uri).is_dir():
        check_checkpoint(Path(uri), uri)
        return Path(uri)
    location, subfolder = _artifact_location(store, uri)
    target = into or _temporary_folder()
    with store.asked(f"download of {uri!r}"):
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(f"{target} is not empty")
        folder = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/{subfolder}",
                dst_path=str(target),
                tracking_uri=store.uri,
                registry_uri=store.uri,
            )
        )
    if not folder.resolve().is_relative_to(target.resolve()):
        raise CheckpointError(f"{uri}: was stored outside the folder of the download")
    check_checkpoint(folder, uri)
    return folder


def describe_model(store: Store, uri: str) -> str:
    """The name of a model for files and tables: an alias becomes its version, a folder its name and weights' hash."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        return uri if RUN_URI.fullmatch(uri) else f"{Path(uri).name} ({sha256(Path(uri, WEIGHTS_FILE))[:12]})"
    version = match["version"] or _version_of(store, uri, match["name"], match["alias"])
    return f"models:/{match['name']}/{version}"


def source_run(store: Store, uri: str) -> str | None:
    """The run that a model came from; None for a folder.

    Raises:
        TrackingError: no such model, version or alias.
    """
    if match := RUN_URI.fullmatch(uri):
        return match["run_id"]
    if match := MODEL_URI.fullmatch(uri):
        version = match["version"] or _version_of(store, uri, match["name"], match["alias"])
        with store.asked(f"model {uri!r}"):
            return store.client.get_model_version(match["name"], str(version)).run_id
    return None


def check_checkpoint(folder: Path, source: str) -> None:
    """Refuse a folder that is not a checkpoint: both required files, and JSON and safetensors files only, no links.

    Raises:
        CheckpointError: the message starts with `source` and names the file.
    """
    for required in REQUIRED_FILES:
        if not (folder / required).is_file():
            raise CheckpointError(f"{source}: has no file {required!r}, which a checkpoint must have")
    for path in folder.rglob("*"):
        if path.is_symlink() or (not path.is_dir() and path.suffix not in ALLOWED_SUFFIXES):
            rule = f"a checkpoint holds only {' and '.join(ALLOWED_SUFFIXES)} files, no links"
            raise CheckpointError(f"{source}: {path.relative_to(folder).as_posix()!r}: {rule}")


def _write_model(target: Path, checkpoint_folder: Path, description: Model) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # MLflow names the artifact's folder after its source.
        checkpoint = shutil.copytree(checkpoint_folder, Path(folder) / PurePosixPath(CHECKPOINT_IN_MODEL).name)
        # Advice to authors of models, some of which MLflow gives itself when it is imported.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*An input example was not provided")
        from mlflow.pyfunc import save_model

        save_model(
            str(target),
            python_model=str(SERVED_MODEL),
            artifacts={"checkpoint": str(checkpoint)},
            mlflow_model=description,
            signature=SIGNATURE,
            # Given, because MLflow would otherwise load the model in a new process to see what it imports.
            pip_requirements=[f"sm-search=={package_version('sm-search')}"],
        )


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
