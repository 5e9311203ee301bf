"""What a model must beat: methods with the model's interface and no network."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sm_search.data.dataset import Dataset, Pair
from sm_search.data.scaling import ScaledImages
from sm_search.evaluation.physicist import PhysicistFit
from sm_search.physics.system_matrix import SystemMatrix, from_channel_images
from sm_search.regression.scan_features import scan_features
from sm_search.regression.scan_models import ScanData, ScanModels


class Method(Protocol):
    """Anything that turns a low-gradient system matrix into a high-gradient one."""

    def predict(self, low: SystemMatrix) -> SystemMatrix: ...


class Copy:
    """The condition itself: what one has without synthesis."""

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        return low


class Nearest:
    """The high-gradient matrix of the training scan whose scaled condition is closest (Euclidean, x-channel)."""

    def __init__(self, training: Iterable[Pair]) -> None:
        self.pairs = list(training)
        self.patterns = [_pattern(pair.low) for pair in self.pairs]

    def nearest(self, low: SystemMatrix) -> Pair:
        wanted = _pattern(low)
        return self.pairs[int(np.argmin([np.linalg.norm(wanted - pattern) for pattern in self.patterns]))]

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        return self.nearest(low).high


class KernelRidgeOverScans:
    """The mean that a residual diffusion would start from, and the gain: regression over the training scans alone.

    Args:
        channels: that the x-channel's regression serves (`DatasetSettings.channels`).
    """

    def __init__(self, training: Iterable[Pair], channels: tuple[int, ...] = (0, 1)) -> None:
        self.channels = channels
        scans = []
        for pair in training:
            low, high = ScaledImages.of(pair.low.channel_images(0)), ScaledImages.of(pair.high.channel_images(0))
            scans.append(ScanData.of(low, high, pair.low.drive_hz(0), pair.low.nd))
            self.field = pair.high.field
        self.models, _ = ScanModels.fitted(scans, "kernel-ridge")

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        images = [self._channel(low, channel) for channel in range(len(low.values_CKN)) if channel in self.channels]
        values_CKN = from_channel_images(images, low.mixing_orders, low.grid)
        return dataclasses.replace(low, values_CKN=values_CKN, field=self.field)

    def _channel(self, low: SystemMatrix, channel: int) -> NDArray[np.complex128]:
        scaled = ScaledImages.of(low.channel_images(channel))
        features = scan_features(scaled.patterns, scaled.scales, low.drive_hz(channel), low.nd)
        components, _, height, width = scaled.patterns.shape
        mean, _ = self.models.origin(features, (components, height, width))
        patterns = mean.double().numpy()
        scales = self.models.gain(features, torch.from_numpy(scaled.scales)).numpy()
        return ScaledImages(ScaledImages.of(patterns[:, 0] + 1j * patterns[:, 1]).patterns, scales).images()


def _pattern(sm: SystemMatrix) -> np.ndarray:
    return ScaledImages.of(sm.channel_images(0)).patterns.astype(np.float32)


BASELINES: dict[str, Callable[[Dataset, Sequence[Pair]], Method]] = {
    "copy": lambda dataset, training: Copy(),
    "nearest": lambda dataset, training: Nearest(training),
    "kernel-ridge": lambda dataset, training: KernelRidgeOverScans(training, dataset.settings.channels),
    "physicist": lambda dataset, training: PhysicistFit(dataset.settings),
}
"""Each made of a dataset and its training pairs, in the order of the tables."""


def baselines(dataset: Dataset) -> dict[str, Method]:
    """Every baseline by name, fitted to the training split."""
    training = list(dataset.pairs("train"))
    return {name: made(dataset, training) for name, made in BASELINES.items()}
