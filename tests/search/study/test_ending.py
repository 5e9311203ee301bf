"""A search ends where it was told to, and what it spent is counted whatever became of its trials."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from sm_search.search.space.space import Space
from sm_search.search.study import ending
from sm_search.search.study.ending import Ending, EndWith, Spending, Spent, hourly, reason_to_end


def space(**budget: Any) -> Space:
    training = {"steps": 100, "learning_rate": {"float": [0.0, 1.0]}}
    return Space.model_validate({"study": "ends", "training": training, "budget": {"first_rung": 50, **budget}})


PLATEAU = {"stop": {"plateau": {"gain": 0.1, "trials": 3}}}


@pytest.mark.parametrize(
    ("budget", "values", "reason"),
    [
        ({}, [30.0] * 20, None),
        ({"stop": {"target": 31.0}}, [30.0, None, 30.9], None),
        ({"stop": {"target": 31.0}}, [30.0, None, 31.0], "val_psnr_db 31 reaches the target, 31"),
        (PLATEAU, [30.0, 30.05, None], None),
        (PLATEAU, [None, None, None, None], None),
        (PLATEAU, [30.0, 30.05, None, 29.0], "the last 3 trials gained no more than 0.1 in val_psnr_db over 30"),
        (PLATEAU, [30.0, 30.05, None, 30.2], None),
        (PLATEAU, [30.0, 30.2, None, 30.1, 30.1], "the last 3 trials gained no more than 0.1 in val_psnr_db over 30.2"),
    ],
)
def test_a_search_ends_by_its_rules(
    tmp_path: Path, budget: dict[str, Any], values: list[float | None], reason: str | None
) -> None:
    assert reason_to_end(space(**budget), values, Spent(tmp_path, {})) == reason


def test_an_hour_costs_by_the_label_of_its_node() -> None:
    prices = {"market=spot": 1.0, "*": 3.0}
    assert hourly(prices, {"market": "spot", "zone": "b"}) == 1.0
    assert hourly(prices, {"market": "bought"}) == 3.0
    assert hourly({"market=spot": 1.0}, {}) == 0.0


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"cost": 5.0}, "cost: needs cost_per_hour"),
        ({"cost_per_hour": {"spot": 1.0}}, r"'spot' must be a node's label, NAME=VALUE"),
    ],
)
def test_a_price_is_asked_for_and_checked(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space(**budget)


def trial(status: str, value: float | None = None, ended: float = 0.0) -> Any:
    result = {} if value is None else {"val_psnr_db": value, "training_step": 100, "timestamp": ended}
    return SimpleNamespace(status=status, last_result=result, is_finished=lambda: status == "TERMINATED")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    monkeypatch.setattr(ending.ray, "nodes", lambda: [{"NodeManagerAddress": "a", "Labels": {"market": "spot"}}])
    return clock


def test_what_is_spent_is_kept_over_drivers_and_counts_trials_that_were_killed(tmp_path: Path, clock: Clock) -> None:
    """Two trials for half an hour; the driver is killed; a third for an hour."""
    prices = {"market=spot": 2.0}
    first = Spending(Spent(tmp_path, prices))
    clock.now += 1800
    first.on_step_end(0, [trial("RUNNING"), trial("RUNNING"), trial("TERMINATED", 30.0), trial("PENDING")])

    clock.now += 9999  # nobody drives it
    second = Spending(Spent(tmp_path, prices))
    clock.now += 3600
    second.on_step_end(0, [trial("RUNNING")])
    second.on_experiment_end([])
    spent = Spent(tmp_path, prices)
    assert (spent.hours, spent.cost) == pytest.approx((2.0, 4.0))


def test_the_search_ends_when_the_money_is_spent_and_says_so(tmp_path: Path, clock: Clock) -> None:
    budget = {"cost": 1.0, "cost_per_hour": {"*": 2.0}}
    rule = Ending(space(**budget), Spent(tmp_path, budget["cost_per_hour"]), [])  # type: ignore[arg-type]
    stopper = EndWith(rule)
    clock.now += 1000
    rule.on_step_end(0, [trial("RUNNING")])
    assert not stopper.stop_all()
    clock.now += 1000
    rule.on_step_end(1, [trial("RUNNING")])
    assert stopper.stop_all()
    assert rule.reason == "1.111 are spent, of 1"


def test_a_plateau_goes_by_the_order_in_which_trials_ended(tmp_path: Path, clock: Clock) -> None:
    rule = Ending(space(**PLATEAU), Spent(tmp_path, {}), [])
    late = [trial("TERMINATED", 30.0, ended=9), trial("TERMINATED", 29.0, 1), trial("TERMINATED", 29.0, 2)]
    rule.on_step_end(0, [*late, trial("TERMINATED", 29.5, 3)])
    assert rule.reason is None
    rule.on_step_end(1, [*late, trial("TERMINATED", 30.0, 0)])
    assert rule.reason is not None
