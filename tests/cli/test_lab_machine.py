"""Where people keep their checkouts, and who else is on the machine."""

import os
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sm_search.cli.main import build_parser
from sm_search.data.dataset import Dataset
from sm_search.tracking.records import study_runs
from sm_search.tracking.store import open_store

TIMEOUT_S = 600
SPACE = """
study: one
training:
  steps: 20
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 1, first_rung: 20, schedules: 2, images: 4}
"""
PLACES = {"FILE", "DIR", "PATH", "SPACE"}


def verbs() -> Iterator[tuple[str, ArgumentParser]]:
    for action in build_parser()._subparsers._group_actions:  # type: ignore[union-attr]
        yield from action.choices.items()  # type: ignore[union-attr,misc]


def test_every_path_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = 0
    for verb, parser in verbs():
        for action in parser._actions:
            if action.metavar in PLACES or action.dest in ("storage", "model"):
                assert str(parser._get_value(action, "~/stor")) == "/home/me/stor", verb
                found += 1
    assert found > 25


@pytest.mark.slow
def test_a_sweep_by_a_python_with_a_space_in_its_path_into_a_relative_storage(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Both at once, since a sweep takes its time; and again with --resume."""
    python = tmp_path / "a (b) $c" / "bin" / Path(sys.executable).name
    python.parent.parent.symlink_to(sys.prefix)
    (tmp_path / "space.yaml").write_text(SPACE)
    line: list[Any] = [python, "-m", "sm_search", "sweep", "--space", "space.yaml"]
    line += ["--data", os.path.relpath(tiny_dataset.folder, tmp_path), "--storage", "stor", "--home", "my home"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    for more in ([], ["--resume"]):
        done = subprocess.run(
            [*line, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
    (trial,) = study_runs(open_store(tmp_path / "my home"), "one")[1]
    assert trial.state == "complete"
    assert (tmp_path / "stor" / "studies" / "one" / "tune").is_dir()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A temporary folder of all users, with a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can run something as two other users")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_two_users_sweep_on_one_machine(tiny_dataset: Dataset, shared: Path) -> None:
    """One after the other, in what the first left behind; both may read this checkout, and write only their own."""
    for user in ("daemon", "nobody"):
        home = shared / user
        home.mkdir(mode=0o700)
        (home / "space.yaml").write_text(SPACE)
        shutil.chown(home, user)
        line: list[Any] = ["setpriv", "--reuid", user, "--regid", "65534", "--clear-groups"]
        line += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"]
        line += [sys.executable, "-m", "sm_search", "sweep", "--space", home / "space.yaml"]
        line += ["--data", tiny_dataset.folder, "--home", home / "outputs"]
        environment = {**os.environ, "HOME": str(home), "TMPDIR": str(shared)}
        environment.pop("RAY_AUTH_TOKEN_PATH", None)
        environment.pop("RAY_TMPDIR", None)
        done = subprocess.run(line, env=environment, cwd=home, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert "trial 1/1" in done.stderr
    left = {path.name: oct(path.stat().st_mode & 0o022) for path in shared.iterdir()}
    assert set(left.values()) == {"0o0"}, left
