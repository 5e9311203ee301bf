"""Ray Tune's OptunaSearch, made truthful about trials that were stopped early or diverged."""

import math
import warnings
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState
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
