"""What the page shows of a study with several objectives, seeds and enough trials to compare parameters."""

import json
from pathlib import Path

import pytest

from sm_search.report.page import study_page
from sm_search.report.study_figures import evaluations_figure, front_figure, trial_costs
from sm_search.search.space.space import Space
from sm_search.search.study.importance import parameter_importance
from sm_search.tracking.names import FRONT_FILE
from sm_search.tracking.records import read_study_text, study_runs
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store

TRAINING = {"steps": 30, "learning_rate": {"float": [1e-4, 1e-1], "log": True}, "p_uncond": {"float": [0.0, 0.5]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Ten trials whose PSNR comes from the learning rate alone; 8 and 9 are on the front, 9 has two more seeds."""
    store = open_store(tmp_path_factory.mktemp("home"))
    space = Space(study="s", training=TRAINING, beside=("evaluations",), budget={"first_rung": 10})
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


def test_the_parameter_that_decides_is_the_most_important(store: Store) -> None:
    shares = parameter_importance(store, "s")
    assert list(shares) == ["learning_rate", "p_uncond"]
    assert shares["learning_rate"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)


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
