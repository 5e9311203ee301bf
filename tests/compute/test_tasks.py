"""Tasks bounded in flight, on a real Ray session."""

import os
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from sm_search.compute.tasks import bounded

LONG_S = 120.0
pytestmark = pytest.mark.usefixtures("two_cpus")


@ray.remote(num_cpus=0, max_retries=0)
def _say_pid(path: str, seconds: float) -> str:
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
    return path


def test_all_results_come_with_their_numbers_and_few_tasks_are_under_way() -> None:
    started: list[int] = []

    def call(number: int) -> ray.ObjectRef:
        started.append(number)
        return ray.put(number * 10)

    found = {}
    with bounded([partial(call, number) for number in range(7)], 2) as results:
        for number, result in results:
            found[number] = result
            assert len(started) <= len(found) + 2
    assert started == list(range(7))
    assert found == {number: number * 10 for number in range(7)}


def test_what_still_runs_when_the_body_ends_is_ended(tmp_path: Path) -> None:
    started: list[ray.ObjectRef] = []

    def call(number: int) -> ray.ObjectRef:
        started.append(_say_pid.remote(str(tmp_path / str(number)), LONG_S * number))
        return started[-1]

    with bounded([partial(call, number) for number in range(4)], 3) as results:
        assert next(results) == (0, str(tmp_path / "0"))
    assert len(started) == 3
    assert len(ray.wait(started, num_returns=3, timeout=0)[0]) == 3
    for reference in started[1:]:
        with pytest.raises(ray.exceptions.RayError):
            ray.get(reference)
    # Those that had begun have no process any more.
    pids = [int(path.read_text() or 0) for path in tmp_path.iterdir() if path.name != "0"]
    deadline = time.monotonic() + LONG_S / 2
    while any(Path(f"/proc/{pid}").exists() for pid in pids if pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
