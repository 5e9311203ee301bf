"""The mirror that `optuna-dashboard` opens holds what Optuna was told, and what runs."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sm_search.search.space.space import Space
from sm_search.search.study.dashboard import JOURNAL_FILE, Mirror
from sm_search.search.study.optuna_searcher import OptunaSearcher

SPACE = Space(
    study="mirrored",
    training={"steps": 90, "learning_rate": {"float": [1e-3, 1e-2], "log": True}, "batch_size": {"choice": [32, 64]}},
    budget={"first_rung": 10, "reduction": 3},
)


def result(value: float, step: int) -> dict[str, Any]:
    return {"val_psnr_db": value, "training_step": step, "schedule": "ddim, 2 steps"}


def play(searcher: OptunaSearcher, mirror: Mirror, name: str, reports: list[dict[str, Any]], *, ends: bool) -> None:
    """A trial as Tune tells of it, to the searcher first."""
    trial: Any = SimpleNamespace(trial_id=name, config=searcher.suggest(name), last_result=reports[-1])
    mirror.on_trial_start(0, [], trial)
    for report in reports:
        # Tune tells a searcher nothing of a trial's last result before it is complete.
        if report is not reports[-1] or not ends:
            searcher.on_trial_result(name, report)
        mirror.on_trial_result(0, [], trial, report)
    if ends:
        searcher.on_trial_complete(name, reports[-1])
        mirror.on_trial_complete(0, [], trial)


@pytest.fixture
def announced() -> list[str]:
    return []


@pytest.fixture
def searcher(tmp_path: Path, announced: list[str]) -> OptunaSearcher:
    searcher, mirror = OptunaSearcher(SPACE), Mirror(tmp_path / JOURNAL_FILE, SPACE, announced.append)
    mirror.begin(searcher.finished())
    play(searcher, mirror, "full", [result(20.0, 10), result(30.0, 90)], ends=True)
    play(searcher, mirror, "stopped", [result(10.0, 10)], ends=True)
    play(searcher, mirror, "running", [result(15.0, 10)], ends=False)
    return searcher


def opened(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))
    return optuna.load_study(study_name="mirrored", storage=storage)


def test_the_mirror_shows_what_ended_and_what_runs(searcher: OptunaSearcher, tmp_path: Path) -> None:
    full, stopped, running = opened(tmp_path).trials
    assert [each.user_attrs["trial"] for each in (full, stopped, running)] == ["full", "stopped", "running"]
    assert (full.state, full.value, full.intermediate_values) == (TrialState.COMPLETE, 30.0, {10: 20.0, 90: 30.0})
    assert full.user_attrs["schedule"] == "ddim, 2 steps"
    assert (stopped.state, stopped.intermediate_values) == (TrialState.PRUNED, {10: 10.0})
    assert (running.state, running.intermediate_values) == (TrialState.RUNNING, {10: 15.0})
    assert [each.params for each in (full, stopped, running)] == [each.params for each in searcher.trials()]


def test_a_driver_after_one_that_was_killed_leaves_no_running_trial_and_no_half_line(
    searcher: OptunaSearcher, tmp_path: Path, announced: list[str]
) -> None:
    with (tmp_path / JOURNAL_FILE).open("a") as journal:
        journal.write('{"op_code": 4, "wor')
    (tmp_path / f"{JOURNAL_FILE}.lock").symlink_to(tmp_path / JOURNAL_FILE)
    mirror = Mirror(tmp_path / JOURNAL_FILE, SPACE, announced.append)
    mirror.begin(searcher.finished())
    play(searcher, mirror, "next", [result(31.0, 90)], ends=True)
    trials = opened(tmp_path).trials
    assert [each.user_attrs["trial"] for each in trials] == ["full", "stopped", "next"]
    assert (trials[0].value, trials[0].intermediate_values) == (30.0, {10: 20.0})
    assert opened(tmp_path).best_value == 31.0
    assert announced == []


def test_a_search_goes_on_without_its_mirror(tmp_path: Path, announced: list[str]) -> None:
    (tmp_path / "file").write_text("")
    searcher, mirror = OptunaSearcher(SPACE), Mirror(tmp_path / "file" / JOURNAL_FILE, SPACE, announced.append)
    mirror.begin(searcher.finished())
    play(searcher, mirror, "a", [result(20.0, 10), result(30.0, 90)], ends=True)
    assert len(announced) == 1
    assert "optuna-dashboard will lack what follows" in announced[0]


def test_the_dashboard_opens_the_study(searcher: OptunaSearcher, tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    application = dashboard.wsgi(JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL_FILE))))
    status: list[str] = []
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "wsgi.input": io.BytesIO(), "SERVER_NAME": "x"}
    request |= {"SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO(), "SCRIPT_NAME": ""}
    body = b"".join(application(request, lambda line, headers, error=None: status.append(line)))
    assert status == ["200 OK"]
    assert [each["study_name"] for each in json.loads(body)["study_summaries"]] == ["mirrored"]
