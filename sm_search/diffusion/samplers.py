"""Samplers: from white noise to images under the condition-decay schedule (paper, Algorithm 2).

The schedule is a function of u = t/T at the t that are visited, which begin at T (trailing spacing), so it means the
same at 10 steps and at 1000. Each image draws from a generator of its own: a result does not depend on its batch.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sm_search.config.errors import DivergenceError
from sm_search.config.model import DiffusionSettings, ScheduleSettings
from sm_search.config.streams import stream_seed
from sm_search.diffusion.condition import Condition, condition_noise_level, condition_weight
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.noise_schedule import alpha_bars, x0_and_noise


class ImageNoise:
    """White noise images, one generator per image, so that every caller with the same names sees the same noise."""

    def __init__(self, seed: int, names: Sequence[str], shape: tuple[int, int]) -> None:
        self.shape = (2, *shape)
        self.generators = [torch.Generator().manual_seed(stream_seed(seed, "sampling", name)) for name in names]

    def draw(self) -> Tensor:
        """(B, 2, Y, X), float32."""
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])


def visited_steps(timesteps: int, steps: int) -> list[int]:
    """The t visited, from T down (trailing spacing), followed by 0."""
    steps = min(steps, timesteps)
    return [round(timesteps * (1 - index / steps)) for index in range(steps)] + [0]


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedule: ScheduleSettings,
    condition: Condition,
    noise: ImageNoise,
) -> Tensor:
    """Draw one image per condition, shape (B, 2, Y, X), in the scaling of the training targets.

    Raises:
        DivergenceError: the result is not finite.
    """
    bars = alpha_bars(diffusion)
    device = condition.image.device
    x = denoiser.encode(noise.draw().to(device))
    condition_noise = noise.draw().to(device)
    step_noise = denoiser.encode(noise.draw().to(device)) if schedule.sampler == "paper" else None
    solver = _SecondOrder()
    visited = visited_steps(diffusion.timesteps, schedule.steps)
    for index, (t, t_next) in enumerate(itertools.pairwise(visited)):
        if schedule.fresh_condition_noise and index:
            condition_noise = noise.draw().to(device)
        u = t / diffusion.timesteps
        image = condition.image + condition_noise_level(schedule, u) * condition_noise
        perturbed = condition.with_image(condition_weight(schedule, u) * image)
        alpha_bar, alpha_bar_next = bars[t].item(), bars[t_next].item()
        x0, epsilon = _estimate(denoiser, diffusion, schedule, x, alpha_bar, perturbed)
        if t_next == 0:
            x = x0
        elif schedule.sampler == "ddim":
            x = alpha_bar_next**0.5 * x0 + (1 - alpha_bar_next) ** 0.5 * epsilon
        elif schedule.sampler == "dpmpp":
            x = solver.step(x, x0, alpha_bar, alpha_bar_next)
        elif schedule.sampler == "ddpm":
            x = _posterior_sample(x, x0, alpha_bar, alpha_bar_next, denoiser.encode(noise.draw().to(device)))
        else:
            # Line 8 as printed has ᾱ_t where the posterior mean has α_t: its mean is the estimate of x_0 itself.
            x = x0 + (1 - alpha_bar / alpha_bar_next) ** 0.5 * step_noise
    images = denoiser.to_images(x)
    if not torch.isfinite(images).all():
        raise DivergenceError(f"sampling left the finite numbers (sampler {schedule.sampler}, {schedule.steps} steps)")
    return images


def sample_mean(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedule: ScheduleSettings,
    condition: Condition,
    noise: ImageNoise,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over `schedule.samples` draws, each (B, 2, Y, X); a single draw deviates by 0.

    Raises:
        DivergenceError: the result is not finite.
    """
    mean = sample(denoiser, diffusion, schedule, condition, noise)
    squares = torch.zeros_like(mean)
    for count in range(2, schedule.samples + 1):
        drawn = sample(denoiser, diffusion, schedule, condition, noise)
        before = drawn - mean
        mean = mean + before / count
        squares = squares + before * (drawn - mean)
    return mean, (squares / max(1, schedule.samples - 1)).sqrt()


class _SecondOrder:
    """DPM-Solver++ 2M in its form for x_0 (Lu et al. 2022, "DPM-Solver++", Algorithm 2): the first step is DDIM's."""

    def __init__(self) -> None:
        self.earlier: tuple[Tensor, float] | None = None

    def step(self, x: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_next: float) -> Tensor:
        """x at the next ᾱ < 1, from x and the estimate of x_0 at this one."""
        log_snr, log_snr_next = _log_snr(alpha_bar), _log_snr(alpha_bar_next)
        h = log_snr_next - log_snr
        extrapolated = x0
        if self.earlier is not None:
            x0_before, log_snr_before = self.earlier
            ratio = (log_snr - log_snr_before) / h
            extrapolated = x0 + (x0 - x0_before) / (2 * ratio)
        self.earlier = (x0, log_snr)
        sigma, sigma_next = (1 - alpha_bar) ** 0.5, (1 - alpha_bar_next) ** 0.5
        return sigma_next / sigma * x - alpha_bar_next**0.5 * math.expm1(-h) * extrapolated


def _log_snr(alpha_bar: float) -> float:
    """λ = log(√ᾱ/√(1−ᾱ))."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def _estimate(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedule: ScheduleSettings,
    x: Tensor,
    alpha_bar: float,
    condition: Condition,
) -> tuple[Tensor, Tensor]:
    """x_0 and ε under classifier-free guidance (Ho and Salimans 2022)."""
    level = torch.full((len(x),), alpha_bar, dtype=x.dtype, device=x.device)
    output = denoiser(x, level, condition)
    if schedule.guidance != 1.0:
        without = denoiser(x, level, condition.dropped(torch.ones_like(level, dtype=torch.bool)))
        output = without + schedule.guidance * (output - without)
    return x0_and_noise(diffusion.prediction, output, x, torch.tensor(alpha_bar))


def _posterior_sample(x: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_next: float, z: Tensor) -> Tensor:
    """q(x_s | x_t, x_0) for s < t (Ho et al. 2020, eq. 6–7, with α_t = ᾱ_t/ᾱ_s for skipped steps)."""
    alpha = alpha_bar / alpha_bar_next
    mean = (
        alpha_bar_next**0.5 * (1 - alpha) / (1 - alpha_bar) * x0
        + alpha**0.5 * (1 - alpha_bar_next) / (1 - alpha_bar) * x
    )
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha)
    return mean + variance**0.5 * z
