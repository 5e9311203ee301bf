"""A search that its time limit ends: what waits for its turn then was never a trial."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.stopper import timeout

from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.search.study.recording import Recorder
from sm_search.tracking.records import study_runs
from sm_search.tracking.registry import download_model
from sm_search.tracking.store import open_store
from tests.processes import workers

SPACE = """
study: timed
mode: joint
training:
  steps: {steps}
  batch_size: 8
  backbone: {{backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}}
  learning_rate: {{float: [1.0e-3, 3.0e-3]}}
schedule: {{sampler: {{choice: [ddim, dpmpp]}}}}
budget: {{trials: 10000, first_rung: {steps}, minutes: 10}}
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_cpus")]


class Clock:
    """Of Tune's time limit: far ahead once `is_due`, so that how fast this machine is does not matter."""

    def __init__(self, is_due: Callable[[], bool]) -> None:
        self.is_due, self.ahead_s = is_due, 0.0

    def time(self) -> float:
        if not self.ahead_s and self.is_due():
            self.ahead_s = 3600.0
        return time.time() + self.ahead_s


@pytest.mark.parametrize("steps", [20, 10_000_000], ids=["some end", "none ends"])
def test_the_time_limit_leaves_whole_trials_only(
    run: Any, tiny_dataset: Dataset, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "home"

    def trials_run() -> bool:
        """A worker trains, after some trials where they end."""
        statuses = [trial.status for trial in study_runs(open_store(home), "timed")[1]]
        ended = statuses.count("FINISHED")
        return (
            bool(workers(os.getpid(), b"ray::ImplicitFunc.train"))
            and "RUNNING" in statuses
            and (steps > 20 or ended >= 3)
        )

    monkeypatch.setattr(timeout, "time", Clock(trials_run))
    space.write_text(SPACE.format(steps=steps))
    line = ("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json")
    done = run(*line)
    parent, runs = study_runs(open_store(home), "timed")
    assert runs
    assert {run.status for run in runs} <= {"FINISHED", "FAILED"}
    assert all(float(run.params["training.learning_rate"]) > 0 for run in runs)
    if steps > 20:
        assert (done.status, parent.status) == (2, "FAILED")
        assert done.stderr.splitlines()[-1].endswith("came to its end: the search was over before its first rung")
        assert done.stderr.count("error: ") == 1
        return
    assert (done.status, parent.status) == (0, "FINISHED"), done.stderr
    told = done.object["trials"]
    assert {trial["trial_id"] for trial in told} == {run.trial_id for run in runs}
    assert [trial["state"] for trial in told].count("complete") >= len(told) - 2


TARGET = """
study: target
seed: 1
training:
  steps: 20
  batch_size: 8
  backbone: {{backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}}
  learning_rate: {{float: [1.0e-3, 3.0e-3]}}
budget: {{trials: 2, first_rung: 20, schedules: 0, images: 4, stop: {{target: {target}}}}}
resources: {{concurrent: 1}}
"""


def test_a_study_that_reached_its_target_says_so_again_and_goes_on_to_another(
    run: Any, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    space, home = tmp_path / "space.yaml", tmp_path / "home"

    def sweep(target: float, *options: str) -> Any:
        space.write_text(TARGET.format(target=target))
        done = run("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json", *options)
        assert done.status == 0, done.stderr
        return done

    def whole(done: Any) -> list[str]:
        return [trial["trial_id"] for trial in done.object["trials"] if trial["state"] == "complete"]

    first = sweep(1.0)
    (trial,) = whole(first)
    reached = first.object["ended"]
    assert reached.endswith("reaches the target, 1")

    same = sweep(1.0, "--resume")
    assert (whole(same), same.object["ended"]) == ([trial], reached)
    assert f"the search ends: {reached}" in same.stderr

    further = sweep(100.0, "--resume")
    assert "revision 1: budget.stop: {target: 1.0} → {target: 100.0}" in further.stderr
    assert len(whole(further)) == len(further.object["trials"]) == 2, "what the end left without a rung is no trial"
    assert trial in whole(further)
    assert further.object["ended"] is None
    assert {run.trial_id for run in study_runs(open_store(home), "target")[1]} == set(whole(further))


def test_a_trial_that_reports_as_the_time_is_up_has_its_model(
    run: Any, tiny_dataset: Dataset, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune knows the report then, and has not been told of the checkpoint."""
    space, home = tmp_path / "space.yaml", tmp_path / "home"
    reported: list[str] = []
    record = Recorder.on_trial_result

    def note(recorder: Recorder, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        record(recorder, iteration, trials, trial, result, **info)
        reported.append(trial.trial_id)

    monkeypatch.setattr(timeout, "time", Clock(lambda: bool(reported)))
    monkeypatch.setattr(Recorder, "on_trial_result", note)
    space.write_text(SPACE.format(steps=20))
    done = run("sweep", "--space", space, "--data", tiny_dataset.folder, "--home", home, "--json")
    assert done.status == 0, done.stderr
    complete = [trial["trial_id"] for trial in done.object["trials"] if trial["state"] == "complete"]
    assert sorted(complete) == sorted(reported)
    store = open_store(home)
    runs = {each.trial_id: each.run_id for each in study_runs(store, "timed")[1]}
    for trial_id in complete:
        model = load_checkpoint(download_model(store, f"runs:/{runs[trial_id]}/checkpoint"))
        assert model.info.training.steps == 20
