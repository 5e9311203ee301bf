"""What every backbone is to the diffusion: one interface.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels.

A denoiser works on a *state*: pixels for the U-Net, basis coefficients for the linear basis. Both maps are orthonormal
up to one factor, so white noise drawn on pixels is white noise on the state.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sm_search.diffusion.condition import Condition
from sm_search.diffusion.spread import SpreadHead


class Denoiser(nn.Module, ABC):
    """Predicts ε, v or x_0 of a state from its noisy version, the condition and ᾱ_t.

    Attributes:
        spread: what draws x_0 about the prediction; None in networks that only predict.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spread: SpreadHead | None = None

    @abstractmethod
    def fit_constants(self, targets: Tensor, condition: Condition) -> None:
        """Fit what is not trained by gradient to training images (B, 2, Y, X) and their conditions."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images or white noise (B, 2, Y, X) to states (B, …): noise keeps unit variance."""

    @abstractmethod
    def to_state(self, images: Tensor) -> Tensor:
        """Target images (B, 2, Y, X) to states (B, …), scaled to the variance that the diffusion wants."""

    @abstractmethod
    def to_images(self, states: Tensor) -> Tensor:
        """Inverse of `to_state` on the span of the basis."""

    @abstractmethod
    def forward(self, x_t: Tensor, alpha_bar: Tensor, condition: Condition, z: Tensor | None = None) -> Tensor:
        """The network output at states x_t (B, …) and ᾱ (B,).

        Args:
            z: white noise (M·B, Z) to draw with, M times of each image, all once and then again; None and 0 give the
                mean. Networks without `spread` take none.
        """


def noise_features(alpha_bar: Tensor) -> Tensor:
    """Smooth features of the noise level, from the log signal-to-noise ratio, shape (B, 16)."""
    log_snr = 0.5 * (alpha_bar.log() - (1 - alpha_bar).clamp(min=1e-12).log())
    scaled = log_snr[:, None] / 5.0
    frequencies = math.pi * torch.arange(1, 8, device=alpha_bar.device, dtype=alpha_bar.dtype) / 2
    phases = scaled * frequencies
    last = (alpha_bar[:, None] < 1e-4).to(alpha_bar.dtype)
    return torch.cat((scaled, last, torch.sin(phases), torch.cos(phases)), 1)


NOISE_FEATURES = 16
