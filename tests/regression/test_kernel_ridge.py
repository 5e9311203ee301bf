"""Kernel ridge regression against its definition, and its variance against the errors that it predicts."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from sm_search.regression.kernel_ridge import RIDGES, KernelRidge


def smooth(features: Tensor, outputs: int, seed: int = 9) -> Tensor:
    """Smooth functions of the features: sums of slow cosines."""
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn((features.shape[1], outputs), generator=generator, dtype=torch.float64) / 2
    return torch.cos(features @ slopes + torch.arange(outputs))


def scans(count: int, features: int = 3, seed: int = 0) -> Tensor:
    return torch.rand((count, features), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def test_prediction_and_variance_are_their_definitions() -> None:
    features, new = scans(20), scans(5, seed=1)
    outputs = smooth(features, 6)
    model = KernelRidge.fitted(features, outputs)
    width, ridge = model.width.item(), model.ridge.item()
    gram = np.exp(-0.5 * cdist(features, features, "sqeuclidean") / width**2) + ridge * np.eye(20)
    similar = np.exp(-0.5 * cdist(new, features, "sqeuclidean") / width**2)
    mean = outputs.mean(0).numpy()
    expected = mean + similar @ np.linalg.solve(gram, outputs.numpy() - mean)
    variance = 1 + ridge - np.einsum("ns,sn->n", similar, np.linalg.solve(gram, similar.T))
    np.testing.assert_allclose(torch.stack([model(row) for row in new]), expected, atol=1e-5)
    found = torch.stack([model.variance(row) for row in new])
    np.testing.assert_allclose(found, np.maximum(variance, ridge), rtol=1e-4, atol=1e-8)


def test_smooth_functions_are_learned_and_the_likelihood_chooses_a_small_ridge() -> None:
    features, new = scans(60), scans(20, seed=1)
    model = KernelRidge.fitted(features, smooth(features, 6))
    error = torch.stack([model(row) for row in new]) - smooth(new, 6)
    assert error.square().mean().sqrt() < 1e-3
    assert model.ridge < 1e-4


def test_noise_raises_the_ridge() -> None:
    features = scans(60)
    noise = 0.1 * torch.randn((60, 6), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert KernelRidge.fitted(features, smooth(features, 6) + noise).ridge == RIDGES[-1]


@pytest.mark.parametrize("neighbours", [0, 3])
def test_leaving_out_is_what_a_fit_to_the_others_gives(neighbours: int) -> None:
    features, outputs = scans(12), smooth(scans(12), 4)
    model = KernelRidge.fitted(features, outputs)
    residual_SP, variance_S = model.leave_out(outputs, neighbours)
    for scan in (0, 7):
        nearest = (features - features[scan]).square().sum(1).argsort()[: 1 + neighbours]
        others = torch.ones(12, dtype=torch.bool).index_fill(0, nearest, False)
        gram = torch.exp(-0.5 * (torch.cdist(features[others], features[others]) / model.width) ** 2)
        gram += model.ridge * torch.eye(len(gram))
        similar = torch.exp(-0.5 * (torch.cdist(features[[scan]], features[others]) / model.width) ** 2)[0]
        # The constant mean is that of all scans: it is not fitted again.
        predicted = model.mean_P + similar @ torch.linalg.solve(gram, outputs[others] - model.mean_P)
        torch.testing.assert_close(residual_SP[scan], outputs[scan] - predicted, rtol=1e-3, atol=1e-6)
        variance = 1 + model.ridge - similar @ torch.linalg.solve(gram, similar)
        torch.testing.assert_close(variance_S[scan], variance, rtol=1e-3, atol=1e-9)


def test_the_variance_grows_with_the_distance_to_the_scans() -> None:
    features = scans(30)
    model = KernelRidge.fitted(features, smooth(features, 6))
    steps = [model.variance(torch.full((3,), 1.0 + distance)).item() for distance in (0.0, 2.0, 4.0, 40.0)]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(1, abs=2e-3), "far away nothing is known"
    far = torch.full((3,), 1000.0)
    torch.testing.assert_close(model(far).float(), model.mean_P)


def test_dropped_directions_are_small_beside_the_error() -> None:
    features = scans(40)
    outputs = smooth(features, 200)
    whole, short = KernelRidge.fitted(features, outputs), KernelRidge.fitted(features, outputs, dropped=0.1)
    assert len(short.directions_RP) < len(whole.directions_RP) <= 39
    error = whole.leave_out(outputs, 0)[0].square().mean().sqrt()
    change = torch.stack([short(row) - whole(row) for row in features]).square().mean().sqrt()
    assert 0 < change < 0.11 * error


@pytest.mark.parametrize("count", [1, 4])
def test_scans_that_do_not_differ_are_no_division_by_zero(count: int) -> None:
    features = scans(1).repeat(count, 1)
    outputs = smooth(features, 6)
    model = KernelRidge.fitted(features, outputs)
    torch.testing.assert_close(model(features[0]), outputs[0].float().double())
    residual, variance = model.leave_out(outputs, 0)
    assert residual.abs().max() < 1e-6
    assert math.isfinite(variance.sum())
    assert model.variance(features[0]) > 0
