"""`sweep --ray-address http://…`: a study as a Ray job, from a process that knows only where the jobs server is.

The head is a real one with its dashboard and a token, on ports and in a folder of its own.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sm_search.data.dataset import Dataset
from sm_search.tracking.records import metric_history, study_runs
from sm_search.tracking.store import open_store
from tests.tracking.servers import free_port

TIMEOUT_S = 600
TRIALS = 8
SPACE = """
study: remote
training:
  steps: 3000
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 8, first_rung: 750, reduction: 2, schedules: 2, images: 4}
resources: {concurrent: 1}
"""
MARK = "SM_SEARCH_TEST_HEAD"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("aiohttp_cors") is None, reason="jobs need ray[default]"),
]


class Head:
    """A Ray head with a jobs server, and a laptop beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.address = f"http://127.0.0.1:{free_port()}"
        self.laptop = folder / "laptop"
        self.laptop.mkdir()
        (self.laptop / "space.yaml").write_text(SPACE)
        # A laptop's own idea of a home or of a cluster must not reach the job.
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k == "RAY_AUTH_TOKEN_PATH"},
            "HOME": str(self.laptop),
            "RAY_AUTH_MODE": "token",
            "RAY_ADDRESS": "http://127.0.0.1:1",
            "COLUMNS": "100",
        }

    def start(self) -> None:
        ports = ("port", "ray-client-server-port", "dashboard-agent-listen-port", "node-manager-port")
        line = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=1"]
        line += [f"--{name}={free_port()}" for name in ports]
        line += [f"--dashboard-port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}/ray"]
        environment = {
            **self.environment,
            MARK: str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "SM_SEARCH_HOME": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        del environment["RAY_ADDRESS"]
        with (self.folder / "log").open("w") as log:
            subprocess.Popen(list(map(str, line)), env=environment, stdout=log, stderr=log, start_new_session=True)

    def family(self) -> list[int]:
        """All processes of the head and of its jobs, by what their environment says."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def logs(self) -> str:
        """What Ray and the jobs say of the jobs."""
        files = self.folder.glob("ray/session_latest/logs/**/*job*.log")
        return "\n".join(f"{file}:\n{file.read_text()}" for file in files)

    def end(self) -> None:
        while found := self.family():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


class Sweep:
    """`sm-search sweep` on the laptop."""

    def __init__(self, head: Head, *options: Any, **environment: str) -> None:
        line = [sys.executable, "-m", "sm_search", "sweep", "--ray-address", head.address, *options]
        self.log = head.laptop / f"stderr-{len(list(head.laptop.iterdir()))}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, line)),
                env={**head.environment, **environment},
                cwd=head.laptop,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, words: str) -> None:
        self._until(lambda: words in self.said, words)

    def end(self) -> tuple[int, str]:
        """Exit status and stdout."""
        out, _ = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out

    def _until(self, sign: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not sign():
            assert self.process.poll() is None, f"ended before {what}: {self.said}"
            assert time.monotonic() < deadline, f"no {what}: {self.said}"
            time.sleep(0.1)


@pytest.fixture
def head() -> Iterator[Head]:
    # Ray's sockets want a short path.
    head = Head(Path(tempfile.mkdtemp(prefix="jobs")))
    try:
        head.start()
        deadline = time.monotonic() + TIMEOUT_S
        while (asked := Sweep(head, "--attach", "remote")).end()[0] != 2 or "has no job" not in asked.said:
            assert time.monotonic() < deadline, f"{asked.said}\n{(head.folder / 'log').read_text()}"
            time.sleep(1)
        yield head
    finally:
        head.end()
        shutil.rmtree(head.folder, ignore_errors=True)


def test_a_study_is_submitted_left_followed_cancelled_and_continued(head: Head, tiny_dataset: Dataset) -> None:
    submit = ("--space", "space.yaml", "--data", tiny_dataset.folder)
    refused = Sweep(head, *submit, RAY_AUTH_TOKEN="wrong" * 8)
    assert refused.end() == (2, "")
    assert refused.said.startswith(f"error: --ray-address {head.address}: ")
    assert refused.said.count("\n") == 1

    first = Sweep(head, *submit, "--json")
    first.wait_for("submitted to")
    second = Sweep(head, *submit)
    assert second.end() == (2, "")
    assert second.said.startswith("error: study 'remote': job sm-search-remote runs it already; ")
    first.wait_for("trial 1/8")
    first.process.send_signal(signal.SIGINT)
    assert first.end() == (130, "")
    assert first.said.startswith(f"job sm-search-remote submitted to {head.address}\n")
    assert first.said.splitlines()[-1].startswith("error: detached: job sm-search-remote goes on; ")
    packed = list(head.folder.glob("ray/session_latest/runtime_resources/working_dir_files/*/*"))
    assert [path.name for path in packed] == ["space.yaml"]
    assert packed[0].read_text() == SPACE

    follower = Sweep(head, "--attach", "remote", "--json")
    follower.wait_for("trial 1/8")
    cancelled = Sweep(head, "--cancel", "remote", "--json")
    status, out = cancelled.end()
    assert status == 0, cancelled.said
    told = json.loads(out)
    closed = "study 'remote': interrupted, its runs are closed; `sweep --resume` continues it"
    assert told == {"study": "remote", "job": "sm-search-remote", "state": "STOPPED", "said": closed}, head.logs()
    assert follower.end() == (130, "")
    assert follower.said.splitlines()[-1] == f"error: job sm-search-remote was stopped: {closed}"

    store = open_store(head.home)
    parent, runs = study_runs(store, "remote")
    assert parent.status == "KILLED"
    assert {run.status for run in runs} <= {"FINISHED", "KILLED"}
    ended = {run.trial_id: run.state for run in runs if run.status == "FINISHED"}
    assert 1 <= len(ended) < TRIALS

    again = Sweep(head, "--cancel", "remote")
    assert again.end() == (0, "job sm-search-remote had ended already: STOPPED\n")
    plain = Sweep(head, *submit)
    assert plain.end() == (2, "")
    assert plain.said.splitlines()[-1].startswith("error: study 'remote': exists in ")
    assert plain.said.count("error: ") == 1

    resumed = Sweep(head, *submit, "--resume", "--json")
    status, out = resumed.end()
    assert status == 0, head.logs()
    assert resumed.said.startswith(f"job sm-search-remote-3 submitted to {head.address}\n")
    check_whole(head.home, json.loads(out), ended)

    shown = Sweep(head, "--attach", "remote")
    status, out = shown.end()
    assert status == 0
    assert out.splitlines()[0].rstrip() == "Study remote"
    assert [line for line in shown.said.splitlines() if line.startswith("trial ")] == [
        line for line in resumed.said.splitlines() if line.startswith("trial ")
    ]


def check_whole(home: Path, told: dict[str, Any], ended: dict[str | None, str | None]) -> None:
    """Each trial once, none RUNNING, each rung once; what had ended is as it was."""
    store = open_store(home)
    parent, runs = study_runs(store, "remote")
    assert parent.status == "FINISHED"
    assert [run.status for run in runs] == ["FINISHED"] * TRIALS
    assert sorted(run.trial_id or "" for run in runs) == sorted(trial["trial_id"] for trial in told["trials"])
    states = {run.trial_id: run.state for run in runs}
    assert ended.items() <= states.items()
    for run in runs:
        steps = [step for step, _ in metric_history(store, run.run_id, "val_psnr_db")]
        assert steps == [750, 1500, 3000][: len(steps)] != []
