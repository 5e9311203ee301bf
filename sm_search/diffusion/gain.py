"""The gain: the physical amplitude of each high-gradient component, predicted from the low-gradient matrix alone.

Shapes: S training scans, K components.
"""

import torch
from torch import Tensor, nn

RIDGE = 1e-6


class GainModel(nn.Module):
    """Kernel ridge regression, over the training scans, of log10(high scale / low scale).

    The kernel is Gaussian in the log10 scales of the low-gradient components relative to their largest, so the
    concentration of the tracer cancels; its width is the median distance between training scans.
    """

    features_SK: Tensor
    weights_SK: Tensor
    mean_K: Tensor
    width: Tensor

    def __init__(self, scans: int, components: int) -> None:
        super().__init__()
        for name, shape in (("features_SK", (scans, components)), ("weights_SK", (scans, components))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("mean_K", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("width", torch.ones((), dtype=torch.float64))

    @staticmethod
    def fitted(low_scales_SK: Tensor, high_scales_SK: Tensor) -> "GainModel":
        """Fit to the component scales of S training scans, A/m."""
        model = GainModel(*low_scales_SK.shape)
        features_SK = relative_log_scales(low_scales_SK)
        largest_gain_S1 = high_scales_SK.double().amax(1, keepdim=True) / low_scales_SK.double().amax(1, keepdim=True)
        log_gain_SK = relative_log_scales(high_scales_SK) - features_SK + torch.log10(largest_gain_S1)
        model.features_SK.copy_(features_SK)
        model.mean_K.copy_(log_gain_SK.mean(0))
        distances = _distances(features_SK, features_SK)
        between = distances[distances > 0]
        if len(between):
            model.width.copy_(between.median())
        gram_SS = model._kernel(features_SK) + RIDGE * torch.eye(len(features_SK), dtype=torch.float64)
        model.weights_SK.copy_(torch.linalg.solve(gram_SS, log_gain_SK - model.mean_K))
        return model

    def _kernel(self, features: Tensor) -> Tensor:
        return torch.exp(-0.5 * (_distances(features, self.features_SK) / self.width).square())

    def forward(self, low_scales_K: Tensor) -> Tensor:
        """High-gradient scales (K,), A/m, from low-gradient scales (K,), A/m."""
        features = relative_log_scales(low_scales_K)[None]
        log_gain_K = (self._kernel(features) @ self.weights_SK)[0] + self.mean_K
        return low_scales_K.double() * 10**log_gain_K


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # The faster way through a matrix product gives equal rows a distance above zero.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def relative_log_scales(scales: Tensor) -> Tensor:
    """log10 of scales over the largest of the last axis, float64; empty components count as 1e-15 of it."""
    relative = scales.double() / scales.double().amax(-1, keepdim=True)
    return torch.log10(relative.clamp(min=1e-15))
