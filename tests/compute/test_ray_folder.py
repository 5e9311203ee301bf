"""Ray's folder on this machine belongs to one user, and a path that cannot serve is told in one line."""

import os
import stat
from pathlib import Path

import pytest

from sm_search.compute import ray_folder
from sm_search.compute.ray_folder import MOST_BYTES, VARIABLE, own_ray_folder
from sm_search.config.errors import InputError


@pytest.fixture(autouse=True)
def _none_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tmp_path` as a folder whose path is short enough for any socket."""
    monkeypatch.setattr(ray_folder, "MOST_BYTES", len(os.fsencode(tmp_path)) + MOST_BYTES)
    return tmp_path


def test_two_users_do_not_share_a_folder(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    with own_ray_folder():
        mine = Path(os.environ[VARIABLE])
    assert mine.parent == short
    assert mine.name.endswith(f"-{os.getuid()}")
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    assert VARIABLE not in os.environ
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(InputError, match="12345: must be a folder of yours alone"), own_ray_folder():
        pass  # it was made by this test's own user


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_folder_that_others_can_reach_is_refused(short: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    taken = short / f"sm_search-{os.getuid()}"
    taken.mkdir()
    taken.chmod(mode)
    with pytest.raises(InputError, match="mode 0700"), own_ray_folder():
        pass


def test_a_link_is_not_followed(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    (short / "elsewhere").mkdir(mode=0o700)
    (short / f"sm_search-{os.getuid()}").symlink_to(short / "elsewhere")
    with pytest.raises(InputError, match="mode 0700"), own_ray_folder():
        pass


def test_a_folder_that_the_user_names_is_taken_as_it_is(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short)
    monkeypatch.setenv(VARIABLE, "mine")
    with own_ray_folder():
        assert os.environ[VARIABLE] == str(short / "mine")
        assert (short / "mine").is_dir()
    assert os.environ[VARIABLE] == "mine"


def test_a_named_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"/tmp/{'x' * 60}")
    with pytest.raises(InputError, match=f"{VARIABLE}=/tmp/x+: has 65 bytes, .* leave {MOST_BYTES}"), own_ray_folder():
        pass
    assert not Path(os.environ[VARIABLE]).exists()
    monkeypatch.setenv(VARIABLE, "/dev/null/x")
    with pytest.raises(InputError, match="/dev/null/x: cannot be made: Not a directory"), own_ray_folder():
        pass


def test_a_long_tmpdir_is_left_for_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", f"/tmp/{'x' * 60}")
    with own_ray_folder():
        assert os.environ[VARIABLE] == f"/tmp/sm_search-{os.getuid()}"


def test_the_longest_path_is_what_ray_can_use() -> None:
    """As Ray's own check has it: 107 bytes with the socket."""
    socket = "/ray/session_2026-11-27_12-56-17_956749_4194304/sockets/plasma_store"
    assert MOST_BYTES + len(socket) == 107
