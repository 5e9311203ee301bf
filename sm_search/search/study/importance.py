"""Which parameter of a finished study made the difference, said only where its trials carry it.

With the dozen trials of an ordinary study an estimator always names some parameter first, and often the wrong one. So
two have to agree: fANOVA (Hutter et al. 2014), and a permutation test of how well each parameter alone orders the
metric, with the correction for several parameters of Westfall and Young (1993).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from pydantic import ValidationError

from sm_search.config.errors import TrackingError
from sm_search.search.space.space import Space
from sm_search.search.study.optuna_searcher import OptunaSearcher
from sm_search.search.study.warm_start import EarlierTrials, observations_of
from sm_search.tracking.records import read_study_text
from sm_search.tracking.store import Store

FEWEST_TRIALS = 6
PERMUTATIONS = 2000
MOST_CHANCE = 0.05
"""Probability of such an order by chance, above which no parameter is named."""


@dataclass(frozen=True)
class Importance:
    """What the trials at the full budget say about the parameters that all of them have.

    Attributes:
        shares: of the metric's variance, by fANOVA, each parameter by itself, the largest first.
        ordering: the parameter that orders the metric best.
        chance: probability that among trials without any effect some parameter orders the metric as well as that.
    """

    trials: int
    shares: Mapping[str, float]
    ordering: str
    chance: float

    @property
    def first(self) -> str | None:
        """The parameter that matters most; None where the trials are too few to say."""
        name = next(iter(self.shares))
        return name if name == self.ordering and self.chance <= MOST_CHANCE else None


def parameter_importance(store: Store, study: str) -> Importance | None:
    """None with nothing to compare: fewer than two parameters that vary, or six trials, or an unreadable space."""
    try:
        space = Space.model_validate_json(read_study_text(store, study, "space.json"))
    except (TrackingError, ValidationError):
        return None
    seen = [each for each in observations_of(store, study, space) if each.values is not None]
    alone = space.model_copy(update={"further_objectives": ()})
    trials = [trial for trial in OptunaSearcher(alone, EarlierTrials(tuple(seen))).trials() if trial.values]
    columns = {
        name: [trial.params[name] for trial in trials]
        for name in (trials[0].params if trials else ())
        if all(name in trial.params for trial in trials)
    }
    columns = {name: column for name, column in columns.items() if len({*column}) > 1}
    if len(columns) < 2 or len(trials) < FEWEST_TRIALS:
        return None
    from optuna.importance import (
        FanovaImportanceEvaluator,  # scikit-learn: two seconds, which most studies need not pay
    )

    known = optuna.create_study(direction="maximize")
    known.add_trials(trials)
    shares = FanovaImportanceEvaluator(seed=0).evaluate(known, params=list(columns))
    ordering, chance = best_ordering(columns, [float(trial.values[0]) for trial in trials])
    return Importance(len(trials), dict(sorted(shares.items(), key=lambda item: -item[1])), ordering, chance)


def best_ordering(columns: Mapping[str, Sequence[Any]], values: Sequence[float]) -> tuple[str, float]:
    """The parameter that orders the values best, and the probability that chance alone gives one that does so.

    The measure is R² of the ranks of the values on a parameter: by its rank and that squared for numbers, so that an
    optimum in the middle counts, and by the means of its groups for names. Parameters with many groups reach more by
    chance, so they are compared by how rarely a permutation of the values reaches as much.
    """
    from scipy.stats import rankdata

    ranks_N = rankdata(values)
    generator = np.random.default_rng(0)
    drawn_PN = np.stack([ranks_N, *(generator.permutation(ranks_N) for _ in range(PERMUTATIONS))])
    r2_KP = np.stack([_explained(_design(column), drawn_PN) for column in columns.values()])
    # Of each draw, the share of all draws that reach as much: a p-value of each parameter and permutation.
    p_KP = rankdata(-r2_KP.round(9), method="max", axis=1) / r2_KP.shape[1]
    best = int(np.argmin(p_KP[:, 0]))
    return list(columns)[best], float(np.mean(p_KP.min(axis=0) <= p_KP[best, 0]))


def _design(column: Sequence[Any]) -> NDArray[np.float64]:
    """(N, D), centred: what the metric's ranks are explained by."""
    if any(isinstance(value, str | bool | None) for value in column):
        names = sorted({*map(str, column)})
        design = np.array([[float(str(value) == name) for name in names[1:]] for value in column])
    else:
        from scipy.stats import rankdata

        ranks_N = rankdata(column)
        design = np.stack([ranks_N, ranks_N**2], axis=-1)
    return np.asarray(design - design.mean(axis=0))


def _explained(design_ND: NDArray[np.float64], ranks_PN: NDArray[np.float64]) -> NDArray[np.float64]:
    """R² of each row of ranks on a design."""
    left, singular, _ = np.linalg.svd(design_ND, full_matrices=False)
    basis_ND = left[:, singular > 1e-9 * singular[0]]
    centred_PN = ranks_PN - ranks_PN.mean(axis=1, keepdims=True)
    total_P = (centred_PN**2).sum(axis=1)
    return np.asarray(((centred_PN @ basis_ND) ** 2).sum(axis=1) / np.maximum(total_P, 1e-12))
