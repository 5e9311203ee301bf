"""What is fitted to whole scans and not trained by gradient: the gain, the mean that a diffusion starts from, and what
conditions look like.

Shapes: S training scans, F features, K components, 2 parts (real, imaginary), Y and X pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.model_settings import Mean
from sm_search.regression.gain import GainModel
from sm_search.regression.kernel_ridge import KernelRidge
from sm_search.regression.mean import MeanModel
from sm_search.regression.scan_features import PHASES, TRAJECTORY_FEATURES, scan_features
from sm_search.regression.training_domain import TrainingDomain, sketch

CLEAR = 30.0
"""A component counts as lost in the noise unless its maximum stands so many times above it: below, the maximum and the
mean phase over the voxels are mostly the noise's."""


class Scaled(Protocol):
    """Components at unit maximum modulus (K, 2, Y, X), and their maximum moduli (K,)."""

    @property
    def patterns(self) -> NDArray[np.float64]: ...

    @property
    def scales(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class ScanData:
    """One receive channel of one training scan.

    Attributes:
        features: (F,), see `scan_features`.
        low_scales, high_scales: maximum moduli of the components, (K,), A/m.
        high_patterns: components at unit maximum modulus, float32, (K, 2, Y, X).
        low_sketch: of the low-gradient patterns, (K, J), see `training_domain`.
    """

    features: Tensor
    low_scales: Tensor
    high_scales: Tensor
    high_patterns: Tensor
    low_sketch: Tensor

    @staticmethod
    def of(low: Scaled, high: Scaled, frequency_hz: float, nd: int) -> "ScanData":
        """From the scaled images of both gradients; see `scan_features`."""
        return ScanData(
            features=scan_features(low.patterns, low.scales, frequency_hz, nd),
            low_scales=torch.from_numpy(low.scales),
            high_scales=torch.from_numpy(high.scales),
            high_patterns=torch.from_numpy(high.patterns).float(),
            low_sketch=sketch(low.patterns),
        )

    def without_noise(self, models: "ScanModels", noise_K: NDArray[np.floating] | None) -> "ScanData":
        """With what these models have in the place of amplitudes and phases that are lost in the noise."""
        features, low_scales = models.without_noise(self.features, self.low_scales, noise_K)
        return replace(self, features=features, low_scales=low_scales)


@dataclass(frozen=True)
class ScanModels:
    """The gain model, the mean model unless the diffusion starts from zero, and the domain of the training scans: none
    where an earlier version made the model, or of one scan alone.
    """

    gain: GainModel
    mean: MeanModel | None
    domain: TrainingDomain | None = None

    @staticmethod
    def fitted(scans: Sequence[ScanData], mean: Mean) -> "tuple[ScanModels, Tensor]":
        """The models, and what is left to diffuse, (S·K, 2, Y, X): patterns, or residuals in units of their spread."""
        features_SF, low_SK, high_SK, patterns, sketches_SKJ = _stacked(scans)
        model, left = (None, patterns) if mean == "none" else MeanModel.fitted(features_SF, patterns)
        domain = None
        if len(scans) > 1:  # one alone does not tell how much scans differ
            domain = TrainingDomain.fitted(features_SF, sketches_SKJ, patterns[0, 0].numel())
        return ScanModels(GainModel.fitted(features_SF, low_SK, high_SK), model, domain), left.flatten(0, 1)

    def extended(self, scans: Sequence[ScanData]) -> "tuple[ScanModels, Tensor]":
        """The models fitted to their own training scans and to further ones, and what is left of the latter to diffuse.

        A model keeps what it says far from the new scans, and near them says what they do.
        """
        features_SF, low_SK, high_SK, patterns, sketches_SKJ = _stacked(scans)
        mean, left = (None, patterns) if self.mean is None else self.mean.extended(features_SF, patterns)
        domain = self.domain and self.domain.extended(features_SF, sketches_SKJ)
        return ScanModels(self.gain.extended(features_SF, low_SK, high_SK), mean, domain), left.flatten(0, 1)

    def without_noise(
        self, features: Tensor, low_scales_K: Tensor, noise_K: NDArray[np.floating] | None
    ) -> tuple[Tensor, Tensor]:
        """Features (F,) and low-gradient scales (K,) of a scan. In place of those of components that are lost in its
        noise stands what the training scans have that agree in all others, by regression.

        Args:
            noise_K: standard deviation of each component, in the unit of the scales; None where it is not known.
        """
        if noise_K is None:
            return features, low_scales_K
        lost_K = low_scales_K < CLEAR * torch.from_numpy(noise_K)
        if not lost_K.any():
            return features, low_scales_K
        lost_F = torch.cat((*[lost_K] * (1 + PHASES), torch.zeros(TRAJECTORY_FEATURES, dtype=torch.bool)))
        training_SF = self.gain.regression.features_SF
        regression = KernelRidge.fitted(training_SF[:, ~lost_F], training_SF[:, lost_F])
        features = features.clone()
        features[lost_F] = regression(features[~lost_F])
        scales_K = low_scales_K.max() * 10 ** features[: len(lost_K)]
        return features, torch.where(lost_K, scales_K, low_scales_K)

    def origin(self, features: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Mean (K, 2, Y, X) and spread (K,) that turn a sample x of this scan into patterns: mean + spread·x.

        Args:
            shape: K, Y and X.
        """
        if self.mean is not None:
            images, spread = self.mean(features)
            return images, spread
        components, height, width = shape
        return torch.zeros(components, 2, height, width), torch.ones(components)


def _stacked(scans: Sequence[ScanData]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of all scans: features, low- and high-gradient scales, high-gradient patterns, low-gradient sketches."""
    names = ("features", "low_scales", "high_scales", "high_patterns", "low_sketch")
    features, low, high, patterns, sketches = (torch.stack([getattr(scan, name) for scan in scans]) for name in names)
    return features, low, high, patterns, sketches
