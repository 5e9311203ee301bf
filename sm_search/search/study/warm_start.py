"""What earlier studies know: observations where they asked the same question of the same data, else initial points."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sm_search.config.errors import TrackingError
from sm_search.evaluation.scores import sign
from sm_search.search.space.constraints import violations
from sm_search.search.space.space import Space
from sm_search.search.space.tree import parameters_of
from sm_search.tracking.records import RunRecord, metric_history, read_study_text, study_runs
from sm_search.tracking.store import Store

INITIAL_POINTS = 3
"""Best trials of each study of another question that are tried first."""


@dataclass(frozen=True)
class Observation:
    """A finished trial: its parameters, its objectives' values (None if it was stopped early), what it reported,
    and how far outside of its constraints it is.
    """

    params: Mapping[str, Any]
    values: tuple[float, ...] | None
    reports: tuple[tuple[int, float], ...]
    violations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EarlierTrials:
    """What a search knows before its first trial: trials that count as its own, and points to try first."""

    observations: tuple[Observation, ...] = ()
    initial_points: tuple[Mapping[str, Any], ...] = ()


NOTHING = EarlierTrials()


def earlier_trials(
    store: Store, space: Space, dataset_hashes: Collection[str], studies: Sequence[str]
) -> EarlierTrials:
    """Read finished trials of earlier studies.

    A study with the same objectives, mode, training and schedule trees, and dataset, gives observations: Optuna counts
    them as trials of its own. The best complete trials of any other give initial points, as far as their parameters are
    parameters here and lie in their ranges. Trials with equal parameters count once, complete before stopped.

    Raises:
        TrackingError: no such study.
    """
    observations: dict[str, Observation] = {}
    initial_points: dict[str, Mapping[str, Any]] = {}
    for study in studies:
        parent, trials = study_runs(store, study)
        same = parent.tags.get("dataset_hash") in dataset_hashes and _question(store, study) == space.question_hash()
        if same:
            for trial in trials:
                new = _observation(store, space, trial)
                if new is not None:
                    key = json.dumps(new.params, sort_keys=True)
                    if key not in observations or (observations[key].values is None and new.values is not None):
                        observations[key] = new
            continue
        for trial in _best_first(trials, parent.params.get("metric", space.metric))[:INITIAL_POINTS]:
            point = _readable(space, trial)
            if point:
                initial_points.setdefault(json.dumps(point, sort_keys=True), point)
    return EarlierTrials(tuple(observations.values()), tuple(initial_points.values()))


def observations_of(store: Store, study: str, space: Space) -> list[Observation]:
    """The finished trials of a study as its metric sees them, whatever else it may have looked for."""
    alone = space.model_copy(update={"further_objectives": ()})
    observations = [_observation(store, alone, trial) for trial in study_runs(store, study)[1]]
    return [each for each in observations if each is not None]


def _question(store: Store, study: str) -> str | None:
    try:
        return Space.model_validate_json(read_study_text(store, study, "space.json")).question_hash()
    except (TrackingError, ValidationError):
        return None  # it died before it stored its space, or an older version did


def _best_first(trials: Sequence[RunRecord], metric: str) -> list[RunRecord]:
    complete = [trial for trial in trials if trial.state == "complete" and metric in trial.metrics]
    return sorted(complete, key=lambda trial: (-sign(metric) * trial.metrics[metric], trial.trial_id))


def _observation(store: Store, space: Space, trial: RunRecord) -> Observation | None:
    params, objectives = _readable(space, trial), tuple(space.objectives())
    if len(params) != len(trial.params) or trial.state not in ("complete", "pruned"):
        return None
    if any(name not in trial.metrics for name in objectives):
        return None
    reports = tuple(metric_history(store, trial.run_id, space.metric))
    values = tuple(trial.metrics[name] for name in objectives) if trial.state == "complete" else None
    return Observation(params, values, reports, violations(space.constraints, trial.metrics))


def _readable(space: Space, trial: RunRecord) -> dict[str, Any]:
    """Those parameters of a stored trial that are parameters here, and legal."""
    parameters, params = parameters_of(space.outer_tree()), {}
    for name, text in trial.params.items():
        if name not in parameters:
            continue
        try:
            value = parameters[name].read(text)
        except ValueError:
            continue
        if parameters[name].fault(value) is None:
            params[name] = value
    return params
