"""What is wrong with the data and not with a trial stops the search, so that no trial counts as failed for it."""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sm_search.config.errors import DataError

OUTSIDE = "outside"
"""In a trial's report of an error: whether the reason lies outside the trial, so that it would fail all others too."""


class OutsideFault(tune.Callback):
    """Ends an experiment when a trial reports such an error; the trial counts as interrupted, and is tried again when
    the study is resumed.
    """

    def __init__(self) -> None:
        self._fault: str | None = None

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get(OUTSIDE):
            self._fault = str(result["error"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._fault is not None:
            raise DataError(self._fault)
