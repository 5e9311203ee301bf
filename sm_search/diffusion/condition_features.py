"""What a backbone reads of a condition beside its image. Shapes: B images, K components."""

import math

import torch
from torch import Tensor, nn

from sm_search.config.errors import SettingsError
from sm_search.config.model_settings import BackboneSettings
from sm_search.diffusion.basis import FeatureBasis
from sm_search.diffusion.condition import Condition
from sm_search.regression.scan_features import relative_scales

ORDER_FREQUENCIES = 8
LOG_SCALE_UNIT = 4.0
"""log10 scales reach down to −8; divided by this they are of order 1."""
NO_NOISE = 1e-6
"""A level of noise, in the image's unit, that counts as none."""


class ComponentFeatures(nn.Module):
    """What a network is told beside images: mixing orders, scale of the component, and what the whole matrix tells;
    with `noise` also the level of the condition's noise, and the trajectory, which noise does not touch.

    Attributes:
        size: how many numbers that is.
    """

    def __init__(self, settings: BackboneSettings, features: int, noise: bool) -> None:
        super().__init__()
        if settings.context > features:
            raise SettingsError(
                f"backbone {settings.backbone}: context = {settings.context} exceeds the {features} features of a scan"
            )
        self.with_orders = settings.order_embedding == "fourier"
        self.context = FeatureBasis(features, settings.context) if settings.context else None
        self.trajectory = FeatureBasis(2, 2) if noise else None
        self.size = 1 + settings.context + (4 * ORDER_FREQUENCIES if self.with_orders else 0) + (3 if noise else 0)

    def fit(self, condition: Condition) -> None:
        if self.context is not None:
            self.context.fit(condition.features)
        if self.trajectory is not None:
            self.trajectory.fit(condition.features[:, -2:])

    def forward(self, condition: Condition) -> Tensor:
        """Shape (B, size); of a dropped condition only the orders are told."""
        keep = condition.keep[:, None]
        parts = [condition.log_scale[:, None] / LOG_SCALE_UNIT * keep]
        if self.context is not None:
            parts.append(self.context(condition.features) * keep)
        if self.trajectory is not None:
            level = condition.noise.clamp(min=NO_NOISE).log10()[:, None] / LOG_SCALE_UNIT + 1
            parts += [level * keep, self.trajectory(condition.features[:, -2:]) * keep]
        if self.with_orders:
            frequencies = math.pi / 2.0 ** torch.arange(ORDER_FREQUENCIES, device=condition.image.device)
            phases = condition.orders[:, :, None] * frequencies
            parts += [torch.sin(phases).flatten(1), torch.cos(phases).flatten(1)]
        return torch.cat(parts, 1)


DROWNED = 10.0
"""Noise of 1/√10 of a component's maximum halves what is told of its pattern."""
FITTED_ROWS = 20_000


class Patterns(nn.Module):
    """Spectra of voxels with each value in units of its component's own maximum, and of its spread in training.

    In units of the strongest component the others fall by a power of the core's volume, each by another one; in its own
    a component hardly changes. What noise drowns is told less of.
    """

    spread: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        self.size = 2 * components
        self.register_buffer("spread", torch.ones(self.size))

    def fit(self, condition: Condition) -> None:
        some = condition[:: max(1, len(condition) // FITTED_ROWS)]
        spread = self._patterns(some).std(0)
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, condition: Condition) -> Tensor:
        """Shape (B, 2K); 0 of a dropped condition."""
        return self._patterns(condition) / self.spread * condition.keep[:, None]

    def _patterns(self, condition: Condition) -> Tensor:
        scales_BK = relative_scales(condition.features, self.size // 2)
        told_BK = scales_BK / (scales_BK.square() + DROWNED * condition.noise.square()[:, None])
        return (condition.image[:, :, 0] * told_BK[:, None]).flatten(1)
