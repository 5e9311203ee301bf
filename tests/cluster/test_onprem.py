"""`cluster/onprem.yaml` on three machines with real sshd, each with its own addresses, processes and home."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.hosts import DATASET, ROOT, SPACE, Network, missing, network, wait_until

TEXT = (ROOT / "cluster/onprem.yaml").read_text()
HEAD, WORKERS = "172.31.0.1", ("172.31.0.2", "172.31.0.3")


def test_ray_accepts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = prepare_config(yaml.safe_load(TEXT))
    validate_config(config)
    (node_type,) = config["available_node_types"].values()
    assert node_type["min_workers"] == len(config["provider"]["worker_ips"]) == 2
    assert "0.0.0.0" not in yaml.safe_dump(config)


def test_both_cluster_files_mount_the_same() -> None:
    gpu = yaml.safe_load((ROOT / "cluster/gpu.yaml").read_text())
    assert yaml.safe_load(TEXT)["file_mounts"] == gpu["file_mounts"]


def written(lab: Network, shared: Path) -> Path:
    """The file with what a user sets in it."""
    text = TEXT
    for place, value in {
        "192.0.2.10": HEAD,
        "[192.0.2.11, 192.0.2.12]": f"[{', '.join(WORKERS)}]",
        "ssh_user: SET-ME": "ssh_user: ubuntu",
        "~/.ssh/id_ed25519": str(lab.folder / "key"),
        "/SET-ME/sm-search": str(shared),
    }.items():
        assert text.count(place) == 1, place
        text = text.replace(place, value)
    path = lab.laptop / "onprem.yaml"
    path.write_text(text)
    return path


@pytest.mark.cluster
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_up_doctor_sweep_down() -> None:
    with network({}) as lab:
        shared = lab.folder / "nfs"
        shared.mkdir()
        lab.checkout()
        head, *workers = [lab.add(address) for address in (HEAD, *WORKERS)]
        file = written(lab, shared)
        lab.ray("get-auth-token", "--generate")
        lab.ray("up", "-y", file)
        for name, text in {"dataset.yaml": DATASET, "space.yaml": SPACE}.items():
            (head.home / name).write_text(text)

        def told(name: str, line: str, status: int = 0) -> str:
            """What a verb on the head wrote to stdout and stderr."""
            command = (
                f"cd ~/sm_search; sm-search {line} --ray-address auto > ~/{name} 2> ~/{name}.err; echo $? > ~/status"
            )
            lab.ray("exec", file, command)
            error = (head.home / f"{name}.err").read_text()
            assert int((head.home / "status").read_text()) == status, error
            return (head.home / name).read_text() + error

        # Both workers come, the last of the list too.
        def checks() -> dict[str, dict[str, str]] | None:
            told_first = told("doctor", "doctor --json --storage $SM_STORAGE").splitlines()[0]  # Ray may add lines
            found = {c["name"]: c for c in json.loads(told_first)["checks"]}
            return found if "3 nodes" in found["ray"]["found"] else None

        found = wait_until(checks, "not all machines joined", 120)
        assert isinstance(found, dict)
        assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(found, "ok"), found
        assert found["storage"]["found"].endswith("written and read from 3 nodes")
        assert not list(shared.glob(".doctor*"))

        # A folder that is not shared: refused before anything runs.
        refused = told("own", "simulate --config ~/dataset.yaml --out /mnt/tiny", status=2)
        assert "error: --out" in refused
        assert "not seen by 2 of 2 other nodes" in refused

        told("simulated", "simulate --config ~/dataset.yaml --out $SM_STORAGE/data/tiny")
        line = "sweep --space ~/space.yaml --data $SM_STORAGE/data/tiny --json --tracking-uri http://127.0.0.1:5000"
        assert "error: --storage" in told("refused", f"{line} --home /mnt/outputs", status=2)
        with dashboard(lab, file):
            sm_search = (Path(sys.executable).with_name("sm-search"), "sweep", "--space", head.home / "space.yaml")
            there = ("--data", shared / "data/tiny", "--storage", shared, "--tracking-uri", "http://127.0.0.1:5000")
            as_job = ("--json", "--ray-address", "http://127.0.0.1:8265")
            done = lab.run("env", "RAY_AUTH_MODE=token", *sm_search, *there, *as_job)
        swept = json.loads(done.stdout)
        assert [trial["state"] for trial in swept["trials"]] == ["complete", "complete"]

        assert all(host.processes("raylet") for host in (head, *workers))
        lab.ray("down", "-y", file)
        wait_until(lambda: not any(h.processes("raylet") for h in (head, *workers)), "Ray is left on a machine", 150)


@contextmanager
def dashboard(lab: Network, file: Path) -> Iterator[None]:
    """The head's jobs server on the laptop's port 8265, through SSH, for the body."""
    command = lab.command(sys.executable, "-m", "ray.scripts.scripts", "dashboard", file, cwd=file.parent / "checkout")
    environment = {"PATH": os.environ["PATH"], "HOME": str(lab.laptop)}
    with (lab.folder / "tunnel.log").open("wb") as log:
        tunnel = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        answers = ("curl", "--silent", "--output", "/dev/null", "http://127.0.0.1:8265/api/version")
        wait_until(lambda: lab.run(*answers, check=False).returncode == 0, "no tunnel")
        yield
    finally:
        os.killpg(tunnel.pid, signal.SIGTERM)
        tunnel.wait()
