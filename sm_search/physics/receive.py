"""The receive chain: from the magnetisation of a point sample to what a scanner stores.

    magnetisation c_k ──coil──▶ voltage u_k ──feed-through, noise──▶ ──receiver a_k──▶ file

u_k = −iω_k·μ0·p·V·c_k is Faraday's law with the coil's sensitivity p (Knopp and Buzug 2012, Magnetic Particle Imaging,
chapter 2). The noise is that of the receiver's first stage: white at the input, behind the coil and before the filter,
so that it is white again once the transfer function is divided out. The drive's own lines enter there too.

Shapes: C receive channels, K components, N foreground and E background frames, F = N + E; ω in rad/s.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy.constants import mu_0

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldName, Scan
from sm_search.config.streams import complex_normal, stream
from sm_search.physics.background import feed_through, frame_times, measured_order, noise_level, without_background
from sm_search.physics.system_matrix import SystemMatrix, simulate
from sm_search.physics.transfer import transfer_function

STRONGEST = 20
"""Components that say where in the field of view the signal is."""

NEAR_PEAK = 0.9
CLEAR_SIGNAL = 3.5

SILENT = {"noise_nv": 0.0, "background_frames": 0, "feed_through": None, "background_correction": "none"}
"""Changes of the settings that leave the signal alone."""

Complex = NDArray[np.complex128]


def receive(sm: SystemMatrix, settings: ReceiveSettings, *names: str | int, scanner: int | None = None) -> SystemMatrix:
    """What a file holds of the magnetisation `sm`: its signal, noise and background frames as `settings` say.

    Args:
        sm: in A/m, without noise; any number of frames, not only one per voxel.
        names: of the stream of random numbers, beside the seed; equal names and settings give equal noise.
        scanner: number of the scanner, whose the phases of the feed-through are.

    Raises:
        ValueError: `sm` has been through a receive chain.
        DataError: a table of the transfer function does not reach to a component.
    """
    if sm.unit != "A/m" or sm.background_CKE is not None or sm.transfer_function_CK is not None:
        raise ValueError(f"the receive chain takes a bare magnetisation in A/m, this is in {sm.unit}")
    channels, components, frames = sm.values_CKN.shape
    omega_K = angular_frequencies(sm)
    volts_K = volts_per_magnetisation(settings, omega_K)
    is_voltage = settings.signal == "voltage"
    transfer_CK = transfer_function(settings, omega_K, channels)
    # Whatever was divided out again is as if it had not been there.
    corrected = transfer_CK is not None and settings.transfer_function == "corrected"
    receiver_CK = np.ones((channels, components), dtype=complex)
    if transfer_CK is not None and not corrected:
        receiver_CK = transfer_CK
    gain_CK1 = (receiver_CK * (volts_K if is_voltage else 1))[:, :, None]
    # Also where the magnetisation is stored, the noise is that of its voltage.
    input_CK1 = gain_CK1 / volts_K[:, None]
    deviation_CK1 = noise_deviation_v(settings) * noise_level(settings, omega_K)[:, None] * input_CK1

    def noise_CK(count: int, part: str) -> Complex:
        return complex_noise(settings.seed, (channels, components, count), *names, part) * deviation_CK1

    # A product with ones would copy a large matrix for nothing.
    values_CKN = sm.values_CKN if not is_voltage else sm.values_CKN * gain_CK1
    if settings.noise_nv:
        values_CKN = values_CKN + noise_CK(frames, "foreground")
    background = settings.background_frames
    background_CKE = noise_CK(background, "background") if background else None
    time_F = frame_times(frames, background)
    if settings.feed_through is not None:
        lines_CKF = input_CK1 * feed_through(
            settings.feed_through,
            sm.mixing_orders,
            sm.field.drives_t,
            time_F,
            channels,
            settings.seed,
            str(scanner),
            "/".join(map(str, names)),
        )
        values_CKN = values_CKN + lines_CKF[..., :frames]
        background_CKE = None if background_CKE is None else background_CKE + lines_CKF[..., frames:]
    corrections = {"isTransferFunctionCorrected"} if corrected else set()
    if settings.background_correction != "none" and background_CKE is not None:
        values_CKN, background_CKE = without_background(
            values_CKN, background_CKE, time_F[:frames], time_F[frames:], settings.background_correction
        )
        corrections.add("isBackgroundCorrected")
    return dataclasses.replace(
        sm,
        values_CKN=values_CKN,
        unit=settings.unit,
        background_CKE=background_CKE,
        snr_CK=None if background_CKE is None else signal_to_noise(values_CKN, background_CKE),
        transfer_function_CK=None if settings.transfer_function == "unknown" else transfer_CK,
        corrections=frozenset(corrections),
        measured_order_F=measured_order(time_F) if background and settings.feed_through is not None else None,
    )


def as_read(sm: SystemMatrix) -> SystemMatrix:
    """What a reader has of a received matrix: a transfer function that the values still contain is divided out."""
    if sm.transfer_function_CK is None or "isTransferFunctionCorrected" in sm.corrections:
        return dataclasses.replace(sm, transfer_function_CK=None)
    a_CK1 = sm.transfer_function_CK[..., None]
    background_CKE = None if sm.background_CKE is None else sm.background_CKE / a_CK1
    return dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN / a_CK1,
        background_CKE=background_CKE,
        transfer_function_CK=None,
        corrections=sm.corrections | {"isTransferFunctionCorrected"},
    )


def receive_chain(settings: DatasetSettings, scan: Scan, low: SystemMatrix | None = None) -> ReceiveSettings:
    """The receive chain of a scan, with the noise in V where the scan states it in dB.

    Args:
        low: the magnetisation at the low gradient, if it is at hand; else it is simulated where it is needed.
    """
    chain = settings.receive_of(scan)
    if scan.noise_db is None:
        return chain
    low = low or simulate(settings, scan, "low")
    volts_K = np.abs(volts_per_magnetisation(chain, angular_frequencies(low)))
    strongest_v = float((np.abs(low.values_CKN).max(axis=-1) * volts_K).max())
    one_repetition_v = strongest_v * 10 ** (-scan.noise_db / 20) * math.sqrt(chain.averages)
    return chain.model_copy(update={"noise_nv": one_repetition_v * 1e9})


def received(
    settings: DatasetSettings, scan: Scan, which: FieldName, sm: SystemMatrix
) -> tuple[SystemMatrix, ReceiveSettings]:
    """What a dataset holds of the simulated magnetisation `sm` of one scan, and the chain that it went through.

    The noise comes from a stream named after the scan and the field.
    """
    chain = receive_chain(settings, scan, sm if which == "low" else None)
    return receive(sm, chain, scan.id, which, scanner=scan.scanner), chain


def angular_frequencies(sm: SystemMatrix) -> NDArray[np.float64]:
    """ω_k = 2πk/T_R with T_R = (N_d+1)/f_x, shape (K,)."""
    return 2 * math.pi * sm.frequency_index() * sm.fx_hz / (sm.nd + 1)


def volts_per_magnetisation(settings: ReceiveSettings, omega_K: NDArray[np.float64]) -> Complex:
    """u_k/c_k = −iω_k·μ0·p·V in V/(A/m), shape (K,)."""
    volume_m3 = settings.core_volume_nl * 1e-12
    return -1j * omega_K * (mu_0 * settings.coil_sensitivity_per_m * volume_m3)


def noise_deviation_v(settings: ReceiveSettings) -> float:
    """Standard deviation √(E|n|²) of a stored voltage coefficient: that of one repetition over √averages, in V."""
    return settings.noise_nv * 1e-9 / math.sqrt(settings.averages)


def complex_noise(seed: int, shape: tuple[int, ...], *names: str | int) -> Complex:
    """Circular complex normal numbers of unit variance, E|n|² = 1, from the stream of that seed and name."""
    return complex_normal(stream(seed, "receive-noise", *names), shape)


def noise_deviation(background_CKE: NDArray[np.complexfloating] | None) -> NDArray[np.float64] | None:
    """√E|n|² of each component over background frames, (C, K); None unless there are two, and all components vary."""
    if background_CKE is None or background_CKE.shape[-1] < 2:
        return None
    noise_CK: NDArray[np.float64] = np.asarray(background_CKE).std(axis=-1, ddof=1)
    return noise_CK if (noise_CK > 0).all() else None


def signal_to_noise(
    values_CKN: NDArray[np.complexfloating], background_CKE: NDArray[np.complexfloating]
) -> NDArray[np.float64] | None:
    """The SNR of each component, (C, K), as MPIFiles.jl 0.19 computes it (`calculateSystemMatrixSNR`).

    Noise is the mean of |background − its mean|. Signal is the median of |S − mean background| over the region where
    any of the 20 components with the best SNR over the whole field of view exceeds 0.9 of its maximum; and where that
    is above 3.5 times the noise, the median over the frames above 0.9 of the component's own maximum.

    None where a component's background does not vary, as without noise or with a single frame.
    """
    channels, components, frames = values_CKN.shape
    snr_CK = np.empty((channels, components))
    for channel in range(channels):
        mean_K = background_CKE[channel].mean(axis=-1)
        noise_K = np.abs(background_CKE[channel] - mean_K[:, None]).mean(axis=-1)
        if not (noise_K > 0).all():
            return None
        # One component at a time: the values may be a memory map larger than the memory.
        values_KN = values_CKN[channel]
        everywhere_K = [np.median(np.abs(values_KN[k] - mean_K[k])) / noise_K[k] for k in range(components)]
        region_N = np.zeros(frames, dtype=bool)
        for k in np.argsort(-np.array(everywhere_K), kind="stable")[:STRONGEST]:
            modulus_N = np.abs(values_KN[k])
            region_N |= modulus_N > NEAR_PEAK * modulus_N.max()
        for k in range(components):
            modulus_N = np.abs(values_KN[k] - mean_K[k])
            signal = _median(modulus_N[region_N])
            if signal > CLEAR_SIGNAL * noise_K[k]:
                signal = _median(modulus_N[modulus_N > NEAR_PEAK * modulus_N.max()])
            snr_CK[channel, k] = signal / noise_K[k]
    return snr_CK


def _median(values: NDArray[np.float64]) -> float:
    """0 for no values: a component that is zero everywhere has no frame above 0.9 of its maximum."""
    return float(np.median(values)) if values.size else 0.0
