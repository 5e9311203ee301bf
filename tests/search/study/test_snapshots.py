"""Of several snapshots the one that knows most is gone on from, whatever their names say."""

import json
import pickle
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from ray import cloudpickle
from ray.tune.experiment import Experiment, Trial
from ray.tune.search.search_generator import SearchGenerator

from sm_search.search.space.space import Space
from sm_search.search.study.optuna_searcher import OptunaSearcher
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
        (folder / f"searcher-state-{session}.pkl").write_bytes(pickle.dumps({}))


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
    snapshot(tmp_path, "2027-01-02_00-00-00", [400, 400], begun=1010.0)
    (tmp_path / "searcher-state-2027-01-02_00-00-00.pkl").write_bytes(pickle.dumps({"_trials": {}})[:-3])
    assert settle_snapshots(str(tmp_path), LOCAL)
    assert sessions(tmp_path) == {EAST}


def test_an_experiment_without_a_snapshot_was_not_begun(tmp_path: Path) -> None:
    (tmp_path / "tuner.pkl").touch()
    assert not settle_snapshots(str(tmp_path), LOCAL)
    snapshot(tmp_path, EAST, [0], begun=1000.0, parts=())  # a searcher would not know its trial
    assert not settle_snapshots(str(tmp_path), LOCAL)


class Moments:
    """A search of three trials under Tune's own generator, whose snapshots are written when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials: list[Trial] = []
        self.generator = generator(folder.parent)

    def hand_out(self) -> None:
        trial = self.generator.next_trial()
        assert trial is not None
        self.trials.append(trial)

    def write(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True)
        state = {"trial_data": [trial.get_json_state() for trial in self.trials], "stats": {"start_time": 1.0}}
        (folder / f"experiment_state-{EAST}.json").write_text(json.dumps(state))
        self.generator.save_to_dir(str(folder), EAST)
        return folder


def generator(folder: Path) -> SearchGenerator:
    made = SearchGenerator(OptunaSearcher(SPACE))
    made.add_configurations([Experiment("e", lambda config: None, storage_path=str(folder), num_samples=3)])
    return made


TRAINING = {"steps": 9, "learning_rate": {"float": [1e-3, 1e-2]}}
SPACE = Space.model_validate({"study": "s", "training": TRAINING, "budget": {"first_rung": 3}})
PIECES = ("experiment_state", "search_gen_state", "searcher-state")


@pytest.mark.parametrize("newer", list(product([False, True], repeat=3)), ids=str)
def test_files_of_two_moments_lose_no_trial_and_know_none_twice(tmp_path: Path, newer: tuple[bool, ...]) -> None:
    """As a kill between them leaves them, or a full disk that had room for some."""
    moments = Moments(tmp_path / "e")
    moments.hand_out()
    before = moments.write("before")
    moments.hand_out()
    after = moments.write("after")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for piece, is_newer in zip(PIECES, newer, strict=True):
        (file,) = (after if is_newer else before).glob(f"{piece}*")
        shutil.copy(file, mixed)
    assert settle_snapshots(str(mixed), LOCAL)

    known = json.loads(next(mixed.glob("experiment_state*")).read_text())["trial_data"]
    restored = generator(tmp_path)
    restored._experiment = None
    restored.restore_from_dir(str(mixed))
    assert len(known) == len(restored.searcher._trials) == (2 if newer[2] else 1)
    assert [json.loads(trial)["trial_id"] for trial, _ in known] == list(restored.searcher._trials)
    handed_out = [moments.trials[n].config for n in range(len(known))]
    while not restored.is_finished():
        trial = restored.next_trial()
        assert trial is not None
        handed_out.append(trial.config)
    moments.hand_out()
    assert handed_out == [trial.config for trial in moments.trials]  # those of an undisturbed search
