"""A study as a job on a head that loses its power: `ray job submit`, `ray job stop`, and a new head that has only S3.

The storage is moto's S3 and MLflow's database is on a shared folder, so both outlive the head; nothing else does.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sm_search.data.dataset import Dataset
from sm_search.tracking.records import metric_history, study_runs
from sm_search.tracking.store import open_store
from tests.cluster.hosts import AWS, Host, Network, aws, missing, network, wait_until

SPACE = """
study: long
training:
  steps: 3000
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 6, first_rung: 750, reduction: 2, schedules: 2, images: 4}
resources: {concurrent: 1}
"""
START = "ray start --head --num-cpus=1 --dashboard-host=127.0.0.1 --disable-usage-stats"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.skipif(importlib.util.find_spec("aiohttp_cors") is None, reason="jobs need ray[default]"),
]


class Head:
    """A machine with Ray and its dashboard, reached as by `ray dashboard`'s tunnel."""

    def __init__(self, lab: Network, address: str, sweep: str) -> None:
        self.lab, self.sweep = lab, sweep
        self.host: Host = lab.add(address)
        (self.host.home / "work").mkdir()
        (self.host.home / "work/space.yaml").write_text(SPACE)
        self.say("ray get-auth-token --generate > /dev/null")
        self.say(START)

    def say(self, line: str, check: bool = True) -> str:
        return self.lab.ssh(self.host, f"cd ~; {line}", check=check)

    def submit(self, name: str, *more: str) -> None:
        """The same verb with the same YAML as by hand."""
        own = f"--home {self.host.home}/home"
        line = " ".join(("sm-search sweep --space space.yaml --ray-address auto --json", self.sweep, own, *more))
        self.say(f"ray job submit --no-wait --submission-id {name} --working-dir ~/work -- {line}")

    def logs(self, name: str) -> str:
        return self.say(f"ray job logs {name}", check=False)

    def status(self, name: str) -> str:
        said = self.say(f"ray job status {name} 2>&1", check=False)
        return next((end for end in ("was stopped", "succeeded", "failed") if f"{name}' {end}" in said), "")

    def wait_for_a_trial(self, name: str) -> None:
        """Until the job says that a trial has ended: in its file, since to ask Ray takes as long as a trial."""

        def seen() -> bool:
            files = self.host.folder.glob(f"tmp-ray/session_*/logs/job-driver-{name}.log")
            said = "".join(file.read_text() for file in files if not file.parents[1].is_symlink())
            assert '{"study"' not in said, said
            return re.search(r"^trial \d/6 ", said, re.MULTILINE) is not None

        wait_until(seen, f"no trial ends in {name}", 600)


def test_a_stopped_job_and_a_lost_head_cost_no_trial(tiny_dataset: Dataset) -> None:
    environment = {**AWS, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    with network(environment) as lab, aws(lab):
        make = "import boto3; boto3.client('s3').create_bucket(Bucket='lab')"
        lab.run(sys.executable, "-c", make)
        shared = lab.folder / "nfs"
        shared.mkdir()
        database = f"sqlite:///{shared}/mlflow.db"
        sweep = f"--data {tiny_dataset.folder} --storage s3://lab/sm --tracking-uri {database}"

        head = Head(lab, "172.31.0.1", sweep)
        refused = head.say("RAY_AUTH_TOKEN=wrong ray job list 2>&1", check=False)
        assert "AuthenticationError" in refused, refused
        head.submit("first")
        head.wait_for_a_trial("first")
        assert "trial 1/6 " in head.logs("first")
        head.say("ray job stop first")
        assert head.status("first") == "was stopped"

        head.submit("second", "--resume")
        head.wait_for_a_trial("second")
        head.host.kill()

        new = Head(lab, "172.31.0.2", sweep)
        assert not (new.host.home / "home").exists()
        new.submit("third", "--resume")
        wait_until(lambda: new.status("third"), "the job does not end", 900)
        said = new.logs("third")
        assert new.status("third") == "succeeded", said
        check_whole(shared, json.loads(next(line for line in said.splitlines() if line.startswith("{"))))


def check_whole(shared: Path, told: dict[str, Any]) -> None:
    """Each trial once, none RUNNING, each rung once."""
    store = open_store(shared, f"sqlite:///{shared}/mlflow.db")
    parent, runs = study_runs(store, "long")
    assert parent.status == "FINISHED"
    assert [run.status for run in runs] == ["FINISHED"] * 6
    assert {run.trial_id for run in runs} == {trial["trial_id"] for trial in told["trials"]}
    for run in runs:
        steps = [step for step, _ in metric_history(store, run.run_id, "val_psnr_db")]
        assert steps == [750, 1500, 3000][: len(steps)] != []
