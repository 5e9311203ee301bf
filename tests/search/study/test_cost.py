"""What a study is expected to cost."""

import pytest

from sm_search.data.dataset import Dataset
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Space
from sm_search.search.study.cost import (
    UnitCosts,
    Work,
    expected_bytes,
    expected_seconds,
    expected_work,
    measured_costs,
    measured_points,
    workers,
)
from sm_search.training import Trainer, training_images

STEPS = 900


def space(**budget: object) -> Space:
    training = {"steps": STEPS, "batch_size": 8, "learning_rate": {"float": [1e-3, 1e-2]}}
    training["backbone"] = {"backbone": "linear-basis", "coefficients": 8, "width": 16, "blocks": 1}
    return Space(study="s", training=training, budget={"first_rung": 100, "reduction": 3, **budget})


def test_one_trial_is_trained_to_the_end() -> None:
    work = expected_work(space(), 1)
    assert (work.most_steps, work.expected_steps, work.expected_full, work.expected_reports) == (STEPS, STEPS, 1, 2)


def test_asha_saves_most_of_many_trials_and_never_more_than_its_rungs_allow() -> None:
    trials = 300
    work = expected_work(space(), trials)
    # Synchronous halving, the least: all to rung 100, a third on to 300, a ninth to 900.
    least = trials * (100 + 200 / 3 + 600 / 9)
    assert work.most_steps == trials * STEPS
    assert least <= work.expected_steps < 1.3 * least
    assert trials / 9 <= work.expected_full < trials / 5


def test_without_early_rungs_nothing_is_saved() -> None:
    work = expected_work(space(first_rung=STEPS), 7)
    assert (work.expected_steps, work.expected_full, work.expected_reports) == (7 * STEPS, 7, 0)


def test_confirmation_is_counted_for_no_more_trials_than_come_to_the_end() -> None:
    assert expected_work(space(confirm={"best": 3, "seeds": 2}), 300).confirmations == 6
    assert expected_work(space(confirm={"best": 3, "seeds": 2}), 1).confirmations == 2
    assert expected_work(space(), 300).confirmations == 0


def test_the_time_adds_up() -> None:
    work, costs = Work(4, 3600, 2000.0, 5.0, 2.0, 2), UnitCosts(0.01, 1.0, 10.0, 8.0, 1000.0)
    search, confirmation = 2000 * 0.01 + 5 * 1.0 + 2 * 10.0, 2 * (900 * 0.01 + 2 * 1.0 + 10.0)
    assert expected_seconds(space(), work, costs, 1) == pytest.approx(search + confirmation)
    assert expected_seconds(space(), work, costs, 2) == pytest.approx((search + confirmation) / 2)
    assert expected_seconds(space(minutes=0.5), work, costs, 1) == pytest.approx(30 + confirmation)


def test_each_rung_of_each_trial_takes_disk_and_what_the_time_leaves_out_does_not() -> None:
    work, costs = Work(4, 3600, 2000.0, 5.0, 2.0, 2), UnitCosts(0.01, 1.0, 10.0, 8.0, 1000.0)
    assert expected_bytes(space(), work, costs, 1) == (5 + 2 + 2 * 3) * 1000
    # Half of the 45 s of search.
    assert expected_bytes(space(minutes=0.375), work, costs, 1) == pytest.approx((3.5 + 6) * 1000)


@pytest.mark.parametrize("limit", [{"concurrent": 1}, {"cpus": 1e6}])
def test_trials_at_once_are_limited_by_the_machine_and_by_the_space(limit: dict[str, float]) -> None:
    free = space()
    assert workers(free) >= 1
    assert workers(Space.model_validate({**free.model_dump(), "resources": limit})) == 1


def test_each_branch_of_the_space_is_measured() -> None:
    small = {"backbone": "linear-basis", "width": {"choice": [16, 32]}}
    of = space().model_dump() | {"initial_points": ({"learning_rate": 2e-3, "backbone": "linear-basis"},) * 2}
    of["training"]["backbone"] = {"one_of": [small, {"backbone": "unet", "layers": {"int": [1, 2]}}]}
    points = measured_points(Space.model_validate(of))
    assert [point["backbone"] for point in points] == ["linear-basis", "linear-basis", "unet"]
    assert points[0]["learning_rate"] == 2e-3
    assert len(measured_points(space())) == 2


def test_costs_are_measured_on_the_given_data(tiny_dataset: Dataset) -> None:
    lines: list[str] = []
    costs = measured_costs(space(schedules=4, images=4), tiny_dataset, lines.append)
    assert min(costs.step_s, costs.validation_s, costs.inner_search_s) > 0
    assert costs.batch_size == 8
    settings = training_settings(space(), {"learning_rate": 2e-3})
    trainer = Trainer(settings, training_images(tiny_dataset, "train", settings.receive_channels, settings.mean)[0])
    list(trainer.train(1))
    state = sum(tensor.nbytes for tensor in trainer.state().values())
    assert state < costs.rung_bytes < 3 * state, "the state, and the model beside it"
    assert len(lines) == 2
    assert "learning_rate" in lines[0]
