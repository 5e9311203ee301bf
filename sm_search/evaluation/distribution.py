"""Scores of a distribution from a few draws: how far it is from the truth, and whether it is as wide as it is wrong.

A draw from an exact posterior lies 3 dB below its mean, so PSNR and SSIM never ask for more than the mean. Fair CRPS is
least, in expectation, for draws from the true distribution, however few they are (Ferro 2014); that of one forecast
without spread is its absolute error.

Shapes: M draws, … values, Q levels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sm_search.data.dataset import Pair
from sm_search.data.scaling import ScaledImages
from sm_search.physics.system_matrix import SystemMatrix

LEVELS = (0.5, 0.9)
"""What the intervals that are stated shall cover."""

Array = NDArray[np.floating]


class Forecaster(Protocol):
    """What draws patterns: `Synthesiser`."""

    def pattern_draws(self, low: SystemMatrix, channel: int, count: int) -> NDArray[np.float64]: ...


def fair_crps(draws_M: Array, truth: Array) -> NDArray[np.float64]:
    """E|x − y| − ½·E|x − x'| of each value from M draws, (M, …) and (…), without the bias of few draws.

    Ferro (2014), "Fair scores for ensemble forecasts", eq. 5. A single draw counts as a forecast without spread.
    """
    count = len(draws_M)
    error: NDArray[np.float64] = np.abs(np.subtract(draws_M, truth, dtype=np.float64)).mean(axis=0)
    if count == 1:
        return error
    draws = np.sort(draws_M.astype(np.float64), axis=0)
    # Σ|x_i − x_j| over pairs of sorted draws: the i-th is added i times and subtracted for all behind it.
    factor_M = 2 * np.arange(count) - count + 1
    return error - np.tensordot(factor_M, draws, axes=1) / (count * (count - 1))


def image_crps(draws_M: Array, truth: Array) -> NDArray[np.float64]:
    """The mean of `fair_crps` over each image: (M, K, 2, Y, X) and (K, 2, Y, X) to (K,)."""
    scores: NDArray[np.float64] = fair_crps(draws_M, truth).mean(axis=(1, 2, 3))
    return scores


def spread_over_error(draws_M: Array, truth: Array) -> float:
    """`image_spread_over_error` of all values together."""
    return float(image_spread_over_error(draws_M.reshape(len(draws_M), 1, -1), truth.reshape(1, -1))[0])


def image_spread_over_error(draws_M: Array, truth: Array) -> NDArray[np.float64]:
    """Root-mean-square spread of the draws over that of their mean's error, (M, K, …) and (K, …) to (K,): 1 if the
    truth could be one of the draws.

    The spread is the standard deviation times √(1 + 1/M), for the mean of M draws errs by 1/M of the variance more
    (Fortin et al. 2014). 0 for a single draw.
    """
    count, within = len(draws_M), tuple(range(1, truth.ndim))
    error_K = np.square(draws_M.mean(axis=0, dtype=np.float64) - truth).mean(axis=within)
    if count == 1:
        return np.zeros_like(error_K)
    variance_K = draws_M.var(axis=0, ddof=1, dtype=np.float64).mean(axis=within) * (1 + 1 / count)
    smallest = np.finfo(np.float64).tiny
    ratio_K: NDArray[np.float64] = np.sqrt(variance_K / np.maximum(error_K, smallest))
    return ratio_K


def rank_histogram(draws_M: Array, truth: Array) -> NDArray[np.float64]:
    """Share of the values whose truth has 0 … M of the draws below it, (M + 1): flat if it could be one of them."""
    below = (draws_M < truth).sum(axis=0)
    counts = np.bincount(below.ravel(), minlength=len(draws_M) + 1)
    return counts / counts.sum()


def conformal_factors(deviation: Array, error: Array, levels: Sequence[float] = LEVELS) -> tuple[float, ...]:
    """By how many standard deviations the interval about the mean must reach to cover each level of these values.

    Split conformal prediction with the score |error|/deviation: the ⌈(n+1)·level⌉-th smallest (Vovk et al. 2005; Lei
    et al. 2018, algorithm 2).

    Args:
        deviation, error: of values that were not trained on, of equal shape; where the deviation is 0, so must be what
            is covered.
    """
    known = deviation > 0
    scores = np.sort(np.abs(error[known]) / deviation[known], axis=None)
    if not scores.size:
        return tuple(0.0 for _ in levels)
    last = len(scores) - 1
    return tuple(float(scores[min(last, int(np.ceil((len(scores) + 1) * level)) - 1)]) for level in levels)


def coverage(deviation: Array, error: Array, factors: Sequence[float]) -> tuple[float, ...]:
    """Share of the values whose error is within each factor times the standard deviation."""
    size = np.abs(error)
    return tuple(float((size <= factor * deviation).mean()) for factor in factors)


@dataclass(frozen=True)
class DistributionScores:
    """Of the patterns of one matrix.

    Attributes:
        crps: mean over all real and imaginary parts.
        absolute_error: of the draws' mean, the same mean.
        spread_over_error: see the function.
        coverages: by level, of the intervals that the factors state.
        ranks: see `rank_histogram`.
    """

    crps: float
    absolute_error: float
    spread_over_error: float
    coverages: dict[float, float]
    ranks: tuple[float, ...]

    @staticmethod
    def of(draws_M: Array, truth: Array, factors: Sequence[float]) -> "DistributionScores":
        """From M draws of real numbers, (M, …), and what they shall be, (…)."""
        mean, deviation = draws_M.mean(axis=0, dtype=np.float64), draws_M.std(axis=0, ddof=1, dtype=np.float64)
        return DistributionScores(
            crps=float(fair_crps(draws_M, truth).mean()),
            absolute_error=float(np.abs(mean - truth).mean()),
            spread_over_error=spread_over_error(draws_M, truth),
            coverages=dict(zip(LEVELS, coverage(deviation, mean - truth, factors), strict=True)),
            ranks=tuple(rank_histogram(draws_M, truth).tolist()),
        )


@dataclass(frozen=True)
class ScanDistribution:
    """The scores of a model's draws of one scan."""

    scan: str
    scores: DistributionScores

    def as_dict(self) -> dict[str, Any]:
        return {"scan": self.scan, **asdict(self.scores)}


def pair_draws(model: Forecaster, pair: Pair, channels: Sequence[int], count: int) -> tuple[Array, Array]:
    """Draws of the patterns of `pair.high`, (M, K, 2, Y, X), and the patterns, (K, 2, Y, X), of all these channels."""
    draws = [model.pattern_draws(pair.low, channel, count) for channel in channels]
    truth = [ScaledImages.of(pair.high.channel_images(channel)).patterns for channel in channels]
    return np.concatenate(draws, axis=1), np.concatenate(truth)


def fitted_factors(model: Forecaster, pairs: Iterable[Pair], channels: Sequence[int], count: int) -> tuple[float, ...]:
    """`conformal_factors` on pairs that the model has not been trained on."""
    deviations, errors = [], []
    for pair in pairs:
        draws_M, truth = pair_draws(model, pair, channels, count)
        deviations.append(draws_M.std(axis=0, ddof=1))
        errors.append(draws_M.mean(axis=0) - truth)
    return conformal_factors(np.concatenate(deviations), np.concatenate(errors))
