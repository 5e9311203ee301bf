"""`cluster/slurm.sh` as sbatch would start it, on Ray nodes of this machine; `srun` and `scontrol` are replaced."""

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

import pytest

from sm_search.data.dataset import Dataset
from sm_search.tracking.records import study_runs
from sm_search.tracking.store import open_store

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/slurm.sh"
TIMEOUT_S = 600
SPACE = """
study: nightly
training:
  steps: 1600
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 4, first_rung: 400, reduction: 2, schedules: 2, images: 4}
"""
# Each of the other nodes is one more `ray start` here; one after the other, since two at once take the same socket.
# Nodes of one machine may also take each other's ports: one that dies of it is started again.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$SLURM_TEST_LOG"
count=1
while [[ $1 == --* ]]; do [[ $1 != --ntasks=* ]] || count=${1#*=}; shift; done
trap 'kill $(jobs -p) 2> /dev/null' TERM
for ((i = 0; i < count; i++)); do
    for attempt in 1 2 3; do
        rm -f "$SLURM_TEST_LOG.node$i.$attempt"  # of the run before: it says that it started
        "$@" > "$SLURM_TEST_LOG.node$i.$attempt" 2>&1 &
        while kill -0 $! 2> /dev/null && ! grep -qs "Ray runtime started" "$SLURM_TEST_LOG.node$i.$attempt"; do
            sleep 0.2
        done
        sleep 1
        if kill -0 $! 2> /dev/null; then break; fi
    done
done
wait
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$SLURM_TEST_LOG"
[[ "$1 $2" != "show hostnames" ]] || printf '%s\\n' node1 node2 node3
"""


def test_bash_accepts_it() -> None:
    result = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    result = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_slurm_stops_it_while_there_is_time_and_may_queue_it_again() -> None:
    lines = [line.split(" ", 1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    options = dict(line.partition("=")[::2] for line in lines)
    assert options["--signal"] == "B:USR1@300"
    assert "--requeue" in options
    assert options["--open-mode"] == "append"
    # Slurm makes no folder for it.
    assert "/" not in options["--output"]
    # Slurm reads these lines only above the first command.
    assert SCRIPT.read_text().rindex("#SBATCH") < SCRIPT.read_text().index("set -euo")


class Job:
    """The allocation: each `start` is one run of the script in it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.log = folder / "output"

    def start(self, *arguments: object) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["bash", SCRIPT, *map(str, arguments)],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def told(self) -> str:
        """All that its processes said: which node did not start, and why, stands in a log of its own."""
        logs = [self.log, *sorted(self.folder.glob("slurm*")), *sorted(self.folder.glob("outputs/*/*.log"))]
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in logs if path.is_file())

    def family(self) -> list[int]:
        """All processes of the job, by its folder in their environment."""
        mark, found = f"SLURM_TEST_LOG={self.environment['SLURM_TEST_LOG']}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


@pytest.fixture
def job() -> Iterator[Job]:
    # Ray's sockets want a short path.
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "space.yaml").write_text(SPACE)
    number = os.getpid()
    job = Job(
        folder,
        {
            "PATH": f"{folder}/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "SLURM_TEST_LOG": str(folder / "slurm"),
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_PER_TASK": "1",
        },
    )
    yield job
    for pid in job.family():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(f"/tmp/ray-{number}", ignore_errors=True)


def wait_until(sign: Callable[[], object], job: Job, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not sign():
        assert time.monotonic() < deadline, f"{what}: {job.told()}"
        time.sleep(0.2)


@pytest.mark.cluster
def test_at_the_time_limit_the_job_stops_and_its_restart_resumes(job: Job, tiny_dataset: Dataset) -> None:
    line = ("sweep", "--space", job.folder / "space.yaml", "--data", tiny_dataset.folder, "--json")
    home = job.folder / f"outputs/slurm-{job.environment['SLURM_JOB_ID']}"
    first = job.start(*line)
    wait_until(lambda: "trial 1/4" in job.log.read_text() or first.poll() is not None, job, "no first trial")
    assert first.poll() is None, job.told()
    first.send_signal(signal.SIGUSR1)
    assert first.wait(timeout=TIMEOUT_S) == 0, job.told()
    said = (job.folder / "slurm").read_text().splitlines()
    assert said[0] == "scontrol show hostnames node[1-3]"
    step = "srun --nodes=2 --ntasks=2 --cpus-per-task=1 --exclude=node1"
    assert said[1].startswith(f"{step} ray start --block --address=")
    assert said[2:] == [f"scontrol requeue {job.environment['SLURM_JOB_ID']}"]
    assert (home / "ray-token").stat().st_mode & 0o077 == 0
    wait_until(lambda: not job.family(), job, "processes are left")

    second = job.start(*line)
    assert second.wait(timeout=TIMEOUT_S) == 0, job.told()
    assert job.log.read_text().count("trial 1/4") == 1
    told = json.loads(job.log.read_text().splitlines()[-1])
    assert len(told["trials"]) == 4
    parent, runs = study_runs(open_store(home), "nightly")
    assert parent.status == "FINISHED"
    assert [run.status for run in runs] == ["FINISHED"] * 4
    assert (job.folder / "slurm").read_text().count("requeue") == 1
    wait_until(lambda: not job.family(), job, "processes are left")
