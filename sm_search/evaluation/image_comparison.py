"""What a synthesised matrix is for: images of a phantom with every method's matrix, from one measurement.

The scanner measures the phantom at the high gradient, on a grid finer than that of the matrices, with noise that is
white in the voltage. Each method reconstructs that measurement, with the regularisation that suits it best, and one
whose matrix states how far off it is also with its equations weighted by that.
`low gradient` is what there is without synthesis: the scanner at the low gradient, with the same noise in volts, and
the low-gradient matrix.

Shapes: C receive channels, K components.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldName
from sm_search.config.streams import complex_normal, stream
from sm_search.data.dataset import Pair
from sm_search.evaluation.measured import simulate_measurement, truth_on
from sm_search.evaluation.reconstruction import NOISE_LEVEL, image_quality, reconstruct
from sm_search.evaluation.row_weights import Weighting
from sm_search.physics.receive import (
    angular_frequencies,
    as_read,
    noise_deviation,
    receive_chain,
    volts_per_magnetisation,
)
from sm_search.physics.system_matrix import SystemMatrix, chosen_channels

TRUE, LOW = "true high gradient", "low gradient"
WEIGHTED = ", weighted by its uncertainty"
COMPARED = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Regularisations, finer than those of validation: a factor of three is worth up to half a decibel, and a measurement
with hardly any noise wants 1e-4."""


@dataclass(frozen=True)
class ImageRow:
    """The image of one phantom with one method's matrix, at the best of `COMPARED` regularisations by PSNR."""

    method: str
    scan: str
    phantom: str
    psnr_db: float
    ssim: float
    regularisation: float


def images_of(
    estimates: Mapping[str, SystemMatrix], pair: Pair, settings: DatasetSettings, phantom_name: str
) -> list[ImageRow]:
    """Images with the true matrix, with what each method made of `pair.low`, and at the low gradient.

    Raises:
        SettingsError: no such phantom.
    """
    signals: dict[FieldName, SystemMatrix] = {}
    for which in ("high", "low"):
        signal, truth = simulate_measurement(settings, pair.scan, which, phantom_name, seed=1)
        signals[which] = as_read(signal)
    chain = receive_chain(settings, pair.scan)
    if chain.noise_nv == 0:
        signals = _with_noise(signals, chain)
    matrices = {TRUE: pair.high, **estimates}
    # Where some matrix has the x-channel alone, all images are made of that.
    channels = min(len(sm.values_CKN) for sm in matrices.values())
    used: list[tuple[str, SystemMatrix, FieldName, Weighting]] = []
    for name, sm in {**matrices, LOW: pair.low}.items():
        measured: FieldName = "low" if name == LOW else "high"
        used.append((name, sm, measured, "none"))
        # The background frames of an estimate are the condition's.
        if sm.deviation_CKN is not None or (name in (TRUE, LOW) and noise_deviation(sm.background_CKE) is not None):
            used.append((name + WEIGHTED, sm, measured, "uncertainty"))
    rows = []
    for name, sm, which, weighting in used:
        sm, expected = chosen_channels(sm, range(channels)), truth_on(truth, sm.grid)
        signal, rated = chosen_channels(signals[which], range(channels)), []
        noise_CK = noise_deviation(signal.background_CKE)
        for regularisation in COMPARED:
            image_N = reconstruct(
                sm,
                signal.values_CKN[..., 0],
                regularisation=regularisation,
                weighting=weighting,
                noise_CK=noise_CK,
            )
            rated.append((*image_quality(image_N.reshape(expected.shape), expected), regularisation))
        psnr_db, ssim, regularisation = max(rated)
        rows.append(ImageRow(name, pair.scan.id, phantom_name, psnr_db, ssim, regularisation))
    return rows


def _with_noise(signals: Mapping[FieldName, SystemMatrix], chain: ReceiveSettings) -> dict[FieldName, SystemMatrix]:
    """Where the dataset has no noise: `NOISE_LEVEL` of the high gradient's largest voltage, in both measurements."""
    volts = {}
    for which, signal in signals.items():
        per_unit_K = np.ones(len(signal.mixing_orders), dtype=complex)
        if signal.unit == "A/m":
            per_unit_K = volts_per_magnetisation(chain, angular_frequencies(signal))
        volts[which] = per_unit_K[:, None]
    level = NOISE_LEVEL * np.abs(signals["high"].values_CKN * volts["high"]).max()
    noisy: dict[FieldName, SystemMatrix] = {}
    for which, signal in signals.items():
        random = stream(chain.seed, "image-comparison", which)
        shape = (*signal.values_CKN.shape[:2], 1 + chain.background_frames)
        noise_CKF = level * np.moveaxis(complex_normal(random, (shape[-1], *shape[:2])), 0, -1) / volts[which]
        values_CKN = signal.values_CKN + noise_CKF[..., :1]
        noisy[which] = dataclasses.replace(signal, values_CKN=values_CKN, background_CKE=noise_CKF[..., 1:])
    return noisy
