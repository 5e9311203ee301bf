"""The contract of every objective: it has a direction, can be asked for, and a quality is one that a study measures."""

import itertools
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from sm_search.evaluation.validation import QUALITIES
from sm_search.search.space.objectives import DIRECTIONS, Metric, Objective
from sm_search.search.space.space import Space


def test_every_objective_can_be_asked_for_and_has_a_direction() -> None:
    assert get_args(Objective) == tuple(DIRECTIONS)
    assert set(get_args(Metric)) == set(QUALITIES) == {name for name, way in DIRECTIONS.items() if way == "max"}
    with pytest.raises(ValidationError, match="'val_psnr_db' or 'val_ssim'"):
        Space(study="s", metric="evaluations")


@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_objective_stands_in_a_study_with_its_direction(name: str) -> None:
    others = () if name in QUALITIES else (name,)
    space = Space(study="s", metric=name if name in QUALITIES else "val_psnr_db", further_objectives=others)
    assert space.objectives()[name] == DIRECTIONS[name]


@pytest.mark.parametrize("name", QUALITIES)
def test_a_quality_is_of_each_component_and_falls_with_the_error(name: str) -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, size=(3, 2, 12, 12))
    noise = random.normal(size=truth.shape)
    values = [QUALITIES[name](truth + size * noise, truth) for size in (0.0, 0.01, 0.1, 1.0)]
    assert all(each.shape == (3,) and np.isfinite(each).all() for each in values)
    assert all((better > worse).all() for better, worse in itertools.pairwise(values))
