"""Order, Pareto front and spread of a study's trials, and files that are whole or not there."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest

from sm_search.search.space.space import Space
from sm_search.search.study.confirmation import confirmation_points, with_spread
from sm_search.search.study.replacing_files import replacing_files
from sm_search.search.study.result import SweepResult, points
from sm_search.search.study.trial_summary import TrialSummary, ranked


def trial(name: str, value: float, state: Any = "complete", **metrics: float) -> TrialSummary:
    return TrialSummary(name, state, {"p": name}, {"val_psnr_db": value, "training_step": 40.0, **metrics}, None)


def space(**changes: Any) -> Space:
    return Space(**{"study": "s", "training": {"steps": 40}, "budget": {"first_rung": 20}, **changes})


def seeded(name: str, seed: int, value: float | None) -> Any:
    last = {"val_psnr_db": value, "training_step": 40} if value is not None else {"error": "nan", "training_step": 0}
    return SimpleNamespace(config={"point": {"trial_id": name, "seed": seed}}, metrics=last, error=None)


def test_the_winner_is_the_best_mean_of_all_seeds() -> None:
    of = space(budget={"first_rung": 20, "confirm": {"best": 3, "seeds": 2}})
    trials = ranked(of, [trial("lucky", 33.0), trial("solid", 32.0), trial("frail", 31.5), trial("unasked", 31.0)])
    points = confirmation_points(of, trials)
    assert [(p["trial_id"], p["seed"]) for p in points] == [
        (name, seed) for name in ("lucky", "solid", "frail") for seed in (1, 2)
    ]
    values = {"lucky": [27.0, 30.0], "solid": [31.0, 33.0], "frail": [35.0, None]}
    results = [seeded(name, seed, values[name][seed - 1]) for name in values for seed in (2, 1)]
    told = ranked(of, with_spread(of, trials, results))
    assert [each.trial_id for each in told] == ["solid", "lucky", "frail", "unasked"]
    solid, lucky, frail, _ = told
    assert (solid.metrics["val_psnr_db_mean"], solid.metrics["val_psnr_db_std"], solid.seeds) == (32, 1, (32, 31, 33))
    assert (lucky.metrics["val_psnr_db_mean"], lucky.metrics["val_psnr_db_std"]) == (30, 3)
    assert "val_psnr_db_mean" not in frail.metrics


def test_complete_trials_come_before_stopped_and_failed_ones() -> None:
    trials = [trial("f", 99.0, "failed"), trial("p", 50.0, "pruned"), trial("b", 1.0), trial("a", 1.0), trial("c", 2.0)]
    assert [each.trial_id for each in ranked(space(), trials)] == ["c", "a", "b", "p", "f"]


@pytest.mark.parametrize(
    ("values", "kept"),
    [((1.0, 4.0, 3.0, 2.0), [4.0, 3.0, 2.0]), ((1.0, 2.0), [2.0, 1.0]), ((), [])],
    ids=["more than three complete", "fewer than three complete", "none complete"],
)
def test_models_are_kept_of_the_best_three_complete_trials(values: Sequence[float], kept: list[float]) -> None:
    complete = [trial(f"c{value}", value) for value in values]
    others = [trial("p1", 50.0, "pruned"), trial("p2", 40.0, "pruned"), trial("f", 99.0, "failed")]
    told = SweepResult("s", "run", "val_psnr_db", tuple(ranked(space(), [*others, *complete])), (), 0)
    assert [each.metrics["val_psnr_db"] for each in told.kept] == kept


def test_the_front_is_what_nothing_beats() -> None:
    of = space(further_objectives=("evaluations",))
    trials = [
        trial("best", 33.0, evaluations=16),
        trial("cheap", 30.0, evaluations=1),
        trial("between", 32.0, evaluations=4),
        trial("twin", 32.0, evaluations=4),
        trial("dearer", 32.0, evaluations=8),
        trial("worse", 29.0, evaluations=1),
    ]
    found = points(of, trials)
    assert [point.trial_id for point in found if point.on_front] == ["best", "twin", "between", "cheap"]
    assert {point.trial_id for point in found} == {each.trial_id for each in trials}
    assert points(space(), trials) == []


def test_each_schedule_on_a_trials_front_is_a_point_of_its_study() -> None:
    of = space(further_objectives=("evaluations",))

    def with_front(name: str, *front: tuple[float, int]) -> TrialSummary:
        own = tuple({"val_psnr_db": value, "evaluations": n, "schedule": {"steps": n}} for value, n in front)
        return replace(trial(name, *front[0][:1], evaluations=front[0][1]), front=own)

    found = points(of, [with_front("a", (33.0, 16), (30.0, 1)), with_front("b", (32.5, 4), (31.0, 1))])
    front = [(point.trial_id, point.schedule, point.objectives) for point in found if point.on_front]
    assert front == [
        ("a", {"steps": 16}, {"val_psnr_db": 33.0, "evaluations": 16.0}),
        ("b", {"steps": 4}, {"val_psnr_db": 32.5, "evaluations": 4.0}),
        ("b", {"steps": 1}, {"val_psnr_db": 31.0, "evaluations": 1.0}),
    ]
    assert [point.trial_id for point in found if not point.on_front] == ["a"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "file").write_bytes(b"new" * 1000)
    return tmp_path / "from"


def copy(source: Path, target: Path) -> None:
    pyarrow.fs.copy_files(
        str(source),
        str(target),
        source_filesystem=pyarrow.fs.LocalFileSystem(),
        destination_filesystem=replacing_files(),
    )


def test_a_copied_file_is_complete_and_leaves_nothing_beside_it(source: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "file").write_bytes(b"old")
    copy(source, tmp_path / "to")
    assert (tmp_path / "to" / "file").read_bytes() == b"new" * 1000
    assert os.listdir(tmp_path / "to") == ["file"]


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_result import copy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    copy(Path(sys.argv[1]), Path(sys.argv[2]))
except OSError as error:
    print(error.errno)
"""


def test_a_file_that_does_not_fit_leaves_the_old_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "file").write_bytes(b"old")
    line = [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "to"), str(Path(__file__).parent)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.stdout.strip() == "27", done.stderr  # EFBIG
    assert (tmp_path / "to" / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path / "to") == ["file"]
