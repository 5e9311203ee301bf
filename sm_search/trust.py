"""Whether a low-gradient matrix is like those that a model was trained on, and if not, why.

Shapes: C receive channels, K components, N voxels; Y and X pixels.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sm_search.data.scaling import ScaledImages
from sm_search.physics.scanner_axes import scanner_channels
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.regression.delay import DelayCheck
from sm_search.regression.scan_features import scan_features
from sm_search.regression.scan_models import CLEAR, ScanModels
from sm_search.regression.training_domain import TrainingDomain

NOISE_FLOOR_SNR = 2.0
"""Below this the low-gradient component is mostly noise: that of pure noise is near 1."""

NOISE_SLACK_DB = 3.0
"""The noise of a few background frames is known to a tenth or two of its size."""

MOST_NOISE = 0.99
"""Share of noise that a component is taken to have at most: it keeps a little weight where all are mostly noise."""

EXPLAINED = 0.5
"""What is suspected has to bring a refused condition within the limit, or at least this much nearer."""

# Finer than a tenth of the period of the highest component that counts, and further than a cable is long.
DELAYS_US = np.concatenate([sign * np.arange(1, 21) * 0.1 for sign in (1, -1)])


@dataclass(frozen=True)
class Trust:
    """What a model's training says of the conditions that it may be given.

    Attributes:
        domain: of its training scans.
        models: fitted to the same scans.
        delays: of the phases of the same scans, once they are asked for.
        noise_db: range of the noise that it was told in training (`measurement_noise_db`); None if it was told none:
            then noise is a difference as any other.
    """

    domain: TrainingDomain
    models: ScanModels
    delays: Callable[[], DelayCheck]
    noise_db: tuple[float, float] | None

    def distance(self, low: SystemMatrix, channels: Sequence[int]) -> float:
        """Of the farthest of these receive channels, in units of the model's limit; see `TrainingDomain`."""
        return max(self._distance(low, channel)[0] for channel in channels)

    def unlike(self, low: SystemMatrix, channels: Sequence[int]) -> str | None:
        """Why the matrix cannot be trusted to be like the training scans, with its distance; None within the limit."""
        for channel in channels:
            if reason := self._too_noisy(low, channel):
                return reason
        found = {channel: self._distance(low, channel) for channel in channels}
        channel = max(found, key=lambda each: found[each][0])
        distance, known = found[channel]
        if distance <= 1:
            return next(filter(None, (self._delayed(low, each) for each in channels)), None)
        told = f"the condition is unlike the training scans, {distance:.3g} times as far as the limit (receive channel "
        told += f"{scanner_channels(low)[channel]}): "
        suspects = {name: self._distance(changed, channel)[0] for name, changed in _suspects(low)}
        name = min(suspects, key=lambda each: suspects[each])
        if suspects[name] <= max(1.0, EXPLAINED * distance) and suspects[name] < 0.9 * distance:
            return f"{told}{name}; without that it would be {suspects[name]:.2g} times"
        noise = in_noise(low) if self.noise_db is None else None
        if noise is not None and noise[channel].mean() > 0.5:
            return f"{told}{noise[channel].sum()} of its {noise.shape[1]} components are lost in the noise"
        if not known:
            return f"{told}amplitudes and phases are those of another particle, another physics or noise"
        return (
            f"{told}its images are not those that belong to its amplitudes: voxels in another order, or another scanner"
        )

    def _distance(self, low: SystemMatrix, channel: int) -> tuple[float, bool]:
        """And whether amplitudes, phases and trajectory alone are like those of the training scans."""
        scaled = ScaledImages.of(low.channel_images(channel))
        features = scan_features(scaled.patterns, scaled.scales, low.drive_hz(channel), low.nd)
        noise_K, share_K = low.channel_noise(channel), None
        if self.noise_db is not None and noise_K is not None:
            features, _ = self.models.without_noise(features, torch.from_numpy(scaled.scales), noise_K)
            share_K = _noise_share(scaled, noise_K)
        return self.domain.distance(features, scaled.patterns, share_K), self.domain.knows(features)

    def _delayed(self, low: SystemMatrix, channel: int) -> str | None:
        """Where the signals come later, or earlier, than those of the training scans, who are like it otherwise."""
        scaled = ScaledImages.of(low.channel_images(channel))
        features = scan_features(scaled.patterns, scaled.scales, low.drive_hz(channel), low.nd)
        noise_K, clear_K = low.channel_noise(channel), None
        if self.noise_db is not None and noise_K is not None:
            features, _ = self.models.without_noise(features, torch.from_numpy(scaled.scales), noise_K)
            clear_K = scaled.scales > CLEAR * noise_K
        own_hz, other_hz = low.drive_hz(channel), low.drive_hz(1 - channel)
        check = self.delays()
        delay_us = check.delay_us(features, own_hz, other_hz / own_hz, clear_K)
        if delay_us is None or abs(delay_us) <= check.limit_us:
            return None
        return (
            f"the condition is delayed by {delay_us:.3g} µs against the training scans (receive channel "
            f"{scanner_channels(low)[channel]}); up to {check.limit_us:.3g} µs either way are served"
        )

    def _too_noisy(self, low: SystemMatrix, channel: int) -> str | None:
        """Where the strongest component stands nearer to its noise than in training."""
        above_db = low.above_noise_db(channel)
        if self.noise_db is None or above_db is None:
            return None
        if above_db >= self.noise_db[0] - NOISE_SLACK_DB:
            return None
        return (
            f"the condition's strongest component stands {above_db:.1f} dB above its noise (receive channel "
            f"{scanner_channels(low)[channel]}); the model was trained for {self.noise_db[0]:g} dB and more"
        )


def _noise_share(scaled: ScaledImages, noise_K: NDArray[np.floating]) -> NDArray[np.float64]:
    """The share of each component's energy that is noise, (K,)."""
    energy_K = np.square(scaled.patterns).sum(axis=(1, 2, 3)) * np.square(scaled.scales)
    voxels = scaled.patterns[0, 0].size
    share_K = voxels * np.square(noise_K) / np.where(energy_K > 0, energy_K, np.inf)
    return np.clip(share_K, 0.0, MOST_NOISE)


def in_noise(low: SystemMatrix) -> NDArray[np.bool_] | None:
    """Which components are mostly noise, (C, K); None where no SNR is known."""
    return None if low.snr_CK is None else low.snr_CK < NOISE_FLOOR_SNR


def _suspects(low: SystemMatrix) -> Iterator[tuple[str, SystemMatrix]]:
    """The matrix without what may have happened to it, by what that is."""
    values_CKN = low.values_CKN
    size_x, size_y = low.grid.size
    images_CKYX = values_CKN.reshape(*values_CKN.shape[:2], size_y, size_x)
    turned = {
        f"mirrored along {low.axes[0]}": images_CKYX[..., ::-1],
        f"mirrored along {low.axes[1]}": images_CKYX[..., ::-1, :],
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
