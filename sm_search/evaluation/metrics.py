"""Metrics of a synthesised system matrix, the same everywhere.

Both matrices are scaled per component to unit maximum modulus; PSNR and SSIM are of those patterns, over real and
imaginary parts; nRMSE is of the physical values. Shapes: K components, 2 parts (real, imaginary), Y and X pixels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError

PEAK_TO_PEAK = 2.0
"""Range of a real or imaginary part at unit maximum modulus."""
MAX_PSNR_DB = 200.0
"""Cap for identical images, whose PSNR is infinite."""
SSIM_WINDOW = 11
"""Pixels: σ = 1.5, cut at 3.5σ."""
METRIC_DEFINITION = (
    "Both matrices scaled per component to unit maximum modulus. PSNR = 10·log10(4/MSE) over real and imaginary parts; "
    "SSIM as scikit-image's structural_similarity (Gaussian σ 1.5, population covariance, data range 2) over the two "
    "parts; nRMSE = ‖Ŝ−S‖/‖S‖ per component, complex, physical units; gain error = |20·log10| of the ratio of the "
    "maximum moduli. Averages are over components."
)


@dataclass(frozen=True)
class Quality:
    """Mean, median and 10th percentile (for nRMSE the 90th: its bad end) over components; mean gain error."""

    psnr_db_mean: float
    psnr_db_median: float
    psnr_db_p10: float
    ssim_mean: float
    ssim_median: float
    ssim_p10: float
    nrmse_mean: float
    nrmse_median: float
    nrmse_p90: float
    gain_error_db_mean: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def psnr_db(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """PSNR in dB of each component; arguments of shape (K, 2, Y, X), result (K,)."""
    error = estimate.astype(np.float64) - truth
    mse = np.mean(error * error, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(PEAK_TO_PEAK**2 / mse)
    return np.minimum(psnr, MAX_PSNR_DB)


def ssim(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """SSIM of each component; arguments of shape (K, 2, Y, X), result (K,).

    Raises:
        DataError: the grid is smaller than SSIM's window.
    """
    return gaussian_ssim(estimate, truth, PEAK_TO_PEAK)


def require_ssim_window(shape: Sequence[int]) -> None:
    """Raise a DataError if an image of this shape, (Y, X), is smaller than the Gaussian window of SSIM."""
    size_y, size_x = shape
    if min(size_y, size_x) < SSIM_WINDOW:
        raise DataError(f"SSIM needs a grid of at least {SSIM_WINDOW} × {SSIM_WINDOW} voxels, not {size_x} × {size_y}")


def require_rateable(settings: DatasetSettings) -> None:
    """Every model is rated by SSIM: where that has no room, none need be trained.

    Raises:
        DataError: the grid is too small.
    """
    try:
        require_ssim_window(settings.grid.size[::-1])
    except DataError as error:
        raise DataError(f"dataset {settings.name!r}: no model can be rated on it: {error}") from None


def gaussian_ssim(
    estimate: NDArray[np.floating], truth: NDArray[np.floating], data_range: float
) -> NDArray[np.float64]:
    """SSIM averaged over the parts of images, (…, parts, Y, X) to (…): Wang et al. (2004), eq. 13, K₁ 0.01, K₂ 0.03.

    All images at once: scikit-image's `structural_similarity`, which the tests compare with, takes them one by one.

    Raises:
        DataError: the grid is smaller than the Gaussian window.
    """
    require_ssim_window(truth.shape[-2:])
    margin = SSIM_WINDOW // 2

    def local(values: NDArray[np.float64]) -> NDArray[np.float64]:
        # The mean under the window, where all of the window is inside.
        smooth = gaussian_filter(values, 1.5, radius=margin, axes=(-2, -1))
        return smooth[..., margin:-margin, margin:-margin]

    x, y = estimate.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = local(x), local(y)
    products, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance, variances = local(x * y) - products, local(x * x + y * y) - squares
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = (2 * products + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    found: NDArray[np.float64] = values.mean(axis=(-3, -2, -1))
    return found


def nrmse(estimate: NDArray[np.complexfloating], truth: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """‖Ŝ−S‖/‖S‖ of each component in physical units; arguments of shape (K, Y, X), result (K,).

    A component that is zero everywhere is met exactly (0) or missed by all of the estimate (1).
    """
    difference = np.linalg.norm((estimate - truth).reshape(len(truth), -1), axis=1)
    size = np.linalg.norm(truth.reshape(len(truth), -1), axis=1)
    return difference / np.where(size > 0, size, np.where(difference > 0, difference, 1.0))


def gain_error_db(estimate: NDArray[np.complexfloating], truth: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """|20·log10(max|Ŝ| / max|S|)| of each component; arguments of shape (K, Y, X), result (K,); at most 200 dB."""
    largest = [np.abs(values).max(axis=(1, 2)) for values in (estimate, truth)]
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 20 * np.abs(np.log10(largest[0] / largest[1]))
    return np.minimum(np.where(largest[0] == largest[1], 0.0, decibels), MAX_PSNR_DB)


def quality(
    patterns: tuple[NDArray[np.floating], NDArray[np.floating]],
    values: tuple[NDArray[np.complexfloating], NDArray[np.complexfloating]],
) -> Quality:
    """All metrics of one system matrix.

    Args:
        patterns: estimate and truth at unit maximum modulus, each (K, 2, Y, X).
        values: estimate and truth in physical units, each (K, Y, X).
    """
    p, s, n = psnr_db(*patterns), ssim(*patterns), nrmse(*values)
    return Quality(
        psnr_db_mean=float(p.mean()),
        psnr_db_median=float(np.median(p)),
        psnr_db_p10=float(np.percentile(p, 10)),
        ssim_mean=float(s.mean()),
        ssim_median=float(np.median(s)),
        ssim_p10=float(np.percentile(s, 10)),
        nrmse_mean=float(n.mean()),
        nrmse_median=float(np.median(n)),
        nrmse_p90=float(np.percentile(n, 90)),
        gain_error_db_mean=float(gain_error_db(*values).mean()),
    )
