"""What a search learns from earlier studies in a real store, and that it trains nothing twice."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sm_search.config.errors import TrackingError
from sm_search.search.space.space import Space
from sm_search.search.study.optuna_searcher import OptunaSearcher
from sm_search.search.study.warm_start import earlier_trials
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store

TRAINING = {
    "steps": 90,
    "learning_rate": {"float": [1e-3, 1e-2], "log": True},
    "blocks_of": {"choice": ["few", "many"]},
    "batch_size": {"int": [8, 64]},
}


def space(study: str, **changes: Any) -> Space:
    values: dict[str, Any] = {"study": study, "training": TRAINING, "budget": {"first_rung": 10, "reduction": 3}}
    return Space(**{**values, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = open_store(tmp_path_factory.mktemp("home"))
    for study, seed in (("early", 1), ("again", 2)):
        of = space(study, seed=seed)
        log = StudyLog.open(store, study, tags={"dataset_hash": "d"}, params={"metric": "val_psnr_db"})
        log.log_text(None, of.model_dump_json(), "space.json")
        rows = [
            ("a", 2e-3, "few", 8, [(10, 20.0), (30, 25.0), (90, 30.0)], "complete"),
            ("b", 3e-3, "many", 16, [(10, 15.0)], "pruned"),
            ("c", 4e-3, "many", 24, [], "failed"),
            ("d", 5e-3, "many", 32, [(10, 21.0), (30, 26.0), (90, 31.0 + seed)], "complete"),
        ]
        if study == "again":  # `a` once more, `b` to its end, and `d` with another rate
            rows[1] = ("b", 3e-3, "many", 16, [(10, 15.0), (30, 16.0), (90, 17.0)], "complete")
            rows[3] = ("d", 6e-3, *rows[3][2:])
        for name, rate, blocks, batch, points, state in rows:
            trial = f"{study}-{name}"
            log.start_trial(trial, {"learning_rate": rate, "blocks_of": blocks, "batch_size": batch})
            for step, value in points:
                log.log_metrics(trial, step, {"val_psnr_db": value, "evaluations": 4.0, "training_step": step})
            log.finish_trial(trial, state)  # type: ignore[arg-type]
        log.finish()
    return store


def test_finished_trials_of_the_same_question_are_observations_each_once(store: Store) -> None:
    known = earlier_trials(store, space("new", seed=7), ["d"], ["early", "again"])
    assert known.initial_points == ()
    told = {seen.params["learning_rate"]: (seen.values, seen.reports) for seen in known.observations}
    assert told == {
        2e-3: ((30.0,), ((10, 20.0), (30, 25.0), (90, 30.0))),
        3e-3: ((17.0,), ((10, 15.0), (30, 16.0), (90, 17.0))),
        5e-3: ((32.0,), ((10, 21.0), (30, 26.0), (90, 32.0))),
        6e-3: ((33.0,), ((10, 21.0), (30, 26.0), (90, 33.0))),
    }
    searcher = OptunaSearcher(space("new", seed=7), known)
    assert [trial.state for trial in searcher.trials()] == [TrialState.COMPLETE] * 4
    assert searcher.suggest("x") is not None


def test_a_stopped_trial_is_observed_as_stopped(store: Store) -> None:
    known = earlier_trials(store, space("new"), ["d"], ["early"])
    states = {t.params["learning_rate"]: t.state for t in OptunaSearcher(space("new"), known).trials()}
    assert states == {2e-3: TrialState.COMPLETE, 3e-3: TrialState.PRUNED, 5e-3: TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("changes", "dataset", "initial_points"),
    [
        ({}, "other", [(5e-3, "many", 32), (2e-3, "few", 8)]),
        ({"training": {**TRAINING, "steps": 180}}, "d", [(5e-3, "many", 32), (2e-3, "few", 8)]),
        ({"training": {**TRAINING, "batch_size": {"int": [16, 64]}}}, "d", [(5e-3, "many", 32), (2e-3, "few", None)]),
        ({"further_objectives": ("evaluations",)}, "d", [(5e-3, "many", 32), (2e-3, "few", 8)]),
    ],
)
def test_the_best_trials_of_another_question_are_tried_first(
    store: Store, changes: dict[str, Any], dataset: str, initial_points: list[Any]
) -> None:
    new = space("new", **changes)
    known = earlier_trials(store, new, [dataset], ["early"])
    assert known.observations == ()
    found = [
        tuple(point.get(name) for name in ("learning_rate", "blocks_of", "batch_size"))
        for point in known.initial_points
    ]
    assert found == initial_points
    suggested = OptunaSearcher(new, known).suggest("x")
    assert isinstance(suggested, dict)
    assert (suggested["learning_rate"], suggested["blocks_of"]) == initial_points[0][:2]


def test_an_earlier_study_that_does_not_exist_is_named(store: Store) -> None:
    with pytest.raises(TrackingError, match=r"study 'none': not in .*; it has again, early"):
        earlier_trials(store, space("new"), ["d"], ["none"])


def small(**changes: Any) -> Space:
    training = {"steps": 90, "batch_size": {"choice": [8, 16]}, "mean": {"choice": ["none", "kernel-ridge"]}}
    return space("small", training=training, **changes)


def full(value: float) -> dict[str, Any]:
    return {"val_psnr_db": value, "training_step": 90, "evaluations": 4}


def test_no_point_is_trained_twice_and_a_repeat_is_told_the_value_of_the_first() -> None:
    searcher = OptunaSearcher(small())
    seen = []
    for number in range(4):
        suggested = searcher.suggest(str(number))
        assert isinstance(suggested, dict)
        seen.append(tuple(sorted(suggested.items())))
        searcher.on_trial_complete(str(number), full(10.0 + number))
    assert len(set(seen)) == 4
    assert searcher.suggest("more") == Searcher.FINISHED
    assert searcher.repeated >= 100
    value = {tuple(sorted(trial.params.items())): {trial.value} for trial in searcher.trials()}
    for trial in searcher.trials():
        assert trial.state == TrialState.COMPLETE
        value[tuple(sorted(trial.params.items()))].add(trial.value)
    assert {params: len(values) for params, values in value.items()} == dict.fromkeys(seen, 1)


def test_the_repeat_of_a_running_trial_waits_for_its_value() -> None:
    searcher = OptunaSearcher(
        small(initial_points=({"batch_size": 8, "mean": "none"}, {"batch_size": 8, "mean": "none"}))
    )
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first == {"batch_size": 8, "mean": "none"}
    assert second != first
    assert searcher.repeated == 1
    states = [trial.state for trial in searcher.trials() if trial.params == first]
    assert states == [TrialState.RUNNING] * 2
    searcher.on_trial_result("a", {"val_psnr_db": 5.0, "training_step": 10})
    searcher.on_trial_complete("a", {"val_psnr_db": 6.0, "training_step": 30})
    told = [(t.state, t.intermediate_values) for t in searcher.trials() if t.params == first]
    assert told == [(TrialState.PRUNED, {10: 5.0, 30: 6.0})] * 2


def test_several_objectives_reach_optuna_with_their_directions() -> None:
    searcher = OptunaSearcher(small(further_objectives=("evaluations",)))
    for number, (value, state) in enumerate([(30.0, 90), (20.0, 30)]):
        searcher.suggest(str(number))
        searcher.on_trial_result(str(number), {"val_psnr_db": 1.0, "training_step": 10, "evaluations": 4})
        searcher.on_trial_complete(str(number), {"val_psnr_db": value, "training_step": state, "evaluations": 4})
    searcher.suggest("nan")
    searcher.on_trial_complete("nan", {"val_psnr_db": float("nan"), "training_step": 0, "evaluations": float("nan")})
    complete, pruned, failed = searcher.trials()[:3]
    assert (complete.state, complete.values) == (TrialState.COMPLETE, [30.0, 4.0])
    assert (pruned.state, failed.state) == (TrialState.PRUNED, TrialState.FAIL)
    assert [d.name for d in searcher.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert isinstance(searcher.suggest("next"), dict)


def test_the_store_is_not_needed_without_earlier_studies(tmp_path: Path) -> None:
    assert earlier_trials(open_store(tmp_path), space("new"), ["d"], []).observations == ()
