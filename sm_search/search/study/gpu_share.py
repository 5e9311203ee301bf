"""How many trials share a GPU (`gpus: auto`): by the memory that a trial takes at the largest point of the space.

It is measured once, before a study begins, on one node with a GPU; a resumed study takes what it recorded.
"""

from collections.abc import Callable

import ray

from sm_search.compute.ray_internals import autoscaler_limits
from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.data.storage import absolute
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Resources, Space
from sm_search.search.study.gpu_memory import GIB, GpuMemory, gpu_share, largest_points, measured_memory
from sm_search.search.study.while_simulating import wait_for
from sm_search.tracking.records import find_study
from sm_search.tracking.store import Store

GPUS_TAG = "gpus_per_trial"
"""Tag of a study: what one trial takes of a GPU."""
RETRIES = 3


def placed(
    space: Space, dataset: Dataset, store: Store, resume: bool, announce: Callable[[str], None] = lambda line: None
) -> Space:
    """The space with a number where it says `gpus: auto`: what a resumed study recorded, or else what is measured.

    Raises:
        InputError: not one trial fits on a GPU, or a node with a GPU cannot use it.
    """
    if space.resources.gpus != "auto":
        return space
    earlier = find_study(store, space.study) if resume else None
    if earlier and GPUS_TAG in earlier.tags:
        return _with_gpus(space, float(earlier.tags[GPUS_TAG]))
    if not session_has_gpus():
        announce("resources.gpus: auto: no GPU in this session, trials run on CPUs")
        return _with_gpus(space, 0.0)
    task = ray.remote(num_cpus=space.resources.cpus, num_gpus=1, max_retries=RETRIES)(_measured_there)
    memory = ray.get(task.remote(space.model_dump_json(), absolute(dataset.location)))
    if memory is None:
        raise InputError("resources.gpus: auto: torch finds no GPU on a node that has one; see `sm-search doctor`")
    share = gpu_share(memory)
    announce(
        f"resources.gpus: auto: {int(1 / share)} trials on a GPU: at the largest point of the space one takes "
        f"{memory.peak / GIB:.1f} of {memory.total / GIB:.1f} GiB"
    )
    return _with_gpus(space, share)


def placed_here(space: Space, dataset: Dataset) -> Space:
    """The same on this machine, without Ray."""
    if space.resources.gpus != "auto":
        return space
    memory = _measured(space, dataset)
    return _with_gpus(space, gpu_share(memory) if memory else 0.0)


def first_gpus(resources: Resources) -> float:
    """What the first task of a study takes of a GPU: under `auto` the measurement has one for itself."""
    if resources.gpus == "auto":
        return float(session_has_gpus())
    return resources.gpu_share


def session_has_gpus() -> bool:
    """Whether a node of the session has a GPU, or the autoscaler may start one that has."""
    return ray.cluster_resources().get("GPU", 0) > 0 or autoscaler_limits().get("GPU", 0) > 0


def _with_gpus(space: Space, share: float) -> Space:
    return space.model_copy(update={"resources": space.resources.model_copy(update={"gpus": share})})


def _measured_there(space_json: str, data: str) -> GpuMemory | None:
    return _measured(Space.model_validate_json(space_json), Dataset.open(data, complete=False))


def _measured(space: Space, dataset: Dataset) -> GpuMemory | None:
    """`measured_memory`, when the files that it needs are simulated."""
    for params in largest_points(space):
        scans = dataset.settings.scans("train", training_settings(space, params).scans)
        wait_for(dataset, [*dataset.settings.scans("validation"), *scans])
    return measured_memory(space, dataset)
