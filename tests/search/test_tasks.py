"""Tasks bounded in flight, on a real Ray session."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from sm_search.search.session import ray_session
from sm_search.search.tasks import bounded

SECONDS = 2.0


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(cpus=2):
        yield


@ray.remote(num_cpus=0)
def _touch(path: str, seconds: float) -> str:
    time.sleep(seconds)
    Path(path).touch()
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


def test_what_still_runs_when_the_body_ends_is_cancelled(tmp_path: Path) -> None:
    calls = [partial(_touch.remote, str(tmp_path / str(number)), SECONDS * number) for number in range(4)]
    with bounded(calls, 3) as results:
        assert next(results) == (0, str(tmp_path / "0"))
    time.sleep(3 * SECONDS)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
