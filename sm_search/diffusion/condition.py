"""The condition of a denoiser: the scaled low-gradient component, and what the schedule does to it.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels, F features of a scan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.model_settings import ScheduleSettings
from sm_search.regression.scan_features import relative_log_scales


@dataclass(frozen=True)
class Condition:
    """What a denoiser may know of the component that it draws.

    Attributes:
        image: low-gradient component at unit maximum modulus, (B, 2, Y, X).
        orders: mixing orders (m_x, m_y), (B, 2).
        log_scale: log10 of the component's maximum modulus over the system matrix's largest, (B,).
        features: of the whole matrix that the component belongs to (`scan_features`), (B, F).
        noise: standard deviation √E|n|² of the image's complex noise, in the image's unit, 0 where none is known, (B,).
        keep: 1 where the image counts, 0 for the null condition, (B,).
    """

    image: Tensor
    orders: Tensor
    log_scale: Tensor
    features: Tensor
    noise: Tensor
    keep: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor | slice) -> "Condition":
        return Condition(*(part[index] for part in self._parts()))

    def to(self, device: torch.device | str) -> "Condition":
        return Condition(*(part.to(device) for part in self._parts()))

    def with_image(self, image: Tensor) -> "Condition":
        return replace(self, image=image)

    def with_noise(self, white: Tensor, level: Tensor) -> "Condition":
        """With more noise on the image.

        Args:
            white: of unit variance on both parts, as the image, (B, 2, Y, X).
            level: its standard deviation √E|n|² in the image's unit, (B,).
        """
        image = self.image + (level / math.sqrt(2))[:, None, None, None] * white
        return replace(self, image=image, noise=(self.noise.square() + level.square()).sqrt())

    def repeated(self, times: int) -> "Condition":
        """All rows, so many times."""
        return Condition(*(torch.cat([part] * times) for part in self._parts()))

    def dropped(self, drop: Tensor) -> "Condition":
        """The null condition where `drop` (B,) is true."""
        return replace(self, keep=self.keep * (~drop).to(self.keep.dtype))

    def _parts(self) -> list[Tensor]:
        return [getattr(self, part.name) for part in fields(self)]


def make_condition(
    patterns: NDArray[np.floating],
    orders: Sequence[tuple[int, int]],
    scales: NDArray[np.floating],
    features: Tensor,
    noise_K: NDArray[np.floating] | None = None,
) -> Condition:
    """The condition of one channel of a low-gradient matrix.

    Args:
        patterns: components at unit maximum modulus, (K, 2, Y, X).
        orders: K mixing orders (m_x, m_y).
        scales: their maximum moduli, (K,).
        features: `scan_features` of the matrix, (F,).
        noise_K: standard deviation of each component's noise, in the unit of the scales; None where it is not known.
    """
    noise = np.zeros_like(scales) if noise_K is None else noise_K / np.where(scales > 0, scales, 1.0)
    return Condition(
        image=torch.from_numpy(np.ascontiguousarray(patterns, dtype=np.float32)),
        orders=torch.tensor(orders, dtype=torch.float32),
        log_scale=relative_log_scales(torch.from_numpy(np.asarray(scales))).float(),
        features=features.float().expand(len(patterns), -1),
        noise=torch.from_numpy(np.asarray(noise)).float(),
        keep=torch.ones(len(patterns)),
    )


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """Conditions of several matrices as one batch."""
    return Condition(*(torch.cat(parts) for parts in zip(*(each._parts() for each in conditions), strict=True)))


def condition_noise_level(schedule: ScheduleSettings, u: float) -> float:
    """η(u) = η_max(1−u)^γ with u = t/T (paper, Algorithm 2)."""
    return schedule.eta_max * (1 - u) ** schedule.gamma


def condition_weight(schedule: ScheduleSettings, u: float) -> float:
    """w(u) = w_min + (w_max − w_min)u^σ with u = t/T (paper, Algorithm 2)."""
    return schedule.w_min + (schedule.w_max - schedule.w_min) * u**schedule.sigma
