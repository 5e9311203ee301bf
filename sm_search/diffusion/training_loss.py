"""The training loss: what a step draws, and the error of the network on it (paper, Algorithm 1).

Shapes: B images of a step, 2 parts (real, imaginary), Y and X pixels.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from sm_search.config.model_settings import TrainingSettings
from sm_search.config.streams import stream_seed
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.intervals import SILENT_DB
from sm_search.diffusion.noise_schedule import diffuse, min_snr_weight, training_target
from sm_search.diffusion.parity import mirrored
from sm_search.diffusion.spread import NOISE_NUMBERS


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step.

    Attributes:
        index: of the training images, (B,).
        t: of the diffusion, (B,).
        drop: whether the condition is dropped, bool, (B,).
        epsilon: white noise on the states, (B, …); with `loss: crps`, whose two draws come from it, (2·B, …).
        z: white noise that the network draws with, (2·B, Z); None in steps that do not train it to.
        condition_noise: white noise on the conditions, (B, 2, Y, X); None where none is asked for.
        level: of the measurement noise, √E|n|² in units of a matrix's strongest component, (B,); None where none is
            asked for.
        measurement: white noise of unit variance on both parts of a condition, (B, 2, Y, X); None likewise.
        mirror: whether to mirror along x and along y, bool, (2, B); None without `augmentation: parity`.
    """

    index: Tensor
    t: Tensor
    drop: Tensor
    epsilon: Tensor
    z: Tensor | None
    condition_noise: Tensor | None
    level: Tensor | None
    measurement: Tensor | None
    mirror: Tensor | None

    def copy_(self, other: Self) -> None:
        """Take the numbers of another step, in place."""
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if mine is not None:
                mine.copy_(theirs)


class TrainingLoss:
    """The loss of a step over one set of training images, all on one device.

    Args:
        targets: images (B, 2, Y, X), which `augmentation: parity` mirrors.
        states: the same as the denoiser's states.
        bars: ᾱ_t for t = 0 … T.
    """

    def __init__(
        self, settings: TrainingSettings, denoiser: Denoiser, targets: Tensor, condition: Condition, bars: Tensor
    ) -> None:
        self.settings = settings
        self.denoiser = denoiser
        self.condition = condition
        self.bars = bars
        # Mirroring acts on images, so their states are then made at each draw.
        self.targets = targets if settings.augmentation == "parity" else None
        self.states = denoiser.to_state(targets)
        self.generator = torch.Generator(targets.device)
        self._mirror_generator = torch.Generator(targets.device)

    def draws(self, step: int) -> Draws:
        """The numbers of step number `step`: of a stream of that name, drawn where the images are."""
        settings, device = self.settings, self.states.device
        batch, timesteps = settings.batch_size, settings.diffusion.timesteps
        generator = self.generator.manual_seed(stream_seed(settings.seed, "step", step))
        draw: Any = {"generator": generator, "device": device}
        index = torch.randint(len(self.states), (batch,), **draw)
        t = torch.randint(1, timesteps + 1, (batch,), **draw)
        t = torch.where(torch.rand(batch, **draw) < settings.share_at_end, timesteps, t)
        forecast = settings.loss == "crps"
        if forecast:
            t = torch.full_like(t, timesteps)
        drop = torch.rand(batch, **draw) < settings.p_uncond
        epsilon = torch.randn((batch * (2 if forecast else 1), *self.states.shape[1:]), **draw)
        z = condition_noise = level = measurement = mirror = None
        if settings.condition_noise == "same-level":
            condition_noise = torch.randn((batch, *self.condition.image.shape[1:]), **draw)
        if settings.measurement_noise_db is not None:
            quiet, loud = (-decibels for decibels in settings.measurement_noise_db[::-1])
            decibels = quiet + (loud - quiet) * torch.rand(batch, **draw)
            level = torch.where(decibels < -SILENT_DB, 0.0, 10 ** (decibels / 20))
            measurement = torch.randn((batch, *self.condition.image.shape[1:]), **draw)
        if step >= settings.spread_from:
            z = torch.randn((2 * batch, NOISE_NUMBERS), **draw)
        if self.targets is not None:
            generator = self._mirror_generator.manual_seed(stream_seed(settings.seed, "mirror", step))
            mirror = torch.rand((2, batch), generator=generator, device=device) < 0.5
        return Draws(index, t, drop, epsilon, z, condition_noise, level, measurement, mirror)

    def __call__(self, draws: Draws) -> Tensor:
        """The mean loss of the images drawn, a scalar; nothing here waits for the device."""
        settings = self.settings
        x0, condition = self._drawn(draws)
        condition = self._perturbed(self._measured(condition, draws).dropped(draws.drop), draws)
        if settings.loss == "crps" or draws.z is not None:
            return self._crps(x0, condition, draws)
        alpha_bar = self.bars[draws.t]
        broadcast = alpha_bar.reshape(-1, *(1,) * (x0.ndim - 1))
        with torch.autocast(x0.device.type, torch.bfloat16, settings.precision == "bfloat16"):
            output = self.denoiser(diffuse(x0, draws.epsilon, broadcast), alpha_bar, condition).float()
        target = training_target(settings.diffusion.prediction, x0, draws.epsilon, broadcast)
        error = (output - target).square()
        if settings.loss_weighting == "min-snr":
            error = error * min_snr_weight(settings.diffusion.prediction, broadcast)
        return error.mean()

    def _crps(self, x0: Tensor, condition: Condition, draws: Draws) -> Tensor:
        """Fair CRPS of two draws of x_0, mean over the numbers of the images, in units of their spread."""
        # A network that draws by itself answers once, and draws twice.
        times = 2 if draws.z is None else 1
        alpha_bar = self.bars[draws.t.repeat(times)]
        broadcast = alpha_bar.reshape(-1, *(1,) * (x0.ndim - 1))
        with torch.autocast(x0.device.type, torch.bfloat16, self.settings.precision == "bfloat16"):
            x_t = diffuse(torch.cat([x0] * times), draws.epsilon, broadcast)
            output = self.denoiser(x_t, alpha_bar, condition.repeated(times), draws.z).float()
        first, second = self.denoiser.to_images(output).chunk(2)
        truth = self.denoiser.to_images(x0)
        return 0.5 * ((first - truth).abs() + (second - truth).abs() - (first - second).abs()).mean()

    def _measured(self, condition: Condition, draws: Draws) -> Condition:
        """The condition as a noisy receiver would have it."""
        if draws.level is None or draws.measurement is None:
            return condition
        # The spectra of voxels are in units of the strongest component already, each component's image in its own.
        unit = 1.0 if self.settings.by_voxel else 10**condition.log_scale
        added = draws.level / unit
        return condition.with_noise(draws.measurement, added)

    def _drawn(self, draws: Draws) -> tuple[Tensor, Condition]:
        """States and conditions of the images drawn, under `augmentation: parity` mirrored at random."""
        condition = self.condition[draws.index]
        if self.targets is None or draws.mirror is None:
            return self.states[draws.index], condition
        targets, image = (
            mirrored(each, condition.orders, *draws.mirror) for each in (self.targets[draws.index], condition.image)
        )
        return self.denoiser.to_state(targets), condition.with_image(image)

    def _perturbed(self, condition: Condition, draws: Draws) -> Condition:
        """The paper's text: noise of the same level as x_t on the condition, and a weight that decays with t."""
        image = condition.image
        if draws.condition_noise is not None:
            image = image + (1 - self.bars[draws.t]).sqrt()[:, None, None, None] * draws.condition_noise
        if self.settings.condition_weight == "decay":
            image = image * (1 - draws.t / self.settings.diffusion.timesteps)[:, None, None, None]
        return condition.with_image(image)
