"""What the page shows of a study with several objectives, seeds and enough trials to compare parameters."""

import json
from pathlib import Path

import numpy as np
import pytest

from sm_search.report.page import study_page
from sm_search.report.study_figures import evaluations_figure, front_figure, trial_costs
from sm_search.search.space.space import Space
from sm_search.search.study.importance import MOST_CHANCE, best_ordering, parameter_importance
from sm_search.tracking.names import FRONT_FILE
from sm_search.tracking.records import read_study_text, study_runs
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store

TRAINING = {"steps": 30, "learning_rate": {"float": [1e-4, 1e-1], "log": True}, "p_uncond": {"float": [0.0, 0.5]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Ten trials whose PSNR comes from the learning rate alone; 8 and 9 are on the front, 9 has two more seeds."""
    store = open_store(tmp_path_factory.mktemp("home"))
    space = Space(study="s", training=TRAINING, further_objectives=("evaluations",), budget={"first_rung": 10})
    params = {"metric": space.metric, "objectives": space.objectives()}
    log = StudyLog.open(store, "s", tags={"dataset_hash": "d"}, params=params)
    log.log_text(None, space.model_dump_json(), "space.json")
    for number in range(10):
        name = f"t{number}"
        log.start_trial(name, {"learning_rate": 10 ** (-4 + number / 3), "p_uncond": 0.05 * (number * 7 % 10)})
        for step in (10, 30):
            seconds = {"training_seconds": 2.0 * step, "validation_seconds": 1.0}
            told = {"val_psnr_db": 20.0 + number + step / 100, "evaluations": float(number), "training_step": step}
            log.log_metrics(name, step, {**told, **seconds})
        log.finish_trial(name, "complete")
    for seed, value in enumerate([29.3, 28.3, 30.3]):
        log.log_metrics("t9", seed, {"seed_val_psnr_db": value})
    log.log_metrics("t9", 3, {"val_psnr_db_mean": 29.3, "val_psnr_db_std": 1.0, "seeds": 3})
    points = [
        {"trial_id": f"t{n}", "objectives": {"val_psnr_db": 20.3 + n, "evaluations": n}, "on_front": n > 7}
        for n in range(10)
    ]
    log.log_text(None, json.dumps(points), FRONT_FILE)
    log.finish()
    return store


def _finished(store: Store, study: str, trials: list[tuple[dict[str, float], float]]) -> str:
    """A study that searched these parameters, with trials of these parameters and metrics."""
    scans = {"scans": {"choice": [4, 5, 6, 8, 11]}} if "scans" in trials[0][0] else {}
    space = Space(study=study, training={**TRAINING, **scans}, budget={"first_rung": 10})
    log = StudyLog.open(store, study, tags={"dataset_hash": "d"}, params={"metric": space.metric})
    log.log_text(None, space.model_dump_json(), "space.json")
    for number, (params, value) in enumerate(trials):
        log.start_trial(f"t{number}", params)
        log.log_metrics(f"t{number}", 30, {"val_psnr_db": value, "training_step": 30})
        log.finish_trial(f"t{number}", "complete")
    log.finish()
    return study


def test_the_parameter_that_decides_is_the_most_important(store: Store) -> None:
    importance = parameter_importance(store, "s")
    assert importance is not None
    assert importance.first == "learning_rate"
    assert list(importance.shares) == ["learning_rate", "p_uncond"]
    assert 0.5 < importance.shares["learning_rate"] <= sum(importance.shares.values()) <= 1
    assert "Among these, learning_rate explains most of the differences (" in study_page(store, "s", "val_psnr_db")


def test_nine_trials_name_the_parameter_that_the_metric_follows(store: Store) -> None:
    """PED-ANOVA names `learning_rate` here (77 %); the metric is that of the number of training scans."""
    psnr_db = {4: 45.0, 5: 53.0, 6: 53.2, 8: 58.3, 11: 60.6}
    scans = [4, 4, 5, 6, 8, 8, 8, 11, 11]
    rates = [9.6e-3, 4e-4, 2.9e-3, 1.1e-3, 6e-4, 3.8e-3, 1.3e-3, 2.1e-3, 1.7e-3]
    trials = [
        ({"scans": n, "learning_rate": rate, "p_uncond": 0.02 * (7 * i % 9)}, psnr_db[n] + 0.02 * (5 * i % 9))
        for i, (n, rate) in enumerate(zip(scans, rates, strict=True))
    ]
    importance = parameter_importance(store, _finished(store, "nine", trials))
    assert importance is not None
    assert importance.first == "scans"
    assert importance.shares["scans"] > 0.5


def test_trials_that_follow_nothing_are_too_few_to_say(store: Store) -> None:
    generator = np.random.default_rng(3)
    trials = [
        ({"learning_rate": 10 ** generator.uniform(-4, -1), "p_uncond": generator.uniform(0, 0.5)}, generator.normal())
        for _ in range(9)
    ]
    study = _finished(store, "nothing", trials)
    importance = parameter_importance(store, study)
    assert importance is not None
    assert importance.first is None
    page = study_page(store, study, "val_psnr_db")
    assert "9 trials are too few to say which parameter made the difference." in page
    assert "explains" not in page


def test_of_metrics_that_follow_nothing_one_in_twenty_is_ascribed_to_a_parameter() -> None:
    generator = np.random.default_rng(0)
    chances = []
    for _ in range(100):
        named = generator.choice(["a", "b", "c", "d"], 12).tolist()
        columns = {"number": generator.uniform(size=12).tolist(), "few": [0, 1, 2] * 4, "named": named}
        chances.append(best_ordering(columns, generator.normal(size=12).tolist())[1])
    assert sum(chance <= MOST_CHANCE for chance in chances) <= 11  # 99 % of binomial (100, 0.05)
    assert np.median(chances) == pytest.approx(0.5, abs=0.15)


def test_an_optimum_in_the_middle_orders_trials() -> None:
    rate = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    other = [3, 1, 2, 2, 3, 1, 1, 3, 2]
    name, chance = best_ordering({"other": other, "rate": rate}, [-((each - 4.2) ** 2) for each in rate])
    assert name == "rate"
    assert chance < 0.01


def test_costs_are_summed_over_the_rungs(store: Store) -> None:
    _, trials = study_runs(store, "s")
    assert set(map(tuple, (each.items() for each in trial_costs(store, trials).values()))) == {
        (("training_seconds", 80.0), ("validation_seconds", 2.0))
    }


def test_the_front_is_drawn_apart(store: Store) -> None:
    points = json.loads(read_study_text(store, "s", FRONT_FILE))
    beaten, front = front_figure(points, "val_psnr_db", "evaluations").data
    assert list(front.text) == ["t8", "t9"]
    assert len(beaten.text) == 8


def test_the_page_has_a_section_for_each(store: Store, tmp_path: Path) -> None:
    page = study_page(store, "s", "val_psnr_db")
    assert "Best: trial t9 with val_psnr_db = 29.3 (29.3 ± 1 over 3 seeds) on the validation split" in page
    for words in ("The best with other seeds", "29.3, 28.3, 30.3", "29.3 ± 1", "Pareto front", "Importance", "Cost"):
        assert words in page, words


def test_schedules_are_shown_by_their_evaluations() -> None:
    def tried(evaluations: int, value: float | None) -> dict[str, object]:
        return {"schedule": {}, "evaluations": evaluations, "value": value}

    figure = evaluations_figure([tried(4, 30.0), tried(1, 29.0), tried(16, 29.5), tried(8, None), tried(4, 28.0)], "m")
    assert figure is not None
    every, front = figure.data
    assert (list(every.x), list(front.x), list(front.y)) == (["1", "4", "4", "16"], ["1", "4"], [29.0, 30.0])
    assert evaluations_figure([tried(4, 30.0), tried(4, 31.0)], "m") is None
