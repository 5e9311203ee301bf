"""A damaged file stops a study in one line, and once it is repaired the study goes on with every trial."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset, file_name
from sm_search.search.space.space import Space
from sm_search.search.study import recording
from sm_search.search.study.recording import Recorder
from sm_search.search.study.sweep import sweep
from sm_search.tracking.records import study_runs
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import open_store

SPACE = Space.model_validate(
    {
        "study": "damaged",
        "training": {
            "steps": 20,
            "batch_size": 8,
            "backbone": {"backbone": "linear-basis", "coefficients": 8, "width": 16, "blocks": 1},
            "learning_rate": {"float": [1e-3, 3e-3]},
        },
        "budget": {"trials": 2, "first_rung": 20, "schedules": 2, "images": 4},
        "resources": {"concurrent": 1},
    }
)


@pytest.mark.slow
@pytest.mark.usefixtures("one_cpu")
def test_a_damaged_file_stops_the_study_and_its_repair_lets_it_go_on(tiny_dataset: Dataset, tmp_path: Path) -> None:
    data, home = shutil.copytree(tiny_dataset.folder, tmp_path / "data"), tmp_path / "home"
    file = data / file_name(tiny_dataset.settings.scans("train")[0], "high")
    whole, said = file.read_bytes(), list[str]()
    file.write_bytes(whole[:-8] + b"\0" * 8)
    with pytest.raises(
        InputError, match=r"study 'damaged': stopped: .*high\.mdf: its SHA-256 .*simulate again"
    ) as caught:
        sweep(SPACE, data, home=home, announce=said.append)
    assert str(caught.value).endswith("once that is mended, `sweep --resume` continues it")
    assert not any("failed" in line for line in said)
    parent, runs = study_runs(open_store(home), "damaged")
    assert (parent.status, {run.state for run in runs}) == ("KILLED", {"interrupted"})

    file.write_bytes(whole)
    result = sweep(SPACE, data, home=home, resume=True, announce=said.append)
    assert [trial.state for trial in result.trials] == ["complete"] * 2
    parent, runs = study_runs(open_store(home), "damaged")
    assert (parent.status, [run.state for run in runs]) == ("FINISHED", ["complete"] * 2)


def test_a_failed_trial_says_why(tmp_path: Path) -> None:
    store, said = open_store(tmp_path), list[str]()
    log = StudyLog.open(store, "s")
    recorder = Recorder(log, SPACE, said.append, None, resumed=False)
    told: dict[str, Any] = {"last_result": {}, "is_finished": lambda: False}
    (tmp_path / "error.txt").write_text("Traceback:\n  File trial.py\nMemoryError: no more of it\n\n")
    for name, error_file in (("a", tmp_path / "error.txt"), ("b", None)):
        log.start_trial(name)
        trial = SimpleNamespace(trial_id=name, error_file=error_file and str(error_file), **told)
        recorder.on_trial_error(1, [trial], trial)  # type: ignore[list-item, arg-type]
    log.start_trial("c")
    trial = SimpleNamespace(trial_id="c", **told)
    recorder.on_trial_complete(1, [trial], trial)  # type: ignore[list-item, arg-type]
    assert [line.partition(" failed: ")[2] for line in said] == [
        "MemoryError: no more of it",
        "it ended without a word",
        "the search was over before its first rung",
    ]
    assert recorder.ended == ["MemoryError: no more of it", "it ended without a word", None]
    run_id = study_runs(store, "s")[1][0].run_id
    artifact = store.client.download_artifacts(run_id, "error.txt", str(tmp_path))
    assert Path(artifact).read_text() == "MemoryError: no more of it\n"


def test_a_trial_whose_driver_has_lost_ray_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune would ask for another one in its place, and the study would be another when it is resumed."""
    monkeypatch.setattr(recording, "RAY_ENDS_S", 0.0)
    store, said = open_store(tmp_path), list[str]()
    log = StudyLog.open(store, "s")
    recorder = Recorder(log, SPACE, said.append, None, resumed=False)
    error = "ActorDiedError: The actor is dead because its owner has died. Owner worker exit type: SYSTEM_ERROR"
    (tmp_path / "error.txt").write_text(error)
    log.start_trial("a")
    trial = SimpleNamespace(trial_id="a", error_file=str(tmp_path / "error.txt"), last_result={})
    recorder.on_trial_error(1, [trial], trial)  # type: ignore[list-item, arg-type]
    assert (said, recorder.ended, study_runs(store, "s")[1][0].status) == ([], [], "RUNNING")
