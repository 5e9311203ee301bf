"""How much each parameter of a finished study matters."""

import warnings

import optuna
from pydantic import ValidationError

from sm_search.config.errors import TrackingError
from sm_search.search.space.space import Space
from sm_search.search.study.searcher import OptunaSearcher
from sm_search.search.study.warm_start import EarlierTrials, observations_of
from sm_search.tracking.records import read_study_text
from sm_search.tracking.store import Store

FEWEST_TRIALS = 6


def parameter_importance(store: Store, study: str) -> dict[str, float]:
    """Shares of the metric's variance, by PED-ANOVA (Watanabe et al. 2023), the largest first.

    Of the parameters that every trial at the full budget has; empty with fewer than six of these, or for a study whose
    space cannot be read.
    """
    try:
        space = Space.model_validate_json(read_study_text(store, study, "space.json"))
    except (TrackingError, ValidationError):
        return {}
    seen = [each for each in observations_of(store, study, space) if each.values is not None]
    if len(seen) < FEWEST_TRIALS:
        return {}
    alone = space.model_copy(update={"beside": ()})
    trials = OptunaSearcher(alone, EarlierTrials(tuple(seen))).trials()
    known = optuna.create_study(direction="maximize")
    known.add_trials([trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(known, evaluator=evaluator))
