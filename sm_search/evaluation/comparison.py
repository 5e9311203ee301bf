"""Methods against the truth, scan by scan."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.data.dataset import Dataset, Pair
from sm_search.data.scaling import ScaledImages
from sm_search.evaluation.baselines import Method
from sm_search.evaluation.metrics import Quality, quality
from sm_search.physics.receive import SILENT, as_read, receive
from sm_search.physics.system_matrix import SystemMatrix, simulate

MEASURED = "measured"
"""A high-gradient matrix as it was measured, rated against the truth without noise."""


@dataclass(frozen=True)
class Row:
    """The quality of one method on one scan."""

    method: str
    scan: str
    quality: Quality

    def as_dict(self) -> dict[str, Any]:
        return {"scan": self.scan, "method": self.method, **self.quality.as_dict()}


def compare(
    methods: Mapping[str, Method],
    dataset: Dataset,
    split: str,
    *,
    noise_free: bool = False,
) -> list[Row]:
    """The quality of every method on every scan of a split, scan by scan, over all receive channels that are served.

    Args:
        noise_free: compare with the truth simulated without noise, which the measured one, noise and all, is then
            compared with too, as a method of its own.
    """
    rows = []
    for pair in dataset.pairs(split):
        estimates = {name: method.predict(pair.low) for name, method in methods.items()}
        rated = without_noise(pair, dataset.settings) if noise_free else pair
        rows += compare_estimates(estimates, pair, rated, dataset.settings.channels)
    return rows


def compare_estimates(
    estimates: Mapping[str, SystemMatrix], pair: Pair, rated: Pair, channels: Sequence[int]
) -> list[Row]:
    """The same for one scan, from what each method made of `pair.low`.

    Args:
        rated: whose high-gradient matrix is the truth: `pair`, or the pair `without_noise`.
    """
    if rated is not pair:
        estimates = {MEASURED: pair.high, **estimates}
    return [Row(name, pair.scan.id, pair_quality(each, rated, channels)) for name, each in estimates.items()]


def without_noise(pair: Pair, settings: DatasetSettings) -> Pair:
    """The pair with its high-gradient matrix simulated again, without noise."""
    chain = settings.receive_of(pair.scan).model_copy(update=SILENT)
    high = as_read(receive(simulate(settings, pair.scan, "high"), chain))
    return dataclasses.replace(pair, high=high)


def pair_quality(estimate: SystemMatrix, pair: Pair, channels: Sequence[int] = (0,)) -> Quality:
    """The metrics of an estimate of `pair.high`, over the components of these channels."""
    values = tuple(np.concatenate([sm.channel_images(c) for c in channels]) for sm in (estimate, pair.high))
    patterns = ScaledImages.of(values[0]).patterns, ScaledImages.of(values[1]).patterns
    return quality(patterns, (values[0], values[1]))
