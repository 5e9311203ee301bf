"""Checkpoints as MLflow's logged models: files, signature and example of a request, and metrics of each split.

A model belongs to the run of its trial and is stored once: `runs:/RUN_ID/checkpoint` and every registered version of it
stand for the same files.
"""

import hashlib
import json
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from sm_search.config.errors import CheckpointError
from sm_search.diffusion.checkpoint import SETTINGS_FILE, WEIGHTS_FILE
from sm_search.evaluation.scores import SCORES
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.tracking.descriptions import model_note
from sm_search.tracking.names import NOTE, STUDY, TRIAL
from sm_search.tracking.store import Store

MODEL_NAME_IN_RUN = "checkpoint"
"""Name of the logged model of a run, and its folder in `runs:/RUN_ID/checkpoint`."""
DIGEST_TAG = "checkpoint_sha256"
REQUIRED_FILES = (SETTINGS_FILE, WEIGHTS_FILE)
ALLOWED_SUFFIXES = (".json", ".safetensors")
CHECKPOINT_IN_MODEL = "artifacts/checkpoint"
SERVED_MODEL = Path(__file__).parent / "served_model.py"
EXAMPLE_FILE = "serving_input_example.json"
EXAMPLE_FILES = (EXAMPLE_FILE, "input_example.json")
EXAMPLE_DIGITS = 3

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


def log_model(store: Store, run_id: str, checkpoint_folder: Path, example: SystemMatrix | None = None) -> LoggedModel:
    """Store a checkpoint as the logged model of a run, or find it there.

    Args:
        example: a low-gradient matrix that the model answers; its x-channel becomes the example of a request.

    Raises:
        CheckpointError: the folder is not a checkpoint.
        TrackingError: the store refuses, or there is no such run.
    """
    check_checkpoint(checkpoint_folder, str(checkpoint_folder))
    digest = checkpoint_digest(checkpoint_folder)
    for known in logged_models(store, run_id):
        if known.tags.get(DIGEST_TAG) == digest:
            return known
    client = store.client
    with store.asked(f"storing {checkpoint_folder} as a model of run {run_id!r}"):
        run = client.get_run(run_id)
        tags = {name: run.data.tags[name] for name in (STUDY, TRIAL) if name in run.data.tags}
        logged = client.create_logged_model(
            run.info.experiment_id,
            MODEL_NAME_IN_RUN,
            source_run_id=run_id,
            tags={**tags, DIGEST_TAG: digest, NOTE: model_note(example is not None)},
            params=dict(run.data.params),
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                description = Model(run_id=run_id, model_id=logged.model_id)
                _write_model(Path(folder) / "model", checkpoint_folder, description, example)
                client.log_model_artifacts(logged.model_id, f"{folder}/model")
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        logged = client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        _link_metrics(store, run, logged.model_id)
    return logged


def logged_models(store: Store, run_id: str) -> list[LoggedModel]:
    """The complete models of a run, the newest first."""
    found: list[LoggedModel] = []
    with store.asked(f"models of run {run_id!r}"):
        experiment = store.client.get_run(run_id).info.experiment_id
        token: str | None = ""
        while token is not None:
            page = store.client.search_logged_models(
                [experiment], f"source_run_id = '{run_id}'", page_token=token or None
            )
            found += [model for model in page if model.status.value == "READY"]
            token = page.token or None
    return sorted(found, key=lambda model: -model.creation_timestamp)


def log_model_metrics(store: Store, run_id: str, model_id: str | None, values: Mapping[str, float]) -> None:
    """Store metrics with a run and, if it has one, with its model, which they are then sorted and filtered by."""
    now = time.time_ns() // 1_000_000
    with store.asked(f"metrics of run {run_id!r}"):
        dataset = _dataset(store.client.get_run(run_id)) if model_id else {}
        points = [Metric(name, value, now, 0, model_id, **dataset) for name, value in values.items()]
        store.client.log_batch(run_id, metrics=points, synchronous=True)


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


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of all names and bytes of a checkpoint."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            raise CheckpointError(f"{file}: a checkpoint has no folders")
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def example_request(low: SystemMatrix) -> dict[str, NDArray[Any]]:
    """A request for the x-channel of a matrix, each component to a thousandth of its maximum: a sixth of the bytes."""
    components = []
    for values_N in low.values_CKN[0]:
        largest = np.abs(values_N).max()
        decimals = max(0, EXAMPLE_DIGITS - math.floor(math.log10(largest))) if largest > 0 else 0
        parts_N2 = np.stack([values_N.real, values_N.imag], axis=-1)
        # By way of the decimal form: a rounded float has the shortest one, and nothing else makes the file short.
        components.append([[float(f"{part:.{decimals}f}") + 0.0 for part in pair] for pair in parts_N2.tolist()])
    return {
        "values": np.array([[components]]),
        "mixing_orders": np.array(low.mixing_orders, dtype=np.int64),
        "fx_hz": np.array([low.fx_hz], dtype=np.float64),
        "nd": np.array([low.nd], dtype=np.int64),
    }


def _link_metrics(store: Store, run: Run, model_id: str) -> None:
    """What the search measured on the validation split, with the model as well: the same points, so none is doubled."""
    run_id, points = run.info.run_id, []
    dataset = _dataset(run)
    for name in SCORES:
        history = store.client.get_metric_history(run_id, name)
        if history:
            last = max(history, key=lambda point: (point.step, point.timestamp))
            points.append(Metric(name, last.value, last.timestamp, last.step, model_id, **dataset))
    if points:
        store.client.log_batch(run_id, metrics=points, synchronous=True)


def _dataset(run: Run) -> dict[str, str]:
    """The dataset of a run as a metric names it; empty if it names none."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {"dataset_name": inputs[0].dataset.name, "dataset_digest": inputs[0].dataset.digest} if inputs else {}


def _write_model(target: Path, checkpoint_folder: Path, description: Model, example: SystemMatrix | None) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # MLflow names the artifact's folder after its source.
        checkpoint = shutil.copytree(checkpoint_folder, Path(folder) / Path(CHECKPOINT_IN_MODEL).name)
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
            input_example=None if example is None else example_request(example),
            # Given, because MLflow would otherwise load the model in a new process to see what it imports.
            pip_requirements=[f"sm-search=={package_version('sm-search')}"],
        )
    for name in EXAMPLE_FILES if example is not None else ():
        # MLflow gives every number a line of its own.
        text = json.dumps(json.loads((target / name).read_text()), separators=(",", ":"))
        (target / name).write_text(text + "\n")
