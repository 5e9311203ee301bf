"""The forward process: ᾱ_t, and the conversions between x_0, ε and v."""

import math

import torch
from torch import Tensor

from sm_search.config.model_settings import DiffusionSettings

_MAX_BETA = 0.999
_MIN_SNR_GAMMA = 5.0


def alpha_bars(settings: DiffusionSettings) -> Tensor:
    """ᾱ_t for t = 0 … T, float64, shape (T+1,); ᾱ_0 = 1.

    The linear β of Ho et al. (2020) is given for T = 1000 and scaled by 1000/T, so that ᾱ_T hardly depends on T.
    """
    steps = settings.timesteps
    if settings.noise_schedule == "linear":
        scale = 1000 / steps
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=_MAX_BETA)
    else:
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        cosine = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
        betas = (1 - cosine[1:] / cosine[:-1]).clamp(max=_MAX_BETA)
    return torch.cat((torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)))


def diffuse(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = √ᾱ x_0 + √(1−ᾱ) ε; `alpha_bar` broadcasts against `x0`."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def training_target(prediction: str, x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network should output: ε, v = √ᾱ ε − √(1−ᾱ) x_0, or x_0."""
    if prediction == "epsilon":
        return noise
    if prediction == "v":
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    return x0


def min_snr_weight(prediction: str, alpha_bar: Tensor) -> Tensor:
    """Weight of the squared error of a network output so that the error of x_0 counts min(SNR, 5), SNR = ᾱ/(1−ᾱ).

    Hang et al., "Efficient diffusion training via Min-SNR weighting strategy", 2023, section 3.4: the error of ε is SNR
    times that of x_0, and the error of v is SNR + 1 times.
    """
    snr = alpha_bar / (1 - alpha_bar)
    error_per_x0 = {"x0": torch.ones_like(snr), "epsilon": snr, "v": snr + 1}[prediction]
    return snr.clamp(max=_MIN_SNR_GAMMA) / error_per_x0


def x0_and_noise(prediction: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates of x_0 and ε that a network output means at x_t; ᾱ < 1."""
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == "epsilon":
        return (x_t - spread * output) / signal, output
    if prediction == "v":
        return signal * x_t - spread * output, spread * x_t + signal * output
    return output, (x_t - signal * output) / spread
