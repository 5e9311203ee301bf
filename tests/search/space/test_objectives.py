"""The contract of every objective: it can be asked for, has a direction, and a metric is what images are scored by."""

from typing import get_args

import pytest
from pydantic import ValidationError

from sm_search.evaluation.scores import COSTS, DIRECTIONS, SCORES, sign
from sm_search.search.space.objectives import CONSTRAINABLE, Metric, Objective
from sm_search.search.space.space import Space


def test_every_objective_can_be_asked_for_and_has_a_direction() -> None:
    assert get_args(Objective) == tuple(DIRECTIONS)
    assert set(get_args(Metric)) == set(DIRECTIONS) - set(COSTS) == set(SCORES) - {"val_spread_error"}
    with pytest.raises(ValidationError, match="'val_psnr_db', 'val_ssim'"):
        Space(study="s", metric="evaluations")
    assert (sign("val_psnr_db"), sign("val_crps"), sign("evaluations"), sign("of an earlier version")) == (1, -1, -1, 1)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_objective_stands_in_a_study_with_its_direction(name: str) -> None:
    alone = name in get_args(Metric)
    space = Space(study="s", metric=name if alone else "val_psnr_db", further_objectives=() if alone else (name,))
    assert space.objectives()[name] == DIRECTIONS[name]


@pytest.mark.parametrize("name", CONSTRAINABLE)
def test_each_can_be_a_constraint(name: str) -> None:
    assert Space(study="s", constraints={name: "<= 2"}).constraints == {name: "<= 2"}
