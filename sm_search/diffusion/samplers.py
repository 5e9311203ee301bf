"""Samplers: from white noise to images under the condition-decay schedule (paper, Algorithm 2).

The schedule is a function of u = t/T at the t that are visited, which begin at T (trailing spacing), so it means the
same at 10 steps and at 1000. Noise has names: a result depends neither on its batch nor on what was drawn before.

Every sampler moves x by a linear step, x ← a·x + b·x_0 + c·x_0' + d·z, with the estimate of x_0 here, the one before it
(x_0') and white noise z; only the numbers differ. So one batch holds images under many schedules.

Shapes: S schedules, B images, 2 parts (real, imaginary), Y and X pixels.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import DiffusionSettings, ScheduleSettings
from sm_search.config.streams import stream_seed
from sm_search.diffusion.condition import Condition, condition_noise_level, condition_weight
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.noise_schedule import alpha_bars, x0_and_noise
from sm_search.diffusion.spread import NOISE_NUMBERS


class ImageNoise:
    """White noise images by seed, image name, purpose and numbers: every caller with the same names sees the same."""

    def __init__(self, seed: int, names: Sequence[str], shape: tuple[int, int], kept: int = 0) -> None:
        """`kept`: how many different draws are remembered, for callers that ask for the same ones again."""
        self.seed, self.names, self.shape, self.kept = seed, names, (2, *shape), kept
        self._drawn: dict[tuple[str, int, int], Tensor] = {}

    def draw(self, purpose: str, sample: int = 0, index: int = 0, shape: tuple[int, ...] | None = None) -> Tensor:
        """(B, 2, Y, X), float32; read only. What is no image has a shape of its own."""
        key = (purpose, sample, index)
        if key in self._drawn:
            return self._drawn[key]
        images = torch.empty(len(self.names), *(shape or self.shape))
        generator = torch.Generator()
        for image, name in zip(images, self.names, strict=True):
            image.normal_(generator=generator.manual_seed(stream_seed(self.seed, "sampling", name, *key)))
        if len(self._drawn) < self.kept:
            self._drawn[key] = images
        return images


def visited_steps(timesteps: int, steps: int) -> list[int]:
    """The t visited, from T down (trailing spacing), followed by 0; none without steps."""
    if not steps:
        return []
    steps = min(steps, timesteps)
    return [round(timesteps * (1 - index / steps)) for index in range(steps)] + [0]


class Step(NamedTuple):
    """One step of a schedule as numbers: ỹ = image·y + noise·ε_y, and x ← x·x + x0·x_0 + before·x_0' + z·z.

    `noise` and `z` are for the noise that is drawn once, `fresh_noise` and `fresh_z` for that of this step.
    """

    alpha_bar: float
    image: float
    noise: float
    fresh_noise: float
    x: float
    x0: float
    before: float = 0.0
    z: float = 0.0
    fresh_z: float = 0.0


def schedule_steps(diffusion: DiffusionSettings, schedule: ScheduleSettings) -> list[Step]:
    """The steps of a schedule from t = T down; the last one goes to x_0."""
    bars = alpha_bars(diffusion).tolist()
    visited = visited_steps(diffusion.timesteps, schedule.steps)
    before = None
    steps = []
    for t, t_next in itertools.pairwise(visited):
        u = t / diffusion.timesteps
        weight = condition_weight(schedule, u)
        noise = weight * condition_noise_level(schedule, u)
        once, fresh = (0.0, noise) if schedule.fresh_condition_noise else (noise, 0.0)
        move = SAMPLERS[schedule.sampler](before, bars[t], bars[t_next]) if t_next else {"x": 0.0, "x0": 1.0}
        steps.append(Step(bars[t], weight, once, fresh, **move))
        before = bars[t]
    return steps


Move = Callable[[float | None, float, float], dict[str, float]]
"""The factors of x, x_0, x_0' and z (see `Step`) between ᾱ here and ᾱ after it, both below 1; first the ᾱ of x_0'."""


def _paper(before: float | None, here: float, after: float) -> dict[str, float]:
    """Algorithm 2: line 8 as printed has ᾱ_t where the posterior mean has α_t, so its mean is the estimate of x_0."""
    return {"x": 0.0, "x0": 1.0, "z": (1 - here / after) ** 0.5}


def _ddpm(before: float | None, here: float, after: float) -> dict[str, float]:
    """q(x_s | x_t, x_0) for s < t (Ho et al. 2020, eq. 6–7, with α_t = ᾱ_t/ᾱ_s for skipped steps)."""
    alpha = here / after
    x0 = after**0.5 * (1 - alpha) / (1 - here)
    x = alpha**0.5 * (1 - after) / (1 - here)
    return {"x": x, "x0": x0, "fresh_z": ((1 - after) / (1 - here) * (1 - alpha)) ** 0.5}


def _ddim(before: float | None, here: float, after: float) -> dict[str, float]:
    """√ᾱ_s x_0 + √(1−ᾱ_s) ε with ε = (x − √ᾱ_t x_0)/√(1−ᾱ_t) (Song et al. 2021, eq. 12 at σ = 0)."""
    ratio = ((1 - after) / (1 - here)) ** 0.5
    return {"x": ratio, "x0": after**0.5 - ratio * here**0.5}


def _dpmpp(before: float | None, here: float, after: float) -> dict[str, float]:
    """DPM-Solver++ 2M in its form for x_0 (Lu et al. 2022, "DPM-Solver++", Algorithm 2); the first step is DDIM's."""
    ratio = ((1 - after) / (1 - here)) ** 0.5
    h = _log_snr(after) - _log_snr(here)
    x0 = -(after**0.5) * math.expm1(-h)
    if before is None:
        return {"x": ratio, "x0": x0}
    extrapolated = h / (2 * (_log_snr(here) - _log_snr(before)))
    return {"x": ratio, "x0": x0 * (1 + extrapolated), "before": -x0 * extrapolated}


SAMPLERS: dict[str, Move] = {"paper": _paper, "ddpm": _ddpm, "ddim": _ddim, "dpmpp": _dpmpp}
"""By the names of `ScheduleSettings.sampler`."""


def _log_snr(alpha_bar: float) -> float:
    """λ = log(√ᾱ/√(1−ᾱ))."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


@torch.inference_mode()
def sample_each(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedules: Sequence[ScheduleSettings],
    condition: Condition,
    noise: ImageNoise,
    draw: int = 0,
) -> Tensor:
    """Draw number `draw` of every image under every schedule, in the scaling of the training targets.

    All schedules share x_T, ε_y and z. They go on in step; those with fewer steps leave the batch earlier. One without
    steps gives 0, which is the mean where a residual is diffused.

    Returns:
        Shape (S, B, 2, Y, X); not finite where a schedule diverges.
    """
    paths = [schedule_steps(diffusion, schedule) for schedule in schedules]
    # The longest first: those that are still under way are then always the first ones.
    order = sorted(range(len(schedules)), key=lambda s: -len(paths[s]))
    device = condition.image.device
    start = denoiser.encode(noise.draw("start", draw).to(device))
    rows = condition[torch.arange(len(start), device=device).repeat(len(order))]
    x_S = start.expand(len(order), *start.shape).clone()
    x0_before_S = x_S
    for index in range(len(paths[order[0]])):
        active = [s for s in order if len(paths[s]) > index]
        step = {name: [getattr(paths[s][index], name) for s in active] for name in Step._fields}
        seen_S = _each(step["image"], condition.image)
        for factors, number in ((step["noise"], 0), (step["fresh_noise"], index)):
            if any(factors):
                seen_S += _each(factors, noise.draw("condition", draw, number).to(device))
        here_S = x_S[: len(active)]
        z_S = _network_noise(denoiser, [schedules[s].samples > 1 for s in active], noise, draw, index)
        guidance = [schedules[s].guidance for s in active]
        x0_S = _estimate(
            denoiser,
            diffusion,
            guidance,
            here_S,
            step["alpha_bar"],
            rows[: len(active) * len(start)].with_image(seen_S.flatten(0, 1)),
            z_S,
        )
        moved_S = _scaled(step["x"], here_S) + _scaled(step["x0"], x0_S)
        if any(step["before"]):
            moved_S += _scaled(step["before"], x0_before_S[: len(active)])
        for factors, number in ((step["z"], 0), (step["fresh_z"], index)):
            if any(factors):
                moved_S += _each(factors, denoiser.encode(noise.draw("step", draw, number).to(device)))
        here_S.copy_(moved_S)
        x0_before_S = x0_S
    images = denoiser.to_images(x_S.flatten(0, 1)).unflatten(0, x_S.shape[:2])
    images[[not paths[s] for s in order]] = 0.0
    return images[[order.index(s) for s in range(len(order))]]


def sample(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedule: ScheduleSettings,
    condition: Condition,
    noise: ImageNoise,
    draw: int = 0,
) -> Tensor:
    """Draw number `draw` of every image under one schedule, (B, 2, Y, X), in the scaling of the training targets.

    Raises:
        DivergenceError: the result is not finite.
    """
    return _finite(sample_each(denoiser, diffusion, [schedule], condition, noise, draw)[0], schedule)


class Drawn(NamedTuple):
    """What schedules drew: mean and standard deviation over each one's draws, (S, B, 2, Y, X), and the first draws of
    each schedule itself, S times (M, B, 2, Y, X).
    """

    mean: Tensor
    deviation: Tensor
    draws: list[Tensor]


@torch.inference_mode()
def sample_mean_each(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedules: Sequence[ScheduleSettings],
    condition: Condition,
    noise: ImageNoise,
    kept: int = 0,
) -> Drawn:
    """Mean and standard deviation over each schedule's `samples` draws; a single draw deviates by 0.

    Not finite where a schedule diverges.

    Args:
        kept: how many draws of a schedule are returned themselves, at most.
    """
    mean = sample_each(denoiser, diffusion, schedules, condition, noise)
    squares = torch.zeros_like(mean)
    draws = [[first.clone()] for first in mean] if kept else [[] for _ in schedules]
    for draw in range(1, max(schedule.samples for schedule in schedules)):
        still = [s for s, schedule in enumerate(schedules) if schedule.samples > draw]
        drawn = sample_each(denoiser, diffusion, [schedules[s] for s in still], condition, noise, draw)
        away = drawn - mean[still]
        mean[still] += away / (draw + 1)
        squares[still] += away * (drawn - mean[still])
        if draw < kept:
            for s, images in zip(still, drawn, strict=True):
                draws[s].append(images)
    pairs = [max(1, schedule.samples - 1) for schedule in schedules]
    deviation = _scaled([1 / count for count in pairs], squares).sqrt()
    return Drawn(mean, deviation, [torch.stack(each) if each else mean.new_empty(0) for each in draws])


def sample_mean(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    schedule: ScheduleSettings,
    condition: Condition,
    noise: ImageNoise,
    kept: int = 0,
) -> Drawn:
    """The same of one schedule, without the axis S: mean and deviation (B, 2, Y, X), and one tensor of draws.

    Raises:
        DivergenceError: the result is not finite.
    """
    drawn = sample_mean_each(denoiser, diffusion, [schedule], condition, noise, kept)
    return Drawn(_finite(drawn.mean[0], schedule), drawn.deviation[0], drawn.draws)


def _finite(images: Tensor, schedule: ScheduleSettings) -> Tensor:
    if not torch.isfinite(images).all():
        raise divergence(schedule)
    return images


def divergence(schedule: ScheduleSettings) -> DivergenceError:
    """What to raise where a schedule's images are not finite."""
    return DivergenceError(f"sampling left the finite numbers (sampler {schedule.sampler}, {schedule.steps} steps)")


def _each(factors: Sequence[float], images: Tensor) -> Tensor:
    """Images (B, …) times every factor: (S, B, …)."""
    return _scaled(factors, images[None])


def _scaled(factors: Sequence[float], states_S: Tensor) -> Tensor:
    """States (S, B, …) times the factor of their schedule."""
    factor_S = torch.tensor(factors, dtype=states_S.dtype, device=states_S.device)
    return factor_S.view(-1, *(1,) * (states_S.ndim - 1)) * states_S


def _network_noise(
    denoiser: Denoiser, drawing: Sequence[bool], noise: ImageNoise, draw: int, index: int
) -> Tensor | None:
    """What a network draws with in a step, (S, B, Z): none for the schedules of a single sample, which is its mean."""
    if denoiser.spread is None or not any(drawing):
        return None
    numbers = noise.draw("network", draw, index, (NOISE_NUMBERS,))
    return _each([float(each) for each in drawing], numbers.to(next(denoiser.parameters()).device))


def _estimate(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    guidance: Sequence[float],
    x_S: Tensor,
    alpha_bars: Sequence[float],
    condition: Condition,
    z_S: Tensor | None,
) -> Tensor:
    """x_0, (S, B, …), under classifier-free guidance (Ho and Salimans 2022); the condition has S·B rows."""
    images = x_S.shape[1]
    bar_S = torch.tensor(alpha_bars, dtype=x_S.dtype, device=x_S.device)
    level = bar_S.repeat_interleave(images)
    z = None if z_S is None else z_S.flatten(0, 1)
    output_S = denoiser(x_S.flatten(0, 1), level, condition, z).unflatten(0, x_S.shape[:2])
    guided = [s for s, scale in enumerate(guidance) if scale != 1.0]
    if guided:
        rows = torch.tensor([s * images + b for s in guided for b in range(images)], device=x_S.device)
        nothing = condition[rows].dropped(torch.ones(len(rows), dtype=torch.bool, device=x_S.device))
        z = None if z is None else z[rows]
        without_S = denoiser(x_S[guided].flatten(0, 1), level[rows], nothing, z).unflatten(0, (len(guided), images))
        output_S[guided] = without_S + _scaled([guidance[s] for s in guided], output_S[guided] - without_S)
    return x0_and_noise(diffusion.prediction, output_S, x_S, bar_S.view(-1, *(1,) * (x_S.ndim - 1)))[0]
