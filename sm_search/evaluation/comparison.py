"""Methods against the truth, scan by scan."""

from collections.abc import Mapping
from dataclasses import dataclass

from sm_search.data.dataset import Dataset, Pair
from sm_search.data.scaling import ScaledImages
from sm_search.evaluation.baselines import Method
from sm_search.evaluation.metrics import Quality, quality
from sm_search.physics.system_matrix import SystemMatrix

RECEIVE_CHANNEL = 0


@dataclass(frozen=True)
class Row:
    """The quality of one method on one scan (x-channel)."""

    method: str
    scan: str
    quality: Quality


def compare(methods: Mapping[str, Method], dataset: Dataset, split: str) -> list[Row]:
    """The quality of every method on every scan of a split, scan by scan."""
    return [
        Row(name, pair.scan.id, pair_quality(method.predict(pair.low), pair))
        for pair in dataset.pairs(split)
        for name, method in methods.items()
    ]


def pair_quality(estimate: SystemMatrix, pair: Pair) -> Quality:
    """The metrics of an estimate of `pair.high`, x-channel."""
    values = estimate.channel_images(RECEIVE_CHANNEL), pair.high.channel_images(RECEIVE_CHANNEL)
    patterns = ScaledImages.of(values[0]).patterns, ScaledImages.of(values[1]).patterns
    return quality(patterns, values)
