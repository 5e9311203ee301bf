"""Scores of a distribution from a few draws: how far it is from the truth, and whether it is as wide as it is wrong.

A draw from an exact posterior lies 3 dB below its mean, so PSNR and SSIM never ask for more than the mean. Fair CRPS is
least, in expectation, for draws from the true distribution, however few they are (Ferro 2014); that of one forecast
without spread is its absolute error.

Shapes: M draws, … values, K components, 2 parts (real, imaginary), Q levels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sm_search.data.dataset import Pair
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.intervals import LEVELS, Intervals
from sm_search.physics.system_matrix import SystemMatrix

Array = NDArray[np.floating]


class Forecaster(Protocol):
    """What draws patterns: `Synthesiser`."""

    def pattern_draws(
        self, low: SystemMatrix, channel: int, count: int, voxels: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]: ...

    def distance(self, low: SystemMatrix) -> float | None: ...


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


def error_and_deviation(draws_M: Array, truth: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of complex values, (M, K, 2, …) and (K, 2, …): the modulus of the error of the draws' mean, and their standard
    deviation √(σ_real² + σ_imaginary²), (K, …)."""
    error = draws_M.mean(axis=0, dtype=np.float64) - truth
    variance = draws_M.var(axis=0, ddof=1, dtype=np.float64)
    return np.sqrt(np.square(error).sum(axis=1)), np.sqrt(variance.sum(axis=1))


def conformal_factors(error: Array, deviation: Array, levels: Sequence[float] = LEVELS) -> tuple[float, ...]:
    """By how many standard deviations the interval about the mean must reach to cover each level of these values.

    Split conformal prediction with the score |error|/deviation: the ⌈(n+1)·level⌉-th smallest (Vovk et al. 2005; Lei
    et al. 2018, algorithm 2).

    Args:
        error, deviation: of values that were not trained on, of equal shape; where the deviation is 0, so must be what
            is covered.
    """
    known = deviation > 0
    scores = np.sort(np.abs(error[known]) / deviation[known], axis=None)
    if not scores.size:
        return tuple(0.0 for _ in levels)
    last = len(scores) - 1
    return tuple(float(scores[min(last, int(np.ceil((len(scores) + 1) * level)) - 1)]) for level in levels)


def coverage(error: Array, deviation: Array, factors: Sequence[float] | Array) -> tuple[float, ...]:
    """Share of the values whose error is within each factor times the standard deviation: Q factors, or (Q, …) that
    differ by the value."""
    size = np.abs(error)
    return tuple(float((size <= factor * deviation).mean()) for factor in factors)


@dataclass(frozen=True)
class DistributionScores:
    """Of the patterns of one matrix.

    Attributes:
        crps: mean over all real and imaginary parts.
        absolute_error: of the draws' mean, the same mean.
        spread_over_error: see the function.
        coverages: by level, of the intervals about complex values that the factors state.
        ranks: see `rank_histogram`.
    """

    crps: float
    absolute_error: float
    spread_over_error: float
    coverages: dict[float, float]
    ranks: tuple[float, ...]

    @staticmethod
    def of(draws_M: Array, truth: Array, factors: Sequence[float] | Array) -> "DistributionScores":
        """From M draws of K components, (M, K, 2, …), what they shall be, (K, 2, …), and factors for `coverage`."""
        error, deviation = error_and_deviation(draws_M, truth)
        return DistributionScores(
            crps=float(fair_crps(draws_M, truth).mean()),
            absolute_error=float(np.abs(draws_M.mean(axis=0, dtype=np.float64) - truth).mean()),
            spread_over_error=spread_over_error(draws_M, truth),
            coverages=dict(zip(LEVELS, coverage(error, deviation, factors), strict=True)),
            ranks=tuple(rank_histogram(draws_M, truth).tolist()),
        )


@dataclass(frozen=True)
class ScanDistribution:
    """The scores of a model's draws of one scan."""

    scan: str
    scores: DistributionScores

    @staticmethod
    def of(model: Forecaster, pair: Pair, channels: Sequence[int], intervals: Intervals) -> "ScanDistribution":
        """Of all these channels, each with the intervals that belong to its condition."""
        draws, truth, factors, distance = [], [], [], model.distance(pair.low)
        for channel in channels:
            draws.append(model.pattern_draws(pair.low, channel, intervals.draws))
            truth.append(ScaledImages.of(pair.high.channel_images(channel)).patterns)
            factors += [intervals.at(pair.low.above_noise_db(channel), distance)] * len(truth[-1])
        factors_QK = np.array(factors).T[..., None, None]
        scores = DistributionScores.of(np.concatenate(draws, axis=1), np.concatenate(truth), factors_QK)
        return ScanDistribution(pair.scan.id, scores)

    def as_dict(self) -> dict[str, Any]:
        return {"scan": self.scan, **asdict(self.scores)}
