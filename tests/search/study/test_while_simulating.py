"""A study on a dataset that is still being simulated: who may begin begins, and all ends as on the finished dataset."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sm_search.compute.parallel_simulation import turn
from sm_search.config.dataset_settings import DatasetSettings, SobolDesign
from sm_search.config.errors import InputError, TrackingError
from sm_search.config.simulation_settings import Scan
from sm_search.data.dataset import Dataset, file_name, write_scan
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.physics.system_matrix import simulate
from sm_search.search.space.space import Space
from sm_search.search.study import while_simulating as overlap
from sm_search.search.study.folder import STUDY_FILE, study_folder
from sm_search.search.study.result import SweepResult
from sm_search.search.study.sweep import sweep
from sm_search.tracking.records import study_runs
from sm_search.tracking.registry import download_model
from sm_search.tracking.store import Store, open_store
from tests.cli.conftest import Command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_cpu")]
SCANS = 10
NEEDED = 2 * (1 + 2)
"""Files of the validation scan and of two training scans."""
PATIENCE_S = 300
SPACE = Space.model_validate(
    {
        "study": "early",
        "training": {
            "steps": 40,
            "batch_size": 8,
            "backbone": {"backbone": "linear-basis", "coefficients": 8, "width": 16, "blocks": 1},
            "learning_rate": {"float": [1e-3, 3e-3]},
            "scans": {"choice": [2, SCANS]},
        },
        "schedule": {"eta_max": {"float": [0.0, 0.3]}},
        "first": ({"learning_rate": 2e-3, "scans": 2}, {"learning_rate": 2e-3, "scans": SCANS}),
        "budget": {"trials": 3, "first_rung": 20, "reduction": 2, "schedules": 2, "images": 4},
        "resources": {"concurrent": 1},
    }
)


@pytest.fixture(scope="module")
def settings(tiny_settings: DatasetSettings) -> DatasetSettings:
    design = SobolDesign(design="sobol", count=SCANS, core_diameter_nm=(20, 40), fx_khz=(10, 30), nd=(8, 20))
    return tiny_settings.model_copy(update={"splits": {**tiny_settings.splits, "train": (design,)}})


def write_files(
    dataset: Dataset, scans: Sequence[Scan] | None = None, before: Callable[[int], None] = lambda done: None
) -> None:
    """What `simulate` does on one worker, for some scans or all; `before` is called with the number of files made."""
    todo = sorted(dataset.unfinished(), key=turn(dataset.settings))
    for done, (scan, which) in enumerate(item for item in todo if scans is None or item[0] in scans):
        before(done)
        sm = simulate(dataset.settings, scan, which)
        digest = write_scan(dataset.folder, dataset.settings, dataset.manifest.created, scan, which, sm)
        dataset.record({file_name(scan, which): digest})


@pytest.fixture(scope="module")
def finished(settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = Dataset.create(tmp_path_factory.mktemp("finished") / "data", settings)
    write_files(dataset)
    return dataset


@pytest.fixture(scope="module")
def expected(finished: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """The study on the finished dataset."""
    return sweep(SPACE, finished.folder, home=tmp_path_factory.mktemp("expected"))


def values(told: SweepResult) -> list[tuple[Any, ...]]:
    """What a study found, without the names of its trials and its times."""
    return sorted(
        (*sorted(t.params.items()), t.state, t.metrics["val_psnr_db"], t.metrics["val_ssim"], t.metrics["evaluations"])
        for t in told.trials
    )


def first_report(store: Store) -> int | None:
    """When MLflow got the first metric of the study, in Unix milliseconds."""
    with suppress(TrackingError):
        for trial in study_runs(store, "early")[1]:
            for point in store.client.get_metric_history(trial.run_id, "val_psnr_db"):
                return int(point.timestamp)
    return None


def check_names(store: Store, dataset: Dataset) -> None:
    """Study, trials and stored models name the finished dataset, and the models the scans that they saw."""
    digest = dataset.content_hash()
    parent, trials = study_runs(store, "early")
    assert parent.tags["dataset_hash"] == digest
    assert digest[:12] in parent.tags["mlflow.note.content"]
    complete = 0
    for run in (parent, *trials):
        inputs = store.client.get_run(run.run_id).inputs.dataset_inputs
        assert [each.dataset.digest for each in inputs] == [digest[:12]]
    for trial in trials:
        if trial.state == "complete":
            info = load_checkpoint(download_model(store, f"runs:/{trial.run_id}/checkpoint")).info
            assert (info.dataset_hash, info.training_scans) == (digest, int(trial.params["scans"]))
            complete += 1
    assert complete


def test_a_trial_of_few_scans_reports_before_the_last_file_is_there(
    settings: DatasetSettings, expected: SweepResult, tmp_path: Path
) -> None:
    dataset, home = Dataset.create(tmp_path / "data", settings), tmp_path / "home"
    store, stop = open_store(home), threading.Event()
    models_before_the_end: list[Path] = []

    def hold(done: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while done == NEEDED and first_report(store) is None and not stop.wait(0.1):
            assert time.monotonic() < deadline
        models_before_the_end.extend(study_folder(home, "early").glob("tune/*/checkpoint_*/checkpoint.json"))

    simulation = threading.Thread(target=write_files, args=(dataset, None, hold))
    simulation.start()
    lines: list[str] = []
    try:
        told = sweep(SPACE, tmp_path / "data", home=home, while_simulating=True, announce=lines.append)
    finally:
        stop.set()
        simulation.join()
    assert lines[0].endswith("files are simulated; each trial waits for those that it needs")
    reported = first_report(store)
    assert reported is not None
    last = max(path.stat().st_mtime for path in (tmp_path / "data").glob("*/*.mdf"))
    assert reported / 1000 < last
    assert models_before_the_end == []
    assert values(told) == values(expected)
    complete = Dataset.open(tmp_path / "data")
    check_names(store, complete)
    noted = json.loads((study_folder(home, "early") / STUDY_FILE).read_text())
    assert noted["dataset_hash"] == complete.content_hash()


def test_a_simulation_that_dies_stops_the_study_with_one_line_and_both_go_on(
    run: Any, settings: DatasetSettings, expected: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, home = tmp_path / "dataset.yaml", tmp_path / "data", tmp_path / "home"
    config.write_text(json.dumps(settings.model_dump(mode="json", exclude_none=True)))
    simulation = Command(tmp_path)
    line = ("simulate", "--config", config, "--out", data)
    simulation.killed_when(lambda text: "simulated 1/" in text, *line, log=tmp_path / "log")
    dataset, store = Dataset.open(data, complete=False), open_store(home)
    write_files(dataset, dataset.settings.scans("validation") + dataset.settings.scans("train", 2))
    missing = dataset.missing()
    assert missing

    def lose_patience() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while first_report(store) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        monkeypatch.setattr(overlap, "STALLED_S", 0.6)

    patience = threading.Thread(target=lose_patience)
    patience.start()
    with pytest.raises(InputError) as stopped:
        sweep(SPACE, data, home=home, while_simulating=True)
    patience.join()
    said = str(stopped.value)
    assert said.startswith(f"study 'early': stopped: {data}: no new file for 0.01 minutes; missing are {missing[0]}, ")
    assert said.endswith(
        "which `sm-search simulate` makes when it is run again; once that is mended, `sweep --resume` continues it"
    )
    assert first_report(store) is not None
    assert "dataset_hash" not in study_runs(store, "early")[0].tags

    done = run(*line)
    assert done.status == 0, done.stderr
    told = sweep(SPACE, data, home=home, while_simulating=True, resume=True)
    assert values(told) == values(expected)
    check_names(store, Dataset.open(data))


def test_a_study_does_not_go_on_with_another_dataset(
    settings: DatasetSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, home = Dataset.create(tmp_path / "data", settings), tmp_path / "home"
    monkeypatch.setattr(overlap, "STALLED_S", 0.0)
    with pytest.raises(InputError, match="no new file for 0 minutes"):
        sweep(SPACE, dataset.folder, home=home, while_simulating=True)
    shutil.rmtree(dataset.folder)
    time.sleep(0.002)  # the time of its beginning is kept in milliseconds
    Dataset.create(dataset.folder, settings)
    with pytest.raises(InputError, match=r"its dataset_origin was .* and is .*: not the same study"):
        sweep(SPACE, dataset.folder, home=home, while_simulating=True, resume=True)
