"""The downstream check: an image of a phantom, reconstructed with a system matrix.

As in a scanner, the drive frequencies themselves are filtered out, and noise is white in the induced voltage, which is
ω_k times the magnetisation: so each component of a matrix of the magnetisation counts with the weight ω_k, and one of
the voltage with 1. Shapes: C receive channels, K components,
N voxels with x fastest, R real equations; Y and X pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError, SettingsError
from sm_search.config.streams import stream
from sm_search.evaluation.metrics import MAX_PSNR_DB, gaussian_ssim
from sm_search.evaluation.phantoms import phantom
from sm_search.evaluation.row_weights import Weighting, equation_deviation, matrix_variance
from sm_search.physics.scanner_axes import along_scanner, scanner_images
from sm_search.physics.system_matrix import SystemMatrix

REGULARISATION = 1e-3
SWEEPS = 50
NOISE_LEVEL = 1e-3
REGULARISATIONS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of which each matrix has the one that suits it best, where images with several are compared."""


@dataclass(frozen=True)
class ReconstructionResult:
    """One reconstructed image beside the phantom, both concentrations relative to the point sample, (Y, X) along the
    scanner's own axes."""

    phantom_name: str
    image: NDArray[np.float64]
    phantom: NDArray[np.float64]
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class ReconstructionOptions:
    """What is solved, and from which components; MPIReco's names in brackets.

    Attributes:
        regularisation: relative to ‖S‖_F²/N [lambd].
        sweeps: passes over all equations [iterations].
        snr_threshold: components with a smaller SNR are left out [SNRThresh].
        min_khz, max_khz: so are those of lower and of higher frequency [minFreq, maxFreq].
        channels: receive channels that are used, 0 = the scanner's x and 1 = y; None for all [recChannels].
        each_frame: an image for each frame of a measurement, not one of their mean [numAverages].
        weighting: of the equations: `none`; `whitening`, by the noise of the measurement
            [WhiteningWeightingParameters]; or `uncertainty`, by that and the errors that the matrix states of itself.
    """

    regularisation: float = REGULARISATION
    sweeps: int = SWEEPS
    snr_threshold: float | None = None
    min_khz: float | None = None
    max_khz: float | None = None
    channels: tuple[int, ...] | None = None
    each_frame: bool = False
    weighting: Weighting = "none"

    def __post_init__(self) -> None:
        low, high = self.band_hz
        if not 0 <= low < high:
            raise SettingsError(f"frequency band {self.min_khz} to {self.max_khz} kHz: must go upwards, from 0")

    @property
    def band_hz(self) -> tuple[float, float]:
        return 1e3 * (self.min_khz or 0.0), math.inf if self.max_khz is None else 1e3 * self.max_khz


def reconstruction_check(
    sm: SystemMatrix,
    phantom_name: str,
    truth: SystemMatrix | None = None,
    *,
    noise_level: float = NOISE_LEVEL,
    regularisation: float = REGULARISATION,
    sweeps: int = SWEEPS,
    snr_threshold: float | None = None,
    seed: int = 0,
) -> ReconstructionResult:
    """Measure a phantom with `truth`, reconstruct the measurement with `sm`, and compare.

    What this does and does not show: with a synthesised `sm` and the simulated `truth` of the same scan, the errors of
    synthesis are independent of the measurement and their effect on the image is seen. The grid is not independent:
    phantom, measurement and image share the voxels, so discretisation costs nothing here. Without `truth` the same
    matrix measures and reconstructs (an inverse crime): that shows how well `sm` can be inverted, and no more.

    Args:
        truth: the matrix that measures; `sm` itself if there is none.
        noise_level: standard deviation of the complex noise over the largest modulus, both of the voltage.
        snr_threshold: as in `reconstruct`.

    Raises:
        SettingsError: no such phantom, or a number outside its range.
        DataError: `truth` does not fit `sm`, no component is received, or the grid is too small for SSIM.
    """
    truth = sm if truth is None else truth
    _require_same(sm, truth)
    if len(sm.heights_m) > 1:
        raise DataError(f"is of a volume of {len(sm.heights_m)} planes; a phantom is of one")
    grid = along_scanner(sm.axes, sm.grid)
    original = phantom(phantom_name, grid).reshape(grid.size[::-1])
    concentration_N = scanner_images(sm.axes, original).ravel()
    signal_CK = measure(truth, concentration_N, noise_level=noise_level, seed=seed)
    image_N = reconstruct(sm, signal_CK, regularisation=regularisation, sweeps=sweeps, snr_threshold=snr_threshold)
    image = scanner_images(sm.axes, image_N.reshape(sm.grid.size[::-1]))
    return ReconstructionResult(phantom_name, image, original, *image_quality(image, original))


def measure(
    sm: SystemMatrix, concentration_N: NDArray[np.float64], *, noise_level: float = 0.0, seed: int = 0
) -> NDArray[np.complex128]:
    """The signal u = S c of a concentration, with complex noise that is white in the voltage; unit of `sm`, (C, K).

    Args:
        noise_level: standard deviation of the noise over the largest modulus, both of the received voltage.
    """
    if not noise_level >= 0:
        raise SettingsError(f"noise_level {noise_level!r}: must be at least 0")
    signal_CK = np.asarray(sm.values_CKN @ concentration_N)
    random = stream(seed, "measurement-noise")
    noise_CK = random.normal(size=signal_CK.shape) + 1j * random.normal(size=signal_CK.shape)
    weights_K = _voltage_weights(sm)
    spread_K = noise_level * np.abs(weights_K * signal_CK).max() / np.where(weights_K > 0, weights_K, np.inf)
    return signal_CK + spread_K / np.sqrt(2) * noise_CK


def reconstruct(
    sm: SystemMatrix,
    signal_CK: NDArray[np.complexfloating],
    *,
    regularisation: float = REGULARISATION,
    sweeps: int = SWEEPS,
    energy_threshold: float = 0.0,
    snr_threshold: float | None = None,
    band_hz: tuple[float, float] = (0.0, math.inf),
    weighting: Weighting = "none",
    noise_CK: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The concentration whose signal was measured, real and not negative, shape (N,), from all receive channels.

    Args:
        signal_CK: the measurement in the unit of `sm`, shape (C, K).
        energy_threshold: components whose norm, as voltage, is below this share of the largest are left out. A
            matrix without noise has no signal-to-noise ratio to select by, so its norm stands for it.
        snr_threshold: components with an SNR below it are left out.
        band_hz: components of a lower or a higher frequency are left out.
        weighting: as in `ReconstructionOptions`. `uncertainty` takes a first image, without weights, for the
            concentration that the errors of the matrix are multiplied with.
        noise_CK: standard deviation √E|n|² of the measurement's noise, (C, K); None where it is not known.

    Raises:
        DataError: the measurement does not fit the matrix, no component is received or above the thresholds, or an SNR,
            a noise or an uncertainty is asked for that is not known.
        SettingsError: a number is outside its range.
    """
    channels, components, voxels = sm.values_CKN.shape
    if signal_CK.shape != (channels, components):
        raise DataError(
            f"the measurement has shape {signal_CK.shape}; the system matrix wants {(channels, components)}"
        )
    weights_K = _voltage_weights(sm)
    voltage_KN = (weights_K[:, None] * sm.values_CKN).reshape(channels * components, voxels)
    u_K = (weights_K * signal_CK).ravel()
    norm_K = np.linalg.norm(voltage_KN, axis=1)
    received = norm_K > 0
    if not received.any():
        raise DataError("the system matrix is zero in every received component: nothing can be reconstructed")
    frequency_K = np.tile(sm.frequency_index() * sm.fx_hz / (sm.nd + 1), channels)
    received &= (band_hz[0] <= frequency_K) & (frequency_K <= band_hz[1])
    if not received.any():
        raise DataError(f"no received component lies between {band_hz[0] / 1e3:g} and {band_hz[1] / 1e3:g} kHz")
    kept = received & (norm_K >= energy_threshold * norm_K.max())
    if snr_threshold is not None:
        kept &= _above(snr_threshold, sm, received)
    rows_KN, u_K = voltage_KN[kept], u_K[kept]
    if weighting != "none":
        per_unit_K = np.tile(weights_K, channels)[kept]
        noise_K = None if noise_CK is None else per_unit_K * noise_CK.ravel()[kept]
        if weighting == "uncertainty":
            c_N = kaczmarz(rows_KN, u_K, regularisation=regularisation, sweeps=sweeps)
            variance_K = per_unit_K**2 * matrix_variance(sm, c_N).ravel()[kept]
            sigma_K = equation_deviation(noise_K, variance_K, u_K - rows_KN @ c_N)
        elif noise_K is not None:
            sigma_K = noise_K
        else:
            raise DataError(
                "neither the measurement nor the system matrix has background frames that vary: no noise is known to "
                "whiten by; reconstruct without"
            )
        rows_KN, u_K = rows_KN / sigma_K[:, None], u_K / sigma_K
    return kaczmarz(rows_KN, u_K, regularisation=regularisation, sweeps=sweeps)


def _above(snr_threshold: float, sm: SystemMatrix, received: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the C·K components have that SNR; some received one does."""
    if not snr_threshold >= 0:
        raise SettingsError(f"snr_threshold {snr_threshold:g}: must be at least 0")
    if sm.snr_CK is None:
        raise DataError(
            f"the system matrix has neither an SNR nor background frames: a threshold of {snr_threshold:g} would drop "
            "every component; reconstruct without"
        )
    above = sm.snr_CK.ravel() >= snr_threshold
    if not (above & received).any():
        largest = sm.snr_CK.ravel()[received].max()
        raise DataError(f"no received component has an SNR of {snr_threshold:g}; the largest is {largest:.3g}")
    return above


def _voltage_weights(sm: SystemMatrix) -> NDArray[np.float64]:
    """From the matrix to the voltage, up to a factor; 0 for the drive frequencies, |m_x| + |m_y| = 1, which the receive
    filter takes out; (K,). That is ω_k for a magnetisation (A/m), and 1 for any other unit."""
    index_K = np.abs(sm.frequency_index()).astype(np.float64)
    weights_K = index_K if sm.unit == "A/m" else np.ones_like(index_K)
    weights_K[np.abs(np.asarray(sm.mixing_orders)).sum(axis=1) <= 1] = 0.0
    return weights_K


def kaczmarz(
    sm_KN: NDArray[np.complexfloating],
    u_K: NDArray[np.complexfloating],
    *,
    regularisation: float,
    sweeps: int,
    non_negative: bool = True,
) -> NDArray[np.float64]:
    """Regularised Kaczmarz sweeps towards min ‖S c − u‖² + λ‖c‖² over real c, λ = regularisation·‖S‖_F²/N.

    The extended system [S, √λ·I][c; v] = u is solved row by row (Dax 1993; Knopp et al. 2010, Phys. Med. Biol. 55,
    1577). c is real, so the real and the imaginary part of a component are two equations. Negative values are set to 0
    after each sweep, as the field does. Without that, the limit is the Tikhonov solution, and for λ = 0 the solution of
    least norm if u is consistent.

    Args:
        sm_KN: system matrix, (K, N).
        u_K: measurement in the same unit, (K,).
        sweeps: passes over all equations.

    Returns:
        c, shape (N,).
    """
    from sm_search.evaluation.kaczmarz_kernel import swept  # numba: a second, which no other score needs

    if not (regularisation >= 0 and sweeps >= 1):
        raise SettingsError(f"regularisation {regularisation!r}, sweeps {sweeps!r}: must be at least 0, at least 1")
    rows_RN = np.concatenate((sm_KN.real, sm_KN.imag)).astype(np.float64)
    u_R = np.concatenate((u_K.real, u_K.imag)).astype(np.float64)
    energy_R = np.einsum("rn,rn->r", rows_RN, rows_RN)
    lam = regularisation * energy_R.sum() / rows_RN.shape[1]
    c_N, v_R = np.zeros(rows_RN.shape[1]), np.zeros(len(u_R))
    swept(rows_RN, u_R, energy_R, lam, sweeps, non_negative, c_N, v_R)
    return c_N


def image_quality(image: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[float, float]:
    """PSNR in dB and SSIM of a concentration image, (Y, X); peak and data range are the truth's maximum.

    Amplitudes count: nothing is rescaled. PSNR is capped at 200 dB; SSIM as in `metrics`.

    Raises:
        DataError: the truth is zero everywhere, or smaller than SSIM's window.
    """
    peak = float(truth.max())
    if not peak > 0:
        raise DataError("the phantom is zero everywhere: no PSNR is defined")
    mse = float(np.mean((image - truth) ** 2))
    psnr = 10 * np.log10(peak**2 / mse) if mse > 0 else MAX_PSNR_DB
    return min(float(psnr), MAX_PSNR_DB), float(gaussian_ssim(image[None], truth[None], peak))


def _require_same(sm: SystemMatrix, truth: SystemMatrix) -> None:
    for name, given, wanted in (
        ("faster drive", sm.axes[0], truth.axes[0]),
        ("grid", sm.grid, truth.grid),
        ("planes", sm.heights_m, truth.heights_m),
        ("unit", sm.unit, truth.unit),
        ("mixing orders", sm.mixing_orders, truth.mixing_orders),
        ("receive channels", len(sm.values_CKN), len(truth.values_CKN)),
    ):
        if given != wanted:
            raise DataError(f"the system matrix and the one that measures differ in their {name}")
