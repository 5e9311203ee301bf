"""The settings of one training run, where two rooms' settings must fit together."""

from typing import Any

import pytest
from pydantic import ValidationError

from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.run_settings import RunSettings


def test_a_schedule_without_steps_needs_a_mean() -> None:
    assert RunSettings.model_validate({"schedule": {"steps": 0}}).schedule.steps == 0
    with pytest.raises(ValidationError, match=r"schedule\.steps: 0 gives the mean alone, .* with mean: none does not"):
        RunSettings.model_validate({"training": {"mean": "none"}, "schedule": {"steps": 0}})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        RunSettings.model_validate({"schedule": {"steps": -1}})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0, "eta_max": 0.5}, "0 steps: the mean alone"),
        ({"steps": 1}, "ddim, 1 step"),
        (
            {"sampler": "ddpm", "steps": 16, "eta_max": 0.25, "gamma": 2.0, "samples": 4},
            "ddpm, 16 steps, η_max 0.25, γ 2, mean of 4 samples",
        ),
        ({"steps": 1, "w_min": 1.03, "w_max": 1.03}, "ddim, 1 step, w 1.03"),
        ({"w_min": 0.5, "sigma": 3.0, "guidance": 1.5}, "ddim, 8 steps, w 1 to 0.5, σ 3, guidance 1.5"),
    ],
)
def test_a_schedule_in_words_says_what_it_uses(given: dict[str, Any], words: str) -> None:
    assert ScheduleSettings(**given).in_words() == words
