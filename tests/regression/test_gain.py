"""The gain model: it gives its training scans back, and is blind to the concentration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sm_search.regression.gain import GainModel
from sm_search.regression.scan_features import feature_count


def scans(count: int = 7, components: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, low scales and high scales whose log ratio is a smooth function of the features."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand((count, 1), generator=generator, dtype=torch.float64)
    features = place * torch.linspace(-1, 2, feature_count(components), dtype=torch.float64)
    low = 10 ** (place * torch.linspace(-3, 3, components, dtype=torch.float64))
    return features, low, low * 10 ** torch.sin(3 * place + torch.arange(components))


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_the_training_scans_come_back(count: int) -> None:
    features, low, high = scans(count)
    model = GainModel.fitted(features, low, high)
    predicted = torch.stack([model(*row) for row in zip(features, low, strict=True)])
    torch.testing.assert_close(predicted.log10(), high.log10(), rtol=0, atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-12, 1e12), st.integers(0, 20))
def test_a_factor_on_the_condition_is_the_same_factor_on_the_prediction(factor: float, seed: int) -> None:
    model, (features, low, _) = GainModel.fitted(*scans()), scans(seed=seed)
    found = model(features[0], factor * low[0])
    torch.testing.assert_close(found, factor * model(features[0], low[0]), rtol=1e-9, atol=0)


def test_the_concentration_of_a_training_scan_does_not_matter() -> None:
    features, low, high = scans()
    factor_S1 = 10 ** torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    expected = GainModel.fitted(features, low, high)(features[1], low[1])
    found = GainModel.fitted(features, factor_S1 * low, factor_S1 * high)(features[1], low[1])
    torch.testing.assert_close(found, expected)


def test_empty_components_leave_the_others_finite() -> None:
    features, low, high = scans()
    low[:, 2] = high[:, 2] = 0
    low[3, 1] = 0
    model = GainModel.fitted(features, low, high)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    predicted = model(features[0], low[0])
    assert predicted[2] == 0
    assert torch.isfinite(predicted).all()
