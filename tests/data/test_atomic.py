"""A file is there whole or not at all."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sm_search.config.errors import DataError
from sm_search.data.atomic import atomic_path, sha256


def test_success_leaves_exactly_the_target(tmp_path: Path) -> None:
    target = tmp_path / "a.mdf"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mdf"]
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_failure_leaves_the_old_content_alone(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.mdf"
    target.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mdf"]
    assert target.read_bytes() == b"old"


def test_a_killed_writer_never_shows_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "a.mdf"
    code = (
        "import os, signal, sys; from sm_search.data.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_two_writers_of_one_target_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "a.mdf"
    with atomic_path(target) as first, atomic_path(target) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert target.read_bytes() == b"first"  # the outer block ends last
    assert len(list(tmp_path.iterdir())) == 1


def test_operating_system_errors_name_target_and_reason(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "a.mdf"
    with pytest.raises(DataError) as caught, atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
    assert str(caught.value) == f"{target}: cannot be written: {os.strerror(2)}"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_target_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mdf").mkdir()
    with pytest.raises(DataError, match="cannot be written"), atomic_path(tmp_path / "a.mdf") as temporary:
        temporary.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mdf"]


def test_sha256_equals_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match="cannot be read"):
        sha256(tmp_path / "b")
