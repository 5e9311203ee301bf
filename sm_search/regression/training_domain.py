"""How far a low-gradient matrix is from those of the training scans.

Features alone cannot tell (`scan_features`): they do not change where the sign, the orientation or the order of the
voxels does. So the training scans say what the images of a scan with such features look like, and what the condition
differs from that by is its distance.

Shapes: S training scans, F features, K components, J numbers of a sketch, P = 2·Y·X real numbers in an image.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sm_search.config.streams import stream
from sm_search.regression.kernel_ridge import KernelRidge
from sm_search.regression.scan_features import feature_count

SKETCH = 8
"""Numbers that an image is projected to: a distance over 168 components keeps its length to 3 %, 1/√(2·K·J) (Johnson
and Lindenstrauss 1984), and the record of 256 scans stays below 2 MB."""

SMALLEST = 0.02
"""Relative difference of an image that never counts as more than usual: exact training data would else make a model
that refuses whatever a scanner measures."""

LEFT_OUT = 0.1
"""As for the mean model: with each training scan its nearest ones are left out."""

MISCOVERAGE = 0.01
"""Share of scans like the training scans that may lie beyond their conformal quantile (Vovk et al. 2005)."""

MARGIN = 1.5
"""The limit over that quantile: what lies a little beyond is served."""


class TrainingDomain(nn.Module):
    """Kernel ridge regression, over the training scans, from features to sketches of the low-gradient components.

    The distance of a condition is the root mean square over components of its relative difference from the prediction,
    each in units of what the training scans show when they are left out. `limit` is `MARGIN` times the conformal
    quantile of the training scans' own distances, each left out with its neighbours; with fewer than 99 scans the
    quantile is the largest.
    """

    projection_PJ: Tensor
    usual_K: Tensor
    limit: Tensor
    farthest: Tensor

    def __init__(self, scans: int, components: int, pixels: int, rank: int) -> None:
        super().__init__()
        self.regression = KernelRidge(scans, feature_count(components), components * SKETCH, rank)
        self.register_buffer("projection_PJ", torch.zeros(pixels, SKETCH))
        self.register_buffer("usual_K", torch.ones(components, dtype=torch.float64))
        self.register_buffer("limit", torch.ones((), dtype=torch.float64))
        self.register_buffer("farthest", torch.ones((), dtype=torch.float64))

    @staticmethod
    def fitted(features_SF: Tensor, sketches_SKJ: Tensor, pixels: int) -> "TrainingDomain":
        """From what `sketch` makes of the training scans' low-gradient patterns."""
        scans, components, _ = sketches_SKJ.shape
        regression = KernelRidge.fitted(features_SF, sketches_SKJ.flatten(1))
        model = TrainingDomain(scans, components, pixels, len(regression.directions_RP))
        model.regression = regression
        model.projection_PJ.copy_(torch.from_numpy(projection(pixels)))
        residual_SP, variance_S = regression.leave_out(sketches_SKJ.flatten(1).double(), round(LEFT_OUT * scans))
        squared_SK = residual_SP.view(sketches_SKJ.shape).square().sum(2)
        model.usual_K.copy_(squared_SK.mean(0).sqrt().clamp(min=SMALLEST))
        distances_S = (squared_SK / model.usual_K.square()).mean(1).sqrt()
        model.limit.fill_(MARGIN * max(1.0, _conformal_quantile(distances_S)))
        model.farthest.fill_(MARGIN * _conformal_quantile(variance_S))
        return model

    def extended(self, features_SF: Tensor, sketches_SKJ: Tensor) -> "TrainingDomain":
        """Fitted to its own training scans and to further ones."""
        known_SKJ = self.regression.outputs().double().unflatten(1, sketches_SKJ.shape[1:])
        both_SF = torch.cat((self.regression.features_SF, features_SF))
        return TrainingDomain.fitted(both_SF, torch.cat((known_SKJ, sketches_SKJ)), len(self.projection_PJ))

    @property
    def rank(self) -> int:
        return len(self.regression.directions_RP)

    def distance(
        self, features_F: Tensor, patterns: NDArray[np.floating], noise_share_K: NDArray[np.floating] | None = None
    ) -> float:
        """Of a condition, in units of the limit: up to 1 it is as the training scans are.

        What noise turns a component by is no difference: noise of the share ν of its energy leaves √(1−ν) of a vector
        of norm 1, which is then 2 − 2√(1−ν) from where it was, squared. A component counts by its share of signal.

        Args:
            patterns: low-gradient components at unit maximum modulus, (K, 2, Y, X).
            noise_share_K: share of each component's energy that is noise, below 1; None for none.
        """
        expected_KJ = self.regression(features_F).view(-1, SKETCH)
        squared_K = (sketch(patterns, self.projection_PJ.numpy()) - expected_KJ).square().sum(1)
        signal_K = 1 - torch.from_numpy(np.zeros(len(squared_K)) if noise_share_K is None else noise_share_K)
        usual2_K = self.usual_K.square() + 2 - 2 * signal_K.sqrt()
        return float(((signal_K * squared_K / usual2_K).sum() / signal_K.sum()).sqrt() / self.limit)

    def knows(self, features_F: Tensor) -> bool:
        """Whether amplitudes, phases and trajectory alone are like those of training scans, as the kernel sees it."""
        return bool(self.regression.variance(features_F) <= self.farthest)


def sketch(patterns: NDArray[np.floating], projection_PJ: "NDArray[np.floating] | None" = None) -> Tensor:
    """Random projections of the components, each of norm 1 (0 where it is empty), float64, (K, J).

    Args:
        patterns: (K, 2, Y, X).
        projection_PJ: that of a model; default `projection`.
    """
    images_KP = np.asarray(patterns, dtype=np.float64).reshape(len(patterns), -1)
    norms_K1 = np.linalg.norm(images_KP, axis=1, keepdims=True)
    used_PJ = projection(images_KP.shape[1]) if projection_PJ is None else projection_PJ
    return torch.from_numpy(images_KP / np.where(norms_K1 > 0, norms_K1, 1.0) @ used_PJ)


@lru_cache(maxsize=4)
def projection(pixels: int) -> NDArray[np.float32]:
    """The random projection of images of P numbers that keeps squared lengths on average, float32, (P, J)."""
    drawn_PJ = stream(0, "sketch").normal(size=(pixels, SKETCH)) / math.sqrt(SKETCH)
    return drawn_PJ.astype(np.float32)


def _conformal_quantile(values_S: Tensor) -> float:
    """The smallest value that a new one, exchangeable with these, exceeds in at most `MISCOVERAGE` of all cases; the
    largest where there are too few for that."""
    rank = math.ceil((1 - MISCOVERAGE) * (len(values_S) + 1))
    return values_S.sort().values[min(rank, len(values_S)) - 1].item()
