"""The pipeline on imperfect scanners, and where no axes can be exchanged: it says so at once and serves x."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sm_search.config.dataset_settings import DatasetSettings, ScannersDesign
from sm_search.config.scanner_settings import ScannerSpread
from sm_search.data.dataset import Dataset, file_name
from sm_search.data.mdf_reading import read_mdf
from sm_search.data.mdf_validation import validate_mdf
from tests.datasets import simulated

TRAINING = """
  steps: 20
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
"""
RUN = f"training: {TRAINING}schedule: {{steps: 1}}\n"
SPACE = f"study: scanners\ntraining: {TRAINING}  learning_rate: {{choice: [1.0e-3, 3.0e-3]}}\nschedule: {{steps: 1}}\n"
BUDGET = "budget: {trials: 2, first_rung: 10, schedules: 1, images: 4}\n"


def scanners(count: int, first: int, **more: Any) -> tuple[ScannersDesign, ...]:
    ranges = {"core_diameter_nm": (20.0, 30.0), "fx_khz": (10.0, 30.0), "nd": (9,)}
    return (ScannersDesign(design="scanners", count=count, first=first, **ranges, **more),)


@pytest.fixture(scope="session")
def scanner_dataset(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three scanners to train on, one each to validate and to test, and that one with noise."""
    splits = {
        "train": scanners(3, 0),
        "validation": scanners(1, 100),
        "test": scanners(1, 200),
        "noisy-60": scanners(1, 200, noise_db=60.0),
    }
    receive = tiny_settings.receive.model_copy(update={"signal": "voltage", "background_frames": 4})
    update = {"scanners": ScannerSpread(), "splits": splits, "receive": receive, "name": "scanners"}
    return simulated(tiny_settings.model_copy(update=update), tmp_path_factory.mktemp("data") / "scanners")


def train_and_evaluate(run: Callable[..., Any], dataset: Dataset, folder: Path, *splits: str) -> Any:
    """Train, synthesise the test scan into `folder`/high.mdf, evaluate with the images of a phantom."""
    (folder / "run.yaml").write_text(RUN)
    home = folder / "home"
    trained = run("train", "--config", folder / "run.yaml", "--data", dataset.folder, "--out", folder / "model")
    assert trained.status == 0, trained.stderr
    low = dataset.folder / file_name(dataset.settings.scans("test")[0], "low")
    made = run("synthesize", "--model", folder / "model", "--input", low, "--output", folder / "high.mdf")
    assert made.status == 0, made.stderr
    assert validate_mdf(folder / "high.mdf") == []
    rated = run(
        "evaluate",
        "--model",
        folder / "model",
        "--data",
        dataset.folder,
        "--home",
        home,
        "--phantom",
        "dots",
        "--json",
        "--split",
        *splits,
    )
    assert rated.status == 0, rated.stderr
    found = {(row["split"], row["method"]) for row in rated.object["rows"]}
    methods = ("copy", "nearest", "kernel-ridge", "physicist", "model")
    assert found == {(split, method) for split in splits for method in methods}
    assert {image["method"] for image in rated.object["images"]} >= set(methods)
    return trained, made, rated


def test_imperfect_scanners_go_through_the_pipeline(run: Any, scanner_dataset: Dataset, tmp_path: Path) -> None:
    _, made, _ = train_and_evaluate(run, scanner_dataset, tmp_path, "test", "noisy-60")
    assert "2 × 8 components" in made.stdout
    # Scanners that are drawn anew are as likely as their mirror images: both channels are served.
    assert len(read_mdf(tmp_path / "high.mdf").values_CKN) == 2
    noisy = read_mdf(scanner_dataset.folder / file_name(scanner_dataset.settings.scans("noisy-60")[0], "low"))
    assert noisy.snr_CK is not None
    assert noisy.snr_CK.max() > 100


def test_axes_that_cannot_be_exchanged_are_told_of_at_once_and_x_is_served(
    run: Any, oblong_dataset: Dataset, tmp_path: Path
) -> None:
    trained, made, rated = train_and_evaluate(run, oblong_dataset, tmp_path, "test")
    assert "only the x-channel is learnt" in trained.stderr
    assert "only the x-channel" in rated.stderr
    assert "1 × 8 components" in made.stdout
    high = read_mdf(tmp_path / "high.mdf")
    assert high.values_CKN.shape == (1, 8, 168)
    assert high.field == oblong_dataset.settings.high
    (tmp_path / "both.yaml").write_text(RUN.replace("steps: 20", "steps: 20\n  receive_channels: [0, 1]"))
    asked = run("train", "--config", tmp_path / "both.yaml", "--data", oblong_dataset.folder, "--out", tmp_path / "b")
    assert asked.status == 2
    assert "training.receive_channels = [0, 1]: dataset 'oblong': its y-channel is no x-channel" in asked.stderr
    (tmp_path / "space.yaml").write_text(SPACE.replace("steps: 20", "steps: 20\n  receive_channels: [1]") + BUDGET)
    told = run(
        "sweep", "--space", tmp_path / "space.yaml", "--data", oblong_dataset.folder, "--home", tmp_path, "--dry-run"
    )
    assert told.status == 2
    assert "training.receive_channels = [1]: dataset 'oblong'" in told.stderr


@pytest.mark.slow
def test_a_sweep_runs_on_imperfect_scanners(command: Any, scanner_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE + BUDGET)
    done = command(
        "sweep",
        "--space",
        tmp_path / "space.yaml",
        "--data",
        scanner_dataset.folder,
        "--home",
        tmp_path / "h",
        "--json",
    )
    assert done.status == 0, done.stderr
    assert done.object["study"] == "scanners"
