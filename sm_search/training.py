"""Training as a generator of step records; it knows neither Ray nor MLflow.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels.
"""

import copy
import inspect
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import Diffuse, Mean, ScheduleSettings, TrainingSettings
from sm_search.config.streams import stream_seed
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.backbones import denoiser_of
from sm_search.diffusion.captured_step import CapturedStep
from sm_search.diffusion.checkpoint import Checkpoint, CheckpointInfo
from sm_search.diffusion.condition import Condition, concatenate, make_condition
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.noise_schedule import alpha_bars
from sm_search.diffusion.spectra import Spectra
from sm_search.diffusion.training_loss import Draws, TrainingLoss
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
    dataset: Dataset,
    split: str,
    channels: Sequence[int],
    mean: Mean,
    count: int | None = None,
    diffuse: Diffuse = "component",
    base: ScanModels | None = None,
    told_noise: bool = False,
) -> tuple[TrainingImages, ScanModels]:
    """All components of a split, or of `count` scans of it, as training images, and the models of whole scans fitted to
    the same components, and to those that the models `base` were fitted to. By `diffuse` the images may be the
    voxels' spectra, (B, 2, 1, K).

    Args:
        told_noise: with `base`, what noise hides of a scan's amplitudes is taken from it, as in synthesis.

    Raises:
        SettingsError: a channel is asked for that no model of the dataset's x-channel serves.
    """
    dataset.settings.require_channels(channels)
    scans, conditions = [], []
    grid, orders = dataset.settings.grid, torch.tensor(dataset.settings.orders.pairs())
    spectra = Spectra.for_images(diffuse, orders, grid.size[::-1])
    for pair in dataset.pairs(split, count):
        for channel in channels:
            low = ScaledImages.of(pair.low.channel_images(channel))
            high = ScaledImages.of(pair.high.channel_images(channel))
            scan = ScanData.of(low, high, pair.low.drive_hz(channel), pair.low.nd)
            noise_K = pair.low.channel_noise(channel)
            if base is not None and told_noise:
                scan = scan.without_noise(base, noise_K)
            condition = make_condition(low.patterns, pair.low.mixing_orders, low.scales, scan.features, noise_K)
            conditions.append(spectra.condition(condition, channel) if spectra else condition)
            scans.append(scan)
    models, targets = ScanModels.fitted(scans, mean) if base is None else base.extended(scans)
    if spectra:
        targets = torch.cat([spectra.of(images) for images in targets.unflatten(0, (len(scans), -1))])
    return TrainingImages(targets, concatenate(conditions)), models


class AdamW(torch.optim.AdamW):
    """torch's own without its decorators: they import torch's compiler at the first call, two seconds in every worker.

    Nothing here is compiled. What they hold beside that, that a step keeps no graph, `no_grad` does.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Trainer:
    """The weights, their moving average and the optimiser of one training run (paper, Algorithm 1).

    The draws of step n come from a stream named n, so a resumed run continues as if it had never stopped. Images and
    draws are on the device, and no step waits for it.

    Args:
        captured: on a GPU, run the steps as one CUDA graph (`CapturedStep`); the results are the same.
        start: a network of the same settings whose weights and constants are gone on from; the optimiser is fresh.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        images: TrainingImages,
        device: str = "cpu",
        *,
        captured: bool = False,
        start: Denoiser | None = None,
    ) -> None:
        self.settings = settings
        self.device = device
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(settings.seed, "weights"))
            features = images.condition.features.shape[1]
            self.denoiser = denoiser_of(settings, images.shape, features)
        if start is None:
            self.denoiser.fit_constants(images.targets, images.condition)
        else:
            self.denoiser.load_state_dict(start.state_dict())
        self.denoiser.to(device)
        self.ema: Denoiser = copy.deepcopy(self.denoiser).requires_grad_(False)
        bars = alpha_bars(settings.diffusion).float().to(device)
        self.training_loss = TrainingLoss(
            settings, self.denoiser, images.targets.to(device), images.condition.to(device), bars
        )
        self.on_gpu = torch.device(device).type == "cuda"
        self.captured = captured and self.on_gpu
        self._captured_step = CapturedStep(self._descend)
        self.optimizer = AdamW(
            self.denoiser.parameters(),
            lr=self._number(settings.learning_rate),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=self.captured,
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
        """Linear warm-up over 5 % of the run, then a half cosine to zero; once more where the spread is trained."""
        step, steps = self._within(step)
        progress = step / steps
        if progress < WARM_UP_SHARE:
            return self.settings.learning_rate * (step + 1) / (WARM_UP_SHARE * steps + 1)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _within(self, step: int) -> tuple[int, int]:
        """Number of the step among those that train the same weights, and how many these are."""
        spread = self.settings.spread_steps
        mean = self.settings.steps - spread
        return (step - mean, spread) if step >= self.settings.spread_from else (step, mean)

    def _train_spread(self) -> None:
        """From now on all but the spread stays as it is: the average, which is what is sampled."""
        if self.step == self.settings.spread_from:
            self.denoiser.load_state_dict(self.ema.state_dict())
        for name, parameter in self.denoiser.named_parameters():
            parameter.requires_grad_(name.startswith("spread."))
        self._captured_step = CapturedStep(self._descend)

    def _advance(self) -> Tensor:
        """One step; its loss, which the next one may overwrite."""
        if self.step == self.settings.spread_from:
            self._train_spread()
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            if self.on_gpu:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        draws = self.training_loss.draws(self.step)
        age = self._within(self.step)[0] + 1
        self.step += 1
        # A young average forgets quickly, or short runs would sample their initial weights.
        ema_decay = self._number(min(self.settings.ema_decay, (1 + age) / (EMA_WARM_UP + age)))
        return self._captured_step(draws, ema_decay) if self.captured else self._descend(draws, ema_decay)

    def _number(self, value: float) -> Any:
        """On a GPU a tensor there, which a captured step can read anew."""
        return torch.full((), value, device=self.device) if self.on_gpu else value

    def _descend(self, draws: Draws, ema_decay: Any) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.training_loss(draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), CLIP_NORM)
        self.optimizer.step()
        self._update_ema(ema_decay)
        return loss.detach()

    @torch.no_grad()
    def _update_ema(self, decay: Any) -> None:
        averages: list[Tensor] = list(self.ema.parameters())
        current: list[Tensor] = list(self.denoiser.parameters())
        torch._foreach_lerp_(averages, current, [1 - decay] * len(averages) if self.on_gpu else 1 - decay)

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
        self._captured_step = CapturedStep(self._descend)  # the old one would write to what was there before
        self.step = int(tensors["step"])
        if self.step > self.settings.spread_from:
            self._train_spread()


def make_checkpoint(
    trainer: Trainer,
    dataset: Dataset,
    models: ScanModels,
    schedule: ScheduleSettings,
    metrics: dict[str, float],
    base: CheckpointInfo | None = None,
) -> Checkpoint:
    """The averaged weights with all that synthesis needs.

    Args:
        base: of the model that was gone on from.
    """
    settings = dataset.settings
    heights_mm = [scan.height_mm for scan in settings.scans("train")] + list(base.heights_mm if base else ())
    info = CheckpointInfo(
        training=trainer.settings,
        schedule=schedule,
        grid=settings.grid,
        low=settings.low,
        high=settings.high,
        orders=settings.orders.pairs(),
        unit=settings.receive.unit,
        channels=settings.channels,
        dataset=settings.name,
        dataset_hash=dataset.content_hash(),
        training_scans=len(models.gain.regression.features_SF),
        gain_rank=models.gain.rank,
        mean_rank=models.mean.rank if models.mean else None,
        domain_rank=models.domain.rank if models.domain else None,
        heights_mm=(min(heights_mm), max(heights_mm)),
        metrics=metrics,
    )
    return Checkpoint(info, trainer.ema, models)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
