"""Constraints: what is written is what is asked for, in units that add up."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sm_search.config.model_settings import DiffusionSettings, ScheduleSettings
from sm_search.search.schedule.race import Race
from sm_search.search.space.constraints import Bounds, broken, violations
from sm_search.search.space.space import Space
from sm_search.search.study.optuna_searcher import OptunaSearcher

SPACE = {
    "study": "bound",
    "training": {"steps": 100, "learning_rate": {"float": [0.0, 1.0]}},
    "budget": {"first_rung": 50},
    "constraints": {"evaluations": "<= 8", "val_ssim": "0.8..1.25"},
}


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("<= 8", -math.inf, 8.0), (">=3.5", 3.5, math.inf), (" 0.8..1.25 ", 0.8, 1.25), ("<= -1e-3", -math.inf, -1e-3)],
)
def test_a_constraint_is_a_bound_or_two(text: str, low: float, high: float) -> None:
    assert Bounds.of(text) == Bounds(low, high)


@pytest.mark.parametrize("text", ["8", "< 8", "8..", "2..1", "<= eight", "<= nan"])
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match=r"'<= NUMBER', '>= NUMBER' or 'LOW\.\.HIGH'|LOW <= HIGH"):
        Bounds.of(text)


def test_a_violation_is_a_part_of_the_bound_and_none_at_it() -> None:
    bounds = Bounds.of("0.8..1.25")
    assert [bounds.violation(value) for value in (0.4, 0.8, 1.25, 2.5)] == pytest.approx([0.5, 0.0, 0.0, 1.0])
    assert bounds.violation(1.0) < 0
    assert Bounds.of("<= 0").violation(0.25) == 0.25
    assert bounds.violation(math.nan) == 1.0


def test_what_is_broken_is_told_with_value_and_rule() -> None:
    constraints = {"evaluations": "<= 8", "val_ssim": ">= 0.9"}
    metrics = {"evaluations": 16.0, "val_ssim": 0.95, "val_psnr_db": 30.0}
    assert violations(constraints, metrics) == pytest.approx({"evaluations": 1.0, "val_ssim": -0.05 / 0.9})
    assert broken(constraints, metrics) == "evaluations 16, which must be <= 8"
    assert broken(constraints, {**metrics, "evaluations": 8.0}) is None
    # Of a trial before a revision that asks for it.
    assert violations({"val_image_psnr_db": ">= 15"}, metrics) == {"val_image_psnr_db": 1.0}
    assert broken({"val_image_psnr_db": ">= 15"}, metrics) == "val_image_psnr_db unknown, which must be >= 15"


def test_a_space_refuses_what_is_no_objective() -> None:
    assert Space.model_validate(SPACE).constraints["evaluations"] == "<= 8"
    with pytest.raises(
        ValidationError, match=r"'beauty': a constraint is about one of val_psnr_db, .*, val_spread_error"
    ):
        Space.model_validate({**SPACE, "constraints": {"beauty": ">= 1"}})


def test_optuna_knows_how_far_outside_each_trial_is() -> None:
    searcher = OptunaSearcher(Space.model_validate(SPACE))
    for name, evaluations in (("in", 8), ("out", 16)):
        assert isinstance(searcher.suggest(name), dict)
        result = {"val_psnr_db": 30.0, "val_ssim": 1.0, "evaluations": evaluations, "training_step": 100}
        searcher.on_trial_complete(name, result)
    inside, outside = searcher.trials()
    assert max(inside.constraints.values()) <= 0
    assert outside.constraints["evaluations"] == 1.0
    assert searcher.study.best_trial.number == inside.number


def test_with_a_constraint_the_search_stays_near_where_it_holds() -> None:
    """The metric grows with x, and what it costs exceeds the bound above a half."""

    def searched(constraints: dict[str, str]) -> tuple[list[float], float]:
        searcher, tried = OptunaSearcher(Space.model_validate({**SPACE, "constraints": constraints})), []
        for number in range(40):
            params: Any = searcher.suggest(str(number))
            tried.append(params["learning_rate"])
            result = {"val_psnr_db": tried[-1], "val_ssim": 1.0, "evaluations": 16 * tried[-1], "training_step": 100}
            searcher.on_trial_complete(str(number), result)
        return tried[20:], searcher.study.best_trial.params["learning_rate"]

    late, best = searched({"evaluations": "<= 8"})
    free, highest = searched({})
    assert 0.4 < best <= 0.5 < 0.9 < highest
    assert sum(late) / len(late) < sum(free) / len(free) - 0.2


@pytest.mark.parametrize(
    ("constraints", "steps"), [({}, 16), ({"evaluations": "<= 8"}, 8), ({"evaluations": "<= 2"}, 4)]
)
def test_a_schedule_wins_by_the_metric_among_those_that_keep_the_constraints(
    constraints: dict[str, str], steps: int
) -> None:
    """More steps are better here; where none keeps the constraint, the nearest wins."""

    def measure(schedules: Any, begin: int, end: int) -> Any:
        return {"val_psnr_db": np.array([[float(s.steps)] * (end - begin) for s in schedules])}

    race = Race(measure, "val_psnr_db", 32, DiffusionSettings(), constraints=constraints)
    race.run([ScheduleSettings(steps=each) for each in (4, 8, 16)])
    race.finish([ScheduleSettings(steps=each) for each in (4, 8, 16)])
    assert race.best(3).steps == steps
