"""η(u) and w(u) of the paper's Algorithm 2, and the null condition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sm_search.config.model_settings import ScheduleSettings
from sm_search.diffusion.condition import concatenate, condition_noise_level, condition_weight, make_condition

SCHEDULE = ScheduleSettings(eta_max=0.3, gamma=2.0, w_min=0.25, w_max=0.75, sigma=0.5)


def test_both_ends() -> None:
    assert condition_noise_level(SCHEDULE, 1.0) == 0
    assert condition_noise_level(SCHEDULE, 0.0) == 0.3
    assert condition_weight(SCHEDULE, 1.0) == 0.75
    assert condition_weight(SCHEDULE, 0.0) == 0.25


def test_exact_values_between() -> None:
    assert condition_noise_level(SCHEDULE, 0.5) == pytest.approx(0.3 * 0.25, rel=1e-15)
    assert condition_weight(SCHEDULE, 0.25) == pytest.approx(0.25 + 0.5 * 0.5, rel=1e-15)


def test_exponent_zero_means_constant() -> None:
    constant = ScheduleSettings(eta_max=0.3, gamma=0.0, w_min=0.2, w_max=0.9, sigma=0.0)
    for u in (0.0, 0.5, 1.0):
        assert condition_noise_level(constant, u) == 0.3
        assert condition_weight(constant, u) == pytest.approx(0.9)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 8), st.floats(0, 8))
def test_noise_grows_and_weight_falls_along_the_way_down(u: float, other: float, gamma: float, sigma: float) -> None:
    schedule = ScheduleSettings(eta_max=0.3, gamma=gamma, w_min=0.25, w_max=0.75, sigma=sigma)
    low, high = sorted((u, other))
    assert 0.3 >= condition_noise_level(schedule, low) >= condition_noise_level(schedule, high) >= 0
    assert 0.25 <= condition_weight(schedule, low) <= condition_weight(schedule, high) <= 0.75


def test_make_condition_keeps_the_order_of_components_and_the_ratios_of_scales() -> None:
    patterns = np.arange(3 * 2 * 4).reshape(3, 2, 2, 2) / 24
    features = torch.arange(11, dtype=torch.float64)
    condition = make_condition(patterns, ((0, 1), (2, 0), (1, 1)), np.array([10.0, 1000.0, 0.0]), features)
    torch.testing.assert_close(condition.image, torch.from_numpy(patterns).float())
    assert condition.orders.tolist() == [[0, 1], [2, 0], [1, 1]]
    assert condition.log_scale.tolist() == [-2, 0, -15]
    assert condition.keep.tolist() == [1, 1, 1]
    assert condition.features.tolist() == 3 * [list(range(11))]
    parts = (condition.image, condition.orders, condition.log_scale, condition.features, condition.keep)
    assert {part.dtype for part in parts} == {torch.float32}


def test_dropping_touches_only_what_is_dropped(make_condition) -> None:
    condition = make_condition(4)
    dropped = condition.dropped(torch.tensor([True, False, True, False]))
    assert dropped.keep.tolist() == [0, 1, 0, 1]
    assert dropped.image is condition.image
    assert condition.keep.tolist() == [1, 1, 1, 1]
    both = concatenate([condition[:1], condition[1:]])
    assert torch.equal(both.image, condition.image)
    for name in ("log_scale", "features", "orders"):
        assert torch.equal(getattr(both[torch.tensor([3, 0])], name), getattr(condition, name)[[3, 0]])
