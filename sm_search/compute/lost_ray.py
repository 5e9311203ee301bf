"""Ray's own processes that end below a driver: its command ends in one line, if it can with the study's runs closed."""

import os
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.exceptions import NodeDiedError, OutOfDiskError, RaySystemError, RuntimeEnvSetupError, WorkerCrashedError

from sm_search.compute.ray_internals import dead_processes
from sm_search.config.errors import InputError

LOOK_EVERY_S = 1.0
SECOND_SIGNAL_S = 10.0
"""After which a driver that waits for an answer of Ray's is no longer asked to stop where it is, but made to."""
OF_THE_MACHINE = (NodeDiedError, OutOfDiskError, RaySystemError, RuntimeEnvSetupError, WorkerCrashedError)
"""What Ray raises where its processes cannot be started or kept up; a fault of a task is another error."""
NEEDED = ("gcs_server", "raylet")
"""Processes without which Ray ends its driver; it goes on without its dashboard, say."""
WITNESS = ("/bin/sh", "-c", 'read -r _ || printf "%s\\n" "$1" >&2', "sh")
"""Says its argument where its stdin ends without a line."""
REMEDY = "what is finished is kept, and the same command, `sweep` with --resume, goes on from it"

KILLED = f"error: this process was killed, or Ray ended it when one of its own processes went away; {REMEDY}"


@contextmanager
def ended_with_ray() -> Iterator[None]:
    """For a session of Ray as the body, its start included.

    Raises:
        InputError: a process of Ray's ended, or its workers cannot be started on this machine.
    """
    lost: list[str] = []
    ended_before = ended_children()
    witness = _Witness()
    is_over, at_the_end = threading.Event(), threading.Lock()

    def watch() -> None:
        while not lost:
            if is_over.wait(LOOK_EVERY_S):
                return
            lost.extend(_lost(ended_before))
        for _ in range(2):
            with at_the_end:
                # A session that ends meanwhile ends its processes too, and what comes after it must not be interrupted.
                if is_over.is_set():
                    return
                os.kill(os.getpid(), signal.SIGTERM)
            if is_over.wait(SECOND_SIGNAL_S):
                return
        # The driver stands in Ray's compiled code, which handles no signal until Ray ends it under a log of its own.
        witness.leave()
        os.write(2, f"error: {_went_away(lost[0])}\n".encode())
        os._exit(2)

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        if threading.current_thread() is threading.main_thread():
            watcher.start()
        yield
    except KeyboardInterrupt as interrupt:
        if not lost:
            raise
        raise InputError(_went_away(lost[0], str(interrupt))) from None
    except OF_THE_MACHINE as error:
        said = " ".join(str(error).split())
        raise InputError(f"Ray cannot run its workers: {said}; {REMEDY}; `sm-search doctor` looks further") from None
    finally:
        with at_the_end:
            is_over.set()
        witness.leave()


class _Witness:
    """Another process, which says in one line that this one ended without a word: Ray's compiled code ends its driver
    there and then, and so does a machine without memory.
    """

    def __init__(self) -> None:
        # Of its own session: what a terminal tells this process is not for it.
        self._process = subprocess.Popen(
            [*WITNESS, KILLED], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def leave(self) -> None:
        """There is nothing to say."""
        with suppress(BrokenPipeError):
            self._process.communicate(b"\n")


def _lost(ended_before: Collection[int]) -> list[str]:
    """Processes without which Ray cannot go on, and that have ended.

    Args:
        ended_before: children of this process that had ended before the session began.
    """
    ended = dead_processes()
    if ended is None:
        ended = [name for pid, name in ended_children().items() if pid not in ended_before]
    return [name for name in ended if name in NEEDED]


def ended_children() -> dict[int, str]:
    """Numbers and names of the children of this process that have ended, and whose end nobody has asked for."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = place.read_text(errors="replace").partition("(")[2].rpartition(") ")
            state, parent = rest.split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                found[int(place.parent.name)] = name
    return found


def _went_away(process: str, told: str = "") -> str:
    return f"Ray went away: its {process} ended; {told or REMEDY}"
