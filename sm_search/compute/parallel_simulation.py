"""Simulating a dataset in parallel: one Ray task per file, bounded in flight, retried, resumable."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import ray

from sm_search.compute.nodes import require_shared
from sm_search.compute.tasks import bounded, tasks_at_once
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.simulation_settings import FieldName, Scan
from sm_search.data.dataset import Dataset, FileHashes, file_name, write_scan
from sm_search.data.storage import absolute

Progress = Callable[[int, int, str], None]
"""Called with files done, files in all, and the file that was finished."""


@ray.remote(max_retries=3, retry_exceptions=[OSError])
def _simulate_file(
    folder: str, settings_json: str, created: str, scan_json: str, which: FieldName
) -> tuple[str, FileHashes]:
    """Simulate and write one file; its name in the dataset and its hashes."""
    from sm_search.physics.system_matrix import simulate

    settings = DatasetSettings.model_validate_json(settings_json)
    scan = Scan.model_validate_json(scan_json)
    sm = simulate(settings, scan, which)
    return file_name(scan, which), write_scan(folder, settings, created, scan, which, sm)


def turn(settings: DatasetSettings) -> Callable[[tuple[Scan, FieldName]], tuple[float, ...]]:
    """Sort key: what a sweep waits for comes first, validation and then the training scans as `training.scans` takes
    them; of equal turn the costly ones, so that no worker is left alone with a long one at the end.
    """
    turns = {scan.id: turn for turn, scan in enumerate(settings.spread("train"), 1)}
    turns |= {scan.id: 0 for scan in settings.scans("validation")}

    def key(item: tuple[Scan, FieldName]) -> tuple[float, ...]:
        scan, which = item
        return turns.get(scan.id, len(turns) + 1), which != "high", -(scan.core_diameter_nm or 0.0), -scan.nd

    return key


def simulate_dataset(
    folder: str | Path,
    settings: DatasetSettings,
    progress: Progress | None = None,
    labels: Mapping[str, str] | None = None,
) -> Dataset:
    """Simulate every missing file of a dataset on the running Ray session.

    An interrupted call resumes: files whose hash is in the manifest are kept, all others are made again.

    Args:
        labels: only nodes with these Ray labels simulate.

    Raises:
        DataError: the folder holds another dataset or cannot be written.
        InputError: a node of the session does not see the folder.
    """
    dataset = Dataset.create(folder, settings)
    require_shared("--out", dataset.location)
    todo = dataset.unfinished()
    todo.sort(key=turn(settings))
    simulate_file = _simulate_file.options(label_selector=dict(labels or {}))
    # By value: what a driver has in Ray's store ends it without a word when the store's node leaves.
    settings_json, created = settings.model_dump_json(), dataset.manifest.created
    calls = [
        partial(simulate_file.remote, absolute(dataset.location), settings_json, created, scan.model_dump_json(), which)
        for scan, which in todo
    ]
    try:
        with bounded(calls, tasks_at_once()) as results:
            for done, (_, (name, hashes)) in enumerate(results, 1):
                dataset.record({name: hashes})
                if progress is not None:
                    progress(done, len(todo), name)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return dataset
