"""The searcher of a study: Optuna, as Ray Tune asks for it, with the algorithm that the space names."""

import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sm_search.compute.ray_internals import written_trials
from sm_search.search.space.constraints import violations
from sm_search.search.space.space import Space
from sm_search.search.space.tree import parameter_names, suggest
from sm_search.search.study.algorithms import ALGORITHMS, Algorithm, no_points
from sm_search.search.study.warm_start import NOTHING, EarlierTrials, Observation

optuna.logging.set_verbosity(optuna.logging.WARNING)

MAX_REPEATS = 100
"""Repeated suggestions in a row after which a space counts as exhausted."""
REPEATS_BEFORE_RANDOM = 10
"""Those after which they are drawn at random: TPE may insist on the best point of a small space."""
EARLIER_ATTRIBUTES = {
    "_ot_study": "study",
    "_ot_trials": "_trials",
    "_completed_trials": "_ended",
    "room": "capacity",
}


class OptunaSearcher(Searcher):
    """Optuna for Ray Tune, in place of Ray's own `OptunaSearch`, which tells Optuna that a trial stopped by ASHA is
    COMPLETE at its low-budget value, and leaves one with a NaN metric RUNNING for ever. Here the first is PRUNED at
    its step and the second FAILED.

    A trial is deterministic in its parameters, so none is run twice: a suggestion that repeats an earlier one is told
    that one's value, at once or when it has ended, and another is asked for.

    Attributes:
        study: Optuna's.
        capacity: how many trials fit on the cluster as it is now; None if that is no limit.
        repeated: suggestions that were answered from the record.
        tune_trials: all of Tune's trials, in the words of its own file, when this was last written.
    """

    def __init__(
        self, space: Space, earlier: EarlierTrials = NOTHING, capacity: Callable[[], float] | None = None
    ) -> None:
        directions = list(space.objectives().values())
        self.objectives = tuple(space.objectives())
        super().__init__(list(self.objectives), directions)
        self.full_budget = space.training_steps()
        self.quality = space.metric
        self.constraints = space.constraints
        self.capacity = capacity
        self.max_concurrent: int | None = None
        self.repeated = 0
        self.tune_trials = b""
        # Optuna's trials by Tune's ids, and the ids of those that have ended.
        self._trials: dict[str, optuna.Trial] = {}
        self._ended: set[str] = set()
        # By parameters: the number of the Optuna trial that has or will have their value.
        self._numbers: dict[str, int] = {}
        self._waiting: dict[int, list[optuna.Trial]] = {}
        self._tree = space.outer_tree()
        self._algorithm = ALGORITHMS[space.search.sampler](space)
        # Suggestions asked for so far, those that were answered from the record as well.
        self._asked = 0 if self._algorithm.is_list else len(earlier.observations)
        self.study = optuna.create_study(
            sampler=self._algorithm.sampler or optuna.samplers.RandomSampler(seed=space.seed),
            directions=["maximize" if each == "max" else "minimize" for each in directions],
        )
        if parameter_names(self._tree):
            for point in (*space.initial_points, *earlier.initial_points):
                self.study.enqueue_trial(dict(point))
        for observation in earlier.observations:
            self._observe(observation)

    def _observe(self, observation: Observation) -> None:
        fixed = optuna.trial.FixedTrial(dict(observation.params))
        suggest(fixed, self._tree)
        complete = observation.values is not None
        known = optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            values=observation.values,
            params=fixed.params,
            distributions=fixed.distributions,
            intermediate_values={} if len(self.objectives) > 1 else dict(observation.reports),
        )
        _constrain(known, observation.violations)
        self.study.add_trial(known)
        self._numbers[_key(fixed.params)] = len(self.study.get_trials(deepcopy=False)) - 1

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        # Ray's own limiter forgets its running trials when a study is resumed, and then never tells how they ended.
        self.max_concurrent = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Parameters that no trial had before; FINISHED where the space seems to hold no more of them.

        None while enough trials are under way: `max_concurrent`, or those that fit and one more, so that a cluster
        that can grow sees that it should.
        """
        running = len(self._trials) - len(self._ended)
        if running >= self._most():
            return None
        sampler = self.study.sampler
        try:
            for attempt in range(MAX_REPEATS):
                if attempt == REPEATS_BEFORE_RANDOM:
                    self.study.sampler = optuna.samplers.RandomSampler(seed=len(self._trials))
                trial = self._ask()
                if trial is None:
                    break
                first = self._numbers.setdefault(_key(trial.params), trial.number)
                if first == trial.number:
                    self._trials[trial_id] = trial
                    return dict(trial.params)
                self.repeated += 1
                self._waiting.setdefault(first, []).append(trial)
                self._answer(first)
        finally:
            self.study.sampler = sampler
        finished: str = Searcher.FINISHED
        return finished

    def _ask(self) -> optuna.Trial | None:
        """Another suggestion: an initial point, one of the algorithm's own, or the sampler's; None after the last."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            point = self._next_point()
            if point is not None:
                self.study.enqueue_trial(dict(point))
            elif self._algorithm.sampler is None:
                return None
        self._asked += 1
        trial = self.study.ask()
        suggest(trial, self._tree)
        return trial

    def _next_point(self) -> Mapping[str, Any] | None:
        point = self._algorithm.points(self._asked)
        while point is not None and self._algorithm.is_list and _key(point) in self._numbers:
            self._asked += 1
            point = self._algorithm.points(self._asked)
        return point

    def _most(self) -> float:
        return self.max_concurrent or (self.capacity() + 1 if self.capacity else math.inf)

    def _answer(self, number: int) -> None:
        """Tell the repeats of a trial its value, if it has ended."""
        first = self.study.get_trials(deepcopy=False)[number]
        if not first.state.is_finished():
            return
        for trial in self._waiting.pop(number, []):
            for step, value in first.intermediate_values.items():
                trial.report(value, step)
            _constrain(trial, first.constraints)
            self.study.tell(trial, first.values if first.state == TrialState.COMPLETE else None, state=first.state)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self.quality)
        # Optuna takes no values on the way where a study has several objectives.
        if len(self.objectives) > 1 or trial_id in self._ended or not _is_finite(value):
            return
        report_once(self._trials[trial_id], float(result[self.quality]), result["training_step"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._ended:
            self._tell_again(trial_id, result or {}, error)
            return
        trial = self._trials[trial_id]
        if error or result is None or not _is_finite(result.get(self.quality)):
            self.study.tell(trial, state=TrialState.FAIL)
        elif result["training_step"] < self.full_budget:
            self.on_trial_result(trial_id, result)
            _constrain(trial, violations(self.constraints, result))
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            _constrain(trial, violations(self.constraints, result))
            self.study.tell(trial, [result[name] for name in self.objectives])
        self._ended.add(trial_id)
        self._answer(trial.number)

    def _tell_again(self, trial_id: str, result: dict[str, Any], error: bool) -> None:
        """A failed trial that a resumed study ran again to its end: what is told stays, so it counts as another one."""
        failed = self.study.get_trials(deepcopy=False)[self._trials[trial_id].number]
        if error or failed.state != TrialState.FAIL or not _is_finite(result.get(self.quality)):
            return
        is_full = result["training_step"] >= self.full_budget
        reports = {} if len(self.objectives) > 1 else {result["training_step"]: result[self.quality]}
        again = optuna.trial.create_trial(
            state=TrialState.COMPLETE if is_full else TrialState.PRUNED,
            values=[result[name] for name in self.objectives] if is_full else None,
            params=failed.params,
            distributions=failed.distributions,
            intermediate_values=reports,
        )
        _constrain(again, violations(self.constraints, result))
        self.study.add_trial(again)
        self._numbers[_key(failed.params)] = len(self.study.get_trials(deepcopy=False)) - 1

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """In one file with Tune's trials of this moment."""
        self.tune_trials = written_trials(checkpoint_dir, session_str)
        super().save_to_dir(checkpoint_dir, session_str)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        self.__setstate__(pickle.loads(Path(checkpoint_path).read_bytes()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier version as well, which was a subclass of Ray's `OptunaSearch`."""
        if "_ot_study" in state:
            state = {EARLIER_ATTRIBUTES.get(name, name): value for name, value in state.items()}
            state["_tree"] = state.pop("_space").args[0]
        if "_algorithm" not in state:
            state["_algorithm"] = Algorithm(no_points, state["study"].sampler)
            state["_asked"] = len(state["study"].get_trials(deepcopy=False))
        state.setdefault("constraints", {})
        state.setdefault("tune_trials", b"")
        self.__dict__.update(state)

    def finished(self) -> dict[str, optuna.trial.FrozenTrial]:
        """What has ended, by Tune's ids; what Tune never ran, such as an earlier study's trial, by its number."""
        names = {trial.number: trial_id for trial_id, trial in self._trials.items()}
        return {
            names.get(each.number, f"#{each.number}"): each for each in self.study.trials if each.state.is_finished()
        }

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All trials as Optuna knows them."""
        return self.study.trials


def report_once(trial: optuna.Trial, value: float, step: int) -> None:
    """Tell Optuna a value on the way; a rung that was run again after a death is known, and it would warn of that."""
    if step not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(value, step)


def _constrain(trial: optuna.Trial | optuna.trial.FrozenTrial, violated: Mapping[str, float]) -> None:
    """What is larger than 0 makes a trial infeasible for Optuna."""
    for name, violation in violated.items():
        trial.set_constraint(name, violation)


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
