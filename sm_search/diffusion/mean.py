"""The mean that a residual diffusion starts from: what the training scans say of a scan, and how far to trust it.

Shapes: S training scans, F features, K components, 2 parts (real, imaginary), Y and X pixels.
"""

import torch
from torch import Tensor, nn

from sm_search.diffusion.kernel_ridge import KernelRidge
from sm_search.diffusion.scan_features import feature_count

DROPPED = 0.1
"""Directions of the patterns are dropped up to this share of the leave-one-out error: a smaller checkpoint."""

SMALLEST_SPREAD = 1e-7


class MeanModel(nn.Module):
    """Kernel ridge regression, over the training scans, of all high-gradient patterns at once.

    The spread of a component, its expected root-mean-square error, is the process's predictive deviation times a factor
    that makes the leave-one-out errors of the training scans have mean square 1.
    """

    spread_K: Tensor

    def __init__(self, scans: int, components: int, shape: tuple[int, int], rank: int) -> None:
        super().__init__()
        self.shape = (components, 2, *shape)
        self.regression = KernelRidge(scans, feature_count(components), components * 2 * shape[0] * shape[1], rank)
        self.register_buffer("spread_K", torch.ones(components, dtype=torch.float64))

    @staticmethod
    def fitted(features_SF: Tensor, patterns: Tensor) -> "tuple[MeanModel, Tensor]":
        """The model, and the training scans' residuals in units of their spread: what is left to diffuse.

        Each residual is against the prediction from all other scans, as it will be on scans never seen.

        Args:
            patterns: high-gradient components at unit maximum modulus, float32, (S, K, 2, Y, X).

        Returns:
            The residuals have the shape of `patterns`.
        """
        outputs_SP = patterns.flatten(1)
        regression = KernelRidge.fitted(features_SF, outputs_SP, dropped=DROPPED)
        residual_SP, variance_S = regression.leave_one_out(outputs_SP)
        residuals = residual_SP.view(patterns.shape)
        relative_SK = residuals.flatten(2).square().mean(2).double() / variance_S[:, None]
        shape = (patterns.shape[-2], patterns.shape[-1])
        model = MeanModel(patterns.shape[0], patterns.shape[1], shape, len(regression.directions_RP))
        model.regression = regression
        model.spread_K.copy_(relative_SK.mean(0).sqrt().clamp(min=SMALLEST_SPREAD))
        spread_SK = (model.spread_K * variance_S[:, None].sqrt()).to(residuals.dtype)
        return model, residuals.div_(spread_SK[:, :, None, None, None])

    @property
    def rank(self) -> int:
        return len(self.regression.directions_RP)

    def forward(self, features_F: Tensor) -> tuple[Tensor, Tensor]:
        """The expected patterns (K, 2, Y, X) and their spread (K,), float32, of a scan with these features."""
        images = self.regression(features_F).view(self.shape).float()
        return images, (self.spread_K * self.regression.variance(features_F).sqrt()).float()
