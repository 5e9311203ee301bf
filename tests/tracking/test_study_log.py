import json
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from sm_search.config.errors import DivergenceError, TrackingError
from sm_search.tracking.records import best_trials, get_run, metric_history, study_runs
from sm_search.tracking.runs import MAX_PARAM_LENGTH, StudyLog
from sm_search.tracking.store import Store

# Finishes one trial, begins another, says so, and waits to be killed.
DRIVER = """
import sys, time
from pathlib import Path
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import open_store

log = StudyLog.open(open_store(Path(sys.argv[1])), sys.argv[2], params={"seed": 7})
log.start_trial("done", {"lr": 0.1})
log.finish_trial("done", "complete")
log.start_trial("cut-off", {"lr": 0.2})
log.log_metrics("cut-off", 1, {"val_psnr_db": 20.5})
print("ready", flush=True)
time.sleep(600)
"""


def test_a_study_is_a_parent_with_children(store: Store, study: str) -> None:
    log = StudyLog.open(store, study, tags={"dataset": "abc"}, params={"trials": 2, "space": {"lr": [1e-4, 0.1]}})
    run_id = log.start_trial("t-1", {"lr": 0.1, "sampler": "ddim", "ema": True}, tags={"node": "a"})
    parent, (child,) = study_runs(store, study)
    assert (parent.run_id, parent.study, parent.trial_id, parent.status) == (log.run_id, study, None, "RUNNING")
    assert parent.tags["dataset"] == "abc"
    assert {name: json.loads(text) for name, text in parent.params.items()} == {"trials": 2, "space.lr": [1e-4, 0.1]}
    assert (child.run_id, child.study, child.trial_id, child.state) == (run_id, study, "t-1", "running")
    assert child.tags["mlflow.parentRunId"] == log.run_id
    assert child.tags["node"] == "a"
    assert child.params == {"lr": "0.1", "sampler": "ddim", "ema": "true"}
    assert mlflow.active_run() is None


def test_a_resumed_study_tells_what_it_began_with_and_what_is_different_now(store: Store, study: str) -> None:
    digest = "a" * 64
    for commit in ("1111", "2222", "1111", "2222", "3333"):
        tags = {"dataset": "d", "dataset_hash": digest, "git_commit": commit, "python": "3.11.7"}
        StudyLog.open(store, study, tags=tags).finish("interrupted")
        digest = "b" * 64  # how a later version names the same dataset
    parent, _ = study_runs(store, study)
    assert (parent.tags["git_commit"], parent.tags["resumed.git_commit"]) == ("1111", "2222, 3333")
    assert parent.tags["dataset_hash"] == "a" * 64
    assert "resumed.python" not in parent.tags
    log = StudyLog.open(store, study)
    log.name_dataset("b" * 64)
    (used,) = store.client.get_run(log.run_id).inputs.dataset_inputs
    assert used.dataset.digest == "a" * 12


def test_a_study_names_its_dataset_and_describes_itself(store: Store, study: str) -> None:
    digest = "0123456789abcdef" * 4
    tags = {"dataset": "paper-54", "dataset_hash": digest, "dataset_source": "s3://bucket/data"}
    log = StudyLog.open(store, study, tags=tags, params={"metric": "val_psnr_db", "budget": {"trials": 2}})
    run_id = log.start_trial("t-1", {"lr": 1 / 3, "sampler": "a|b"}, tags={"backbone": "unet"})
    log.log_metrics("t-1", 5, {"val_psnr_db": 31.25, "training_seconds": 2.0})
    log.start_trial("t-2")
    log.finish_trial("t-1", "complete")
    log.finish_trial("t-2", "pruned")
    # A second start, as after an interruption, links the dataset no second time.
    again = StudyLog.open(store, study, tags=tags)
    again.finish()
    for each in (log.run_id, run_id):
        (used,) = store.client.get_run(each).inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("paper-54", digest[:12])
        assert json.loads(used.dataset.source) == {"uri": "s3://bucket/data"}
    parent, trials = study_runs(store, study)
    note = parent.tags["mlflow.note.content"]
    assert "Search for the largest `val_psnr_db` on dataset `paper-54` (hash `0123456789ab`)" in note
    assert "**Best of 2 trials**, 1 of them complete" in note
    assert "| `t-1` | 31.25 | 0.3333 | a\\|b |" in note
    assert parent.params["budget.trials"] == "2"
    told = trials[0].tags
    assert {name: told[name] for name in ("study", "backbone", "split", "state")} == {
        "study": study,
        "backbone": "unet",
        "split": "validation",
        "state": "complete",
    }
    assert f"Trial `t-1` of study `{study}`: **complete**." in told["mlflow.note.content"]
    assert "| `val_psnr_db` | 31.25 |" in told["mlflow.note.content"]


def test_a_study_goes_on_after_its_driver_was_killed(store: Store, home: Path, study: str) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(home), study], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        driver.send_signal(signal.SIGKILL)
    parent, before = study_runs(store, study)
    assert (parent.status, [run.status for run in before]) == ("RUNNING", ["FINISHED", "RUNNING"])

    log = StudyLog.open(store, study, params={"seed": 7})
    done, cut_off = log.existing_trials().values()
    assert (done.trial_id, done.status, done.state) == ("done", "FINISHED", "complete")
    assert (cut_off.trial_id, cut_off.status) == ("cut-off", "KILLED")
    assert log.run_id == parent.run_id

    assert log.start_trial("cut-off", {"lr": 0.2}) == cut_off.run_id
    assert get_run(store, cut_off.run_id).status == "RUNNING"
    log.log_metrics("cut-off", 2, {"val_psnr_db": 21.5})
    assert metric_history(store, cut_off.run_id, "val_psnr_db") == [(1, 20.5), (2, 21.5)]
    log.finish_trial("cut-off", "complete")
    log.finish()
    parent, after = study_runs(store, study)
    assert parent.status == "FINISHED"
    assert [run.run_id for run in after] == [run.run_id for run in before]
    assert StudyLog.open(store, study).run_id == parent.run_id
    assert get_run(store, parent.run_id).status == "RUNNING"


def test_trials_to_be_continued_are_not_closed(store: Store, study: str) -> None:
    first = StudyLog.open(store, study)
    for trial in ("stale", "kept"):
        first.start_trial(trial)
    StudyLog.open(store, study, resume_trials={"kept"})
    assert {run.trial_id: run.status for run in study_runs(store, study)[1]} == {"stale": "KILLED", "kept": "RUNNING"}


def test_a_worker_attaches_without_closing_anything(store: Store, study: str) -> None:
    driver = StudyLog.open(store, study)
    run_id = driver.start_trial("t")
    worker = StudyLog.attach(store, study)
    worker.log_metrics("t", 3, {"loss": 0.25})
    assert metric_history(store, run_id, "loss") == [(3, 0.25)]
    assert get_run(store, run_id).status == "RUNNING"
    with pytest.raises(TrackingError, match="trial 'other': was never started"):
        worker.log_metrics("other", 1, {"loss": 1.0})


def test_metrics_are_read_back_exactly(store: Store, study: str) -> None:
    values = {"sum": 0.1 + 0.2, "tiny": 5e-324, "huge": 1.7976931348623157e308, "negative": -1 / 3, "whole": 7}
    log = StudyLog.open(store, study)
    run_id = log.start_trial("t")
    log.log_metrics("t", 12, values)
    log.log_metrics(None, 1, {"best_val_psnr_db": 2 / 3})
    assert get_run(store, run_id).metrics == values
    assert {name: metric_history(store, run_id, name) for name in values} == {
        name: [(12, value)] for name, value in values.items()
    }
    assert get_run(store, log.run_id).metrics == {"best_val_psnr_db": 2 / 3}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_metric_is_refused_with_its_batch(store: Store, study: str, value: float) -> None:
    log = StudyLog.open(store, study)
    run_id = log.start_trial("t")
    with pytest.raises(DivergenceError, match=f"trial 't': metric 'loss' at step 4 is {value}: must be finite"):
        log.log_metrics("t", 4, {"fine": 1.0, "loss": value})
    assert get_run(store, run_id).metrics == {}
    assert log.pending == ()


@pytest.mark.parametrize(("state", "status"), [("complete", "FINISHED"), ("pruned", "FINISHED"), ("failed", "FAILED")])
def test_a_trial_ends_in_its_state(store: Store, study: str, state: str, status: str) -> None:
    log = StudyLog.open(store, study)
    log.start_trial("t")
    log.finish_trial("t", state)
    (run,) = study_runs(store, study)[1]
    assert (run.state, run.status) == (state, status)
    assert run.ended_ms is not None
    assert run.ended_ms >= run.started_ms


def test_finish_leaves_nothing_running(store: Store, study: str) -> None:
    log = StudyLog.open(store, study)
    log.start_trial("t")
    log.finish("interrupted")
    parent, (child,) = study_runs(store, study)
    assert (parent.status, child.status) == ("KILLED", "KILLED")


def test_many_parameters_go_in_bulk_and_cannot_change(store: Store, study: str) -> None:
    params = {f"p{index}": index for index in range(250)}
    run_id = StudyLog.open(store, study, params=params).run_id
    assert get_run(store, run_id).params == {name: str(value) for name, value in params.items()}
    assert StudyLog.open(store, study, params={**params, "late": 1}).run_id == run_id
    assert get_run(store, run_id).params["late"] == "1"
    with pytest.raises(TrackingError, match="parameter 'p3' is 4 but was 3 when it began"):
        StudyLog.open(store, study, params={**params, "p3": 4})


def test_a_parameter_that_mlflow_would_cut_is_refused(store: Store, study: str) -> None:
    log = StudyLog.open(store, study, params={"fits": "x" * MAX_PARAM_LENGTH})
    assert len(get_run(store, log.run_id).params["fits"]) == MAX_PARAM_LENGTH
    with pytest.raises(TrackingError, match="parameter 'long' has 6001 characters, more than the 6000"):
        log.start_trial("t", {"long": "x" * (MAX_PARAM_LENGTH + 1)})


def test_files_are_stored_below_their_run(store: Store, study: str, checkpoint: Path, tmp_path: Path) -> None:
    log = StudyLog.open(store, study)
    run_id = log.start_trial("t")
    log.log_folder("t", checkpoint, "checkpoint")
    log.log_file("t", checkpoint / "checkpoint.json", "figures")
    log.log_text(None, "grüße", "notes/hello.txt")
    fetched = Path(store.client.download_artifacts(run_id, "checkpoint", str(tmp_path)))
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in checkpoint.iterdir()
    }
    assert [item.path for item in store.client.list_artifacts(run_id, "figures")] == ["figures/checkpoint.json"]
    text = store.client.download_artifacts(log.run_id, "notes/hello.txt", str(tmp_path))
    assert Path(text).read_text(encoding="utf-8") == "grüße"
    with pytest.raises(TrackingError, match="nowhere: is not a folder"):
        log.log_folder("t", tmp_path / "nowhere", "x")


def test_the_best_trials_are_the_best_completed_ones(store: Store, study: str) -> None:
    log = StudyLog.open(store, study)
    for trial, state, psnr in [
        ("a", "complete", 20.0),
        ("b", "pruned", 99.0),
        ("c", "complete", 30.0),
        ("d", "failed", 98.0),
        ("e", "complete", 30.0),
    ]:
        log.start_trial(trial)
        log.log_metrics(trial, 1, {"val_psnr_db": psnr, "val_nrmse": psnr / 100})
        log.finish_trial(trial, state)
    assert [run.trial_id for run in best_trials(store, study, n=5)] == ["c", "e", "a"]
    assert [run.trial_id for run in best_trials(store, study, "val_nrmse", n=5)] == ["a", "c", "e"]
    with pytest.raises(TrackingError, match=r"none of its 3 completed trials has the metric 'ssim'; .*val_psnr_db"):
        best_trials(store, study, "ssim")


def test_an_unknown_study_lists_the_known_ones(store: Store, study: str) -> None:
    StudyLog.open(store, study)
    with pytest.raises(TrackingError, match=rf"study 'no-such': not in sqlite:.*; it has .*\b{study}\b"):
        study_runs(store, "no-such")


@pytest.mark.parametrize("name", ["", "a b", "x' or tags.study != '", "../up", "-dash", "n" * 129])
def test_names_are_checked(store: Store, study: str, name: str) -> None:
    with pytest.raises(TrackingError, match=r"study name .*: must be 1 to 128 letters"):
        StudyLog.open(store, name)
    with pytest.raises(TrackingError, match=r"trial name .*: must be 1 to 128 letters"):
        StudyLog.open(store, study).start_trial(name)


def test_a_run_of_somebody_else_is_refused(store: Store) -> None:
    foreign = store.client.create_run("0").info.run_id
    with pytest.raises(TrackingError, match="has no tag 'kind'"):
        get_run(store, foreign)
    with pytest.raises(TrackingError, match="not found"):
        get_run(store, "0" * 32)


def test_what_the_store_cannot_take_now_goes_later(store: Store, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = StudyLog.open(store, study)
    run_id = log.start_trial("t")
    with monkeypatch.context() as away:
        away.setattr(store.client, "log_batch", _raise(TEMPORARILY_UNAVAILABLE, "database is locked"))
        log.log_metrics("t", 1, {"loss": 3.0})
        log.finish_trial("t", "pruned")
        assert log.pending == ("metrics of trial 't' at step 1", "outcome 'pruned' of trial 't'")
        with pytest.raises(TrackingError, match=r"not stored: metrics of trial 't' at step 1; .*database is locked"):
            log.finish()
    assert get_run(store, run_id).metrics == {}
    log.log_metrics(None, 2, {"loss": 2.0})
    assert log.pending == ()
    run = get_run(store, run_id)
    assert (run.metrics, run.state) == ({"loss": 3.0}, "pruned")


def test_what_the_store_will_never_take_is_an_error_and_does_not_block(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = StudyLog.open(store, study)
    with monkeypatch.context() as refusing:
        refusing.setattr(store.client, "log_batch", _raise(INVALID_PARAMETER_VALUE, "bad name"))
        with pytest.raises(TrackingError, match=f"metrics of study '{study}' at step 1: bad name"):
            log.log_metrics(None, 1, {"loss": 3.0})
    log.log_metrics(None, 2, {"loss": 2.0})
    assert metric_history(store, log.run_id, "loss") == [(2, 2.0)]


def _raise(code: int, message: str):
    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException(message, error_code=code)

    return refuse
