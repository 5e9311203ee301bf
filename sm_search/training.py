"""Training as a generator of step records; it knows neither Ray nor MLflow.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import Mean, ScheduleSettings, TrainingSettings
from sm_search.config.streams import stream_seed
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.checkpoint import Checkpoint, CheckpointInfo
from sm_search.diffusion.condition import Condition, concatenate, make_condition
from sm_search.diffusion.denoiser import Denoiser, build_denoiser
from sm_search.diffusion.noise_schedule import alpha_bars, diffuse, min_snr_weight, training_target
from sm_search.diffusion.parity import mirrored
from sm_search.regression.scan_models import ScanData, ScanModels

STATE_FILE = "training_state.safetensors"
"""Name of the file in which a run keeps `Trainer.state`."""
WARM_UP_SHARE = 0.05
CLIP_NORM = 1.0
EMA_WARM_UP = 10.0


@dataclass(frozen=True)
class TrainingImages:
    """What is diffused, of shape (B, 2, Y, X): patterns or residuals (`ScanModels.fitted`), and the conditions."""

    targets: Tensor
    condition: Condition

    @property
    def shape(self) -> tuple[int, int]:
        return self.targets.shape[2], self.targets.shape[3]


@dataclass(frozen=True)
class StepRecord:
    """What happened since the last record: mean loss, and images seen per second."""

    step: int
    loss: float
    learning_rate: float
    images_per_second: float


def training_images(
    dataset: Dataset, split: str, channels: Sequence[int], mean: Mean, count: int | None = None
) -> tuple[TrainingImages, ScanModels]:
    """All components of a split, or of `count` scans of it, as training images, and the models of whole scans fitted to
    the same components.
    """
    scans, conditions = [], []
    for pair in dataset.pairs(split, count):
        for channel in channels:
            low = ScaledImages.of(pair.low.channel_images(channel))
            high = ScaledImages.of(pair.high.channel_images(channel))
            scan = ScanData.of(low, high, pair.low.drive_hz(channel), pair.low.nd)
            conditions.append(make_condition(low.patterns, pair.low.mixing_orders, low.scales, scan.features))
            scans.append(scan)
    models, targets = ScanModels.fitted(scans, mean)
    return TrainingImages(targets, concatenate(conditions)), models


class Trainer:
    """The weights, their moving average and the optimiser of one training run (paper, Algorithm 1).

    The draws of step n come from a stream named n, so a resumed run continues as if it had never stopped.
    """

    def __init__(self, settings: TrainingSettings, images: TrainingImages, device: str = "cpu") -> None:
        self.settings = settings
        self.device = device
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(settings.seed, "weights"))
            features = images.condition.features.shape[1]
            self.denoiser = build_denoiser(settings.backbone, images.shape, settings.diffusion.prediction, features)
        self.denoiser.fit_constants(images.targets, images.condition)
        self.denoiser.to(device)
        self.ema: Denoiser = copy.deepcopy(self.denoiser).requires_grad_(False)
        # Mirroring acts on images, so their states are then made at each draw.
        self.targets = images.targets.to(device) if settings.augmentation == "parity" else None
        self.states = self.denoiser.to_state(images.targets.to(device))
        self.condition = images.condition.to(device)
        self.bars = alpha_bars(settings.diffusion).float().to(device)
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def train(self, until: int, every: int = 100) -> Iterator[StepRecord]:
        """Train up to step `until`, yielding a record every `every` steps and at the end.

        Raises:
            DivergenceError: the loss is not finite; the message says at which step.
        """
        self.denoiser.train()
        total, count, begin = torch.zeros((), device=self.device), 0, time.perf_counter()
        while self.step < until:
            total += self._advance()
            count += 1
            if count == every or self.step == until:
                loss = total.item() / count
                if not math.isfinite(loss):
                    raise DivergenceError(
                        f"the training loss is {loss} in steps {self.step - count + 1} to {self.step} "
                        f"(learning_rate {self.settings.learning_rate:g})"
                    )
                rate = count * self.settings.batch_size / (time.perf_counter() - begin)
                yield StepRecord(self.step, loss, self.learning_rate(self.step), rate)
                total, count, begin = torch.zeros((), device=self.device), 0, time.perf_counter()

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over 5 % of the run, then a half cosine to zero."""
        progress = step / self.settings.steps
        if progress < WARM_UP_SHARE:
            return self.settings.learning_rate * (step + 1) / (WARM_UP_SHARE * self.settings.steps + 1)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _advance(self) -> Tensor:
        settings = self.settings
        generator = torch.Generator().manual_seed(stream_seed(settings.seed, "step", self.step))
        index = torch.randint(len(self.states), (settings.batch_size,), generator=generator).to(self.device)
        t = torch.randint(1, settings.diffusion.timesteps + 1, (settings.batch_size,), generator=generator)
        at_end = torch.rand(settings.batch_size, generator=generator) < settings.share_at_end
        t = torch.where(at_end, settings.diffusion.timesteps, t).to(self.device)
        drop = (torch.rand(settings.batch_size, generator=generator) < settings.p_uncond).to(self.device)
        x0, condition = self._drawn(index)
        epsilon = torch.randn(x0.shape, generator=generator).to(self.device)
        condition = self._perturbed(condition.dropped(drop), t, generator)

        alpha_bar = self.bars[t]
        broadcast = alpha_bar.reshape(-1, *(1,) * (x0.ndim - 1))
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, settings.precision == "bfloat16"):
            output = self.denoiser(diffuse(x0, epsilon, broadcast), alpha_bar, condition).float()
        target = training_target(settings.diffusion.prediction, x0, epsilon, broadcast)
        error = (output - target).square()
        if settings.loss_weighting == "min-snr":
            error = error * min_snr_weight(settings.diffusion.prediction, broadcast)
        loss = error.mean()

        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.step += 1
        self._update_ema()
        return loss.detach()

    def _drawn(self, index: Tensor) -> tuple[Tensor, Condition]:
        """States and conditions of the images drawn, under `augmentation: parity` mirrored at random."""
        condition = self.condition[index]
        if self.targets is None:
            return self.states[index], condition
        generator = torch.Generator().manual_seed(stream_seed(self.settings.seed, "mirror", self.step))
        along_x, along_y = (torch.rand((2, len(index)), generator=generator) < 0.5).to(self.device)
        targets, image = (
            mirrored(each, condition.orders, along_x, along_y) for each in (self.targets[index], condition.image)
        )
        return self.denoiser.to_state(targets), condition.with_image(image)

    def _perturbed(self, condition: Condition, t: Tensor, generator: torch.Generator) -> Condition:
        """The paper's text: noise of the same level as x_t on the condition, and a weight that decays with t."""
        image = condition.image
        if self.settings.condition_noise == "same-level":
            noise = torch.randn(image.shape, generator=generator).to(self.device)
            image = image + (1 - self.bars[t]).sqrt()[:, None, None, None] * noise
        if self.settings.condition_weight == "decay":
            image = image * (1 - t / self.settings.diffusion.timesteps)[:, None, None, None]
        return condition.with_image(image)

    @torch.no_grad()
    def _update_ema(self) -> None:
        # A young average forgets quickly, or short runs would sample their initial weights.
        decay = min(self.settings.ema_decay, (1 + self.step) / (EMA_WARM_UP + self.step))
        averages: list[Tensor] = list(self.ema.parameters())
        current: list[Tensor] = list(self.denoiser.parameters())
        torch._foreach_lerp_(averages, current, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as named tensors of their own (training on does not change them)."""
        tensors = {f"weights.{name}": value for name, value in self.denoiser.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors["step"] = torch.tensor(self.step)
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.denoiser.load_state_dict(_under("weights.", tensors))
        self.ema.load_state_dict(_under("ema.", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value.clone()  # the optimiser keeps what it is given
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = int(tensors["step"])


def make_checkpoint(
    trainer: Trainer, dataset: Dataset, models: ScanModels, schedule: ScheduleSettings, metrics: dict[str, float]
) -> Checkpoint:
    """The averaged weights with all that synthesis needs."""
    settings = dataset.settings
    info = CheckpointInfo(
        training=trainer.settings,
        schedule=schedule,
        grid=settings.grid,
        low=settings.low,
        high=settings.high,
        orders=settings.orders.pairs(),
        unit=settings.receive.unit,
        dataset=settings.name,
        dataset_hash=dataset.content_hash(),
        training_scans=len(models.gain.regression.features_SF),
        gain_rank=models.gain.rank,
        mean_rank=models.mean.rank if models.mean else None,
        metrics=metrics,
    )
    return Checkpoint(info, trainer.ema, models)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
