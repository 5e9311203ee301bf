"""A node that runs a trial is cut off the network and comes back, or is a spot instance that AWS takes back.

Ray rides out a short cut. After a long one it takes the node for dead, and so does the node itself when it is back: it
ends its Ray, and joins again as a new node.
"""

import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from sm_search.data.dataset import Dataset
from sm_search.tracking.records import metric_history, study_runs
from sm_search.tracking.store import open_store
from tests.cluster.hosts import AWS, ROOT, Host, Network, aws, missing, network, wait_until

SPACE = """
study: cut
seed: 3
training:
  steps: 2000
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 3, first_rung: 500, reduction: 2, schedules: 2, images: 4}
resources: {concurrent: 1}
"""
LONG_RUNGS = [500, 20_000]
LONG_SPACE = SPACE.replace("steps: 2000", "steps: 20000").replace("reduction: 2", "reduction: 100")
"""Whose trials take longer than a notice."""
GPU = yaml.safe_load((ROOT / "cluster/gpu.yaml").read_text())
RUNGS = [500, 1000, 2000]
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(ROOT),
    # A node is dead after some 15 s without an answer; Ray's own numbers make it about a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
SHORT_CUT_S = 3
PATIENCE_S = 600
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


class Sweep:
    """A sweep on a head where no trial runs, and workers."""

    def __init__(self, lab: Network, data: Path, storage: str, workers: int = 2, space: str = SPACE) -> None:
        self.lab = lab
        self.shared = lab.folder / "nfs"
        self.shared.mkdir()
        self.head, *self.workers = [lab.add(f"172.31.0.{number}") for number in range(1, workers + 2)]
        (self.head.home / "space.yaml").write_text(space)
        lab.ssh(self.head, "ray start --head --num-cpus=0 --include-dashboard=false")
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.join, self.workers))
        place = storage or f"{self.shared}/sm"
        line = f"sm-search sweep --space space.yaml --data {data} --storage {place} --home ~/home --ray-address auto"
        line += f" --tracking-uri sqlite:///{self.shared}/mlflow.db --json > ~/told 2> ~/said; echo $? > ~/status"
        lab.ssh(self.head, f"nohup setsid bash -c {json.dumps(line)} > /dev/null 2>&1 < /dev/null &")

    def join(self, worker: Host) -> None:
        self.lab.ssh(worker, f"ray start --address={self.head.address}:6379 --num-cpus=2")

    @property
    def said(self) -> str:
        return (self.head.home / "said").read_text() if (self.head.home / "said").exists() else ""

    @property
    def has_ended(self) -> bool:
        return (self.head.home / "status").exists()

    def busy(self) -> Host | None:
        """The worker that runs a trial."""
        assert not self.has_ended, self.said
        return next((host for host in self.workers if host.processes("ray::ImplicitFunc")), None)

    def wait_for(self, words: str, seconds: float = PATIENCE_S) -> None:
        wait_until(lambda: words in self.said or self.has_ended, f"not said: {words}: {self.said}", seconds)
        assert words in self.said, self.said

    def end(self) -> dict[str, Any]:
        wait_until(lambda: self.has_ended, f"does not end: {self.said}", PATIENCE_S)
        assert (self.head.home / "status").read_text() == "0\n", self.said
        return json.loads((self.head.home / "told").read_text())


@contextmanager
def sweep(data: Path, storage: str) -> Iterator[Sweep]:
    with network({**AWS, **ENVIRONMENT}) as lab, aws(lab) if storage else nullcontext():
        if storage:
            lab.run(sys.executable, "-c", "import boto3; boto3.client('s3').create_bucket(Bucket='lab')")
        yield Sweep(lab, data, storage)


def check_whole(shared: Path, told: dict[str, Any], rungs: Sequence[int] = RUNGS) -> None:
    """Each trial once, none RUNNING, each rung once."""
    store = open_store(shared, f"sqlite:///{shared}/mlflow.db")
    parent, runs = study_runs(store, "cut")
    assert parent.status == "FINISHED"
    assert [run.status for run in runs] == ["FINISHED"] * 3
    assert {run.trial_id for run in runs} == {trial["trial_id"] for trial in told["trials"]}
    states = {trial["trial_id"]: trial["state"] for trial in told["trials"]}
    for run in runs:
        steps = [step for step, _ in metric_history(store, run.run_id, "val_psnr_db")]
        assert steps == rungs[: len(steps)] != []
        assert states[run.trial_id] == run.state == ("complete" if steps == rungs else "pruned")


@pytest.mark.parametrize("storage", ["", "s3://lab/sm"], ids=["folder", "s3"])
def test_a_node_cut_off_and_back_costs_no_trial(tiny_dataset: Dataset, storage: str) -> None:
    """In S3 the node cannot write while it is cut off; into the folder it can, while its trial runs elsewhere too."""
    with sweep(tiny_dataset.folder, storage) as study:
        cut = wait_until(study.busy, "no trial begins", PATIENCE_S)
        assert isinstance(cut, Host)
        study.lab.plug(cut, "down")
        study.lab.run("sleep", SHORT_CUT_S)
        study.lab.plug(cut, "up")
        study.wait_for("trial 1/3")
        assert "was interrupted" not in study.said

        cut = wait_until(study.busy, "no second trial", PATIENCE_S)
        assert isinstance(cut, Host)
        study.lab.plug(cut, "down")
        study.wait_for("goes on from training step")
        study.wait_for("trial 2/3")
        study.lab.plug(cut, "up")
        for name in ("raylet", "ray::ImplicitFunc"):
            wait_until(lambda name=name: not cut.processes(name), f"{name} lives on", PATIENCE_S)
        study.join(cut)
        told = study.end()
        check_whole(study.shared, told)


WHERE = """
import ray

ray.init("auto", log_to_driver=False, logging_level="ERROR")
print("asked", flush=True)
print(ray.get(ray.remote(num_cpus=1)(ray.util.get_node_ip_address).remote()), flush=True)
"""
NOTICE_S = 20
"""AWS gives 120."""


def test_a_spot_notice_drains_the_node_and_costs_no_trial(tiny_dataset: Dataset) -> None:
    watch = next(line for line in GPU["worker_start_ray_commands"] if "spot_notice" in line)
    with network(ENVIRONMENT) as lab:
        study = Sweep(lab, tiny_dataset.folder, "", workers=1, space=LONG_SPACE)
        (spot,) = study.workers
        (study.head.home / "where.py").write_text(WHERE)
        lab.ssh(spot, "nohup setsid python -m tests.cluster.metadata ~/notice 8111 > ~/asked 2>&1 < /dev/null &")
        lab.ssh(spot, f"export SM_SEARCH_METADATA=http://127.0.0.1:8111; {watch}")
        wait_until(lambda: " 404 " in (spot.home / "asked").read_text(), "the notice is not asked for")
        wait_until(lambda: any(study.shared.glob("sm/studies/cut/tune/*/checkpoint_*")), "no rung", PATIENCE_S)

        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=NOTICE_S)
        (spot.home / ".notice").write_text(json.dumps({"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}))
        (spot.home / ".notice").rename(spot.home / "notice")
        wait_until(lambda: "drained" in (spot.home / "spot-notice.log").read_text(), "not drained", PATIENCE_S)
        # One of its two CPUs is free, but nothing new begins there: it waits for the next node.
        lab.ssh(study.head, "nohup setsid python where.py > ~/where 2>&1 < /dev/null &")
        wait_until(lambda: "asked" in (study.head.home / "where").read_text(), "the task is not asked for")
        wait_until(lambda: datetime.datetime.now(datetime.UTC) > end, "the end does not come")
        spot.kill()
        other = lab.add("172.31.0.9")
        study.join(other)
        wait_until(
            lambda: other.address in (study.head.home / "where").read_text(), "the task ran elsewhere", PATIENCE_S
        )
        study.wait_for("goes on from training step")
        told = study.end()
        check_whole(study.shared, told, LONG_RUNGS)
        # Ray Tune wrote down the failure, and did not count it.
        (errors,) = study.shared.glob("sm/studies/cut/tune/*/error.txt")
        assert errors.read_text().startswith("Failure # 0 "), errors.read_text()
