"""Whether a low-gradient matrix is like those that a model was trained on, and if not, why.

Shapes: C receive channels, K components, N voxels; Y and X pixels.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sm_search.data.scaling import ScaledImages
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.regression.scan_features import scan_features
from sm_search.regression.training_domain import TrainingDomain

NOISE_FLOOR_SNR = 2.0
"""Below this the low-gradient component is mostly noise: that of pure noise is near 1."""

EXPLAINED = 0.5
"""What is suspected has to bring a refused condition within the limit, or at least this much nearer."""

# Finer than a tenth of the period of the highest component that counts, and further than a cable is long.
DELAYS_US = np.concatenate([sign * np.arange(1, 21) * 0.1 for sign in (1, -1)])


def condition_distance(domain: TrainingDomain, low: SystemMatrix, channels: Sequence[int]) -> float:
    """The distance of the farthest of these receive channels, in units of the model's limit; see `TrainingDomain`."""
    return max(_distance(domain, low, channel)[0] for channel in channels)


def _distance(domain: TrainingDomain, low: SystemMatrix, channel: int) -> tuple[float, bool]:
    """And whether amplitudes, phases and trajectory alone are like those of the training scans."""
    scaled = ScaledImages.of(low.channel_images(channel))
    features = scan_features(scaled.patterns, scaled.scales, low.drive_hz(channel), low.nd)
    return domain.distance(features, scaled.patterns), domain.knows(features)


def unlike(domain: TrainingDomain, low: SystemMatrix, channels: Sequence[int]) -> str | None:
    """Why the matrix cannot be trusted to be like the training scans, with its distance; None within the limit."""
    found = {channel: _distance(domain, low, channel) for channel in channels}
    channel = max(found, key=lambda each: found[each][0])
    distance, known = found[channel]
    if distance <= 1:
        return None
    told = f"the condition is unlike the training scans, {distance:.3g} times as far as the limit (receive channel "
    told += f"{channel}): "
    suspects = {name: _distance(domain, changed, channel)[0] for name, changed in _suspects(low)}
    name = min(suspects, key=lambda each: suspects[each])
    if suspects[name] <= max(1.0, EXPLAINED * distance) and suspects[name] < 0.9 * distance:
        return f"{told}{name}; without that it would be {suspects[name]:.2g} times"
    noise = in_noise(low)
    if noise is not None and noise[channel].mean() > 0.5:
        return f"{told}{noise[channel].sum()} of its {noise.shape[1]} components are lost in the noise"
    if not known:
        return f"{told}amplitudes and phases of its components are those of another particle, another physics or noise"
    return f"{told}its images are not those that belong to its amplitudes: voxels in another order, or another scanner"


def in_noise(low: SystemMatrix) -> NDArray[np.bool_] | None:
    """Which components are mostly noise, (C, K); None where no SNR is known."""
    return None if low.snr_CK is None else low.snr_CK < NOISE_FLOOR_SNR


def _suspects(low: SystemMatrix) -> Iterator[tuple[str, SystemMatrix]]:
    """The matrix without what may have happened to it, by what that is."""
    values_CKN = low.values_CKN
    size_x, size_y = low.grid.size
    images_CKYX = values_CKN.reshape(*values_CKN.shape[:2], size_y, size_x)
    turned = {
        "mirrored along x": images_CKYX[..., ::-1],
        "mirrored along y": images_CKYX[..., ::-1, :],
        "turned by 180°": images_CKYX[..., ::-1, ::-1],
    }
    if size_x == size_y:
        turned["x and y of the voxels exchanged"] = images_CKYX.swapaxes(2, 3)
    for sign, prefix in ((1, ""), (-1, "the receive polarity reversed and ")):
        for name, images in turned.items():
            yield prefix + name, _with(low, sign * images)
    yield "the receive polarity reversed", _with(low, -values_CKN)
    yield "complex-conjugated", _with(low, values_CKN.conj())
    if len(values_CKN) == 2:
        yield "receive channels exchanged", _with(low, values_CKN[::-1])
    omega_K = 2 * np.pi * low.frequency_index() * low.fx_hz / (low.nd + 1)
    for delay_us in DELAYS_US:
        turned_back_K = np.exp(1j * omega_K * delay_us * 1e-6)
        yield f"delayed by {delay_us:.3g} µs", _with(low, values_CKN * turned_back_K[:, None])


def _with(low: SystemMatrix, values: NDArray[np.complexfloating]) -> SystemMatrix:
    values_CKN = np.ascontiguousarray(values, dtype=np.complex128).reshape(low.values_CKN.shape)
    return dataclasses.replace(low, values_CKN=values_CKN)
