"""What Optuna is told about each trial, and that the searcher continues where it was saved."""

import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import TrialScheduler

from sm_search.search.space.space import Space
from sm_search.search.study.asha import RememberingASHA
from sm_search.search.study.optuna_searcher import OptunaSearcher

FIRST = ({"learning_rate": 2e-3, "p_uncond": 0.25}, {"learning_rate": 4e-3})


def make_searcher(mode: str = "two-level") -> OptunaSearcher:
    prefix = "training." if mode == "joint" else ""
    return OptunaSearcher(
        Space(
            study="s",
            seed=5,
            mode=mode,
            training={
                "steps": 90,
                "learning_rate": {"float": [1e-3, 1e-2], "log": True},
                "p_uncond": {"float": [0.0, 0.5]},
            },
            schedule={"eta_max": {"float": [0.0, 1.0]}},
            initial_points=tuple({f"{prefix}{name}": value for name, value in point.items()} for point in FIRST),
            budget={"first_rung": 10, "reduction": 3},
        )
    )


def result(value: float, step: int) -> dict[str, Any]:
    return {"val_psnr_db": value, "training_step": step}


def asked(searcher: OptunaSearcher) -> list[FrozenTrial]:
    """Optuna's trials but for the given points that still wait."""
    return [trial for trial in searcher.trials() if trial.state != TrialState.WAITING]


def test_it_suggests_what_fits_and_one_more() -> None:
    fits = 2
    searcher = make_searcher()
    searcher.capacity = lambda: fits
    suggested = [searcher.suggest(name) for name in "abcd"]
    assert [point is not None for point in suggested] == [True, True, True, False]
    searcher.on_trial_complete("b", result(30.0, 90))
    assert searcher.suggest("e") is not None
    assert searcher.suggest("f") is None
    fits = 4
    assert [searcher.suggest(name) is not None for name in "ghi"] == [True, True, False]
    searcher.set_max_concurrency(6)
    assert [searcher.suggest(name) is not None for name in "jk"] == [True, False]


@pytest.mark.parametrize("mode", ["two-level", "joint"])
def test_the_given_points_are_tried_first(mode: str) -> None:
    searcher = make_searcher(mode)
    prefix = "training." if mode == "joint" else ""
    suggested = [searcher.suggest(name) for name in ("a", "b", "c")]
    assert suggested[0] is not None
    assert suggested[1] is not None
    assert {name: suggested[0][f"{prefix}{name}"] for name in FIRST[0]} == FIRST[0]
    assert suggested[1][f"{prefix}learning_rate"] == 4e-3
    assert 0 <= suggested[1][f"{prefix}p_uncond"] <= 0.5
    assert suggested[2] not in suggested[:2]
    assert ("schedule.eta_max" in suggested[0]) is (mode == "joint")


def test_each_ending_has_its_state() -> None:
    searcher = make_searcher()
    for name in ("full", "stopped", "nan", "error", "silent"):
        searcher.suggest(name)
    searcher.on_trial_result("full", result(10.0, 10))
    searcher.on_trial_result("full", result(20.0, 30))
    searcher.on_trial_complete("full", result(30.0, 90))
    searcher.on_trial_result("stopped", result(5.0, 10))
    searcher.on_trial_complete("stopped", result(6.0, 30))
    searcher.on_trial_complete("nan", result(math.nan, 0))
    searcher.on_trial_complete("error", error=True)
    searcher.on_trial_complete("silent", None)

    full, stopped, *others = searcher.trials()
    assert (full.state, full.value) == (TrialState.COMPLETE, 30.0)
    assert full.intermediate_values == {10: 10.0, 30: 20.0}
    assert stopped.state == TrialState.PRUNED
    assert stopped.intermediate_values == {10: 5.0, 30: 6.0}
    assert [trial.state for trial in others] == [TrialState.FAIL] * 3
    assert others[0].intermediate_values == {}


def test_a_result_that_is_told_twice_changes_nothing() -> None:
    searcher = make_searcher()
    searcher.suggest("a")
    searcher.on_trial_complete("a", result(30.0, 90))
    searcher.on_trial_complete("a", result(31.0, 90))
    searcher.on_trial_result("a", result(32.0, 90))
    assert [(trial.state, trial.value) for trial in asked(searcher)] == [(TrialState.COMPLETE, 30.0)]


def test_a_trial_that_failed_and_is_run_again_to_its_end_is_told_as_a_new_one() -> None:
    searcher = make_searcher()
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    searcher.on_trial_result("a", result(10.0, 10))
    searcher.on_trial_complete("a", result(30.0, 90))
    first, second = asked(searcher)
    assert (first.state, second.state, second.value) == (TrialState.FAIL, TrialState.COMPLETE, 30.0)
    assert second.params == first.params


def test_a_saved_searcher_continues_with_the_same_suggestions(tmp_path: Path) -> None:
    searcher = make_searcher()
    for number in range(8):
        searcher.suggest(str(number))
        searcher.on_trial_complete(str(number), result(10.0 + number, 90))
    searcher.suggest("running")
    searcher.save(str(tmp_path / "searcher"))
    copied = pickle.loads(pickle.dumps(searcher))
    restored = make_searcher()
    restored.restore(str(tmp_path / "searcher"))
    for name in ("x", "y", "z"):
        wanted = searcher.suggest(name)
        assert wanted is not None
        assert restored.suggest(name) == wanted
        assert copied.suggest(name) == wanted
    restored.on_trial_complete("running", result(1.0, 90))
    assert [trial.state.name for trial in restored.trials()].count("COMPLETE") == 9


def test_a_concurrency_limit_holds_and_survives_a_restore(tmp_path: Path) -> None:
    searcher = make_searcher()
    assert searcher.set_max_concurrency(2)
    assert [searcher.suggest(name) is None for name in ("a", "b", "c")] == [False, False, True]
    searcher.save(str(tmp_path / "searcher"))
    restored = make_searcher()
    restored.set_max_concurrency(2)
    restored.restore(str(tmp_path / "searcher"))
    assert restored.suggest("c") is None
    restored.on_trial_complete("a", result(30.0, 90))
    assert restored.suggest("c") is not None
    assert restored.suggest("d") is None


def make_asha() -> RememberingASHA:
    return RememberingASHA(
        time_attr="training_step", metric="m", mode="max", max_t=90, grace_period=10, reduction_factor=3
    )


def decision(scheduler: RememberingASHA, trial: Any, value: float, step: int) -> str:
    return scheduler.on_trial_result(None, trial, {"m": value, "training_step": step})


def test_a_resumed_asha_judges_by_what_was_reported_before() -> None:
    trials = [SimpleNamespace(trial_id=name) for name in "abcd"]
    lived, fresh, resumed = make_asha(), make_asha(), make_asha()
    for scheduler in (lived, fresh, resumed):
        for trial in trials:
            scheduler.on_trial_add(None, trial)
    told = [("a", 10, 5.0), ("b", 10, 6.0), ("c", 10, 7.0), ("a", 30, 6.0), ("c", 30, 9.0)]
    for name, step, value in told:
        decision(lived, trials["abcd".index(name)], value, step)
    resumed.remember(told, stopped="a")
    assert decision(lived, trials[3], 5.5, 10) == decision(resumed, trials[3], 5.5, 10) == TrialScheduler.STOP
    assert decision(fresh, trials[3], 5.5, 10) == TrialScheduler.CONTINUE
    assert decision(resumed, trials[0], 5.0, 10) == TrialScheduler.CONTINUE
    assert decision(resumed, trials[0], 6.0, 30) == TrialScheduler.STOP
    assert decision(lived, trials[1], 6.5, 30) == decision(resumed, trials[1], 6.5, 30) == TrialScheduler.STOP


@pytest.mark.parametrize("resumed", [True, False], ids=["driver", "worker"])
def test_a_trial_that_was_to_stop_when_its_driver_or_worker_died_stops_when_it_is_there_again(resumed: bool) -> None:
    """The stock class lets it pass: it has seen the report. The order of the reports decides, as it did."""

    told = [("a", 10, 4.0), ("b", 10, 6.0), ("a", 30, 5.0), ("c", 10, 5.0)]
    scheduler = make_asha()
    scheduler.remember(told)
    if resumed:
        scheduler = make_asha()
        scheduler.remember(told)
    a, b, c = (SimpleNamespace(trial_id=name) for name in "abc")

    assert decision(scheduler, c, 5.0, 10) == TrialScheduler.STOP
    assert decision(scheduler, a, 4.0, 10) == TrialScheduler.CONTINUE  # it was the first there, and went on
    assert decision(scheduler, b, 6.0, 10) == TrialScheduler.CONTINUE
