"""The gain: the physical amplitude of each high-gradient component, predicted from the low-gradient matrix alone.

Shapes: S training scans, F features, K components.
"""

import torch
from torch import Tensor, nn

from sm_search.regression.kernel_ridge import KernelRidge
from sm_search.regression.scan_features import feature_count, relative_log_scales


class GainModel(nn.Module):
    """Kernel ridge regression, over the training scans, of log10(high scale / low scale)."""

    def __init__(self, scans: int, components: int, rank: int) -> None:
        super().__init__()
        self.regression = KernelRidge(scans, feature_count(components), components, rank)

    @staticmethod
    def fitted(features_SF: Tensor, low_scales_SK: Tensor, high_scales_SK: Tensor) -> "GainModel":
        """Fit to the component scales of S training scans, A/m."""
        return GainModel._of(features_SF, _log_gain(low_scales_SK, high_scales_SK))

    def extended(self, features_SF: Tensor, low_scales_SK: Tensor, high_scales_SK: Tensor) -> "GainModel":
        """Fitted to its own training scans and to further ones."""
        known = self.regression
        outputs_SK = torch.cat((known.outputs().double(), _log_gain(low_scales_SK, high_scales_SK)))
        return GainModel._of(torch.cat((known.features_SF, features_SF)), outputs_SK)

    @staticmethod
    def _of(features_SF: Tensor, log_gain_SK: Tensor) -> "GainModel":
        regression = KernelRidge.fitted(features_SF, log_gain_SK)
        model = GainModel(len(features_SF), log_gain_SK.shape[1], len(regression.directions_RP))
        model.regression = regression
        return model

    @property
    def rank(self) -> int:
        return len(self.regression.directions_RP)

    def forward(self, features_F: Tensor, low_scales_K: Tensor) -> Tensor:
        """High-gradient scales (K,), A/m, from the scan's features (F,) and low-gradient scales (K,), A/m."""
        return low_scales_K.double() * 10 ** self.regression(features_F)


def _log_gain(low_scales_SK: Tensor, high_scales_SK: Tensor) -> Tensor:
    """log10(high scale / low scale), (S, K); empty components count as 1e-15 of the largest."""
    largest_gain_S1 = high_scales_SK.double().amax(1, keepdim=True) / low_scales_SK.double().amax(1, keepdim=True)
    log_gain_SK = relative_log_scales(high_scales_SK) - relative_log_scales(low_scales_SK)
    return log_gain_SK + torch.log10(largest_gain_S1)
