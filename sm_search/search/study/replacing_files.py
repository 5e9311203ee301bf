"""A local file system for Ray Tune on which a file is written whole or not at all.

Tune overwrites the one snapshot of a study in place: on a full disk, or when the driver is killed in that moment, an
empty file would be left of it, and with it the study would be lost. Here a file is written beside its target and then
renamed.
"""

import io
import os
from typing import Any

import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem


class _Replacement(io.FileIO):
    """A file that takes its target's place when it is closed, unless a write to it failed."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.whole = True
        super().__init__(f"{target}.{os.getpid()}.part", "w")

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError:
            self.whole = False
            raise
        return memoryview(data).nbytes

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self.whole:
            os.replace(self.name, self.target)
        else:
            os.unlink(self.name)


class ReplacingFiles(LocalFileSystem):
    """fsspec's local file system, but for how it writes."""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "wb":
            return super()._open(path, mode, block_size, **options)
        return _Replacement(self._strip_protocol(path))


def replacing_files() -> pyarrow.fs.FileSystem:
    """The file system as Ray Tune takes it."""
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(ReplacingFiles()))
