"""Of several snapshots the one that knows most is gone on from, whatever their names say."""

import json
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from ray import cloudpickle

from sm_search.search.study.snapshots import settle_snapshots

LOCAL = pyarrow.fs.LocalFileSystem()
EAST, WEST = "2026-11-28_03-00-00", "2026-11-27_03-00-05"
"""Of a driver in one time zone, and of one that went on from there five seconds later in another."""


def snapshot(
    folder: Path, session: str, steps: list[int], begun: float, parts: tuple[str, ...] = ("tuner", "s")
) -> None:
    trials: list[Any] = [
        (json.dumps({"status": "RUNNING"}), json.dumps({"last_result": {"training_step": step}})) for step in steps
    ]
    state = {"trial_data": trials, "runner_data": {}, "stats": {"start_time": begun}}
    folder.mkdir(exist_ok=True)
    (folder / f"experiment_state-{session}.json").write_text(json.dumps(state))
    (folder / "tuner.pkl").touch()
    if parts:
        (folder / f"search_gen_state-{session}.json").write_bytes(cloudpickle.dumps({"experiment": None}))
        (folder / f"searcher-state-{session}.pkl").touch()


def sessions(folder: Path) -> set[str]:
    return {path.stem.partition("-")[2].removeprefix("state-") for path in folder.glob("*-2*")}


@pytest.mark.parametrize(
    ("east", "west", "newest"),
    [
        ([400, 100], [400, 400, 100], WEST),  # the clock went back
        ([400, 400, 100], [400, 100], EAST),
        ([400, 100], [400, 100], WEST),  # nothing was done: the later driver
        ([400], [400, 0], WEST),  # only begun
    ],
)
def test_the_newest_is_what_was_trained_most(tmp_path: Path, east: list[int], west: list[int], newest: str) -> None:
    snapshot(tmp_path / "tune", EAST, east, begun=1000.0)
    snapshot(tmp_path / "tune", WEST, west, begun=1005.0)
    assert settle_snapshots(str(tmp_path / "tune"), LOCAL)
    assert sessions(tmp_path / "tune") == {newest}
    assert (tmp_path / "tune" / "tuner.pkl").exists()
    assert settle_snapshots(str(tmp_path / "tune"), LOCAL)


def test_a_snapshot_that_lacks_a_part_is_not_gone_on_from(tmp_path: Path) -> None:
    snapshot(tmp_path, EAST, [400], begun=1000.0)
    snapshot(tmp_path, WEST, [400, 0], begun=1005.0, parts=())
    (tmp_path / "experiment_state-2027-01-01_00-00-00.json").write_text("")
    assert settle_snapshots(str(tmp_path), LOCAL)
    assert sessions(tmp_path) == {EAST}


def test_an_experiment_without_a_snapshot_was_not_begun(tmp_path: Path) -> None:
    (tmp_path / "tuner.pkl").touch()
    assert not settle_snapshots(str(tmp_path), LOCAL)
