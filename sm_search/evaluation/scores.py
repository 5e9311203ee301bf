"""What a study may search for or constrain, each in one line: scores of synthesised patterns, and costs.

Shapes: M draws, K components, 2 parts (real, imaginary), Y and X pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sm_search.evaluation.distribution import image_crps, image_spread_over_error
from sm_search.evaluation.metrics import MAX_PSNR_DB, nrmse, psnr_db, ssim
from sm_search.evaluation.phantom_image import PhantomImage

Array = NDArray[np.floating]
Direction = Literal["max", "min"]
MOST_OCTAVES = 10.0
"""By so many a single draw, which has no spread, counts as too narrow."""


@dataclass(frozen=True)
class Made:
    """The patterns that a schedule made, and what they should be.

    Attributes:
        patterns: of the draws' mean, and `truth`: both at unit maximum modulus, (K, 2, Y, X).
        draws: in units of the true maximum, (M, K, 2, Y, X).
        gains: predicted over true maximum modulus of each component, (K,).
        phantoms: of the scans of which these are all components, one scan after the other; empty where no score of
            whole scans is asked for.
    """

    patterns: Array
    draws: Array
    truth: Array
    gains: NDArray[np.float64]
    phantoms: tuple[PhantomImage, ...] = ()

    @cached_property
    def spread_over_error(self) -> NDArray[np.float64]:
        return image_spread_over_error(self.draws, self.truth)


@dataclass(frozen=True)
class Score:
    """A score of each component, (K,).

    Attributes:
        better: which way it is better; None for neither, 1 is best.
        what: it says.
        of_scan: it is of a whole scan, the same for each component. It costs: only a study that asks for it has it.
    """

    of: Callable[[Made], NDArray[np.float64]]
    better: Direction | None
    what: str
    of_scan: bool = False


def miscalibration(spread_over_error: NDArray[np.float64]) -> NDArray[np.float64]:
    """|log₂| of spread over error: by how many octaves draws are too narrow or too wide, at most `MOST_OCTAVES`."""
    least = 2.0**-MOST_OCTAVES
    octaves: NDArray[np.float64] = np.abs(np.log2(np.clip(spread_over_error, least, 1 / least)))
    return octaves


def gain_error_db(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """|20·log₁₀| of predicted over true maximum modulus, at most 200 dB."""
    with np.errstate(divide="ignore"):
        decibels: NDArray[np.float64] = np.minimum(20 * np.abs(np.log10(gains)), MAX_PSNR_DB)
    return decibels


def physical_nrmse(made: Made) -> NDArray[np.float64]:
    """‖Ŝ−S‖/‖S‖ of each component in physical units, in which the estimate is as wrong as its gain."""
    return nrmse(_relative(made), _complex(made.truth))


def image_psnr_db(made: Made) -> NDArray[np.float64]:
    """PSNR of the phantom's image of each scan, the same for all of its components."""
    scans = _relative(made).reshape(len(made.phantoms), -1, *made.truth.shape[2:])
    values_S = [phantom.psnr_db(relative_KYX) for phantom, relative_KYX in zip(made.phantoms, scans, strict=True)]
    return np.repeat(values_S, scans.shape[1])


def _relative(made: Made) -> NDArray[np.complex128]:
    """What was made, in units of each component's true maximum modulus, with the predicted gain."""
    relative: NDArray[np.complex128] = made.gains[:, None, None] * _complex(made.patterns)
    return relative


def _complex(images: Array) -> NDArray[np.complex128]:
    values: NDArray[np.complex128] = images[:, 0] + 1j * images[:, 1].astype(np.float64)
    return values


SCORES: dict[str, Score] = {
    "val_psnr_db": Score(lambda made: psnr_db(made.patterns, made.truth), "max", "PSNR of the patterns"),
    "val_ssim": Score(lambda made: ssim(made.patterns, made.truth), "max", "SSIM of the patterns"),
    "val_nrmse": Score(physical_nrmse, "min", "‖Ŝ−S‖/‖S‖ in physical units, with the predicted gain"),
    "val_gain_error_db": Score(lambda made: gain_error_db(made.gains), "min", "error of the predicted gain"),
    "val_crps": Score(
        lambda made: image_crps(made.draws, made.truth),
        "min",
        "fair CRPS of the schedule's draws as a forecast of the patterns; of a single draw its absolute error",
    ),
    "val_spread_error": Score(
        lambda made: made.spread_over_error,
        None,
        "spread of its draws over the error of their mean: 1 is calibrated, 0 a single draw",
    ),
    "val_miscalibration": Score(
        lambda made: miscalibration(made.spread_over_error),
        "min",
        "its distance from 1 in octaves, 10 for a single draw",
    ),
    "val_image_psnr_db": Score(
        image_psnr_db, "max", "PSNR of a phantom's image with the matrix, in studies that ask for it", of_scan=True
    ),
}
"""Means over the components of the validation scans, or over the scans."""

COSTS: dict[str, str] = {
    "evaluations": "network evaluations for one image with the schedule found",
    "synthesis_seconds": "these of all components of a scan, by the clock of the trial's node",
    "synthesis_bytes": "most memory that an evaluation of a scan takes beside the weights, and these",
    "trained_seconds": "training so far, by the same clock",
}
"""Fewer are better."""

DIRECTIONS: dict[str, Direction] = {
    **{name: score.better for name, score in SCORES.items() if score.better is not None},
    **dict.fromkeys(COSTS, "min"),
}
"""Every objective."""
METRICS = tuple(name for name in DIRECTIONS if name in SCORES)
"""Those by which a study may be decided: ASHA stops trials and the inner search chooses by it."""


def sign(name: str) -> int:
    """1 where more of an objective is better, −1 where less is; also of one that an earlier version knew."""
    return -1 if DIRECTIONS.get(name) == "min" else 1
