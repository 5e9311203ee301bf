"""Later trials begin with what earlier ones found."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sm_search.config.model_settings import ScheduleSettings
from sm_search.search.schedule.good_schedules import (
    FILE,
    REPORTED,
    TRIED_FIRST,
    GoodSchedules,
    best_of,
    good_schedules,
)
from sm_search.search.schedule.race import ScheduleTrial


def trial(name: str, value: float, *etas: float, finished: bool = True) -> Any:
    last = {"val_psnr_db": value, REPORTED: [{"eta_max": eta} for eta in etas]}
    return SimpleNamespace(trial_id=name, last_result=last, is_finished=lambda: finished)


def known(folder: Path) -> list[float]:
    return [params["eta_max"] for params in good_schedules(str(folder), "val_psnr_db")]


def tried(eta: float, value: float | None, *, asked: bool = True) -> ScheduleTrial:
    params = {"eta_max": eta} if asked else {}
    return ScheduleTrial(params, ScheduleSettings(eta_max=eta), "complete", 4, 8, {}, value, value)


def test_the_best_of_each_trial_come_first_each_once_and_not_too_many(tmp_path: Path) -> None:
    assert known(tmp_path) == []
    callback = GoodSchedules(str(tmp_path), "val_psnr_db")
    for each in (trial("b", 31.0, 0.3, 0.2, 0.4), trial("a", 30.0, 0.2, 0.1)):
        callback.on_trial_complete(1, [], each)
    assert known(tmp_path) == [0.3, 0.2, 0.1]
    callback.on_trial_complete(1, [], trial("c", 32.0, 0.5))
    assert known(tmp_path) == [0.5, 0.3, 0.2]
    for number in range(20):
        callback.on_trial_complete(1, [], trial(str(number), 33.0 + number, 1.0 + number, 2.0 + number))
    assert known(tmp_path) == [20.0 - number for number in range(TRIED_FIRST)]
    assert len(json.loads((tmp_path / FILE).read_text())) == TRIED_FIRST


def test_a_resumed_study_keeps_what_was_known_and_adds_what_its_dead_driver_could_not(tmp_path: Path) -> None:
    GoodSchedules(str(tmp_path), "val_psnr_db").on_trial_complete(1, [], trial("a", 30.0, 0.1))
    again = GoodSchedules(str(tmp_path), "val_psnr_db")
    trials = [trial("b", 31.0, 0.2), trial("c", 33.0, 0.3, finished=False)]
    again.on_trial_start(1, trials, trials[1])
    assert known(tmp_path) == [0.2, 0.1]


def test_trials_without_a_schedule_of_their_own_leave_nothing(tmp_path: Path) -> None:
    callback = GoodSchedules(str(tmp_path), "val_psnr_db")
    callback.on_trial_complete(1, [], trial("joint", 30.0))
    callback.on_trial_complete(1, [], SimpleNamespace(trial_id="failed", last_result=None))
    assert not list(tmp_path.iterdir())


def test_a_storage_that_fails_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "study")
    GoodSchedules(place, "val_psnr_db").on_trial_complete(1, [], trial("a", 30.0, 0.1))
    assert good_schedules(place, "val_psnr_db") == []
    (tmp_path / FILE).write_text("{")
    assert known(tmp_path) == []


def test_of_a_search_the_best_are_told_but_not_what_every_search_tries_anyway() -> None:
    values = [30.0, 33.0, 31.0, None, 32.0, 29.0, 28.0]
    searched = [tried(n / 10, value) for n, value in enumerate(values)]
    told = best_of([tried(0.9, 40.0, asked=False), *searched], "val_psnr_db")
    assert told == [{"eta_max": n / 10} for n in (1, 4, 2)]
    assert best_of(searched, "val_nrmse") == [{"eta_max": n / 10} for n in (6, 5, 0)]
    assert len(told) == TRIED_FIRST
