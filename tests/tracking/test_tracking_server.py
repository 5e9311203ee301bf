"""Against a real `mlflow server` on the loopback interface."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sm_search.config.errors import TrackingError
from sm_search.tracking.champion import change_champion
from sm_search.tracking.records import get_run, metric_history
from sm_search.tracking.registry import download_model, register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store
from tests.tracking.servers import MLFLOW_SETTINGS, free_port, mlflow_command

Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(store: Store, home: Path, port: int, tmp_path: Path) -> Iterator[Start]:
    """Starts the server; every one that still runs is ended with the test."""
    command = mlflow_command(port, store.uri, str(tmp_path / "served"))
    environment = {**os.environ, **MLFLOW_SETTINGS}
    servers: list[subprocess.Popen[bytes]] = []

    def go() -> subprocess.Popen[bytes]:
        with (tmp_path / "server.log").open("a") as log:
            servers.append(
                subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log, process_group=0)
            )
        return servers[-1]

    yield go
    for server in servers:
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(uri: str, unused: Path) -> Store:
    deadline = time.monotonic() + 60
    while True:
        try:
            return open_store(unused, uri)
        except TrackingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.mark.slow
def test_a_server_may_go_away_and_come_back(
    start: Start, port: int, study: str, checkpoint: Path, tmp_path: Path
) -> None:
    first = start()
    store = _wait_for(f"http://127.0.0.1:{port}", tmp_path / "unused")
    assert store.artifact_root is None
    assert not (tmp_path / "unused").exists()
    log = StudyLog.open(store, study, params={"seed": 1})
    run_id = log.start_trial("t", {"lr": 0.5})
    log.log_metrics("t", 1, {"val_psnr_db": 0.1 + 0.2})
    assert register(store, run_id, checkpoint, f"model-{study}") == 1
    change_champion(store, f"model-{study}", 1, None, "the first")
    fetched = download_model(store, f"models:/model-{study}@champion")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in checkpoint.iterdir()
    }

    _end(first)
    begin = time.monotonic()
    log.log_metrics("t", 2, {"val_psnr_db": 22.0})
    assert time.monotonic() - begin < 10
    assert log.pending == ("metrics of trial 't' at step 2",)
    with pytest.raises(TrackingError, match=r"not stored: metrics of trial 't' at step 2; .*Connection refused"):
        log.finish()
    start()
    _wait_for(store.uri, tmp_path)
    log.log_metrics("t", 3, {"val_psnr_db": 23.0})
    assert log.pending == ()
    assert metric_history(store, run_id, "val_psnr_db") == [(1, 0.1 + 0.2), (2, 22.0), (3, 23.0)]
    log.finish_trial("t", "complete")
    log.finish()
    assert get_run(store, log.run_id).status == "FINISHED"
