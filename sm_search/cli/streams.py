"""Standard streams as a shell may give them: closed, a pipe that nobody reads any more, or not of UTF-8."""

import io
import os
import sys

from rich.console import Console


def secure_streams() -> None:
    """Make stdout and stderr such that no line of ours can end the work: what they cannot take is lost or escaped.

    Where one is closed, its number would be given to the next file that is opened, and a library's print go into that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_utf8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


class LastingConsole(Console):
    """A console that goes on in silence where its pipe is closed; rich would end the process, a study with it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(self.file)


def silence(stream: object) -> None:
    """From now on what is written to `stream` goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]
