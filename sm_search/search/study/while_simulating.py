"""A study on a dataset that another process still simulates: a trial waits for its own files, the driver for any."""

import time
from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import Scan
from sm_search.data.dataset import Dataset
from sm_search.search.driver_callback import DriverCallback

POLL_S = 2.0
STALLED_S = 900.0
"""The costliest file takes minutes, and so does a new node for a lost one: after longer without a file none comes."""
NAMED = 3


def wait_for(dataset: Dataset, scans: Sequence[Scan] | None = None) -> None:
    """Wait until the files of these scans, or of all, are simulated; it is for the driver to give up (`StallWatch`).

    Raises:
        DataError: the dataset was replaced.
    """
    while dataset.missing(scans):
        time.sleep(POLL_S)
        dataset.refresh()


class StallWatch(DriverCallback):
    """Ends a search whose dataset does not grow any more, and that would wait for ever."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._grown = self._read = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        now = time.monotonic()
        if now < self._read + POLL_S:
            return
        self._read, before = now, len(self.dataset.manifest.files)
        missing = self.dataset.missing()
        if not missing:
            return
        self.dataset.refresh()
        if len(self.dataset.manifest.files) > before:
            self._grown = now
        elif now > self._grown + STALLED_S:
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            raise DataError(
                f"{self.dataset.location}: no new file for {STALLED_S / 60:g} minutes; missing are "
                f"{', '.join(missing[:NAMED])}{more}, which `sm-search simulate` makes when it is run again"
            )
