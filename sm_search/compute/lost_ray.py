"""Ray's own processes that end below a driver: its command ends in one line, with the study's runs closed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import NodeDiedError, OutOfDiskError, RaySystemError, RuntimeEnvSetupError, WorkerCrashedError

from sm_search.compute.ray_internals import dead_processes
from sm_search.config.errors import InputError

LOOK_EVERY_S = 1.0
SECOND_SIGNAL_S = 10.0
"""After which a driver that waits for an answer of Ray's is no longer asked to stop where it is, but made to."""
OF_THE_MACHINE = (NodeDiedError, OutOfDiskError, RaySystemError, RuntimeEnvSetupError, WorkerCrashedError)
"""What Ray raises where its processes cannot be started or kept up; a fault of a task is another error."""
REMEDY = "what is finished is kept, and the same command, `sweep` with --resume, goes on from it"


@contextmanager
def ended_with_ray() -> Iterator[None]:
    """For what runs in a session of Ray as the body.

    Raises:
        InputError: a process of Ray's ended, or its workers cannot be started on this machine.
    """
    lost: list[str] = []
    is_over, at_the_end = threading.Event(), threading.Lock()

    def watch() -> None:
        while not lost:
            if is_over.wait(LOOK_EVERY_S):
                return
            lost.extend(dead_processes())
        for _ in range(2):
            with at_the_end:
                # A session that ends meanwhile ends its processes too, and what comes after it must not be interrupted.
                if is_over.is_set():
                    return
                os.kill(os.getpid(), signal.SIGTERM)
            if is_over.wait(SECOND_SIGNAL_S):
                return
        # The driver stands in Ray's compiled code, which handles no signal until Ray ends it under a log of its own.
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


def _went_away(process: str, told: str = "") -> str:
    return f"Ray went away: its {process} ended; {told or REMEDY}"
