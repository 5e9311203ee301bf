"""A simulation that loses workers or its driver to SIGKILL, or cannot write: the same bytes in the end, or one line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sm_search.compute.parallel_simulation import simulate_dataset
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.data.atomic import sha256
from sm_search.data.dataset import MANIFEST, Dataset, file_name

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
    pytest.mark.usefixtures("two_cpus"),
]


def begun(folder: Path, finished: Dataset) -> Path:
    """A folder where the simulation of `finished` has begun: its manifest, and no file."""
    folder.mkdir()
    manifest = finished.manifest.model_copy(update={"files": {}})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid` and their command lines."""
    parents, found, queue = {}, {}, [pid]
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parents.setdefault(int(fields[1]), []).append((int(entry.name), command))
    while queue:
        below = dict(parents.get(queue.pop(), []))
        found |= below
        queue += below
    return found


def test_a_killed_worker_is_replaced_and_the_files_are_the_same(tiny_dataset: Dataset, tmp_path: Path) -> None:
    killed: list[str] = []

    def kill_workers(done: int, total: int, name: str) -> None:
        if killed:
            return
        for pid, command in descendants(os.getpid()).items():
            if command.startswith("ray::_simulate_file"):
                killed.append(command)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    folder = begun(tmp_path / "data", tiny_dataset)
    dataset = simulate_dataset(folder, tiny_dataset.settings, kill_workers)
    assert killed
    assert dataset.manifest.files == tiny_dataset.manifest.files
    assert Dataset.open(folder).unfinished() == []


DRIVER = """
import sys
from sm_search.data.dataset import Dataset
from sm_search.compute.session import ray_session
from sm_search.compute.parallel_simulation import simulate_dataset

with ray_session(cpus=2):
    settings = Dataset.open(sys.argv[1], complete=False).settings
    simulate_dataset(sys.argv[1], settings, lambda done, total, name: print(done, flush=True))
"""


@pytest.mark.slow
def test_a_killed_driver_resumes_to_the_same_files(tiny_dataset: Dataset, tmp_path: Path) -> None:
    folder = begun(tmp_path / "data", tiny_dataset)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "1\n"
    finally:
        for pid in (driver.pid, *descendants(driver.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        driver.communicate()
    left = Dataset.open(folder, complete=False)
    missing = [name for _, name in left.expected() if name not in left.manifest.files]
    assert missing
    redone: list[str] = []
    dataset = simulate_dataset(folder, left.settings, lambda done, total, name: redone.append(name))
    assert set(missing) <= set(redone)
    assert dataset.manifest.files == tiny_dataset.manifest.files
    assert Dataset.open(folder).unfinished() == []


def test_a_place_that_a_worker_cannot_write_is_named(tiny_dataset: Dataset, tmp_path: Path) -> None:
    folder = begun(tmp_path / "data", tiny_dataset)
    scan = tiny_dataset.settings.scans("test")[0]
    (folder / scan.id).write_text("a file where a folder belongs")
    with pytest.raises(DataError) as caught:
        simulate_dataset(folder, tiny_dataset.settings)
    assert str(caught.value) == f"{folder / scan.id}: cannot be created: File exists"
    assert file_name(scan, "low") not in Dataset.open(folder, complete=False).manifest.files


class Disk:
    """A small file system of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        command = ["mount", "-o", f"remount,{options}", str(self.folder)]
        deadline = time.monotonic() + 10
        while subprocess.run(command, capture_output=True).returncode:  # busy while a worker writes
            assert time.monotonic() < deadline


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """150 kB, where the tests may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_and_resumed_when_there_is_room(tiny_dataset: Dataset, disk: Disk) -> None:
    folder = begun(disk.folder / "data", tiny_dataset)
    with pytest.raises(DataError) as caught:
        simulate_dataset(folder, tiny_dataset.settings)
    message = str(caught.value)
    assert message.startswith(f"{folder}/")
    assert message.endswith(": cannot be written: No space left on device")
    left = Dataset.open(folder, complete=False)
    assert 0 < len(left.manifest.files) < len(left.expected())
    assert {name: sha256(folder / name) for name in left.manifest.files} == left.manifest.files

    disk.remount("size=4m")
    dataset = simulate_dataset(folder, left.settings)
    assert dataset.manifest.files == tiny_dataset.manifest.files
    assert [path for path in folder.rglob(".*") if path.is_file()] == []


def test_a_disk_that_turns_read_only_is_told_in_one_line(tiny_dataset: Dataset, disk: Disk) -> None:
    disk.remount("size=4m")
    folder = begun(disk.folder / "data", tiny_dataset)

    def turn(done: int, total: int, name: str) -> None:
        disk.remount("ro")

    with pytest.raises(DataError, match=r"cannot be (written|created): Read-only file system$") as caught:
        simulate_dataset(folder, tiny_dataset.settings, turn)
    assert str(caught.value).startswith(f"{folder}/")
    assert len(Dataset.open(folder, complete=False).manifest.files) == 1
    with pytest.raises(DataError, match=f"^{folder.parent}/other: cannot be created: Read-only file system$"):
        Dataset.create(folder.parent / "other", tiny_dataset.settings)
    disk.remount("rw")
    assert simulate_dataset(folder, tiny_dataset.settings).manifest.files == tiny_dataset.manifest.files


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_named(tiny_settings: DatasetSettings, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o555)
    with pytest.raises(DataError, match=f"^{folder}/manifest.json: cannot be written: Permission denied"):
        Dataset.create(folder, tiny_settings)
