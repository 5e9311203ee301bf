"""What a synthesised matrix is for: images of a phantom with every method's matrix, from one measurement.

The scanner measures the phantom at the high gradient, on a grid finer than that of the matrices, with noise that is
white in the voltage. Each method reconstructs that measurement, with the regularisation that suits it best.
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
from sm_search.config.streams import stream
from sm_search.data.dataset import Pair
from sm_search.evaluation.measured import simulate_measurement, truth_on
from sm_search.evaluation.reconstruction import NOISE_LEVEL, REGULARISATIONS, image_quality, reconstruct
from sm_search.physics.receive import angular_frequencies, as_read, receive_chain, volts_per_magnetisation
from sm_search.physics.system_matrix import SystemMatrix, chosen_channels

TRUE, LOW = "true high gradient", "low gradient"


@dataclass(frozen=True)
class ImageRow:
    """The image of one phantom with one method's matrix, at the best of `REGULARISATIONS` by PSNR."""

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
    used = {name: (sm, signals["high"]) for name, sm in matrices.items()} | {LOW: (pair.low, signals["low"])}
    rows = []
    for name, (sm, signal) in used.items():
        sm, expected = chosen_channels(sm, range(channels)), truth_on(truth, sm.grid)
        rated = []
        for regularisation in REGULARISATIONS:
            image_N = reconstruct(sm, signal.values_CKN[:channels, :, 0], regularisation=regularisation)
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
        parts = random.standard_normal((*signal.values_CKN.shape, 2)) @ np.array([1, 1j]) / np.sqrt(2)
        noisy[which] = dataclasses.replace(signal, values_CKN=signal.values_CKN + level * parts / volts[which])
    return noisy
