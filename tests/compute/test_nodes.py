"""How many trials fit, asked of a real Ray."""

from collections.abc import Iterator

import pytest
import ray

from sm_search.compute.nodes import capacity, has_label
from sm_search.compute.session import ray_session


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session(cpus=3):
        yield


@pytest.mark.parametrize(("cpus", "gpus", "trials"), [(1, 0, 3), (2, 0, 1), (0.1, 0, 30), (4, 0, 0), (1, 0.1, 0)])
def test_room_counts_whole_trials(cpus: float, gpus: float, trials: int) -> None:
    assert capacity(cpus, gpus) == trials


def test_a_label_is_had_by_name_and_value() -> None:
    (node,) = ray.nodes()
    label, value = next(iter(node["Labels"].items()))
    assert has_label(label, value)
    assert not has_label(label, f"{value}!")
    assert not has_label("pool", "cpu")
