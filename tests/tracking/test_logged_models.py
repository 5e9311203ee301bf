"""The model of a trial in MLflow: stored once, with the metrics of its splits, and with a request that it answers."""

import json
import warnings
from pathlib import Path

import mlflow.artifacts
import numpy as np
import pytest

from sm_search.data.dataset import Dataset
from sm_search.synthesis import load_synthesiser
from sm_search.tracking.evaluations import log_evaluation
from sm_search.tracking.logged_models import EXAMPLE_FILE, example_request, log_model, logged_models
from sm_search.tracking.records import metric_history
from sm_search.tracking.registry import download_model, register, source_model
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store

TAGS = {"dataset": "tiny", "dataset_hash": "0123456789abcdef" * 4}


@pytest.fixture
def run_id(store: Store, study: str) -> str:
    log = StudyLog.open(store, study, tags=TAGS)
    run_id = log.start_trial("t", {"learning_rate": 0.001, "p_uncond": 0.1})
    for step, value in ((20, 30.5), (40, 31.5)):
        log.log_metrics("t", step, {"val_psnr_db": value, "val_ssim": value / 100})
    return run_id


def test_a_model_carries_parameters_dataset_and_the_metrics_of_each_split(
    store: Store, study: str, run_id: str, checkpoint: Path
) -> None:
    log_model(store, run_id, checkpoint)
    row = {"scan": "s", "method": "model", "psnr_db_mean": 33.0, "ssim_mean": 0.9, "nrmse_mean": 0.05}
    log_evaluation(store, f"runs:/{run_id}/checkpoint", "test", [row])
    experiment = store.client.get_run(run_id).info.experiment_id
    (found,) = store.client.search_logged_models(
        [experiment], f"source_run_id = '{run_id}' and metrics.test_psnr_db > 32 and params.p_uncond = '0.1'"
    )
    assert found.params == {"learning_rate": "0.001", "p_uncond": "0.1"}
    assert (found.tags["study"], found.tags["trial_id"]) == (study, "t")
    metrics = {metric.key: metric for metric in found.metrics}
    assert {name: metrics[name].value for name in ("val_psnr_db", "val_ssim", "test_psnr_db")} == {
        "val_psnr_db": 31.5,
        "val_ssim": 0.315,
        "test_psnr_db": 33.0,
    }
    assert metrics["val_psnr_db"].step == 40
    assert {(metric.dataset_name, metric.dataset_digest) for metric in found.metrics} == {("tiny", "0123456789ab")}
    # The run's own history, which a resumed search reads, has no point twice.
    assert metric_history(store, run_id, "val_psnr_db") == [(20, 30.5), (40, 31.5)]


def test_a_model_is_stored_once_however_often_it_is_kept_and_registered(
    store: Store, study: str, run_id: str, checkpoint: Path
) -> None:
    first = log_model(store, run_id, checkpoint)
    assert log_model(store, run_id, checkpoint).model_id == first.model_id
    register(store, run_id, checkpoint, f"model-{study}")
    register(store, run_id, checkpoint, f"other-{study}")
    versions = [store.client.get_model_version(f"{name}-{study}", "1") for name in ("model", "other")]
    assert [version.source for version in versions] == 2 * [first.artifact_location]
    (model,) = logged_models(store, run_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [
        {"name": f"{name}-{study}", "version": "1"} for name in ("model", "other")
    ]
    assert source_model(store, f"models:/other-{study}/1") == (run_id, first.model_id)
    assert [model.model_id for model in logged_models(store, run_id)] == [first.model_id]
    fetched = download_model(store, f"runs:/{run_id}/checkpoint")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in checkpoint.iterdir()
    }


def test_the_example_is_short_and_the_stored_model_answers_it(
    store: Store, run_id: str, good_model: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    low = tiny_dataset.read(tiny_dataset.settings.scans("train")[0], "low")
    logged = log_model(store, run_id, good_model, low)
    request = example_request(low)
    values_KN = request["values"][0, 0, ..., 0] + 1j * request["values"][0, 0, ..., 1]
    error_K = np.abs(values_KN - low.values_CKN[0]).max(1) / np.abs(low.values_CKN[0]).max(1)
    assert 0 < error_K.max() < 1e-3

    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=logged.artifact_location, dst_path=str(tmp_path)))
    text = (folder / EXAMPLE_FILE).read_text()
    assert len(text) < 12 * request["values"].size
    assert np.array_equal(json.loads(text)["inputs"]["values"], request["values"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.models import validate_serving_input
        from mlflow.pyfunc import load_model

        answer = validate_serving_input(str(folder), text)["values"]
        loaded = load_model(str(folder))
        assert set(loaded.input_example) == {"values", "mixing_orders", "fx_hz", "nd"}
    whole = load_synthesiser(good_model).predict(low).values_CKN[0]
    found = answer[0, 0, ..., 0] + 1j * answer[0, 0, ..., 1]
    assert np.linalg.norm(found - whole) < 0.02 * np.linalg.norm(whole)
    assert logged.params == {"learning_rate": "0.001", "p_uncond": "0.1"}
