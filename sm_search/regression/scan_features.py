"""What a low-gradient matrix and its trajectory tell of a scan, in a few hundred numbers.

Shapes: K components, 2 parts (real, imaginary), Y and X pixels.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OCTAVE = 6.0
"""Weight of the natural logarithm of the drive frequency: a factor of two counts as four decades of one scale do."""

TRAJECTORY = 0.05
"""Weight of N_d."""

PHASES = 2

TRAJECTORY_FEATURES = 2
"""The last ones: drive frequency and N_d."""


def feature_count(components: int) -> int:
    """How many features a scan of K components has."""
    return (1 + PHASES) * components + 2


def scan_features(patterns: NDArray[np.floating], scales: NDArray[np.floating], frequency_hz: float, nd: int) -> Tensor:
    """Relative log scales, mean phases, drive frequency and trajectory; float64, (3K + 2,).

    None of them depends on the concentration of the tracer. The mean phase of a component is Σz²/Σ|z|² over the voxels:
    squared, so that a pattern and its negative agree.

    Args:
        patterns: low-gradient components at unit maximum modulus, (K, 2, Y, X).
        scales: their maximum moduli, (K,).
        frequency_hz: drive frequency along the receive channel's own axis.
        nd: Lissajous trajectory number N_d.
    """
    real, imaginary = torch.from_numpy(np.asarray(patterns, dtype=np.float64)).flatten(2).unbind(1)
    power = (real.square() + imaginary.square()).sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    phases = torch.cat(((real.square() - imaginary.square()).sum(1) / power, 2 * (real * imaginary).sum(1) / power))
    trajectory = torch.tensor([OCTAVE * math.log(frequency_hz), TRAJECTORY * nd], dtype=torch.float64)
    return torch.cat((relative_log_scales(torch.from_numpy(np.asarray(scales))), phases, trajectory))


def trajectories(features_SF: Tensor) -> tuple[Tensor, Tensor]:
    """The drive frequencies, Hz, and the trajectory numbers N_d that features (S, 3K + 2) were made of, (S,) each."""
    return torch.exp(features_SF[:, -2] / OCTAVE), features_SF[:, -1] / TRAJECTORY


def relative_log_scales(scales: Tensor) -> Tensor:
    """log10 of scales over the largest of the last axis, float64; empty components count as 1e-15 of it."""
    relative = scales.double() / scales.double().amax(-1, keepdim=True)
    return torch.log10(relative.clamp(min=1e-15))


def relative_scales(features: Tensor, components: int) -> Tensor:
    """The scales over the largest that features (…, 3K + 2) of K components were made of, (…, K)."""
    return 10 ** features[..., :components]
