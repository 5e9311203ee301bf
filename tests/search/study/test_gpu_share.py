"""How many trials share a GPU, and how many threads each has."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from sm_search.compute.session import WORKER_ENVIRONMENT
from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.search.schedule.workers import worker_count
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Resources, Space
from sm_search.search.space.space_file import SPACES, load_space
from sm_search.search.study.gpu_memory import (
    GIB,
    MARGIN,
    GpuMemory,
    gpu_share,
    largest_points,
    measured_memory,
    try_point,
)
from sm_search.search.study.gpu_share import GPUS_TAG, first_gpus, placed, placed_here
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store
from sm_search.training import Trainer

LINEAR = {"backbone": "linear-basis", "coefficients": 8, "width": {"choice": [16, 32, 24]}, "blocks": {"int": [1, 2]}}
AUTO = Space.model_validate(
    {
        "study": "s",
        "training": {
            "steps": 20,
            "batch_size": 8,
            "backbone": {"one_of": [LINEAR, {"backbone": "unet", "layers": {"int": [1, 2]}}]},
            "mean": {"choice": ["kernel-ridge", "none"]},
            "p_uncond": {"float": [0.0, 0.2]},
        },
        "schedule": {"steps": {"choice": [1, 4]}, "guidance": {"choice": [1.0, 2.0]}},
        "budget": {"first_rung": 20, "images": 4},
        "resources": {"gpus": "auto"},
    }
)


@pytest.mark.parametrize(
    ("total_gib", "peak_gib", "share"),
    [(24, 5, 0.25), (24, 4.99, 0.25), (24, 5.01, 0.3333), (24, 20, 1.0), (24, 10.1, 1.0), (17, 2, 0.1428)],
)
def test_as_many_share_a_gpu_as_fit_with_the_margin(total_gib: float, peak_gib: float, share: float) -> None:
    assert MARGIN == 1.2
    found = gpu_share(GpuMemory(round(total_gib * GIB), round(peak_gib * GIB)))
    assert found == share
    fit = int(1 / found)
    # Ray counts whole ten-thousandths: all of them find a place, and one more does not.
    assert fit * round(found * 10_000) <= 10_000 < (fit + 1) * round(found * 10_000)


def test_a_trial_that_no_gpu_holds_is_refused_with_both_numbers() -> None:
    with pytest.raises(InputError, match=r"^resources\.gpus: auto: .* needs 24\.1 GiB .* has 24\.0 GiB"):
        gpu_share(GpuMemory(24 * GIB, round(20.1 * GIB)))


def test_the_largest_points_have_all_numbers_at_their_top_and_show_every_other_choice() -> None:
    linear = {"backbone": "linear-basis", "backbone.linear-basis.width": 32, "backbone.linear-basis.blocks": 2}
    unet = {"backbone": "unet", "backbone.unet.layers": 2}
    rest = {"mean": "kernel-ridge", "p_uncond": 0.2}
    points = list(largest_points(AUTO))
    assert points[0] == {**linear, **rest}
    assert sorted(points[1:], key=str) == sorted([{**unet, **rest}, {**linear, **rest, "mean": "none"}], key=str)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_point_that_is_tried_is_one_of_the_space(path: Path) -> None:
    space = load_space(path)
    points = list(largest_points(space))
    assert len(points) == len({str(sorted(point.items())) for point in points})
    assert len([training_settings(space, point) for point in points]) >= 1


@pytest.mark.parametrize("mode", ["two-level", "joint"])
def test_the_largest_points_are_trained_and_validated(mode: str, tiny_dataset: Dataset) -> None:
    space = Space.model_validate({**AUTO.model_dump(), "mode": mode})
    weights = []
    for params in largest_points(space):
        denoiser = try_point(space, tiny_dataset, params, "cpu")
        weights.append(sum(parameter.numel() for parameter in denoiser.parameters()))
    smallest = training_settings(
        Space.model_validate({**AUTO.model_dump(), "training": {"backbone": {**LINEAR, "width": 16, "blocks": 1}}}), {}
    )
    assert min(weights) > count(smallest, tiny_dataset)


def count(settings: Any, dataset: Dataset) -> int:
    from sm_search.training import training_images

    trainer = Trainer(settings, training_images(dataset, "train", (0,), settings.mean)[0])
    return sum(parameter.numel() for parameter in trainer.denoiser.parameters())


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """Ray with what it takes for a GPU."""
    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    yield
    ray.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_node_whose_gpu_torch_does_not_find_is_told(session: None, tiny_dataset: Dataset, store: Store) -> None:
    assert first_gpus(AUTO.resources) == 1
    assert worker_count(None, AUTO.resources) == 1
    with pytest.raises(InputError, match=r"torch finds no GPU on a node that has one; see `sm-search doctor`"):
        placed(AUTO, tiny_dataset, store, resume=False)


def test_a_resumed_study_takes_what_it_recorded(tiny_dataset: Dataset, store: Store) -> None:
    StudyLog.open(store, "s", tags={GPUS_TAG: "0.1428"})
    # Without a session nothing can be measured.
    assert placed(AUTO, tiny_dataset, store, resume=True).resources.gpu_share == 0.1428


def test_a_number_stays_as_it_is(tiny_dataset: Dataset, store: Store) -> None:
    space = AUTO.model_copy(update={"resources": Resources(gpus=0.4)})
    assert placed(space, tiny_dataset, store, resume=False) is space
    assert placed_here(space, tiny_dataset) is space


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_machine_plans_with_none(tiny_dataset: Dataset) -> None:
    assert placed_here(AUTO, tiny_dataset).resources.gpu_share == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_memory_of_the_largest_points_is_measured(tiny_dataset: Dataset) -> None:
    memory = measured_memory(AUTO, tiny_dataset)
    assert memory is not None
    assert memory.total == torch.cuda.get_device_properties(0).total_memory
    assert torch.cuda.max_memory_allocated() <= memory.peak < memory.total
    assert 0 < gpu_share(memory) <= 1


THREADS = """
import os, sys, torch
torch.set_num_threads(int(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
torch.randn(1200, 1200) @ torch.randn(1200, 1200)
torch.randn(4_000_000).exp()
print(torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_worker_computes_with_as_many_threads_as_the_space_says(threads: int) -> None:
    """`OMP_NUM_THREADS` holds the libraries that nobody asks; torch is asked."""
    command = [sys.executable, "-c", THREADS, str(threads)]
    environment = {**os.environ, **WORKER_ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads), str(threads - 1)], done.stderr
