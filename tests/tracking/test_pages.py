"""MLflow's pages in a real browser: what a newcomer sees of a finished study."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from sm_search.tracking.records import find_trials, study_runs
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store
from tests.tracking.servers import mlflow_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
]
PIXELS = (317, 211)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one finished study of three trials."""
    store = open_store(tmp_path_factory.mktemp("pages"))
    folder = tmp_path_factory.mktemp("figures")
    Image.effect_noise(PIXELS, 60).save(folder / "comparison.png")
    tags = {"dataset": "paper-54", "dataset_hash": "0123456789abcdef" * 4}
    log = StudyLog.open(store, "first-study", tags=tags, params={"metric": "val_psnr_db", "budget": {"trials": 3}})
    for index, state in enumerate(("complete", "complete", "pruned")):
        trial = f"trial-{index}"
        log.start_trial(trial, {"learning_rate": 0.001 * (1 + index), "width": 384}, {"backbone": "unet"})
        for step in (500, 1000)[: 1 if state == "pruned" else 2]:
            log.log_metrics(trial, step, {"val_psnr_db": 30.5 + index + step / 1000, "val_ssim": 0.9, "loss": 1 / step})
        log.finish_trial(trial, state)  # type: ignore[arg-type]
    log.log_file(None, folder / "comparison.png")
    log.finish()
    return store


@pytest.fixture(scope="module")
def page(lab: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert lab.artifact_root is not None
    with (
        mlflow_server(tmp_path_factory.mktemp("server"), lab.uri, lab.artifact_root) as address,
        sync_playwright() as browsers,
    ):
        browser = browsers.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        page = browser.new_page(base_url=address, viewport={"width": 1700, "height": 1100})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def visible(page: Any, text: str) -> None:
    page.get_by_text(text, exact=False).first.wait_for(state="visible")


def test_the_table_of_runs_shows_study_dataset_and_trials(page: Any, lab: Store) -> None:
    experiment = lab.client.get_experiment_by_name("sm_search")
    page.goto(f"/#/experiments/{experiment.experiment_id}/runs")
    visible(page, "first-study")
    visible(page, "paper-54 (0123456789ab)")
    visible(page, "4 matching runs")
    assert page.get_by_text("trial-0").count() == 0, "trials are folded below their study"


def test_the_view_of_the_best_shows_the_metric_of_every_trial_best_first(page: Any, lab: Store) -> None:
    experiment = lab.client.get_experiment_by_name("sm_search")
    page.goto(f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=best")
    visible(page, "val_psnr_db")
    visible(page, "val_ssim")
    values = [page.get_by_text(text, exact=True).first for text in ("32.5", "31.5")]
    for value in values:
        value.wait_for(state="visible")
    better, worse = (value.bounding_box()["y"] for value in values)
    assert better < worse


def test_the_page_of_a_study_says_what_it_is_and_which_trial_won(page: Any, lab: Store) -> None:
    parent, _ = study_runs(lab, "first-study")
    page.goto(f"/#/experiments/1/runs/{parent.run_id}")
    visible(page, "Search for the largest")
    page.get_by_text("Show more").first.click()
    visible(page, "How to read it")
    best = page.locator("table tr", has_text="trial-1").first
    assert "32.5" in best.inner_text()
    visible(page, "budget.trials")


def test_the_compare_page_plots_parameters_against_the_metric(page: Any, lab: Store) -> None:
    parent, _ = study_runs(lab, "first-study")
    runs = json.dumps([trial.run_id for trial in find_trials(lab, parent)])
    page.goto(f"/#/compare-runs?runs={quote(runs)}&experiments={quote(json.dumps(['1']))}")
    visible(page, "Comparing 3 Runs")
    visible(page, "Parallel Coordinates Plot")
    for name in ("learning_rate", "val_psnr_db", "trial-2"):
        visible(page, name)


def test_a_figure_opens_in_the_artifact_view(page: Any, lab: Store, tmp_path: Path) -> None:
    parent, _ = study_runs(lab, "first-study")
    page.goto(f"/#/experiments/1/runs/{parent.run_id}/artifacts/comparison.png")
    page.wait_for_function(
        "pixels => [...document.images].some(i => i.naturalWidth === pixels[0] && i.naturalHeight === pixels[1])",
        arg=list(PIXELS),
    )
