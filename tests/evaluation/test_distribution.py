"""Scores of a distribution: exact cases, and the laws that make them fair."""

import numpy as np
import pytest
from scipy.special import ndtri

from sm_search.evaluation.distribution import (
    LEVELS,
    DistributionScores,
    conformal_factors,
    coverage,
    fair_crps,
    rank_histogram,
    spread_over_error,
)

GENERATOR = np.random.default_rng(3)


def gaussian(draws: int, spread: float, size: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Draws of that spread, and a truth of spread 1."""
    return spread * GENERATOR.standard_normal((draws, size)), GENERATOR.standard_normal(size)


def test_crps_by_hand_and_by_all_pairs() -> None:
    assert fair_crps(np.array([[1.0], [3.0]]), np.array([0.0])) == pytest.approx(2.0 - 0.5 * 2.0)
    draws, truth = GENERATOR.standard_normal((5, 7)), GENERATOR.standard_normal(7)
    pairs = np.abs(draws[:, None] - draws[None]).sum(axis=(0, 1)) / (5 * 4)
    expected = np.abs(draws - truth).mean(axis=0) - pairs / 2
    assert fair_crps(draws, truth) == pytest.approx(expected, abs=1e-14)
    assert fair_crps(draws[:1], truth) == pytest.approx(np.abs(draws[0] - truth))


@pytest.mark.parametrize("draws", [2, 8])
def test_crps_of_a_gaussian_is_known_however_few_draws_there_are(draws: int) -> None:
    """E CRPS(N(0, 1), y) with y of the same is 1/√π (Gneiting and Raftery 2007, eq. 21, averaged)."""
    assert fair_crps(*gaussian(draws, 1.0)).mean() == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)


def test_crps_is_least_at_the_true_spread() -> None:
    right, narrow, wide = (fair_crps(*gaussian(4, spread)).mean() for spread in (1.0, 0.5, 2.0))
    assert right < min(narrow, wide) - 0.02


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("draws", [2, 8])
def test_spread_over_error_of_draws_about_the_truth_s_mean(spread: float, draws: int) -> None:
    # The mean of the draws is off by 1 (the truth) and by spread/√M.
    expected = spread * np.sqrt(1 + 1 / draws) / np.sqrt(1 + spread**2 / draws)
    assert spread_over_error(*gaussian(draws, spread)) == pytest.approx(expected, rel=0.01)


def test_spread_without_error_and_of_one_draw() -> None:
    same = np.ones((3, 4))
    assert spread_over_error(same, np.ones(4)) == 0.0
    assert spread_over_error(same[:1], np.zeros(4)) == 0.0


def test_ranks_are_flat_for_the_true_distribution_and_shaped_like_a_u_for_a_narrow_one() -> None:
    assert rank_histogram(*gaussian(7, 1.0)) == pytest.approx(np.full(8, 1 / 8), abs=0.005)
    narrow = rank_histogram(*gaussian(7, 0.3))
    assert narrow[[0, -1]].min() > 2 * narrow[1:-1].max()
    assert rank_histogram(np.array([[1.0], [2.0]]), np.array([1.5])).tolist() == [0.0, 1.0, 0.0]


def test_conformal_factors_are_the_quantiles_of_a_gaussian_and_cover_what_they_state() -> None:
    deviation = GENERATOR.uniform(0.1, 10.0, 100_000)
    error = deviation * GENERATOR.standard_normal(100_000)
    factors = conformal_factors(error, deviation)
    assert factors == pytest.approx([ndtri((1 + level) / 2) for level in LEVELS], rel=0.02)
    others = GENERATOR.uniform(0.1, 10.0, 100_000)
    assert coverage(others * GENERATOR.standard_normal(100_000), others, factors) == pytest.approx(LEVELS, abs=0.01)
    assert conformal_factors(np.ones(3), np.zeros(3)) == (0.0, 0.0)


def test_scores_of_a_matrix_agree_with_their_parts() -> None:
    draws, truth = (each.reshape(*each.shape[:-1], 10, 2, 500) for each in gaussian(8, 1.0, 10_000))
    scores = DistributionScores.of(draws, truth, (0.7, 1.8))
    assert scores.crps == pytest.approx(fair_crps(draws, truth).mean())
    assert scores.absolute_error == pytest.approx(np.abs(draws.mean(axis=0) - truth).mean())
    assert scores.coverages[0.5] < scores.coverages[0.9]
    assert sum(scores.ranks) == pytest.approx(1.0)
