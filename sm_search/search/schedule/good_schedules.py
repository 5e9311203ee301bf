"""The best schedules of a study's finished trials, which are initial points of the inner search in its later ones.

The driver alone writes them, beside the study's other files, and a trial reads them when its inner search begins.
Without them a search only begins anew, so a storage that fails here stops nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from ray.tune.experiment import Trial

from sm_search.config.errors import DataError
from sm_search.data.storage import Place
from sm_search.evaluation.scores import sign
from sm_search.search.driver_callback import DriverCallback
from sm_search.search.schedule.race import ScheduleTrial

FILE = "good_schedules.json"
REPORTED = "good_schedules"
"""Key of a trial's last report under which its best schedules are, as parameters."""
TRIED_FIRST = 3
"""With more of them a search explores too little (docs/search-results.md)."""

Params = Mapping[str, Any]


def best_of(tried: Sequence[ScheduleTrial], metric: str) -> list[Params]:
    """The parameters of a search's best schedules, the best first; without those that each search tries anyway."""
    known = [(-sign(metric) * t.value, t.params) for t in tried if t.params and t.value is not None]
    return [params for _, params in sorted(known, key=lambda each: each[0])[:TRIED_FIRST]]


def good_schedules(place: str, metric: str) -> list[Params]:
    """What to try first in a study with its files at `place`: the best trial's best, the second trial's best, …"""
    ranked = sorted(_read(Place(place)).values(), key=lambda trial: -sign(metric) * trial[0])
    return initial_schedules(schedules for _, schedules in ranked)


def initial_schedules(ranked: Iterable[Sequence[Params]]) -> list[Params]:
    """What to try first, given each trial's best schedules, those of the best trial first."""
    rows = zip_longest(*ranked)
    distinct = {json.dumps(params, sort_keys=True): params for row in rows for params in row if params is not None}
    return list(distinct.values())[:TRIED_FIRST]


class GoodSchedules(DriverCallback):
    """Keeps what the trials report at the full budget: what was kept before, and what Tune knows of them."""

    def __init__(self, place: str, metric: str) -> None:
        self.place, self.metric = Place(place), metric
        self._best: dict[str, Any] | None = None

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._best is None:
            # A resumed study may know finished trials that its dead driver had no time to keep.
            self._keep([other for other in trials if other.is_finished()])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._keep([trial])

    def _keep(self, ended: Sequence[Trial]) -> None:
        results = {trial.trial_id: trial.last_result or {} for trial in ended}
        new = {name: [last[self.metric], last[REPORTED]] for name, last in results.items() if last.get(REPORTED)}
        before = _read(self.place) if self._best is None else self._best
        ranked = sorted((before | new).items(), key=lambda item: -sign(self.metric) * item[1][0])
        self._best = dict(ranked[:TRIED_FIRST])
        if self._best != before:
            with suppress(OSError, DataError):
                self.place.write(FILE, json.dumps(self._best))


def _read(place: Place) -> dict[str, Any]:
    """By trial: its value, and its best schedules."""
    with suppress(OSError, DataError, ValueError):
        stored: dict[str, Any] = json.loads(place.read(FILE))
        return stored
    return {}
