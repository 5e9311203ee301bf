"""Studies that learn from others, have several objectives, and confirm their winners, on real Ray and MLflow."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from sm_search.data.dataset import Dataset, file_name
from sm_search.data.mdf_reading import read_mdf
from sm_search.tracking.names import FRONT_FILE
from sm_search.tracking.records import best_trials, metric_history, read_study_text, study_runs
from sm_search.tracking.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_cpus")]


SPACE = """
study: first
seed: 4
metric: [val_psnr_db, evaluations]
training:
  steps: 40
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {choice: [1.0e-3, 3.0e-3]}
  p_uncond: {choice: [0.0, 0.2]}
schedule:
  steps: {choice: [1, 2, 4]}
first:
  - {learning_rate: 3.0e-3, p_uncond: 0.2}
budget: {trials: 3, first_rung: 20, reduction: 2, schedules: 3, images: 4, confirm: {best: 2, seeds: 2}}
resources: {concurrent: 1}
"""

TAUGHT_SPACE = """
study: taught
training:
  steps: 40
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}, gamma: {float: [0.5, 3.0]}}
constraints: {val_image_psnr_db: ">= 1"}
budget: {trials: 3, first_rung: 40, schedules: 6, images: 4}
resources: {concurrent: 1}
"""


def test_two_studies_of_which_the_second_learns_from_the_first(run: Any, tiny_dataset: Dataset, tmp_path: Path) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "home"
    space.write_text(SPACE)
    arguments = ("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json")
    told = run(*arguments)
    assert told.status == 0, told.stderr
    store = open_store(home)
    parent, runs = study_runs(store, "first")
    assert {run.status for run in (parent, *runs)} == {"FINISHED"}
    assert len(runs) == len(told.object["trials"]) == 3
    params = [tuple(trial["params"].values()) for trial in told.object["trials"]]
    assert len(set(params)) == 3

    complete = [run for run in runs if run.state == "complete"]
    assert {run.trial_id for run in complete if run.metrics["on_front"]} == {
        point["trial_id"] for point in told.object["front"]
    }
    points = json.loads(read_study_text(store, "first", FRONT_FILE))
    assert len(points) > len(complete)
    for trial in complete:
        own = [point["objectives"] for point in points if point["trial_id"] == trial.trial_id]
        assert {name: trial.metrics[name] for name in ("val_psnr_db", "evaluations")} in own
    confirmed = [run for run in complete if "val_psnr_db_mean" in run.metrics]
    assert len(confirmed) == min(2, len(complete))
    for trial in confirmed:
        values = [value for _, value in metric_history(store, trial.run_id, "seed_val_psnr_db")]
        assert len(set(values)) == 3
        assert values[0] == trial.metrics["val_psnr_db"]
        assert trial.metrics["val_psnr_db_mean"] == pytest.approx(statistics.fmean(values))
        assert trial.metrics["val_psnr_db_std"] == pytest.approx(statistics.stdev(values))
    best = max(confirmed, key=lambda run: run.metrics["val_psnr_db_mean"])
    assert told.object["trials"][0]["trial_id"] == best.trial_id
    assert best_trials(store, "first", "val_psnr_db")[0].run_id == best.run_id
    page = Path(store.client.download_artifacts(parent.run_id, "report.html", str(tmp_path))).read_text()
    assert "The best with other seeds" in page
    assert "Pareto front" in page

    again = run(*arguments, "--resume")
    assert again.status == 0, again.stderr
    assert again.object["trials"] == told.object["trials"]
    for trial in confirmed:
        assert len(metric_history(store, trial.run_id, "seed_val_psnr_db")) == 3

    space.write_text(SPACE.replace("study: first", "study: second").replace(", confirm: {best: 2, seeds: 2}", ""))
    second = run(*arguments, "--warm-start", "first")
    assert second.status == 0, second.stderr
    assert "warm start from first: 3 finished trials as observations, 0 as initial points" in second.stderr
    # Of four points three are known: one is left, and it is the only one that is trained.
    fresh = [tuple(trial["params"].values()) for trial in second.object["trials"]]
    assert len(fresh) == 1
    assert not set(fresh) & set(params)
    assert second.object["repeated"] > 0


def test_each_trial_begins_with_the_best_schedule_before_it(run: Any, tiny_dataset: Dataset, tmp_path: Path) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "home"
    space.write_text(TAUGHT_SPACE)
    told = run("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json")
    assert told.status == 0, told.stderr
    store = open_store(home)
    found: list[tuple[float, Any]] = []
    for number, trial in enumerate(sorted(study_runs(store, "taught")[1], key=lambda trial: trial.started_ms)):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = store.client.download_artifacts(trial.run_id, "schedules.json", str(folder))
        # The one of the early rungs stands first, and the best of the six without noise may stand last.
        asked = json.loads(Path(file).read_text())[1:7]
        if found:
            assert asked[0]["schedule"] == max(found, key=lambda known: known[0])[1]
        best = max((each for each in asked if each["value"] is not None), key=lambda each: each["value"])
        found.append((trial.metrics["val_psnr_db"], best["schedule"]))
        assert trial.metrics["val_image_psnr_db"] > 1, "the constraint asks for it"
    assert len(found) == 3


OBLONG_SPACE = """
study: oblong
training:
  steps: 20
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {choice: [1.0e-3, 3.0e-3]}
schedule: {steps: 1}
budget: {trials: 2, first_rung: 10, reduction: 2, schedules: 1, images: 4}
"""


def test_a_grid_and_fields_that_differ_between_the_axes_are_served_to_the_end(
    run: Any, oblong_dataset: Dataset, tmp_path: Path
) -> None:
    space, data = tmp_path / "space.yaml", oblong_dataset.folder
    space.write_text(OBLONG_SPACE)
    told = run("sweep", "--space", space, "--data", data, "--home", tmp_path, "--json")
    assert told.status == 0, told.stderr
    best = best_trials(open_store(tmp_path), "oblong", "val_psnr_db")[0]
    assert best.metrics["val_psnr_db"] == told.object["trials"][0]["metrics"]["val_psnr_db"]
    low = data / file_name(oblong_dataset.settings.scans("test")[0], "low")
    model = ("--model", f"runs:/{best.run_id}/checkpoint", "--home", tmp_path)
    made = run("synthesize", *model, "--input", low, "--output", tmp_path / "high.mdf")
    assert made.status == 0, made.stderr
    high = read_mdf(tmp_path / "high.mdf")
    assert (high.grid, high.field) == (oblong_dataset.settings.grid, oblong_dataset.settings.high)
    rated = run("evaluate", *model, "--data", data, "--split", "test", "--json")
    assert rated.status == 0, rated.stderr
    assert {row["method"] for row in rated.object["rows"]} >= {"nearest", "model"}
