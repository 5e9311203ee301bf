"""Many files through a real model on a real Ray: the same bytes as one by one, resumed, each refused by itself."""

import dataclasses
import os
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from sm_search.compute.parallel_synthesis import Outcome, plan_files, synthesise_files
from sm_search.config.errors import InputError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.simulation_settings import FieldSettings
from sm_search.data.dataset import Dataset
from sm_search.data.mdf import write_mdf
from sm_search.regression.scan_models import ScanModels
from sm_search.synthesis import load_synthesiser, synthesise_file
from sm_search.training import Trainer, make_checkpoint, training_images


@pytest.fixture(scope="module")
def model(trainer: Trainer, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models: ScanModels
    _, models = training_images(tiny_dataset, "train", (0,), trainer.settings.mean)
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(steps=2, eta_max=0.1), {}).save(folder)
    return folder


@pytest.fixture
def scans(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """A folder of three conditions at two depths, one of which no model here is for."""
    folder = tmp_path / "scans"
    (folder / "deep").mkdir(parents=True)
    scan = tiny_dataset.settings.scans("test")[0]
    shutil.copy(tiny_dataset.file(scan, "low"), folder / "a.mdf")
    shutil.copy(tiny_dataset.file(tiny_dataset.settings.scans("train")[0], "low"), folder / "deep" / "b.mdf")
    low = tiny_dataset.read(scan, "low")
    other = dataclasses.replace(low, field=FieldSettings(gradient_t_per_m=0.2, drive_mt=2.0))
    write_mdf(folder / "other.mdf", other, uuid=str(UUID(int=1)), time="2025-01-31T12:00:00.000")
    (folder / "notes.md").write_text("not a scan")
    return folder


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {Path(each.source).name: each.state for each in outcomes}


@pytest.mark.slow
@pytest.mark.usefixtures("two_cpus")
def test_many_files_are_made_as_one_by_one_and_only_once(model: Path, scans: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []

    def make(seed: int = 3, overwrite: bool = False) -> list[Outcome]:
        plan = plan_files(scans, out)
        return synthesise_files(model, plan, "m", seed, overwrite, lambda done, total, name: seen.append((done, total)))

    first = make()
    assert states(first) == {"a.mdf": "made", "b.mdf": "made", "other.mdf": "refused"}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (refused,) = [each for each in first if each.state == "refused"]
    assert "other.mdf: the condition's gradient_t_per_m is 0.2; the model was trained for 0.1" in refused.reason
    assert not Path(refused.target).exists()

    # Interrupted: one result is missing, the others stay as they are; a changed input is not passed over.
    kept = written(out / "a.mdf")
    (out / "deep" / "b.mdf").unlink()
    assert states(make()) == {"a.mdf": "kept", "b.mdf": "made", "other.mdf": "refused"}
    assert written(out / "a.mdf") == kept
    shutil.copy(scans / "deep" / "b.mdf", scans / "a.mdf")
    again = make()
    assert states(again) == {"a.mdf": "refused", "b.mdf": "kept", "other.mdf": "refused"}
    assert "a.mdf: exists; use --force" in again[0].reason
    assert states(make(overwrite=True)) == {"a.mdf": "made", "b.mdf": "kept", "other.mdf": "refused"}
    assert states(make(seed=4))["b.mdf"] == "refused"

    by_hand = tmp_path / "by-hand.mdf"
    synthesise_file(load_synthesiser(model, seed=3), scans / "deep" / "b.mdf", by_hand, model="m")
    assert (out / "deep" / "b.mdf").read_bytes() == by_hand.read_bytes()
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["a.mdf", "b.mdf"]


def written(path: Path) -> tuple[int, int]:
    """Which file it is, and when it was written; not when it was read."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def test_a_list_names_files_from_its_own_folder(scans: Path, tmp_path: Path) -> None:
    listed = scans / "list.txt"
    listed.write_text("# conditions\na.mdf\n\ndeep/b.mdf\na.mdf\n")
    assert plan_files(listed, tmp_path / "out") == {
        scans / "a.mdf": tmp_path / "out" / "a.mdf",
        scans / "deep" / "b.mdf": tmp_path / "out" / "b.mdf",
    }


def test_what_cannot_be_planned_is_refused(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "twice.txt").write_text(f"{scans}/a.mdf\nelsewhere/a.mdf\n")
    for place, rule in [
        (tmp_path / "empty", "empty: names no .mdf file"),
        (tmp_path / "none.txt", "none.txt: cannot be read: No such file"),
        (tmp_path / "binary.txt", "is not UTF-8"),
        (tmp_path / "twice.txt", "would both become"),
    ]:
        with pytest.raises(InputError, match=rule):
            plan_files(place, tmp_path / "out")
    with pytest.raises(InputError, match="results would become inputs"):
        plan_files(scans, scans / "deep" / "out")
    assert os.listdir(tmp_path / "empty") == []
