"""What a trial takes of a GPU's memory, measured at the largest points of the space, and the share that it is given."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.diffusion.denoiser import Denoiser
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.search.schedule.race import ASKED_AT_ONCE, search_images
from sm_search.search.space.resolved_settings import schedule_settings, training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.tree import Recorded, suggest
from sm_search.training import Trainer, training_images

MARGIN = 1.2
"""Memory that is reserved for a trial, over what was measured: fragments, and what other points do otherwise."""
RAY_UNITS = 10_000
"""Ray counts a resource in these parts of one."""
PROBE_LEARNING_RATE = 1e-9
"""With it a few steps change nothing."""
WARM_UP_STEPS = 2
PROBE_STEPS = 2
"""Of a schedule: more take time, not memory."""
GIB = 2**30


@dataclass(frozen=True)
class GpuMemory:
    """Bytes: all that one GPU has, and the most that one trial took of it, its CUDA context included."""

    total: int
    peak: int


def gpu_share(memory: GpuMemory) -> float:
    """What Ray is told that a trial takes: 1/n where n fit, rounded down so that n of them fit for Ray as well.

    Raises:
        InputError: not one fits.
    """
    needed = memory.peak * MARGIN
    fit = int(memory.total / needed)
    if fit < 1:
        raise InputError(
            f"resources.gpus: auto: a trial at the largest point of the space needs {needed / GIB:.1f} GiB with the "
            f"margin, and the GPU has {memory.total / GIB:.1f} GiB; take a smaller batch_size or smaller networks"
        )
    return math.floor(RAY_UNITS / fit) / RAY_UNITS


def measured_memory(space: Space, dataset: Dataset) -> GpuMemory | None:
    """Try the largest points of the space on this machine's GPU, which nothing else uses; None if it has none."""
    if not torch.cuda.is_available():
        return None
    try:
        for params in largest_points(space):
            try_point(space, dataset, params, "cuda")
    except torch.OutOfMemoryError:
        total = torch.cuda.mem_get_info()[1]
        return GpuMemory(total, total)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    return GpuMemory(total, torch.cuda.max_memory_reserved() + context)


def try_point(space: Space, dataset: Dataset, params: Mapping[str, Any], device: str) -> Denoiser:
    """What a trial does, as far as memory goes: training steps, a validation, a batch of the inner search."""
    settings = training_settings(space, params).model_copy(update={"learning_rate": PROBE_LEARNING_RATE})
    images, models = training_images(
        dataset, "train", settings.receive_channels, settings.mean, settings.scans, settings.diffuse
    )
    trainer = Trainer(settings, images, device, captured=space.resources.cuda_graph)
    validation = Validation.of(dataset, models, diffuse=settings.diffuse, asked=space.asked())
    list(trainer.train(WARM_UP_STEPS))
    schedule_tree = suggest(Recorded(params), space.outer_tree())["schedule"] if space.mode == "joint" else None
    schedule = schedule_settings(schedule_tree or suggest(_Largest({}), space.schedule))
    schedule = schedule.model_copy(update={"steps": min(schedule.steps, PROBE_STEPS)})
    ScheduleScorer(trainer.ema, settings.diffusion, validation, device)([schedule], 0, len(validation))
    if space.mode == "two-level":
        searched = search_images(validation, space.budget.images)
        scorer = ScheduleScorer(trainer.ema, settings.diffusion, searched, device)
        scorer([schedule] * ASKED_AT_ONCE, 0, len(searched))
    return trainer.ema


class _Largest:
    """A `Suggester` that answers with the largest number; other choices are given, or else the first.

    Attributes:
        params: what it answered, by name.
        others: the choices that it did not take, by name.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.params: dict[str, Any] = {}
        self.others: dict[str, list[Any]] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float:
        self.params[name] = high
        return high

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int:
        self.params[name] = high
        return high

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        if all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
            self.params[name] = max(choices)
        else:
            self.params[name] = self.given.get(name, choices[0])
            self.others[name] = [choice for choice in choices if choice != self.params[name]]
        return self.params[name]


def largest_points(space: Space) -> Iterator[dict[str, Any]]:
    """All numbers at their largest, and what has no order as it comes first, then each other choice by itself."""
    tree = space.outer_tree()
    varied: set[str] = set()
    waiting: list[dict[str, Any]] = [{}]
    while waiting:
        given = waiting.pop(0)
        point = _Largest(given)
        suggest(point, tree)
        yield point.params
        for name in point.others.keys() - varied:
            waiting += [{**given, name: choice} for choice in point.others[name]]
        varied |= point.others.keys()
