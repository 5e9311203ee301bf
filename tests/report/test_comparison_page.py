"""Two studies on one page: which is ahead, by how much, when, and by which parameters."""

from pathlib import Path

import pytest

from sm_search.config.errors import InputError, TrackingError
from sm_search.report.comparison_page import comparison_page
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store
from tests.report.test_page import HOSTILE, Elements


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("home"))


def fill(store: Store, study: str, rows: list[tuple[str, float, float]], **parent: str) -> None:
    """A study of complete trials: name, value and learning rate each; they all train ten steps."""
    tags = {"dataset_hash": parent.get("dataset_hash", "d")}
    log = StudyLog.open(store, study, tags=tags, params={"metric": parent.get("metric", "val_psnr_db")})
    for trial_id, value, rate in rows:
        log.start_trial(trial_id, {"learning_rate": rate, "blocks": 4})
        log.log_metrics(trial_id, 10, {"val_psnr_db": value, "training_step": 10, "training_seconds": 2.0})
        log.finish_trial(trial_id, "complete")
    log.finish()


@pytest.fixture(scope="module")
def page(store: Store) -> Elements:
    fill(store, "old", [("a", 30.0, 1e-3), ("b", 31.0, 2e-3)])
    fill(store, "new", [("a", 31.5, 1e-2), ("b", 31.0, 4e-3), ("c", 33.0, 8e-3)])
    return Elements(comparison_page(store, ["old", "new"]))


def test_it_says_which_study_is_ahead_and_by_how_much(page: Elements) -> None:
    assert "new has the better best trial: val_psnr_db 33. old has 31, 2 less." in page.text
    assert "new had as much after " in page.text
    assert "different datasets" not in page.text


def test_it_sets_results_and_parameters_side_by_side(page: Elements) -> None:
    assert "best val_psnr_db3133" in page.text
    assert "training seconds in all46" in page.text
    assert "learning_rate0.002 [0.001 … 0.002]0.008 [0.004 … 0.01]" in page.text
    assert "blocks44" in page.text
    # Of the parameters only the learning rates differ.
    assert sum(dict(attributes).get("class") == "best" for name, attributes in page.elements if name == "tr") == 1


def test_what_a_study_spent_and_what_ended_it_and_a_best_that_cannot_win(store: Store, page: Elements) -> None:
    """A higher value outside of the constraints is ahead of nothing."""
    fill(store, "ended", [("a", 30.0, 1e-3), ("b", 30.5, 2e-3)])
    log = StudyLog.attach(store, "ended")
    log.set_tag(None, "ended", "val_psnr_db 30.5 reaches the target, 30.5")
    log.log_metrics(None, 2, {"spent_trial_hours": 0.25, "spent_cost": 1.0})
    fill(store, "outside", [("a", 40.0, 1e-3)])
    StudyLog.attach(store, "outside").set_tag("a", "infeasible", "evaluations 16, which must be <= 8")
    StudyLog.attach(store, "outside").log_metrics(None, 1, {"spent_trial_hours": 0.5})
    text = Elements(comparison_page(store, ["outside", "ended", "old"])).text
    assert "No trial of outside kept its constraints. old has the better best trial: val_psnr_db 31. ended has" in text
    assert "best val_psnr_db40 (infeasible)30.531" in text
    assert "of these infeasible1––" in text
    assert "its search ended because–val_psnr_db 30.5 reaches the target, 30.5–" in text
    assert "spent0.5 trial-hours0.25 trial-hours at a cost of 1–" in text
    assert "for its gain over its first trial–0.5 trial-hours at a cost of 2 per dB–" in text
    alone = Elements(comparison_page(store, ["outside", "ended"])).text
    assert "No trial of outside kept its constraints. ended has one that did: val_psnr_db 30.5." in alone
    assert "trial-hours" not in page.text


def test_what_cannot_be_compared_is_refused_and_other_data_named(store: Store, page: Elements) -> None:
    with pytest.raises(InputError, match="not with itself"):
        comparison_page(store, ["old", "old"])
    fill(store, "by-ssim", [], metric="val_ssim")
    with pytest.raises(InputError, match="old by val_psnr_db, by-ssim by val_ssim"):
        comparison_page(store, ["old", "by-ssim"])
    with pytest.raises(TrackingError, match="nowhere"):
        comparison_page(store, ["old", "nowhere"])
    fill(store, "elsewhere", [("a", 20.0, 1e-3)], dataset_hash="e")
    assert "They are of different datasets" in comparison_page(store, ["old", "elsewhere"])


def test_nothing_that_somebody_typed_is_executed(store: Store, page: Elements, tmp_path: Path) -> None:
    log = StudyLog.open(store, "hostile", params={"metric": "val_psnr_db"})
    log.start_trial("a", {"backbone": HOSTILE})
    log.log_metrics("a", 10, {"val_psnr_db": 30.0, "training_step": 10})
    log.finish_trial("a", "complete")
    elements = Elements(comparison_page(store, ["old", "hostile"])).elements
    assert not [name for name, _ in elements if name == "img"]
    assert [name for name, _ in elements].count("script") == [name for name, _ in page.elements].count("script")
