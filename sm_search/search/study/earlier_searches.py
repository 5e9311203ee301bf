"""The searches that a study made before it was revised: their trials, and what of them still counts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import tune

from sm_search.search.space.constraints import violations
from sm_search.search.space.location import located
from sm_search.search.space.space import Space
from sm_search.search.study.experiment import Experiment, begun_results
from sm_search.search.study.study import Study
from sm_search.search.study.trial import run_trial
from sm_search.search.study.trial_summary import NO_RUNG, TrialSummary, summary
from sm_search.search.study.warm_start import EarlierTrials, Observation

SEARCH = "tune"
OUTSIDE_OF_SPACE = "outside of the revised space"


def search_name(number: int) -> str:
    """The experiment of a study's first search, and of those after revisions."""
    return SEARCH if number == 1 else f"{SEARCH}-{number}"


class EarlierSearches:
    """Empty where a study was never revised.

    Attributes:
        results: of all trials that ended, as Ray Tune has them, but for those that the end of a search left without a
            rung: they were none.
        trials: their summaries, with the parameters that give the same settings in the present space; one that lies
            outside of it keeps its own, and cannot win.
        unfinished: parameters of the others that were begun, as far as they lie in the present space.
    """

    def __init__(self, study: Study) -> None:
        self.space = study.space
        self.study = study
        self.results: list[tune.Result] = []
        self.trials: list[TrialSummary] = []
        self.unfinished: list[Mapping[str, Any]] = []
        spaces = {state.search: state.space for state in study.states}
        for number, earlier in sorted(spaces.items())[:-1]:
            self._read(search_name(number), earlier)

    def _read(self, name: str, earlier: Space) -> None:
        # Nothing of it runs again: what a trial takes of a machine is that of now, and known.
        study = replace(self.study, space=earlier.model_copy(update={"resources": self.space.resources}))
        tuner = Experiment(name, study, run_trial, ()).restore()
        if tuner is None:
            return  # it was revised before it had begun
        for result, is_finished in begun_results(tuner.get_results()):
            params = located(self.space, earlier, result.config or {})
            trial = summary(result, earlier.model_copy(update={"constraints": self.space.constraints}))
            if is_finished and trial.error != NO_RUNG:
                self.results.append(result)
                if params is None:
                    trial = replace(trial, infeasible=OUTSIDE_OF_SPACE)
                self.trials.append(trial if params is None else replace(trial, params=params))
            elif params is not None:
                self.unfinished.append(params)

    def known(self, others: EarlierTrials) -> EarlierTrials:
        """What the next search knows of them, beside what it knows of other studies."""
        own = [
            Observation(
                trial.params,
                self._values(trial),
                tuple(self.reports(trial)),
                violations(self.space.constraints, trial.metrics),
            )
            for trial in self.trials
            if trial.infeasible != OUTSIDE_OF_SPACE and trial.state != "failed"
        ]
        return EarlierTrials((*others.observations, *own), (*self.unfinished, *others.initial_points))

    def reports(self, trial: TrialSummary) -> list[tuple[int, float]]:
        """Training step and metric of each rung."""
        return [(int(each["training_step"]), float(each[self.space.metric])) for each in trial.reports]

    def _values(self, trial: TrialSummary) -> tuple[float, ...] | None:
        if trial.state != "complete":
            return None
        return tuple(float(trial.metrics[name]) for name in self.space.objectives())
