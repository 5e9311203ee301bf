"""The intervals that a model states (`Intervals`), fitted to scans that it was not trained on.

Shapes: C receive channels, K components, N voxels, E background frames.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sm_search.config.streams import complex_normal, stream
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.intervals import SILENT_DB, Intervals
from sm_search.evaluation.distribution import Forecaster, conformal_factors, error_and_deviation
from sm_search.physics.system_matrix import SystemMatrix

STEP_DB = 10.0
QUIETEST_DB = 80.0
"""The conditions get noise from the loudest trained level on, in these steps, up to this, and once none."""

VOXELS = 128
"""Of each scan and level: values of one scan are alike, so more would cost more and tell little."""

BACKGROUND_FRAMES = 20
"""From which the noise is known, where a condition comes without."""


def fitting_levels(noise_db: tuple[float, float] | None) -> tuple[float, ...]:
    """At what noise intervals are fitted, by what the model was told in training: `SILENT_DB` is the scans' own."""
    if noise_db is None:
        return (SILENT_DB,)
    return (*np.arange(noise_db[0], min(noise_db[1], QUIETEST_DB) + STEP_DB / 10, STEP_DB).tolist(), SILENT_DB)


def fitted_intervals(
    model: Forecaster, dataset: Dataset, draws: int, noise_db: tuple[float, float] | None = None
) -> Intervals:
    """By split conformal prediction on the validation scans, at each level of noise by itself.

    The score of a value is its error over the standard deviation of the draws. Each scan has part at each level, with
    noise of its own and `VOXELS` of its voxels; where noise is added, which costs, with one of its channels in turn.

    Args:
        noise_db: range of the noise that the model was told in training; None if it was told none.
    """
    levels, channels = fitting_levels(noise_db), dataset.settings.channels
    found: dict[float, list[NDArray[np.float64]]] = {level: [] for level in levels}
    distances = []
    for number, pair in enumerate(dataset.pairs("validation")):
        distances.append(model.distance(pair.low))
        for step, level in enumerate(levels):
            names = pair.scan.id, f"{level:g} dB"
            low = pair.low if level == SILENT_DB else with_noise(pair.low, level, *names)
            voxels = _some(low.grid.voxels, *names)
            for channel in channels if level == SILENT_DB else [channels[(number + step) % len(channels)]]:
                truth = ScaledImages.of(pair.high.channel_images(channel)).patterns
                truth = truth.reshape(*truth.shape[:2], -1)[..., voxels]
                drawn_M = model.pattern_draws(low, channel, draws, voxels)
                found[level].append(np.stack(error_and_deviation(drawn_M, truth)))
    factors = []
    for level in levels:
        error, deviation = np.concatenate(found[level], axis=1)
        half, most = conformal_factors(error, deviation)
        factors.append((half, most))
    farthest = max((each for each in distances if each), default=None)
    return Intervals(draws=draws, noise_db=levels, factors=tuple(factors), distance=farthest)


def with_noise(sm: SystemMatrix, noise_db: float, *names: str) -> SystemMatrix:
    """The matrix with as much white noise on every component that its channel's strongest stands so far above it; a
    component that is noisier stays as it is.

    Args:
        names: of the stream of random numbers.
    """
    channels, components, voxels = sm.values_CKN.shape
    level_C = np.abs(sm.values_CKN).max(axis=(1, 2)) * 10 ** (-noise_db / 20)
    background_CKE, own2_CK = sm.background_CKE, np.zeros((channels, components))
    if background_CKE is None or background_CKE.shape[-1] < 2:
        background_CKE = np.zeros((channels, components, BACKGROUND_FRAMES), dtype=complex)
    else:
        own2_CK = background_CKE.var(axis=-1, ddof=1)
    added_CK1 = np.sqrt(np.maximum(level_C[:, None] ** 2 - own2_CK, 0.0))[..., None]
    frames = voxels + background_CKE.shape[-1]
    noise_CKF = complex_normal(stream(0, "interval-noise", *names), (channels, components, frames)) * added_CK1
    return dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN + noise_CKF[..., :voxels],
        background_CKE=background_CKE + noise_CKF[..., voxels:],
        snr_CK=None,
    )


def _some(voxels: int, *names: str) -> NDArray[np.int64]:
    chosen = stream(0, "interval-voxels", *names).permutation(voxels)[:VOXELS]
    return np.sort(chosen)
