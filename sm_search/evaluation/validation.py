"""The validation of a trial: every one uses the same noise, so trials differ by their settings only.

Shapes: S schedules, B images (all components of all validation scans, x-channel), 2 parts, Y and X pixels. Where the
spectra of voxels are diffused, or a score is of whole scans, a scan takes the place of an image: it is sampled together
and rated as one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.model_settings import Diffuse, DiffusionSettings, ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.condition import Condition, concatenate, make_condition
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.samplers import ImageNoise, divergence, sample_mean_each
from sm_search.diffusion.spectra import Spectra
from sm_search.evaluation.phantom_image import PhantomImage
from sm_search.evaluation.scores import SCORES, Made, sign
from sm_search.regression.scan_features import scan_features
from sm_search.regression.scan_models import ScanModels

NOISE_SEED = 0
BATCH = 512
"""Images under a schedule in one call of the network."""
CUDA_BATCH = 4096
KEPT_DRAWS = 40
"""Noise that is remembered for the next schedules: of 96 images 30 MB."""

KEPT_SPECTRA_DRAWS = 4
"""The same for the spectra of all voxels of a scan, 1.4 MB a draw."""

RATED_DRAWS = 8
"""So many draws of an image are looked at, at most."""

Scores = Mapping[str, NDArray[np.float64]]
"""`SCORES` by schedule and image, (S, B); NaN where the schedule diverged."""


@dataclass(frozen=True)
class Validation:
    """The validation split as scaled images.

    Attributes:
        targets: high-gradient components at unit maximum modulus, (B, 2, Y, X).
        mean, spread: what turns a sample x into a pattern, mean + spread·x; (B, 2, Y, X) and (B,).
        gains: predicted over true maximum modulus of each image, (B,); 1 where the truth is zero.
        names: of each image's noise.
        spectra: what is diffused in the place of images.
        phantoms: of each of `names` where these are scans and a score is about their images.
    """

    targets: NDArray[np.float32]
    condition: Condition
    mean: Tensor
    spread: Tensor
    gains: NDArray[np.float64]
    names: tuple[str, ...]
    spectra: Spectra | None = None
    phantoms: tuple[PhantomImage, ...] = ()

    @staticmethod
    def of(
        dataset: Dataset,
        models: ScanModels,
        split: str = "validation",
        diffuse: Diffuse = "component",
        asked: Collection[str] = (),
    ) -> "Validation":
        """Args:
        asked: scores that are wanted of it, of which those of whole scans are computed only then.
        """
        has_images = any(SCORES[name].of_scan for name in asked)
        orders, shape = dataset.settings.orders.pairs(), dataset.settings.grid.size[::-1]
        spectra = Spectra.for_images(diffuse, torch.tensor(orders), shape)
        kind = VoxelValidation if spectra else ScanValidation if has_images else Validation
        targets, conditions, origins, gains, names, phantoms = [], [], [], [], [], []
        for pair in dataset.pairs(split):
            low, high = (ScaledImages.of(each.channel_images(0)) for each in (pair.low, pair.high))
            targets.append(high.patterns)
            features = scan_features(low.patterns, low.scales, pair.low.drive_hz(0), pair.low.nd)
            noise_K = pair.low.channel_noise(0)
            condition = make_condition(low.patterns, pair.low.mixing_orders, low.scales, features, noise_K)
            components, _, height, width = low.patterns.shape
            origins.append(models.origin(features, (components, height, width)))
            predicted_K = models.gain(features, torch.from_numpy(low.scales)).numpy()
            gains.append(np.divide(predicted_K, high.scales, out=np.ones(components), where=high.scales > 0))
            conditions.append(spectra.condition(condition, channel=0) if spectra else condition)
            names += _image_names(pair.scan.id, pair.low.mixing_orders) if kind is Validation else [pair.scan.id]
            phantoms += [PhantomImage.of(pair.high)] if has_images else []
        mean, spread = (torch.cat(parts) for parts in zip(*origins, strict=True))
        images = np.concatenate(targets).astype(np.float32)
        condition, gains_B = concatenate(conditions), np.concatenate(gains)
        return kind(images, condition, mean, spread, gains_B, tuple(names), spectra, tuple(phantoms))

    def __len__(self) -> int:
        return len(self.names)

    def noise(self) -> ImageNoise:
        """What all schedules draw."""
        return ImageNoise(NOISE_SEED, self.names, self.targets.shape[2:], KEPT_DRAWS)

    def images(self, drawn: Tensor) -> NDArray[np.float64]:
        """Patterns (B, 2, Y, X) from what a schedule drew."""
        patterns: NDArray[np.float64] = (self.mean + self.spread[:, None, None, None] * drawn).double().numpy()
        return patterns

    def scores(self) -> list[str]:
        """Those of `SCORES` that are computed."""
        return [name for name, score in SCORES.items() if self.phantoms or not score.of_scan]

    def rated(self, values_B: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of each of `names` from those of the images."""
        return values_B

    def subset(self, size: int) -> "Validation":
        """`size` images spread evenly over the split, always the same ones."""
        if size >= len(self):
            return self
        return self._of(np.linspace(0, len(self) - 1, size).round().astype(int))

    def rows_of_a_scan(self) -> int:
        """Rows of the condition that belong to the first scan."""
        first = self.names[0].rpartition("/")[0]
        return sum(name.rpartition("/")[0] == first for name in self.names)

    def spread_out(self) -> "Validation":
        """The same images in an order of which every beginning is spread evenly over the split."""
        return self._of(np.array(spread_order(len(self))))

    def _of(self, index: NDArray[np.integer]) -> "Validation":
        names = tuple(self.names[i] for i in index)
        images, rows = self.rows_of(index, len(self.targets)), self.rows_of(index, len(self.condition))
        chosen = torch.from_numpy(images)
        condition = self.condition[torch.from_numpy(rows)]
        mean, spread, gains = self.mean[chosen], self.spread[chosen], self.gains[images]
        phantoms = tuple(self.phantoms[i] for i in index) if self.phantoms else ()
        return type(self)(self.targets[images], condition, mean, spread, gains, names, self.spectra, phantoms)

    def part(self, begin: int, end: int) -> "Validation":
        """The images from one number to another."""
        return self._of(np.arange(begin, end))

    def rows_of(self, index: NDArray[np.integer], total: int) -> NDArray[np.integer]:
        """Which of `total` rows, as many for each of `names`, belong to those of these numbers."""
        each = total // len(self)
        rows: NDArray[np.integer] = (index[:, None] * each + np.arange(each)).ravel()
        return rows

    def metrics(
        self, denoiser: Denoiser, diffusion: DiffusionSettings, schedule: ScheduleSettings, device: str = "cpu"
    ) -> dict[str, float]:
        """Means of all scores over the images.

        Raises:
            DivergenceError: sampling left the finite numbers.
        """
        return self.best(denoiser, diffusion, [schedule], "val_psnr_db", device)[1]

    def best(
        self,
        denoiser: Denoiser,
        diffusion: DiffusionSettings,
        schedules: Sequence[ScheduleSettings],
        metric: str,
        device: str = "cpu",
    ) -> tuple[ScheduleSettings, dict[str, float]]:
        """The best of a few schedules by `metric` on all images, and its mean scores.

        Raises:
            DivergenceError: under every one sampling left the finite numbers.
        """
        scores = ScheduleScorer(denoiser, diffusion, self, device)(schedules, 0, len(self))
        means_S = {name: values_SB.mean(axis=1) for name, values_SB in scores.items()}
        finite = [s for s in range(len(schedules)) if np.isfinite([means[s] for means in means_S.values()]).all()]
        if not finite:
            raise divergence(schedules[0])
        best = max(finite, key=lambda s: sign(metric) * float(means_S[metric][s]))
        return schedules[best], {name: float(means[best]) for name, means in means_S.items()}


class ScanValidation(Validation):
    """The same of whole scans: `names` are scans, each of K images and as many rows of the condition."""

    def noise(self) -> ImageNoise:
        orders = self.phantoms[0].truth.mixing_orders
        names = [name for scan in self.names for name in _image_names(scan, orders)]
        return ImageNoise(NOISE_SEED, names, self.targets.shape[2:], KEPT_DRAWS)

    def rows_of_a_scan(self) -> int:
        return len(self.condition) // len(self)

    def rated(self, values_B: NDArray[np.float64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = values_B.reshape(len(self), -1).mean(axis=1)
        return means


class VoxelValidation(ScanValidation):
    """The same for spectra of voxels: a scan is of K images and of N rows of the condition."""

    def noise(self) -> ImageNoise:
        voxels = len(self.condition) // len(self)
        names = [f"{scan}/voxel {voxel}" for scan in self.names for voxel in range(voxels)]
        return ImageNoise(NOISE_SEED, names, (1, self.condition.image.shape[3]), KEPT_SPECTRA_DRAWS)

    def images(self, drawn: Tensor) -> NDArray[np.float64]:
        assert self.spectra is not None
        scans = drawn.unflatten(0, (len(self), -1))
        return super().images(torch.cat([self.spectra.images(scan) for scan in scans]))


def _image_names(scan: str, orders: Sequence[tuple[int, int]]) -> list[str]:
    return [f"{scan}/{m_x},{m_y}" for m_x, m_y in orders]


class ScheduleScorer:
    """Scores schedules on frozen weights, many in one batch; the noise, the same for all, is drawn once."""

    def __init__(
        self, denoiser: Denoiser, diffusion: DiffusionSettings, validation: Validation, device: str = "cpu"
    ) -> None:
        self.denoiser, self.diffusion, self.validation, self.device = denoiser, diffusion, validation, device
        rows = CUDA_BATCH if device.startswith("cuda") else BATCH
        self.batch = max(1, rows * len(validation) // len(validation.condition))
        self._parts: dict[tuple[int, int], tuple[Validation, ImageNoise]] = {}

    def on(self, device: str) -> "ScheduleScorer":
        """The same on another device, to which the network is moved."""
        self.denoiser.to(device)
        return self if device == self.device else ScheduleScorer(self.denoiser, self.diffusion, self.validation, device)

    def __call__(self, schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        """Scores on the images from `begin` to `end`."""
        work = list(pieces(schedules, begin, end, self.batch))
        found = [self.piece([schedules[s] for s in chosen], first, last) for chosen, first, last in work]
        return assembled(work, found)

    def piece(self, schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        """The same as one batch."""
        if (begin, end) not in self._parts:
            chosen = self.validation.part(begin, end)
            self._parts[begin, end] = chosen, chosen.noise()
        part, noise = self._parts[begin, end]
        condition = part.condition.to(self.device)
        drawn = sample_mean_each(self.denoiser, self.diffusion, schedules, condition, noise, RATED_DRAWS)
        scores = {name: np.full((len(schedules), end - begin), np.nan) for name in part.scores()}
        for s, (mean, draws) in enumerate(zip(drawn.mean.cpu(), drawn.draws, strict=True)):
            images = part.images(mean)
            if np.isfinite(images).all():
                patterns = ScaledImages.of(images[:, 0] + 1j * images[:, 1]).patterns
                # Of a single draw the mean is the draw.
                images_M = images[None] if len(draws) == 1 else np.stack([part.images(each) for each in draws.cpu()])
                made = Made(patterns, images_M, part.targets, part.gains, part.phantoms)
                for name, values_SB in scores.items():
                    values_SB[s] = part.rated(SCORES[name].of(made))
        return scores


def spread_order(size: int) -> list[int]:
    """0 … size−1 by their reversed binary digits (van der Corput): of the first n none is far from all others."""
    bits = max(1, (size - 1).bit_length())
    return [i for i in (int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits)) if i < size]


Piece = tuple[list[int], int, int]
"""Numbers of schedules, and the images from one number to another."""


def pieces(schedules: Sequence[ScheduleSettings], begin: int, end: int, batch: int) -> Iterator[Piece]:
    """Batches of at most `batch` images under a schedule, those with like numbers of steps together.

    They depend on nothing else, so that who computes them cannot change a result.
    """
    order = sorted(range(len(schedules)), key=lambda s: (schedules[s].samples, schedules[s].steps), reverse=True)
    for first in range(begin, end, batch):
        last = min(end, first + batch)
        together = batch // (last - first)
        for s in range(0, len(order), together):
            yield order[s : s + together], first, last


def assembled(work: Sequence[Piece], found: Sequence[Scores]) -> Scores:
    """The scores of all pieces as of one."""
    begin, end = min(first for _, first, _ in work), max(last for _, _, last in work)
    count = 1 + max(s for chosen, _, _ in work for s in chosen)
    scores = {name: np.full((count, end - begin), np.nan) for name in found[0]}
    for (chosen, first, last), part in zip(work, found, strict=True):
        for name, values in part.items():
            scores[name][chosen, first - begin : last - begin] = values
    return scores
