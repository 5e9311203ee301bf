"""The main job: a sweep as a user starts it, what it leaves in MLflow, and that no death of it loses anything."""

import base64
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import FileInfo
from PIL import Image

from sm_search.data.dataset import Dataset
from sm_search.data.mdf_validation import validate_mdf
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.tracking.records import RunRecord, best_trials, metric_history, study_runs
from sm_search.tracking.registry import download_model
from sm_search.tracking.store import Store, open_store

SLOW_SPACE = """
study: mortal
seed: 2
training:
  steps: 1200
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 5, first_rung: 300, reduction: 2, schedules: 2, images: 4}
resources: {concurrent: 2}
"""


def artifacts(store: Store, run_id: str, path: str | None = None) -> list[str]:
    listed: list[FileInfo] = store.client.list_artifacts(run_id, path)
    return sorted(
        name for item in listed for name in (artifacts(store, run_id, item.path) if item.is_dir else [item.path])
    )


def history(store: Store, trial: RunRecord) -> dict[str, Any]:
    return {name: metric_history(store, trial.run_id, name) for name in ("val_psnr_db", "val_ssim", "loss")}


@pytest.fixture(scope="module")
def store(study: Any) -> Store:
    return open_store(study.home)


def test_the_result_is_one_object_that_agrees_with_the_store(study: Any, store: Store) -> None:
    told = study.sweep.object
    parent, trials = study_runs(store, study.name)
    assert (told["study"], told["run_id"], told["metric"]) == (study.name, parent.run_id, "val_psnr_db")
    assert len(told["trials"]) == len(trials) == 5
    stored = {trial.trial_id: trial for trial in trials}
    for trial in told["trials"]:
        record = stored[trial["trial_id"]]
        assert trial["state"] == record.state
        assert {name: float(value) for name, value in record.params.items()} == trial["params"]
        for name, value in trial["metrics"].items():
            assert record.metrics[name] == pytest.approx(value)
    best = best_trials(store, study.name, "val_psnr_db")[0]
    assert told["trials"][0]["trial_id"] == best.trial_id
    assert parent.metrics["best_val_psnr_db"] == best.metrics["val_psnr_db"]


def test_no_run_is_left_running_and_every_trial_is_a_child(study: Any, store: Store) -> None:
    parent, trials = study_runs(store, study.name)
    assert parent.status == "FINISHED"
    status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
    assert [trial.status for trial in trials] == [status[trial.state or ""] for trial in trials]
    assert {trial.tags["mlflow.parentRunId"] for trial in trials} == {parent.run_id}


def test_a_trial_that_diverges_fails_alone_and_says_why(study: Any, store: Store) -> None:
    _, trials = study_runs(store, study.name)
    absurd = [trial for trial in trials if float(trial.params["learning_rate"]) > 1]
    assert absurd
    for trial in absurd:
        assert (trial.state, trial.status) == ("failed", "FAILED")
        assert "val_psnr_db" not in trial.metrics
        assert "error.txt" in artifacts(store, trial.run_id)
    assert [trial.state for trial in trials if trial not in absurd].count("failed") == 0
    line = next(line for line in study.sweep.stderr.splitlines() if absurd[0].trial_id in line)
    assert "failed: the training loss is nan in steps 1 to" in line
    assert "Traceback" not in study.sweep.stderr


def test_metrics_stand_over_the_steps_of_the_rungs(study: Any, store: Store) -> None:
    _, trials = study_runs(store, study.name)
    for trial in trials:
        steps = {"complete": [20, 40], "pruned": [20], "failed": []}[trial.state or ""]
        for name, points in history(store, trial).items():
            assert [step for step, _ in points] == steps, (trial.trial_id, name)


def test_the_best_checkpoints_load_and_carry_their_metrics(study: Any, store: Store) -> None:
    best = best_trials(store, study.name, "val_psnr_db", n=3)
    for trial in best:
        checkpoint = load_checkpoint(download_model(store, f"runs:/{trial.run_id}/checkpoint"))
        assert checkpoint.info.metrics["val_psnr_db"] == pytest.approx(trial.metrics["val_psnr_db"])
        assert checkpoint.info.training.learning_rate == float(trial.params["learning_rate"])
        assert "schedules.json" in artifacts(store, trial.run_id)
        assert not [name for name in artifacts(store, trial.run_id) if "training_state" in name]


def test_a_finished_study_keeps_the_last_checkpoint_of_its_best_trials_on_disk(study: Any, store: Store) -> None:
    best = {str(trial.trial_id) for trial in best_trials(store, study.name, "val_psnr_db", n=3)}
    left = sorted(path.parent.name for path in (study.home / "studies" / study.name / "tune").glob("*/checkpoint_*"))
    assert left == sorted(best)


def test_synthesised_matrices_figure_and_page_are_artifacts(study: Any, store: Store, tmp_path: Path) -> None:
    parent, _ = study_runs(store, study.name)
    published = ["comparison.png", "report.html", "space.json", "validation_quality.json"]
    assert artifacts(store, parent.run_id) == published
    best = best_trials(store, study.name, "val_psnr_db")[0]
    scan = Dataset.open(study.data).settings.scans("validation")[0].id
    assert f"synthesis/{scan}/high.mdf" in artifacts(store, best.run_id)
    made = store.client.download_artifacts(best.run_id, f"synthesis/{scan}/high.mdf", str(tmp_path))
    assert [fault for fault in validate_mdf(made) if fault.severity == "error"] == []
    picture = store.client.download_artifacts(parent.run_id, "comparison.png", str(tmp_path))
    width, height = Image.open(picture).size
    assert 300 < width < 4000
    assert 300 < height < 4000
    page = Path(store.client.download_artifacts(parent.run_id, "report.html", str(tmp_path))).read_text()
    assert base64.b64encode(Path(picture).read_bytes()).decode() in page
    assert best.trial_id is not None
    assert best.trial_id in page


@pytest.mark.slow
def test_a_killed_sweep_is_continued_and_loses_nothing(
    run: Any, command: Any, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "home"
    space.write_text(SLOW_SPACE)
    arguments = ("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home)
    log = command.killed_when(lambda text: "trial 1/5" in text, *arguments, log=tmp_path / "stderr")
    assert "trial 5/5" not in log

    store = open_store(home)
    parent, before = study_runs(store, "mortal")
    assert parent.status == "RUNNING"
    finished = {t.trial_id: (t, history(store, t)) for t in before if t.state in ("complete", "pruned")}
    started = {trial.trial_id: history(store, trial) for trial in before}
    assert finished

    other = tmp_path / "other.yaml"
    other.write_text(SLOW_SPACE.replace("seed: 2", "seed: 3"))
    refused = run("sweep", "--space", other, *arguments[3:], "--resume")
    assert refused.status == 2
    assert refused.stderr.startswith("error: study 'mortal': seed was 2 and is 3: not the same study")
    assert refused.stderr.count("\n") == 1

    resumed = command(*arguments, "--resume", "--json")
    assert resumed.status == 0, resumed.stderr
    after_parent, after = study_runs(store, "mortal")
    assert after_parent.run_id == parent.run_id
    assert len(after) == len({trial.trial_id for trial in after}) == len(resumed.object["trials"]) == 5
    assert {run.status for run in (after_parent, *after)} == {"FINISHED"}
    by_id = {trial.trial_id: trial for trial in after}
    for trial_id, (trial, points) in finished.items():
        assert by_id[trial_id].run_id == trial.run_id
        assert by_id[trial_id].params == trial.params
        assert (by_id[trial_id].state, history(store, by_id[trial_id])) == (trial.state, points)
    for trial in after:
        for name, points in history(store, trial).items():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)), (trial.trial_id, name, steps)
            kept = started.get(trial.trial_id, {}).get(name, [])
            assert points[: len(kept)] == kept
        assert trial.metrics["training_step"] == (1200 if trial.state == "complete" else trial.metrics["training_step"])
        losses = [step for step, _ in history(store, trial)["loss"]]
        assert losses == list(range(100, int(trial.metrics["training_step"]) + 1, 100))


def test_a_report_from_a_store_elsewhere_makes_the_folder_that_it_is_written_to(
    run: Any, study: Any, tmp_path: Path
) -> None:
    home, server = tmp_path / "not" / "there", f"sqlite:///{study.home.absolute()}/mlflow.db"
    told = run("report", "--study", study.name, "--home", home, "--tracking-uri", server)
    assert told.status == 0, told.stderr
    assert (home / f"{study.name}.html").is_file()
