"""The features of a scan: what they depend on, and what they must not."""

import math

import numpy as np
import torch

from sm_search.regression.scan_features import OCTAVE, TRAJECTORY, feature_count, relative_log_scales, scan_features


def some_scan() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(3, 2, 4, 5)), np.array([1.0, 100.0, 1e-4])


def test_the_numbers_themselves() -> None:
    image = np.full((3, 4, 5), 1 + 0j)
    image[1] *= 1j
    image[2] *= np.exp(1j * math.pi / 8)
    found = scan_features(np.stack([image.real, image.imag], 1), np.array([1.0, 100.0, 1e-4]), 25e3, 99)
    phase = [math.cos(0), math.cos(math.pi), math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)]
    expected = [-2, 0, -6, *phase, OCTAVE * math.log(25e3), TRAJECTORY * 99]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert len(found) == feature_count(3)


def test_concentration_and_sign_do_not_matter() -> None:
    patterns, scales = some_scan()
    expected = scan_features(patterns, scales, 25e3, 99)
    torch.testing.assert_close(scan_features(-3 * patterns, 1e-9 * scales, 25e3, 99), expected)


def test_an_empty_component_is_finite() -> None:
    patterns, _ = some_scan()
    patterns[1] = 0
    assert torch.isfinite(scan_features(patterns, np.array([1.0, 0.0, 1.0]), 25e3, 99)).all()


def test_relative_log_scales() -> None:
    found = relative_log_scales(torch.tensor([[1.0, 100.0, 0.0], [2.0, 2.0, 2e-3]]))
    torch.testing.assert_close(found, torch.tensor([[-2.0, 0, -15], [0, 0, -3]], dtype=torch.float64))
