"""An opened study: the one driver that it has, its data, and where its results go."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sm_search.compute.nodes import require_shared
from sm_search.config.errors import InputError, TrackingError
from sm_search.data.dataset import Dataset
from sm_search.data.storage import absolute, is_uri
from sm_search.search.space.space import Space
from sm_search.search.space.tree import fixed_values
from sm_search.search.study.folder import (
    check_study,
    environment_tags,
    note_study,
    only_driver,
    storage_folder,
    study_folder,
)
from sm_search.search.study.gpu_share import GPUS_TAG, first_gpus, placed
from sm_search.search.study.recording import DISK_FAULTS, Announce
from sm_search.search.study.revision import Revision
from sm_search.tracking.names import REVISION
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store


@dataclass(frozen=True)
class Study:
    """What the stages of one study share.

    Attributes:
        space: as it is now, with a number where it said `gpus: auto`.
        folder: its local state.
        place: folder or URI of Ray Tune's files.
        store: the MLflow store with its runs.
        states: what it was at its first start and after each revision; the last one holds now.
        resume: whether it began earlier.
    """

    space: Space
    dataset: Dataset
    folder: Path
    place: str
    store: Store
    states: tuple[Revision, ...]
    resume: bool
    announce: Announce

    @property
    def name(self) -> str:
        return self.space.study


def stopped(study: str, why: str) -> InputError:
    """The error of a study that cannot go on as things are."""
    return InputError(f"study {study!r}: stopped: {why}; once that is mended, `sweep --resume` continues it")


@contextmanager
def open_study(
    space: Space,
    dataset: Dataset,
    home: Path,
    storage: str | None,
    tracking_uri: str | None,
    resume: bool,
    announce: Announce,
) -> Iterator[Study]:
    """Open a study for the body, as its only driver; what it is then is noted.

    Raises:
        InputError: it exists and `resume` is false, or it does not and `resume` is true, or its space or dataset is not
            the one it began with, or another process runs it, or a node of the session does not see its data or
            storage, or the disk is full, or not one trial fits on a GPU.
    """
    states = check_study(space, dataset, home, resume, storage)
    folder = study_folder(home, space.study)
    place = storage_folder(storage, space.study) if storage else str(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Before this driver locks its study: where the home was moved, nobody else may be running one.
        store = open_store(home, tracking_uri)
        with only_driver(folder, space.study):
            for option, where in (("--data", dataset.location), ("--storage", storage or folder)):
                require_shared(option, where, space.resources.cpus, first_gpus(space.resources))
            missing, files = dataset.missing(), dataset.expected()
            if missing:
                there = len(files) - len(missing)
                announce(f"{there} of {len(files)} files are simulated; each trial waits for those that it needs")
            space = placed(space, dataset, store, resume, announce)
            if not resume or len(states) > 1:
                for number, state in enumerate(states[1:], 1):
                    announce(f"revision {number}: {'; '.join(state.changes)}")
                note_study(states, dataset, home, storage)
            yield Study(space, dataset, folder, place, store, states, resume, announce)
    except OSError as error:
        # A bucket's faults have no number.
        remote = storage if storage and is_uri(storage) and error.errno is None else None
        if error.strerror not in DISK_FAULTS and not remote:
            raise
        what = " ".join(str(error.strerror or error).split())
        raise stopped(space.study, f"{error.filename or remote or folder}: {what}") from None


@contextmanager
def open_log(study: Study) -> Iterator[StudyLog]:
    """The study's run in MLflow for the body; where that is interrupted or stopped, none of its runs is left RUNNING.

    Raises:
        TrackingError: the store does not answer.
        KeyboardInterrupt: the body was interrupted; its message says what is to be done.
    """
    # A stored parameter cannot change: those of a study are of its first start, and its revisions are tags.
    tags = {**_tags(study.space, study.dataset), **revision_tags(study.states)}
    log = StudyLog.open(study.store, study.name, tags=tags, params=_params(study.states[0].space))
    try:
        log.log_text(None, json.dumps(study.space.model_dump(mode="json"), indent=1), "space.json")
        yield log
    except KeyboardInterrupt:
        message = f"study {study.name!r}: interrupted"
        try:
            log.finish("interrupted")
        except TrackingError as error:
            message += f", and not all of its runs are closed: {error}"
        else:
            message += ", its runs are closed"
        raise KeyboardInterrupt(f"{message}; `sweep --resume` continues it") from None
    except TrackingError:
        raise  # the store is away, or lacks what a resumed study delivers
    except InputError:
        with suppress(TrackingError):
            log.finish("interrupted")
        raise


def revision_tags(states: Sequence[Revision]) -> dict[str, str]:
    """What was changed, by the number of the revision."""
    return {f"{REVISION}{number}": "; ".join(state.changes) for number, state in enumerate(states) if number}


def _tags(space: Space, dataset: Dataset) -> dict[str, str]:
    tags = {
        "dataset": dataset.settings.name,
        "dataset_source": absolute(dataset.location),
        GPUS_TAG: f"{space.resources.gpu_share:g}",
        **environment_tags(),
    }
    return tags if dataset.missing() else {**tags, "dataset_hash": dataset.content_hash()}


def _params(space: Space) -> dict[str, object]:
    budget = space.budget.model_dump(exclude={"cost_per_hour"})
    if space.budget.cost_per_hour:
        budget["cost_per_hour"] = json.dumps(space.budget.cost_per_hour)  # MLflow takes no label of a node as a name
    params: dict[str, object] = {
        "mode": space.mode,
        "seed": space.seed,
        "metric": space.metric,
        "budget": budget,
        "fixed": fixed_values(space.training),
    }
    return {**params, "objectives": space.objectives()} if space.further_objectives else params
