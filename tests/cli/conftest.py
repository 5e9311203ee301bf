"""The command line as a user runs it: processes of their own, a home of their own, and one finished tiny study."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.data.dataset import Dataset
from sm_search.tracking.promotion import promote
from sm_search.tracking.store import open_store
from tests.conftest import Finished
from tests.datasets import simulated

TIMEOUT_S = 600
SPACE = """
study: tiny-study
seed: 1
training:
  steps: 40
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {choice: [1.0e-3, 3.0e-3, 1.0e+30]}
  p_uncond: {float: [0.0, 0.3]}
schedule:
  steps: {choice: [1, 2]}
  eta_max: {float: [0.0, 0.3]}
first:
  - {learning_rate: 3.0e-3, p_uncond: 0.1}
  - {learning_rate: 1.0e+30, p_uncond: 0.1}
budget: {trials: 5, first_rung: 20, reduction: 2, schedules: 2, images: 4, regression: true}
"""


class Command:
    """`sm-search` in processes of its own, below one HOME."""

    def __init__(self, home: Path) -> None:
        # Ray writes a token below HOME; nothing of ours may reach the real one.
        self.environment = {**os.environ, "HOME": str(home), "COLUMNS": "100"}

    def __call__(self, *arguments: Any, **environment: str) -> Finished:
        done = subprocess.run(
            self._line(arguments),
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def killed_when(self, sign: Callable[[str], bool], *arguments: Any, log: Path) -> str:
        """Start a command and SIGKILL it and everything that it started once `sign` holds for its stderr."""
        with log.open("w") as stderr:
            process = subprocess.Popen(
                self._line(arguments),
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
            )
            try:
                deadline = time.monotonic() + TIMEOUT_S
                while not sign(log.read_text()):
                    assert process.poll() is None, f"ended too early: {log.read_text()}"
                    assert time.monotonic() < deadline, f"no sign of progress: {log.read_text()}"
                    time.sleep(0.02)
            finally:
                family = descendants(process.pid)
                for pid in (process.pid, *family):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
        return log.read_text()

    @staticmethod
    def _line(arguments: tuple[Any, ...]) -> list[str]:
        return [sys.executable, "-m", "sm_search", *map(str, arguments)]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, from /proc; parents before children."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def oblong_dataset(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A grid and fields that differ between the axes."""
    update = {
        "name": "oblong",
        "grid": Grid(size=(14, 12)),
        "low": FieldSettings(gradient_t_per_m=(0.1, 0.05), drive_mt=(2.0, 1.0)),
        "high": FieldSettings(gradient_t_per_m=(1.0, 0.5), drive_mt=(20.0, 10.0)),
    }
    return simulated(tiny_settings.model_copy(update=update), tmp_path_factory.mktemp("data") / "oblong")


@dataclass(frozen=True)
class Study:
    """A study that `sm-search sweep` has finished. Read only, but for what verbs add to it."""

    name: str
    home: Path
    space: Path
    data: Path
    sweep: Finished


@pytest.fixture(scope="session")
def study(run: Callable[..., Finished], tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    space, home = folder / "space.yaml", folder / "home"
    space.write_text(SPACE)
    done = run("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json")
    assert done.status == 0, done.stderr
    return Study("tiny-study", home, space, tiny_dataset.folder, done)


@pytest.fixture(scope="session")
def champion(study: Study) -> str:
    """The URI of the best model of the finished study, promoted."""
    promote(open_store(study.home), study.name, Dataset.open(study.data))
    return "models:/sm-search@champion"
