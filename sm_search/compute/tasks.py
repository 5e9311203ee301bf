"""Many small tasks on Ray, only so many of them under way at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

IN_FLIGHT_PER_CPU = 2
CANCEL_AGAIN_S = 1.0
CANCEL_ATTEMPTS = 30


def tasks_at_once() -> int:
    """Tasks of one CPU that keep every CPU of the running session busy."""
    return IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def bounded(calls: Sequence[Callable[[], ray.ObjectRef]], at_once: int) -> Iterator[Iterator[tuple[int, Any]]]:
    """Start tasks in order, `at_once` at most under way; those that still run when the body ends are ended.

    Yields:
        For the body: the number of each call and its result, as they end. A task's error is raised there.
    """
    waiting = list(enumerate(calls))
    running: dict[ray.ObjectRef, int] = {}

    def results() -> Iterator[tuple[int, Any]]:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, call = waiting.pop(0)
                running[call()] = number
            for done in ray.wait(list(running))[0]:
                number = running.pop(done)
                yield number, ray.get(done)

    try:
        yield results()
    finally:
        _cancel(list(running))


def _cancel(running: list[ray.ObjectRef]) -> None:
    """End tasks and wait until they have: Ray may lose a cancellation that meets a task on its way to a worker."""
    attempts = CANCEL_ATTEMPTS
    while running and attempts:
        for reference in running:
            ray.cancel(reference, force=True)
        _, running = ray.wait(running, num_returns=len(running), timeout=CANCEL_AGAIN_S)
        attempts -= 1
