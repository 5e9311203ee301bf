"""A training step as one CUDA graph: all its kernels are launched at once, with no Python between them."""

from collections.abc import Callable

import torch
from torch import Tensor

from sm_search.diffusion.training_loss import Draws

WARM_UP_STEPS = 3
"""Steps that run as they are first: what is allocated once, and the libraries' own choices, must not be captured."""


class CapturedStep:
    """Runs `descend(draws, ema_decay)`, which changes weights in place and returns the loss; captured, then replayed.

    The numbers that differ from step to step are copied into the tensors that were captured. Nothing else may differ:
    shapes are those of the first call, and what `descend` reads and writes stays where it is.
    """

    def __init__(self, descend: Callable[[Draws, Tensor], Tensor]) -> None:
        self.descend = descend
        self._run = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, draws: Draws, ema_decay: Tensor) -> Tensor:
        """The loss of the step; the next call overwrites it."""
        if self._run < WARM_UP_STEPS:
            self._run += 1
            return self._beside_the_default_stream(draws, ema_decay)
        if self._graph is None:
            self._draws, self._ema_decay = draws, ema_decay
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = self.descend(draws, ema_decay)
        else:
            self._draws.copy_(draws)
            self._ema_decay.copy_(ema_decay)
        self._graph.replay()
        return self._loss

    def _beside_the_default_stream(self, draws: Draws, ema_decay: Tensor) -> Tensor:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self.descend(draws, ema_decay)
        torch.cuda.current_stream().wait_stream(stream)
        return loss
