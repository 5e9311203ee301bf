"""Denoisers that need no training, and conditions for them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sm_search.diffusion.condition import Condition
from sm_search.diffusion.denoiser import Denoiser

FEATURES = 6


class FunctionDenoiser(Denoiser):
    """A denoiser on pixels that answers `function(x_t, alpha_bar, condition)` and counts its evaluations."""

    def __init__(self, function: Callable[[Tensor, Tensor, Condition], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.evaluations = 0
        self.seen: list[Condition] = []

    def fit_constants(self, targets: Tensor, condition: Condition) -> None:
        pass

    def encode(self, images: Tensor) -> Tensor:
        return images

    def to_state(self, images: Tensor) -> Tensor:
        return images

    def to_images(self, states: Tensor) -> Tensor:
        return states

    def forward(self, x_t: Tensor, alpha_bar: Tensor, condition: Condition, z: Tensor | None = None) -> Tensor:
        self.evaluations += 1
        self.seen.append(condition)
        return self.function(x_t, alpha_bar[:, None, None, None], condition)


@pytest.fixture
def function_denoiser() -> type[FunctionDenoiser]:
    return FunctionDenoiser


@pytest.fixture(scope="session")
def make_condition() -> Callable[..., Condition]:
    def make(batch: int = 2, shape: tuple[int, int] = (8, 8), seed: int = 0, features: int = FEATURES) -> Condition:
        generator = torch.Generator().manual_seed(seed)
        return Condition(
            image=torch.randn((batch, 2, *shape), generator=generator),
            orders=torch.randint(0, 13, (batch, 2), generator=generator).float(),
            log_scale=-4 * torch.rand(batch, generator=generator),
            features=torch.randn((batch, features), generator=generator),
            noise=torch.zeros(batch),
            keep=torch.ones(batch),
        )

    return make
