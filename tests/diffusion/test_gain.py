"""The gain model: exact where it was fitted, blind to the concentration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sm_search.diffusion.gain import GainModel, relative_log_scales


def scales(scans: int = 7, components: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low, high = 10 ** torch.empty((2, scans, components), dtype=torch.float64).uniform_(-4, 4, generator=generator)
    return low, high


@pytest.mark.parametrize("scans", [1, 2, 7])
def test_exact_on_the_training_scans_up_to_the_ridge(scans: int) -> None:
    low, high = scales(scans)
    model = GainModel.fitted(low, high)
    predicted = torch.stack([model(row) for row in low])
    torch.testing.assert_close(predicted.log10(), high.log10(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scans", [7, 60])
def test_the_ridge_is_what_separates_it_from_the_training_scans(scans: int) -> None:
    """(K + ρI)w = g − ḡ, so the residual of the log gain is exactly ρ·w, however close the scans are."""
    low, high = scales(scans)
    model = GainModel.fitted(low, high)
    residual = high.log10() - torch.stack([model(row) for row in low]).log10()
    torch.testing.assert_close(residual, 1e-6 * model.weights_SK, rtol=1e-3, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-12, 1e12), st.integers(0, 20))
def test_a_factor_on_the_condition_is_the_same_factor_on_the_prediction(factor: float, seed: int) -> None:
    model, row = GainModel.fitted(*scales()), scales(seed=seed)[0][0]
    torch.testing.assert_close(model(factor * row), factor * model(row), rtol=1e-9, atol=0)


def test_the_concentration_of_a_training_scan_does_not_matter() -> None:
    low, high = scales()
    factor_S1 = 10 ** torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    row = scales(seed=1)[0][0]
    torch.testing.assert_close(
        GainModel.fitted(low, high)(row), GainModel.fitted(factor_S1 * low, factor_S1 * high)(row)
    )


def test_far_from_all_training_scans_it_is_their_mean_gain() -> None:
    low, high = scales()
    model = GainModel.fitted(low, high)
    far = torch.tensor([1.0, 1e-15, 1.0, 1e-15, 1e-15], dtype=torch.float64)
    model.width.copy_(torch.tensor(0.1))
    expected = far.log10() + (high.log10() - low.log10()).mean(0)
    torch.testing.assert_close(model(far).log10(), expected)


def test_empty_components_leave_the_others_finite() -> None:
    low, high = scales()
    low[:, 2] = high[:, 2] = 0
    low[3, 1] = 0
    model = GainModel.fitted(low, high)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    predicted = model(low[0])
    assert predicted[2] == 0
    torch.testing.assert_close(predicted[[0, 1, 3, 4]], high[0, [0, 1, 3, 4]], rtol=1e-3, atol=0)


def test_identical_training_scans_are_no_division_by_zero() -> None:
    low, high = scales(1)
    model = GainModel.fitted(low.repeat(40, 1), high.repeat(40, 1))
    assert model.width == 1
    torch.testing.assert_close(model(low[0]), high[0], rtol=1e-5, atol=0)


def test_relative_log_scales() -> None:
    found = relative_log_scales(torch.tensor([[1.0, 100.0, 0.0], [2.0, 2.0, 2e-3]]))
    torch.testing.assert_close(found, torch.tensor([[-2.0, 0, -15], [0, 0, -3]], dtype=torch.float64))
