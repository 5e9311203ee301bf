"""The receive chain: from the magnetisation of a point sample to what a scanner stores.

    magnetisation c_k ──coil──▶ voltage u_k ──noise──▶ ──filter a_k──▶ file

u_k = −iω_k·μ0·p·V·c_k is Faraday's law with the coil's sensitivity p (Knopp and Buzug 2012, Magnetic Particle Imaging,
chapter 2). The noise is that of the receiver's first stage: white at the input, behind the coil and before the filter,
so that it is white again once the transfer function is divided out.

Shapes: C receive channels, K components, N foreground and E background frames; ω in rad/s.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy.constants import mu_0

from sm_search.config.simulation_settings import ReceiveSettings
from sm_search.config.streams import stream
from sm_search.physics.system_matrix import SystemMatrix

STRONGEST = 20
"""Components that say where in the field of view the signal is."""

NEAR_PEAK = 0.9
CLEAR_SIGNAL = 3.5

Complex = NDArray[np.complex128]


def receive(sm: SystemMatrix, settings: ReceiveSettings, *names: str | int) -> SystemMatrix:
    """What a file holds of the magnetisation `sm`: its signal, noise and background frames as `settings` say.

    Args:
        sm: in A/m, without noise; any number of frames, not only one per voxel.
        names: of the stream of random numbers, beside the seed; equal names and settings give equal noise.

    Raises:
        ValueError: `sm` has been through a receive chain.
    """
    if sm.unit != "A/m" or sm.background_CKE is not None or sm.transfer_function_CK is not None:
        raise ValueError(f"the receive chain takes a bare magnetisation in A/m, this is in {sm.unit}")
    channels, components, frames = sm.values_CKN.shape
    omega_K = angular_frequencies(sm)
    factor_K = np.ones(components, dtype=complex)
    filter_K = None
    if settings.signal == "voltage":
        factor_K = volts_per_magnetisation(settings, omega_K)
        filter_K = transfer_function(settings, omega_K)
    gain_K = factor_K if filter_K is None else factor_K * filter_K
    # Also where the magnetisation is stored, the noise is that of its voltage.
    noise_gain_K = noise_deviation_v(settings) * gain_K / volts_per_magnetisation(settings, omega_K)

    def noise_CK(count: int, part: str) -> Complex:
        noise_CKF = complex_noise(settings.seed, (channels, components, count), *names, part)
        return noise_CKF * noise_gain_K[:, None]

    # A product with ones would copy a large matrix for nothing.
    values_CKN = sm.values_CKN if settings.signal == "magnetisation" else sm.values_CKN * gain_K[:, None]
    if settings.noise_nv:
        values_CKN = values_CKN + noise_CK(frames, "foreground")
    background_CKE = noise_CK(settings.background_frames, "background") if settings.background_frames else None
    return dataclasses.replace(
        sm,
        values_CKN=values_CKN,
        unit=settings.unit,
        background_CKE=background_CKE,
        snr_CK=None if background_CKE is None else signal_to_noise(values_CKN, background_CKE),
        transfer_function_CK=None if filter_K is None else np.tile(filter_K, (channels, 1)),
    )


def angular_frequencies(sm: SystemMatrix) -> NDArray[np.float64]:
    """ω_k = 2πk/T_R with T_R = (N_d+1)/f_x, shape (K,)."""
    return 2 * math.pi * sm.frequency_index() * sm.fx_hz / (sm.nd + 1)


def volts_per_magnetisation(settings: ReceiveSettings, omega_K: NDArray[np.float64]) -> Complex:
    """u_k/c_k = −iω_k·μ0·p·V in V/(A/m), shape (K,)."""
    volume_m3 = settings.core_volume_nl * 1e-12
    return -1j * omega_K * (mu_0 * settings.coil_sensitivity_per_m * volume_m3)


def transfer_function(settings: ReceiveSettings, omega_K: NDArray[np.float64]) -> Complex | None:
    """a_k of the first-order filters 1/(1 + iω/ω_low) and 1/(1 + ω_high/(iω)), shape (K,); None where there is none."""
    if settings.low_pass_khz is None and settings.high_pass_khz is None:
        return None
    a_K = np.ones(len(omega_K), dtype=complex)
    if settings.low_pass_khz is not None:
        a_K /= 1 + 1j * omega_K / (2e3 * math.pi * settings.low_pass_khz)
    if settings.high_pass_khz is not None:
        a_K /= 1 + 2e3 * math.pi * settings.high_pass_khz / (1j * omega_K)
    return a_K


def noise_deviation_v(settings: ReceiveSettings) -> float:
    """Standard deviation √(E|n|²) of a stored voltage coefficient: that of one repetition over √averages, in V."""
    return settings.noise_nv * 1e-9 / math.sqrt(settings.averages)


def complex_noise(seed: int, shape: tuple[int, ...], *names: str | int) -> Complex:
    """Circular complex normal numbers of unit variance, E|n|² = 1, from the stream of that seed and name."""
    parts = stream(seed, "receive-noise", *names).standard_normal((*shape, 2))
    noise: Complex = parts.view(np.complex128)[..., 0] * math.sqrt(0.5)
    return noise


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
