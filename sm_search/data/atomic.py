"""Files that are there whole or not at all, and their hashes."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sm_search.config.errors import DataError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A hidden temporary path beside `target`; leaving the block moves that file to `target`, synced to disk.

    A block that raises leaves nothing behind and `target` as it was. A killed process leaves at most the hidden file.

    Raises:
        DataError: the operating system refuses (no space, no permission, …); names the target and the reason.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself is safe by then.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
