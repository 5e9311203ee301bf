"""A search that its time limit ends: what waits for its turn then was never a trial."""

from typing import Any

import pytest

from sm_search.data.dataset import Dataset
from sm_search.tracking.records import study_runs
from sm_search.tracking.store import open_store
from tests.cli.conftest import Command

SPACE = """
study: timed
mode: joint
training:
  steps: {steps}
  batch_size: 8
  backbone: {{backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}}
  learning_rate: {{float: [1.0e-3, 3.0e-3]}}
schedule: {{sampler: {{choice: [ddim, dpmpp]}}}}
budget: {{trials: 10000, first_rung: {steps}, minutes: 0.25}}
"""
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("steps", [20, 10_000_000], ids=["some end", "none ends"])
def test_the_time_limit_leaves_whole_trials_only(tiny_dataset: Dataset, tmp_path: Any, steps: int) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "home"
    space.write_text(SPACE.format(steps=steps))
    line = ("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json")
    done = Command(tmp_path)(*line)
    parent, runs = study_runs(open_store(home), "timed")
    assert runs
    assert {run.status for run in runs} <= {"FINISHED", "FAILED"}
    assert all(float(run.params["training.learning_rate"]) > 0 for run in runs)
    if steps > 20:
        assert (done.status, parent.status) == (2, "FAILED")
        assert done.stderr.splitlines()[-1].endswith("came to its end: the time was up before its first rung")
        assert done.stderr.count("error: ") == 1
        return
    assert (done.status, parent.status) == (0, "FINISHED"), done.stderr
    told = done.object["trials"]
    assert {trial["trial_id"] for trial in told} == {run.trial_id for run in runs}
    assert [trial["state"] for trial in told].count("complete") >= len(told) - 2
