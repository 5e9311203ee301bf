"""Hashes and streams mean the same in every process."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sm_search.config.base import content_hash
from sm_search.config.dataset_settings import DatasetSettings, preset
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.config.simulation_settings import Grid
from sm_search.config.streams import stream, stream_seed


def hash_and_stream(name: str) -> tuple[str, str, int, float]:
    value = preset(name)
    return value.content_hash(), TrainingSettings().content_hash(), stream_seed(1, "a", 2), stream(1, "a", 2).random()


def test_hash_and_streams_are_the_same_in_a_spawned_process() -> None:
    # Spawned: its own hash seed for str, which must not matter.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(hash_and_stream, ("paper-12",)) == hash_and_stream("paper-12")


def test_the_hash_of_a_known_value_never_changes() -> None:
    # printf '{"fov_mm":[40.0,40.0],"size":[32,32]}' | sha256sum
    assert Grid().content_hash() == "2b0a566d04855eaa9e875f881c660eab2f3a53608a935b62fd583a94f665f499"
    assert content_hash({"b": [1, 2.5], "a": "é"}) == content_hash({"a": "é", "b": [1, 2.5]})


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"p_uncond": 0.2}, {"receive_channels": (0, 1)}, {"condition_noise": "same-level"}, {"steps": 4001}],
)
def test_any_changed_value_changes_the_hash(changes: dict[str, object]) -> None:
    assert TrainingSettings(**changes).content_hash() != TrainingSettings().content_hash()  # type: ignore[arg-type]


def test_a_change_deep_inside_changes_the_hash() -> None:
    settings = preset("paper-12")
    grid = settings.grid.model_copy(update={"fov_mm": (40.0, np.nextafter(40.0, 41.0).item())})
    other = settings.model_copy(update={"grid": grid})
    assert other.content_hash() != settings.content_hash()
    assert other.physics_hash() != settings.physics_hash()
    renamed = settings.model_copy(update={"name": "other"})
    assert renamed.physics_hash() == settings.physics_hash()
    assert renamed.content_hash() != settings.content_hash()


def test_an_integer_and_its_float_are_one_value() -> None:
    assert ScheduleSettings(gamma=1).content_hash() == ScheduleSettings(gamma=1.0).content_hash()
    assert DatasetSettings.model_validate(preset("paper-12").model_dump()) == preset("paper-12")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**70), st.lists(st.text(max_size=5) | st.integers(0, 99), max_size=4))
def test_stream_seeds_fit_torch_and_differ_by_name(seed: int, names: list[str | int]) -> None:
    assert 0 <= stream_seed(seed, *names) < 2**63
    assert stream_seed(seed, *names) != stream_seed(seed, *names, "more")
    assert stream_seed(seed, *names) != stream_seed(seed + 1, *names)
