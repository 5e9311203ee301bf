"""Training images are gigabytes: a worker keeps those of one kind, and a full machine is told in one line."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayTaskError

from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.diffusion import basis
from sm_search.diffusion.basis import LinearBasis
from sm_search.search.study.experiment import fit
from sm_search.search.study.study import Study
from sm_search.search.study.trial import _loaded


def test_a_worker_keeps_the_images_of_its_last_trial_alone(tiny_dataset: Dataset) -> None:
    place = str(tiny_dataset.folder), tiny_dataset.content_hash(), (0,), "none", None
    first = weakref.ref(_loaded(*place, "component", frozenset())[1])  # type: ignore[arg-type]
    assert _loaded(*place, "component", frozenset())[1] is first()  # type: ignore[arg-type]
    _loaded(*place, "voxel", frozenset())  # type: ignore[arg-type]
    gc.collect()
    assert first() is None


def test_a_basis_of_many_images_is_that_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn((50, 2, 1, 6), generator=torch.Generator().manual_seed(0))
    bases = []
    for at_once in (1000, 7):
        monkeypatch.setattr(basis, "AT_ONCE", at_once)
        built = LinearBasis(12, 12)
        built.fit(images.clone())
        bases.append((built.vectors_PD, built.spread_D, built.encode(images)))
    for whole, parted in zip(*bases, strict=True):
        torch.testing.assert_close(parted, whole, rtol=1e-5, atol=1e-6)


def test_a_worker_that_is_killed_for_memory_stops_the_study_in_one_line() -> None:
    def killed() -> Any:
        """As Tune ends where Ray kills a worker that it waits for."""
        error = OutOfMemoryError("1 worker(s) were killed\ndue to the node running low on memory")
        RayActorManager._actor_task_failed(cast(Any, None), SimpleNamespace(_tracked_actor=None), error)  # type: ignore[arg-type]

    study = cast(Study, SimpleNamespace(name="large"))
    with pytest.raises(InputError) as caught:
        fit(cast(tune.Tuner, SimpleNamespace(fit=killed)), study)
    assert str(caught.value) == (
        "study 'large': stopped: the machine's memory is full, and Ray killed a worker; ask for more `resources.cpus` "
        "a trial; once that is mended, `sweep --resume` continues it"
    )


def test_an_error_of_ray_is_one_whatever_it_was_in_its_worker() -> None:
    def failed() -> Any:
        """Ray's error of a task is of the kind of its cause, too."""
        raise RayTaskError("task", "Traceback", RuntimeError("no device")).as_instanceof_cause()

    study = cast(Study, SimpleNamespace(name="large"))
    with pytest.raises(InputError, match="study 'large': stopped: Ray went away: "):
        fit(cast(tune.Tuner, SimpleNamespace(fit=failed)), study)
