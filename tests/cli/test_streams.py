"""Streams that are closed, a pipe that nobody reads, or not of UTF-8: the work is done, and the status is its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sm_search.data.dataset import Dataset

VALIDATE = [sys.executable, "-m", "sm_search", "validate"]


@pytest.fixture
def file(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """A sound file under a name that Latin-1 does not have."""
    link = tmp_path / "η.mdf"
    link.symlink_to(tiny_dataset.folder / tiny_dataset.expected()[0][1])
    return link


def test_what_latin_1_does_not_have_is_escaped(file: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run([*VALIDATE, file], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert rb"\u03b7.mdf: calibration file, 0 errors" in done.stdout
    done = subprocess.run([*VALIDATE, "--json", file], env=environment, capture_output=True, timeout=60)
    assert json.loads(done.stdout.decode("latin-1"))["file"] == str(file)


@pytest.mark.parametrize("as_json", ["", "--json"])
@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&-", "<&- >&-"])
def test_a_closed_stream_costs_only_what_would_stand_there(file: Path, how: str, as_json: str) -> None:
    line = f"'{sys.executable}' -m sm_search validate {as_json} '{file}' {how}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert ("0 errors" in done.stdout or '"errors": 0' in done.stdout) is (how == "2>&-")


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_pipe_that_nobody_reads_ends_nothing(file: Path, as_json: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*VALIDATE, *as_json, file], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
