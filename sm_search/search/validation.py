"""The validation of a trial: every one uses the same noise, so trials differ by their settings only.

Shapes: B images (all components of all validation scans, x-channel), 2 parts, Y and X pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.model import DiffusionSettings, ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.condition import Condition, concatenate, make_condition
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.samplers import ImageNoise, sample_mean
from sm_search.diffusion.scan_features import scan_features
from sm_search.diffusion.scan_models import ScanModels
from sm_search.evaluation.metrics import psnr_db, ssim

NOISE_SEED = 0
BATCH = 512


@dataclass(frozen=True)
class Validation:
    """The validation split as scaled images.

    Attributes:
        targets: high-gradient components at unit maximum modulus, (B, 2, Y, X).
        mean, spread: what turns a sample x into a pattern, mean + spread·x; (B, 2, Y, X) and (B,).
        names: of each image's noise.
    """

    targets: NDArray[np.float32]
    condition: Condition
    mean: Tensor
    spread: Tensor
    names: tuple[str, ...]

    @staticmethod
    def of(dataset: Dataset, models: ScanModels, split: str = "validation") -> "Validation":
        targets, conditions, origins, names = [], [], [], []
        for pair in dataset.pairs(split):
            low = ScaledImages.of(pair.low.channel_images(0))
            targets.append(ScaledImages.of(pair.high.channel_images(0)).patterns)
            conditions.append(make_condition(low.patterns, pair.low.mixing_orders, low.scales))
            features = scan_features(low.patterns, low.scales, pair.low.drive_hz(0), pair.low.nd)
            components, _, height, width = low.patterns.shape
            origins.append(models.origin(features, (components, height, width)))
            names += [f"{pair.scan.id}/{m_x},{m_y}" for m_x, m_y in pair.low.mixing_orders]
        mean, spread = (torch.cat(parts) for parts in zip(*origins, strict=True))
        return Validation(
            np.concatenate(targets).astype(np.float32), concatenate(conditions), mean, spread, tuple(names)
        )

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, size: int) -> "Validation":
        """`size` images spread evenly over the split, always the same ones."""
        if size >= len(self):
            return self
        index = np.linspace(0, len(self) - 1, size).round().astype(int)
        names = tuple(self.names[i] for i in index)
        chosen = torch.from_numpy(index)
        return Validation(self.targets[index], self.condition[chosen], self.mean[chosen], self.spread[chosen], names)

    def estimates(
        self, denoiser: Denoiser, diffusion: DiffusionSettings, schedule: ScheduleSettings, device: str = "cpu"
    ) -> NDArray[np.float64]:
        """The mean sample of every image, scaled to unit maximum modulus."""
        shape = (self.targets.shape[2], self.targets.shape[3])
        parts = []
        for begin in range(0, len(self), BATCH):
            here = slice(begin, begin + BATCH)
            noise = ImageNoise(NOISE_SEED, self.names[here], shape)
            drawn, _ = sample_mean(denoiser, diffusion, schedule, self.condition[here].to(device), noise)
            patterns = self.mean[here] + self.spread[here, None, None, None] * drawn.cpu()
            parts.append(patterns.double().numpy())
        images = np.concatenate(parts)
        return ScaledImages.of(images[:, 0] + 1j * images[:, 1]).patterns

    def metrics(
        self, denoiser: Denoiser, diffusion: DiffusionSettings, schedule: ScheduleSettings, device: str = "cpu"
    ) -> dict[str, float]:
        """Mean PSNR and SSIM over the images.

        Raises:
            DivergenceError: sampling left the finite numbers.
        """
        estimates = self.estimates(denoiser, diffusion, schedule, device)
        return {
            "val_psnr_db": float(psnr_db(estimates, self.targets).mean()),
            "val_ssim": float(ssim(estimates, self.targets).mean()),
        }
