"""`sm-search demo`, the README's first command, with a small space: all of it, and again."""

from typing import Any

import pytest

from sm_search.tracking.champion import model_aliases
from sm_search.tracking.records import study_runs
from sm_search.tracking.store import open_store

SPACE = """
study: small
training:
  steps: 4
  batch_size: 8
  mean: kernel-ridge
  backbone: {backbone: linear-basis, coefficients: 64, width: 32, blocks: 1}
  learning_rate: {choice: [1.0e-3, 2.0e-3]}
schedule: {steps: {choice: [0, 1]}}
budget: {trials: 2, first_rung: 2, reduction: 2, schedules: 2, images: 8}
"""


@pytest.mark.slow
def test_the_demo_makes_all_that_it_names_and_finds_it_made_when_run_again(command: Any, tmp_path: Any) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "outputs"
    space.write_text(SPACE)
    first = command("demo", "--space", space, "--home", home, "--json")
    assert first.status == 0, first.stderr
    told = first.object
    made = {path.name for path in home.iterdir()}
    assert made >= {"comparison.png", "small.html", "d30nm-fx25kHz-nd99-synthesised.mdf", "mlflow.db", "data"}
    psnr = {row["method"]: row["psnr_db_mean"] for row in told["rows"]}
    assert psnr["model"] > psnr["nearest"] > psnr["copy"]
    store = open_store(home)
    aliases, trials = model_aliases(store, "sm-search-demo"), study_runs(store, "small")[1]
    assert "champion" in aliases

    again = command("demo", "--space", space, "--home", home, "--json")
    assert again.status == 0, again.stderr
    assert again.object["rows"] == told["rows"]
    assert model_aliases(store, "sm-search-demo") == aliases
    assert study_runs(store, "small")[1] == trials
