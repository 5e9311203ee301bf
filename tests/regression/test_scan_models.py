"""Features of components that are lost in the noise come from the training scans that agree in all others."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sm_search.regression.gain import GainModel
from sm_search.regression.scan_models import CLEAR, ScanModels

COMPONENTS = 5


def scans(hidden_S2: Tensor) -> tuple[Tensor, Tensor]:
    """Features (S, 3K + 2) and low-gradient scales (S, K) that are smooth functions of two numbers."""
    first, second = hidden_S2.T[:, :, None]
    weights = torch.linspace(0.2, 1.0, COMPONENTS)
    logs = -weights * (1 + 0.5 * torch.sin(first) + 0.3 * second)
    logs[:, 0] = 0.0  # the strongest
    phases = (torch.cos(first * weights), torch.sin(second + weights))
    features_SF = torch.cat((logs, *phases, first, second), 1).double()
    return features_SF, 7.0 * 10 ** features_SF[:, :COMPONENTS]


@pytest.fixture(scope="module")
def models() -> ScanModels:
    features_SF, low_SK = scans(torch.rand((80, 2), generator=torch.Generator().manual_seed(0)))
    return ScanModels(GainModel.fitted(features_SF, low_SK, 3 * low_SK), None)


def test_what_the_noise_hides_is_put_back(models: ScanModels) -> None:
    features_SF, low_SK = scans(torch.tensor([[0.4, 0.6]]))
    features, low_K = features_SF[0], low_SK[0]
    lost = [2, 4]
    noise_K = np.full(COMPONENTS, 1e-6)
    noise_K[lost] = 2 * low_K[lost].numpy() / CLEAR
    seen, seen_K = features.clone(), low_K.clone()
    seen_K[lost] *= 1.5
    for number in lost:
        seen[[number, number + COMPONENTS, number + 2 * COMPONENTS]] = 0.7
    found, found_K = models.without_noise(seen, seen_K, noise_K)
    torch.testing.assert_close(found, features, atol=2e-3, rtol=0)
    torch.testing.assert_close(found_K, low_K, rtol=5e-3, atol=0)
    kept = [0, 1, 3]
    assert torch.equal(found_K[kept], low_K[kept])
    # Without that, the gain follows the noise.
    wrong, right = models.gain(seen, seen_K), models.gain(found, found_K)
    torch.testing.assert_close(right, 3 * low_K, rtol=0.01, atol=0)
    assert (wrong / (3 * low_K) - 1).abs().max() > 0.1


@pytest.mark.parametrize("noise_K", [None, np.zeros(COMPONENTS)])
def test_without_noise_nothing_changes(models: ScanModels, noise_K: np.ndarray | None) -> None:
    features_SF, low_SK = scans(torch.tensor([[0.4, 0.6]]))
    found, found_K = models.without_noise(features_SF[0], low_SK[0], noise_K)
    assert found is features_SF[0] or torch.equal(found, features_SF[0])
    assert torch.equal(found_K, low_SK[0])
