"""Where Ray keeps sessions and lock files on this machine: a folder of this user alone.

Ray's own default is the same for all users, `/tmp/ray` and `/tmp/_ray_lockfiles`: whoever comes second may not open the
lock files of the first.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm_search.config.errors import InputError

VARIABLE = "RAY_TMPDIR"
"""Ray's own variable: where it is set, it is the user's choice."""
MOST_BYTES = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Of the folder's path: what Linux allows the path of a socket, less what Ray adds."""


@contextmanager
def own_ray_folder() -> Iterator[None]:
    """For the body, Ray takes a folder of this user.

    Raises:
        InputError: the folder cannot be used.
    """
    before = os.environ.get(VARIABLE)
    use_own_ray_folder()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def use_own_ray_folder() -> None:
    """From now on Ray takes a folder of this user, in this process and in those that it starts.

    Raises:
        InputError: the folder cannot be used.
    """
    named = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(_checked(Path(named)) if named else _private(_temporary() / f"sm_search-{os.getuid()}"))


def _temporary() -> Path:
    """TMPDIR is not about Ray: where its path is too long for sockets, /tmp serves."""
    place = Path(os.environ.get("TMPDIR") or "/tmp").absolute()
    # The name of our folder is below it.
    return place if len(os.fsencode(place)) + len(f"/sm_search-{os.getuid()}") <= MOST_BYTES else Path("/tmp")


def _checked(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    if len(os.fsencode(folder)) > MOST_BYTES:
        raise InputError(
            f"{VARIABLE}={folder}: has {len(os.fsencode(folder))} bytes, and Ray's sockets leave {MOST_BYTES} for it; "
            "take a shorter path"
        )
    _made(folder, 0o777)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{VARIABLE}={folder}: must be a folder that you can write")
    return folder


def _private(folder: Path) -> Path:
    """A folder under a known name in a shared place, which nobody else may have made."""
    _made(folder, 0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(f"{folder}: must be a folder of yours alone (mode 0700); name another place in {VARIABLE}")
    return folder


def _made(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; name another place in {VARIABLE}") from None
