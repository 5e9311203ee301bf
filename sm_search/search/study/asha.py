"""ASHA, which stops what is not among the best of its rung, made to remember what it saw before a study was resumed."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from sm_search.evaluation.scores import DIRECTIONS
from sm_search.search.space.space import Space


class RememberingASHA(ASHAScheduler):
    """The stock class begins a resumed study with empty rungs, and lets bad trials pass until these are full again."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stopped: dict[str, int] = {}

    def remember(self, trial_id: str, results: Sequence[tuple[int, float]], *, stopped: bool) -> None:
        """Enter what a trial reported before the study was resumed, as (training step, metric) in order."""
        trial = SimpleNamespace(trial_id=trial_id)
        self.on_trial_add(None, trial)
        for step, value in results:
            super().on_trial_result(None, trial, {"training_step": step, self.metric: value})
        if stopped and results:
            self.stopped[trial_id] = results[-1][0]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The decision; a trial that was stopped before, and that Tune's older snapshot revived, is stopped again."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if result["training_step"] >= self.stopped.get(trial.trial_id, math.inf):
            return TrialScheduler.STOP
        return decision


def make_asha(space: Space) -> RememberingASHA:
    """The scheduler of a study: it stops what is not among the best of its rung, by the metric."""
    return RememberingASHA(
        time_attr="training_step",
        metric=space.metric,
        mode=DIRECTIONS[space.metric],
        max_t=space.training_steps(),
        grace_period=space.budget.first_rung,
        reduction_factor=space.budget.reduction,
    )
