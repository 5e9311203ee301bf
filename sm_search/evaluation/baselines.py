"""What a model must beat: methods with the model's interface and no network."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from sm_search.data.dataset import Dataset, Pair
from sm_search.data.scaling import ScaledImages
from sm_search.physics.system_matrix import SystemMatrix


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


def _pattern(sm: SystemMatrix) -> np.ndarray:
    return ScaledImages.of(sm.channel_images(0)).patterns.astype(np.float32)


def baselines(dataset: Dataset) -> dict[str, Method]:
    """Every baseline by name, fitted to the training split."""
    return {"copy": Copy(), "nearest": Nearest(dataset.pairs("train"))}
