"""Signals that end a command: each interrupts it as Ctrl-C does, wherever it falls, so that a study closes its runs."""

import _thread
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sm_search.cli.streams import silence

AGAIN_S = 0.3
"""After which an interrupt that Python swallowed is sent once more: outside of the callback that it fell into."""
ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """For the body, SIGTERM and SIGHUP raise KeyboardInterrupt, and none of those is lost.

    Who started the command may have it ignore them, as `nohup` does; then it still does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    hook = sys.unraisablehook
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        # The terminal is gone: what is written to it would be an error, in the midst of closing the runs.
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                silence(stream)
    raise KeyboardInterrupt


def _send_again(unraisable: Any) -> None:
    """What is raised in a weakref's callback or in `__del__` goes no further: Python only tells of it, here."""
    if unraisable.exc_type is KeyboardInterrupt:
        # A thread that nobody waits for: here the next interrupt would be swallowed too.
        _thread.start_new_thread(_interrupt_later, ())
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt_later() -> None:
    time.sleep(AGAIN_S)
    os.kill(os.getpid(), signal.SIGTERM)
