"""What one evaluation of a network takes: seconds and memory, measured on the components of a validation scan."""

import os
import time
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from sm_search.diffusion.denoiser import Denoiser
from sm_search.evaluation.validation import Validation

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler else tells on stderr that it begins and ends
TIMED = 3
"""Evaluations of which the fastest counts: the others wait for what else the machine does."""


@dataclass(frozen=True)
class EvaluationCost:
    """Of all components of a scan.

    Attributes:
        seconds: of one evaluation.
        bytes: the most that it holds at once, weights included.
    """

    seconds: float
    bytes: float

    def of(self, evaluations: int) -> dict[str, float]:
        """The costs of a schedule, as objectives are named."""
        return {
            "evaluations": float(evaluations),
            "synthesis_seconds": evaluations * self.seconds,
            "synthesis_bytes": self.bytes,
        }


@torch.no_grad()
def evaluation_cost(denoiser: Denoiser, validation: Validation, device: str = "cpu") -> EvaluationCost:
    """Measure it on the first validation scan."""
    condition = validation.condition[torch.arange(validation.rows_of_a_scan())].to(device)
    shape = validation.noise().shape
    noise = torch.zeros(len(condition), *shape, device=device)
    alpha_bar = torch.full((len(condition),), 0.5, device=device)

    def evaluate() -> float:
        begin = time.perf_counter()
        denoiser(denoiser.encode(noise), alpha_bar, condition)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    weights = sum(tensor.nbytes for tensor in denoiser.state_dict().values())
    seconds = min(evaluate() for _ in range(TIMED))
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        evaluate()
        return EvaluationCost(seconds, weights + torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        evaluate()
    held = most = 0
    for event in sorted(profiler.events(), key=lambda event: event.time_range.end):
        held += event.self_cpu_memory_usage
        most = max(most, held)
    return EvaluationCost(seconds, weights + most)
