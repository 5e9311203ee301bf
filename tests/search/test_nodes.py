"""How many trials fit, asked of a real Ray."""

from collections.abc import Iterator

import pytest

from sm_search.search.nodes import room
from sm_search.search.session import ray_session


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session(cpus=3):
        yield


@pytest.mark.parametrize(("cpus", "gpus", "trials"), [(1, 0, 3), (2, 0, 1), (0.1, 0, 30), (4, 0, 0), (1, 0.1, 0)])
def test_room_counts_whole_trials(cpus: float, gpus: float, trials: int) -> None:
    assert room(cpus, gpus) == trials
