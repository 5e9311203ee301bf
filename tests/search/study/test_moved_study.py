"""A study that was interrupted goes on under another clock, and where its home was moved, as if nothing had been."""

import os
import signal
from pathlib import Path

import pytest

from sm_search.data.dataset import Dataset
from sm_search.search.study.folder import study_folder
from sm_search.tracking.records import study_runs
from sm_search.tracking.registry import download_model
from sm_search.tracking.store import open_store
from tests.search.study.test_faults import SPACE, Sweep, check_whole

FOUR = SPACE.replace("trials: 3", "trials: 4")
pytestmark = pytest.mark.slow


def interrupted_after(sweep: Sweep, trial: int) -> None:
    sweep.wait_for(lambda: f"trial {trial}/4" in sweep.said, f"trial {trial}")
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.end() == (130, {})


def ended(home: Path) -> dict[str, str]:
    """The run of each trial that came to an end of its own."""
    runs = study_runs(open_store(home), "faulty")[1]
    return {run.trial_id or "": run.run_id for run in runs if run.state in ("complete", "pruned")}


def test_drivers_in_other_time_zones_train_no_trial_again(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, user, seen = tmp_path / "home", tmp_path / "user", {}
    for trial, zone in enumerate(("Pacific/Kiritimati", "Pacific/Honolulu", "UTC"), 1):  # UTC+14, −10, 0
        monkeypatch.setenv("TZ", zone)
        more = ["--resume"] if trial > 1 else []
        interrupted_after(Sweep(home, user, tiny_dataset.folder, *more, space=FOUR), trial)
        assert seen.items() <= ended(home).items()
        seen = ended(home)
        assert len(seen) >= trial
    last = Sweep(home, user, tiny_dataset.folder, "--resume", space=FOUR)
    status, told = last.end()
    assert status == 0, last.said
    assert not any(f" {trial} " in last.said for trial in seen)
    check_whole(open_store(home), told, trials=4)
    assert seen.items() <= ended(home).items()


def test_a_moved_home_goes_on_and_leaves_nothing_where_it_was(tiny_dataset: Dataset, tmp_path: Path) -> None:
    first, home, user = tmp_path / "first", tmp_path / "moved", tmp_path / "user"
    interrupted_after(Sweep(first, user, tiny_dataset.folder, space=FOUR), 1)
    seen = ended(first)
    first.rename(home)
    resumed = Sweep(home, user, tiny_dataset.folder, "--resume", space=FOUR)
    status, told = resumed.end()
    assert status == 0, resumed.said
    assert not first.exists()
    store = open_store(home)
    check_whole(store, told, trials=4)
    assert seen.items() <= ended(home).items()
    assert {path.name for path in (study_folder(home, "faulty") / "tune").iterdir() if path.is_dir()} == {
        trial["trial_id"] for trial in told["trials"]
    }
    best = told["trials"][0]["trial_id"]
    assert (download_model(store, f"runs:/{ended(home)[best]}/checkpoint") / "checkpoint.json").is_file()
