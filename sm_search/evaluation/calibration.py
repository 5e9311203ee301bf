"""Does the error follow what a model expects of itself?

Shapes: K components, N voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from sm_search.data.dataset import Pair
from sm_search.physics.system_matrix import SystemMatrix


@dataclass(frozen=True)
class Calibration:
    """Errors of one scan's components against what was expected of them.

    Attributes:
        ratio: geometric mean over components of error over expected error: 1 is calibrated, above is overconfident.
        ratio_p10, ratio_p90: percentiles of the same.
        rank_correlation: Spearman's, between error and expected error: 1 orders the components rightly.
    """

    scan: str
    ratio: float
    ratio_p10: float
    ratio_p90: float
    rank_correlation: float


def calibration(
    estimate: SystemMatrix, expected_error_CK: NDArray[np.float64], pair: Pair, channels: Sequence[int] = (0,)
) -> Calibration:
    """Root-mean-square errors of the patterns of these channels against the expected ones.

    Args:
        estimate: of `pair.high`.
        expected_error_CK: root-mean-square error in units of a component's maximum modulus.
    """
    patterns = []
    for sm in (estimate, pair.high):
        values_KN = np.concatenate([sm.values_CKN[channel] for channel in channels])
        patterns.append(values_KN / np.abs(values_KN).max(axis=1, keepdims=True))
    error_K = np.sqrt((np.abs(patterns[0] - patterns[1]) ** 2).mean(axis=1))
    expected_K = np.concatenate([expected_error_CK[channel] for channel in channels])
    log_ratio_K = np.log(error_K / expected_K)
    low, high = np.exp(np.percentile(log_ratio_K, [10, 90]))
    correlation = spearmanr(error_K, expected_K).statistic
    return Calibration(pair.scan.id, float(np.exp(log_ratio_K.mean())), float(low), float(high), float(correlation))
