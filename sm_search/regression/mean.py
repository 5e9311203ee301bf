"""The mean that a residual diffusion starts from: what the training scans say of a scan, and how far to trust it.

Shapes: S training scans, F features, K components, 2 parts (real, imaginary), Y and X pixels.
"""

import torch
from torch import Tensor, nn

from sm_search.regression.kernel_ridge import KernelRidge
from sm_search.regression.scan_features import feature_count

DROPPED = 0.1
"""Directions of the patterns are dropped up to this share of the leave-one-out error: a smaller checkpoint."""

SMALLEST_SPREAD = 1e-7

LEFT_OUT = 0.1
"""Share of the training scans, the nearest ones, that is left out with each of them: a scan of a grid leaves neighbours
behind that a scan never seen does not have."""


class MeanModel(nn.Module):
    """Kernel ridge regression, over the training scans, of all high-gradient patterns at once.

    The spread of a component, its expected root-mean-square error, is the process's predictive deviation times a factor
    that makes the errors of the training scans, each left out together with its neighbours, have mean square 1.
    """

    spread_K: Tensor

    def __init__(self, scans: int, components: int, shape: tuple[int, int], rank: int) -> None:
        super().__init__()
        self.shape = (components, 2, *shape)
        self.regression = KernelRidge(scans, feature_count(components), components * 2 * shape[0] * shape[1], rank)
        self.register_buffer("spread_K", torch.ones(components, dtype=torch.float64))

    @staticmethod
    def fitted(features_SF: Tensor, patterns: Tensor) -> "tuple[MeanModel, Tensor]":
        """The model, and the training scans' residuals at mean square 1: what is left to diffuse.

        Each residual is against the prediction from all other scans, its neighbours included: without those the errors
        have structure that is the grid's own, and a network that learns it is worse on new scans.

        Args:
            patterns: high-gradient components at unit maximum modulus, float32, (S, K, 2, Y, X).

        Returns:
            The residuals have the shape of `patterns`.
        """
        regression = KernelRidge.fitted(features_SF, patterns.flatten(1), dropped=DROPPED)
        shape = (patterns.shape[-2], patterns.shape[-1])
        model = MeanModel(patterns.shape[0], patterns.shape[1], shape, len(regression.directions_RP))
        model.regression = regression
        _, spread_K, _ = _left_out(regression, patterns, round(LEFT_OUT * len(patterns)))
        model.spread_K.copy_(spread_K)
        residuals, spread_K, variance_S = _left_out(regression, patterns, 0)
        spread_SK = (spread_K * variance_S[:, None].sqrt()).to(residuals.dtype)
        return model, residuals.div_(spread_SK[:, :, None, None, None])

    def extended(self, features_SF: Tensor, patterns: Tensor) -> "tuple[MeanModel, Tensor]":
        """Fitted to its own training scans and to further ones, as `fitted`; the residuals are those of the latter."""
        known = self.regression.outputs().unflatten(1, patterns.shape[1:])
        both_SF = torch.cat((self.regression.features_SF, features_SF))
        model, residuals = MeanModel.fitted(both_SF, torch.cat((known, patterns)))
        return model, residuals[len(known) :]

    @property
    def rank(self) -> int:
        return len(self.regression.directions_RP)

    def forward(self, features_F: Tensor) -> tuple[Tensor, Tensor]:
        """The expected patterns (K, 2, Y, X) and their spread (K,), float32, of a scan with these features."""
        images = self.regression(features_F).view(self.shape).float()
        return images, (self.spread_K * self.regression.variance(features_F).sqrt()).float()


def _left_out(regression: KernelRidge, patterns: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Residuals (S, K, 2, Y, X), root mean square over scans of each component's in units of the predictive deviation,
    (K,), and predictive variances (S,); see `KernelRidge.leave_out`.
    """
    residual_SP, variance_S = regression.leave_out(patterns.flatten(1), neighbours)
    residuals = residual_SP.view(patterns.shape)
    relative_SK = residuals.flatten(2).square().mean(2).double() / variance_S[:, None]
    return residuals, relative_SK.mean(0).sqrt().clamp(min=SMALLEST_SPREAD), variance_S
