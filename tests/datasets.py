"""A small dataset, simulated here and now, without Ray."""

from collections.abc import Iterable
from pathlib import Path

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.data.dataset import FIELDS, Dataset, file_name, write_scan
from sm_search.physics.system_matrix import simulate


def simulated(settings: DatasetSettings, folder: Path, splits: Iterable[str] | None = None) -> Dataset:
    """The files of all splits, or of those named."""
    dataset = Dataset.create(folder, settings)
    for split in splits or settings.splits:
        for scan in settings.scans(split):
            for which in FIELDS:
                sm = simulate(settings, scan, which)
                sha = write_scan(dataset.folder, settings, dataset.manifest.created, scan, which, sm)
                dataset.record({file_name(scan, which): sha})
    return dataset
