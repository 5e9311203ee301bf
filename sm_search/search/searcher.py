"""Ray Tune's OptunaSearch and ASHA, made truthful about trials that were stopped early, diverged, or were resumed."""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sm_search.search.space import Space, Tree, parameter_names, suggest

STARTUP_TRIALS = 5


def _define_by_run(tree: Tree, trial: optuna.Trial) -> None:
    # A function of the module, since Ray pickles the searcher.
    suggest(trial, tree)


class TruthfulOptunaSearch(OptunaSearch):
    """The stock class tells Optuna that a trial stopped by ASHA is COMPLETE at its low-budget value, and leaves a
    trial with a NaN metric RUNNING for ever. Here the first is PRUNED at its step and the second FAILED.
    """

    def __init__(self, space: Space) -> None:
        self.full_budget = space.training_steps()
        self.max_concurrent: int | None = None
        tree = space.outer_tree()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=space.seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
            )
        super().__init__(
            partial(_define_by_run, tree),
            metric=space.metric,
            mode="max",
            sampler=sampler,
            points_to_evaluate=[dict(point) for point in space.first] if parameter_names(tree) else None,
        )

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        # Ray's own limiter forgets its running trials when a study is resumed, and then never tells how they ended.
        self.max_concurrent = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        running = len(self._ot_trials) - len(self._completed_trials)
        if self.max_concurrent is not None and running >= self.max_concurrent:
            return None
        suggested: dict[str, Any] | None = super().suggest(trial_id)
        return suggested

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self.metric)
        if trial_id not in self._completed_trials and value is not None and math.isfinite(value):
            self._ot_trials[trial_id].report(value, result["training_step"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        value = (result or {}).get(self.metric)
        if trial_id in self._completed_trials:
            self._tell_again(trial_id, result or {}, error)
            return
        trial = self._ot_trials[trial_id]
        if error or value is None or not math.isfinite(value):
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif result is not None and result["training_step"] < self.full_budget:
            self.on_trial_result(trial_id, result)
            self._ot_study.tell(trial, state=TrialState.PRUNED)
        else:
            self._ot_study.tell(trial, value)
        self._completed_trials.add(trial_id)

    def _tell_again(self, trial_id: str, result: dict[str, Any], error: bool) -> None:
        """A failed trial that a resumed study ran again to its end: what is told stays, so it counts as another one."""
        told = self._ot_study.trials[self._ot_trials[trial_id].number]
        value = result.get(self.metric)
        if error or told.state != TrialState.FAIL or value is None or not math.isfinite(value):
            return
        is_full = result["training_step"] >= self.full_budget
        again = optuna.trial.create_trial(
            state=TrialState.COMPLETE if is_full else TrialState.PRUNED,
            value=value if is_full else None,
            params=told.params,
            distributions=told.distributions,
            intermediate_values={result["training_step"]: value},
        )
        self._ot_study.add_trial(again)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All trials as Optuna knows them."""
        return self._ot_study.trials


class RememberingASHA(ASHAScheduler):
    """The stock class begins a resumed study with empty rungs, and lets bad trials pass until these are full again."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stopped: dict[str, int] = {}

    def remember(self, trial_id: str, results: Sequence[tuple[int, float]], *, stopped: bool) -> None:
        """Enter what a trial reported before the study was resumed, as (training step, metric) in order."""
        for step, value in results:
            self._brackets[0].on_result(SimpleNamespace(trial_id=trial_id), step, value)
        if stopped and results:
            self.stopped[trial_id] = results[-1][0]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The decision; a trial that was stopped before, and that Tune's older snapshot revived, is stopped again."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if result["training_step"] >= self.stopped.get(trial.trial_id, math.inf):
            return TrialScheduler.STOP
        return decision
