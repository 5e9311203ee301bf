"""What a study took, and what came of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sm_search.evaluation.scores import sign
from sm_search.tracking.records import RunRecord


@dataclass(frozen=True)
class Spend:
    """Trials that were stopped or lost included.

    Attributes:
        hours: of trials.
        cost: 0 where hours have no price.
        first, best: the metric of the first trial at the full budget that may win, and of the best one; NaN without.
        unit: of the metric.
    """

    hours: float
    cost: float
    first: float
    best: float
    unit: str

    @staticmethod
    def of(parent: RunRecord, trials: Sequence[RunRecord], metric: str) -> "Spend | None":
        """None where a study has not ended."""
        hours, cost = (parent.metrics.get(name, 0.0) for name in ("spent_trial_hours", "spent_cost"))
        if not hours:
            return None
        whole = [trial for trial in trials if trial.may_win and metric in trial.metrics]
        whole.sort(key=lambda trial: trial.ended_ms or math.inf)
        values = [trial.metrics[metric] for trial in whole] or [math.nan]
        first, best = values[0], (max if sign(metric) > 0 else min)(values)
        return Spend(hours, cost, first, best, "dB" if metric.endswith("_db") else f"unit of {metric}")

    def in_words(self) -> str:
        return _in_words(self.hours, self.cost)

    def of_gain_in_words(self) -> str | None:
        """What a unit of the gain over the first trial took; None where there is none."""
        gain = abs(self.best - self.first)
        return f"{_in_words(self.hours / gain, self.cost / gain)} per {self.unit}" if gain > 0 else None


def _in_words(hours: float, cost: float) -> str:
    return f"{hours:.3g} trial-hours" + (f" at a cost of {cost:.3g}" if cost else "")
