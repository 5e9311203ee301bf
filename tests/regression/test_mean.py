"""The mean of a residual diffusion: what it expects of itself on a grid of scans."""

import pytest
import torch

from sm_search.regression.mean import MeanModel
from sm_search.regression.scan_features import feature_count

COMPONENTS = 2


def features(place: float, repeat: float) -> torch.Tensor:
    """A scan at a place that matters, in one of several repetitions that hardly do."""
    row = torch.zeros(feature_count(COMPONENTS), dtype=torch.float64)
    row[0], row[1] = place, 0.02 * repeat
    return row


def patterns(place: float) -> torch.Tensor:
    """Two components on 4 × 4 pixels, of which the second changes five times as fast with the place."""
    phase = torch.linspace(0, 3, 32).view(2, 4, 4)
    return torch.stack((torch.sin(0.3 * place + phase), torch.sin(1.5 * place + phase)))


@pytest.mark.parametrize("new", [-0.5, 9.5])
def test_beside_a_grid_the_expected_error_is_that_which_comes(new: float) -> None:
    """Every place of the grid has three near copies: if a copy is left in, any scan looks easy."""
    grid = [(place, repeat) for place in range(10) for repeat in range(3)]
    model, residuals = MeanModel.fitted(
        torch.stack([features(*scan) for scan in grid]), torch.stack([patterns(place) for place, _ in grid])
    )
    assert residuals.shape == (30, COMPONENTS, 2, 4, 4)
    mean, spread_K = model(features(new, 1.0))
    error_K = (mean - patterns(new)).flatten(1).square().mean(1).sqrt()
    assert error_K[1] > 10 * error_K[0]
    assert (error_K < 3 * spread_K).all(), "4.7 to 6.7 times with the copies left in"
    assert (error_K > spread_K / 3).all()
