"""The settings of one training run, where two rooms' settings must fit together."""

import pytest
from pydantic import ValidationError

from sm_search.config.run import RunSettings


def test_a_schedule_without_steps_needs_a_mean() -> None:
    assert RunSettings.model_validate({"schedule": {"steps": 0}}).schedule.steps == 0
    with pytest.raises(ValidationError, match=r"schedule\.steps: 0 gives the mean alone, .* with mean: none does not"):
        RunSettings.model_validate({"training": {"mean": "none"}, "schedule": {"steps": 0}})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        RunSettings.model_validate({"schedule": {"steps": -1}})
