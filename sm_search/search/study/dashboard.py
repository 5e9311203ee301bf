"""A mirror of the study for `optuna-dashboard`: Optuna's journal file in the study's folder, written as the study goes.

    optuna-dashboard outputs/studies/NAME/optuna.journal

Nothing reads it back: MLflow and the snapshots of Ray Tune are what a study is kept in.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial

from sm_search.search.driver_callback import DriverCallback
from sm_search.search.space.space import Space
from sm_search.search.space.tree import suggest
from sm_search.search.study.optuna_searcher import report_once
from sm_search.search.study.trial_summary import outcome

JOURNAL_FILE = "optuna.journal"
TRIAL = "trial"
"""The attribute of an Optuna trial that holds its name elsewhere."""


class Mirror(DriverCallback):
    """Tells the journal what Optuna was told, and which trials run.

    The file is made anew by each driver, from the trials that its searcher knows, so that a driver that was killed
    leaves no lock, no half line and no running trial behind.

    Attributes:
        trials: those that run.
    """

    def __init__(self, file: Path, space: Space, announce: Callable[[str], None]) -> None:
        self.file = file
        self.space = space
        self.announce = announce
        self.trials: dict[str, optuna.Trial] = {}
        self.study: optuna.Study
        self._is_lost = False

    def begin(self, known: Mapping[str, FrozenTrial]) -> None:
        """Write what the searcher knows: finished trials by name."""
        self._attempt(lambda: self._begin(known))

    def _begin(self, known: Mapping[str, FrozenTrial]) -> None:
        for name in (self.file.name, f"{self.file.name}.lock"):
            self.file.with_name(name).unlink(missing_ok=True)
        directions = ["maximize" if each == "max" else "minimize" for each in self.space.objectives().values()]
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(self.file))),
            sampler=optuna.samplers.RandomSampler(),  # never asked: every value is given
            study_name=self.space.study,
            directions=directions,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(self.space.objectives()))
        for name, trial in known.items():
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=trial.state,
                    values=trial.values,
                    params=trial.params,
                    distributions=trial.distributions,
                    intermediate_values=trial.intermediate_values,
                    user_attrs={TRIAL: name},
                )
            )

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.trial_id not in self.trials:
            self._attempt(lambda: self._start(trial.trial_id, trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        value = result.get(self.space.metric)
        # Optuna takes no values on the way where a study has several objectives.
        if trial.trial_id in self.trials and value is not None and not self.space.further_objectives:
            self._attempt(lambda: report_once(self.trials[trial.trial_id], value, result["training_step"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result or {}
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self._attempt(lambda: self._end(trial.trial_id, state[outcome(result, self.space)], result))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._attempt(lambda: self._end(trial.trial_id, TrialState.FAIL, {}))

    def _start(self, trial_id: str, params: Mapping[str, Any]) -> None:
        self.study.enqueue_trial(dict(params), user_attrs={TRIAL: trial_id})
        self.trials[trial_id] = self.study.ask()
        suggest(self.trials[trial_id], self.space.outer_tree())

    def _end(self, trial_id: str, state: TrialState, result: Mapping[str, Any]) -> None:
        trial = self.trials.pop(trial_id, None)
        if trial is None:
            return
        if "schedule" in result:
            trial.set_user_attr("schedule", result["schedule"])
        values = [result[name] for name in self.space.objectives()] if state == TrialState.COMPLETE else None
        self.study.tell(trial, values, state=state)

    def _attempt(self, action: Callable[[], object]) -> None:
        """The search does not stop for its mirror."""
        if self._is_lost:
            return
        try:
            action()
        except OSError as error:
            self._is_lost = True
            self.announce(f"{self.file}: {error.strerror}: optuna-dashboard will lack what follows")
