"""ASHA, which stops what is not among the best of its rung, made to remember what it saw before a study was resumed."""

import math
from collections.abc import Container, Iterable
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

    def remember(self, reports: Iterable[tuple[str, int, float]], stopped: Container[str] = ()) -> None:
        """Enter what trials reported before the study was resumed.

        Args:
            reports: (trial, training step, metric) in the order in which they came.
            stopped: trials that are known to have been stopped at their last one. Of others that decides: the driver
                may have died between the report and what follows from it.
        """
        last: dict[str, int] = {}
        for trial_id, step, value in reports:
            trial = SimpleNamespace(trial_id=trial_id)
            if trial_id not in last:
                self.on_trial_add(None, trial)
            self.stopped.pop(trial_id, None)
            self.on_trial_result(None, trial, {"training_step": step, self.metric: value})
            last[trial_id] = step
        self.stopped |= {trial_id: step for trial_id, step in last.items() if trial_id in stopped}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The decision. A trial that was stopped before is stopped again: an older snapshot may have revived it, or its
        worker died before Tune had stopped it. The stock class lets pass what it has seen.
        """
        decision: str = super().on_trial_result(tune_controller, trial, result)
        step: int = result["training_step"]
        if decision == TrialScheduler.STOP:
            self.stopped.setdefault(trial.trial_id, step)
        return TrialScheduler.STOP if step >= self.stopped.get(trial.trial_id, math.inf) else decision


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
