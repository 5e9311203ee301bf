"""What was deleted in MLflow's pages is named, with what brings it back."""

from pathlib import Path

import pytest

from sm_search.config.errors import TrackingError
from sm_search.data.dataset import Dataset
from sm_search.tracking.evaluations import log_evaluation
from sm_search.tracking.promotion import promote
from sm_search.tracking.records import best_trials, study_runs
from sm_search.tracking.registry import register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store
from tests.tracking.conftest import add_study

ROWS = [{"scan": "s", "method": "model", "psnr_db_mean": 30.0, "ssim_mean": 0.9, "nrmse_mean": 0.1}]


def test_an_evaluation_of_a_model_whose_run_is_deleted_is_not_stored(
    store: Store, study: str, checkpoint: Path
) -> None:
    run_id = add_study(store, study, checkpoint)
    register(store, run_id, checkpoint, f"model-{study}")
    assert log_evaluation(store, f"models:/model-{study}/1", "test", ROWS) == run_id
    store.client.delete_run(run_id)
    assert log_evaluation(store, f"models:/model-{study}/1", "test", ROWS) is None
    store.client.restore_run(run_id)
    assert log_evaluation(store, f"models:/model-{study}/1", "test", ROWS) == run_id


def test_a_deleted_study_says_what_brings_it_back(store: Store, study: str, checkpoint: Path) -> None:
    add_study(store, study, checkpoint)
    run_id = study_runs(store, study)[0].run_id
    store.client.delete_run(run_id)
    with pytest.raises(
        TrackingError, match=f"study '{study}': its run was deleted; `mlflow runs restore --run-id {run_id}`"
    ):
        study_runs(store, study)
    store.client.restore_run(run_id)
    assert study_runs(store, study)[0].run_id == run_id


def test_a_deleted_experiment_says_what_brings_it_back(store: Store, study: str, checkpoint: Path) -> None:
    run_id = add_study(store, study, checkpoint)
    experiment = store.client.get_run(run_id).info.experiment_id
    store.client.delete_experiment(experiment)
    try:
        back = f"is deleted; `mlflow experiments restore --experiment-id {experiment}` brings it back"
        with pytest.raises(TrackingError, match=back):
            study_runs(store, study)
        with pytest.raises(TrackingError, match=back):
            StudyLog.open(store, "another")
    finally:
        store.client.restore_experiment(experiment)
    assert best_trials(store, study)[0].run_id == run_id


def test_a_study_that_is_run_or_interrupted_has_no_models_yet(store: Store, study: str, tiny_dataset: Dataset) -> None:
    log = StudyLog.open(store, study, params={"metric": "val_psnr_db"})
    log.start_trial("t")
    with pytest.raises(TrackingError, match="none of its 1 trials was trained to the full budget yet"):
        best_trials(store, study)
    log.log_metrics("t", 1, {"val_psnr_db": 30.0})
    log.finish_trial("t", "complete")
    with pytest.raises(TrackingError, match=f"study '{study}': is being run; its models are stored when it ends"):
        promote(store, study, tiny_dataset, f"model-{study}")
    log.finish("interrupted")
    with pytest.raises(TrackingError, match="was interrupted; `sweep --resume` continues it"):
        promote(store, study, tiny_dataset, f"model-{study}")
