"""Whatever dies during a sweep, every finished trial counts once, no run is left RUNNING, and the result is the same.

The reference is the same study undisturbed: one worker, so Optuna asks in the same order.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from sm_search.config.errors import TrackingError
from sm_search.data.dataset import Dataset
from sm_search.search.study.folder import study_folder
from sm_search.tracking.records import metric_history, study_runs
from sm_search.tracking.store import Store, open_store
from tests.conftest import run_here
from tests.processes import below, workers
from tests.tracking.servers import MLFLOW_SETTINGS, free_port, mlflow_command

TIMEOUT_S = 600
TRIALS = 3
SPACE = """
study: faulty
seed: 3
training:
  steps: 400
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 3, first_rung: 100, reduction: 2, schedules: 2, images: 4}
resources: {concurrent: 1}
"""
pytestmark = pytest.mark.slow


class Sweep:
    """A running `sm-search sweep` of its own process."""

    def __init__(self, home: Path, folder: Path, data: Path, *more: Any, space: str = SPACE) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "space.yaml").write_text(space)
        self.log = folder / f"stderr-{len(list(folder.iterdir()))}"
        line = [sys.executable, "-m", "sm_search", "sweep", "--json", "--space", folder / "space.yaml"]
        line += ["--data", data, "--home", home, *more]
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        environment = {**os.environ, "HOME": str(folder), "COLUMNS": "100", "TMPDIR": str(self.temporary)}
        environment.pop("RAY_ADDRESS", None)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, line)),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, sign: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := sign()):
            assert self.process.poll() is None, f"ended before {what}: {self.said}"
            assert time.monotonic() < deadline, f"no {what}: {self.said}"
            time.sleep(0.02)
        return found

    def end(self) -> tuple[int, dict[str, Any]]:
        """Exit status and the object on stdout."""
        try:
            out, _ = self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in (self.process.pid, *below(self.process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"did not end: {self.said}") from None
        assert out == "" or out.startswith("{"), out
        return self.process.returncode, json.loads(out) if out else {}


def swept(home: Path, folder: Path, data: Path, *more: Any, space: str = SPACE) -> tuple[str, dict[str, Any]]:
    """`sm-search sweep` in this process, which ends well: what it said, and the object on stdout. Where it is not the
    process that is tried, its imports need not be waited for, half of what a small study takes."""
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(space)
    done = run_here("sweep", "--json", "--space", folder / "space.yaml", "--data", data, "--home", home, *more)
    assert done.status == 0, done.stderr
    return done.stderr, done.object


def check_whole(store: Store, told: dict[str, Any], trials: int = TRIALS) -> None:
    """Each trial once, none RUNNING, metrics once at each rung."""
    parent, runs = study_runs(store, "faulty")
    assert parent.status == "FINISHED"
    assert len(runs) == len({run.trial_id for run in runs}) == len(told["trials"]) == trials
    assert {run.status for run in runs} == {"FINISHED"}
    by_id = {trial["trial_id"]: trial for trial in told["trials"]}
    for run in runs:
        assert run.state == by_id[run.trial_id]["state"]
        whole = [100, 200, 400]
        last = int(by_id[run.trial_id]["metrics"]["training_step"])
        for name in ("val_psnr_db", "training_step"):
            assert [step for step, _ in metric_history(store, run.run_id, name)] == whole[: whole.index(last) + 1]
        losses = [step for step, _ in metric_history(store, run.run_id, "loss")]
        assert losses == list(range(100, last + 1, 100))


def values(told: dict[str, Any]) -> list[tuple[float, str, float]]:
    """What a study found, without the names of its trials."""
    return sorted((t["params"]["learning_rate"], t["state"], t["metrics"]["val_psnr_db"]) for t in told["trials"])


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    _, told = swept(folder / "home", folder, tiny_dataset.folder)
    check_whole(open_store(folder / "home"), told)
    return told


def test_the_same_space_seed_and_budget_on_one_worker_give_the_same_study(
    undisturbed: dict[str, Any], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    status, told = (sweep := Sweep(tmp_path / "home", tmp_path, tiny_dataset.folder)).end()
    assert status == 0, sweep.said
    assert values(told) == values(undisturbed)


def test_a_killed_worker_costs_no_trial(undisturbed: dict[str, Any], tiny_dataset: Dataset, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "home", tmp_path, tiny_dataset.folder)
    checkpoints = study_folder(tmp_path / "home", "faulty")
    # In the first trial, which no rung ends: one that is killed as its rung ends it may go on to the next.
    sweep.wait_for(lambda: any(checkpoints.glob("tune/*/checkpoint_*")), "rung of the first trial")
    victims = workers(sweep.process.pid)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    status, told = sweep.end()
    assert status == 0, sweep.said
    assert "Traceback" not in sweep.said
    assert "was interrupted; it goes on from training step" in sweep.said
    assert [*sweep.temporary.glob("*/*.safetensors")] == []  # it was killed while it reported its rung
    check_whole(open_store(tmp_path / "home"), told)
    assert values(told) == values(undisturbed)


@pytest.mark.parametrize("ctrl_c", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_sweep_leaves_no_run_running_and_resumes(
    undisturbed: dict[str, Any], tiny_dataset: Dataset, tmp_path: Path, ctrl_c: bool
) -> None:
    home = tmp_path / "home"
    sweep = Sweep(home, tmp_path / "user", tiny_dataset.folder)
    sweep.wait_for(lambda: "trial 1/3" in sweep.said, "first trial")
    store = open_store(home)
    sweep.wait_for(lambda: len(study_runs(store, "faulty")[1]) == 2, "start of the second trial")
    # It takes less than a second: its worker stands still until the driver has been told.
    held = workers(sweep.process.pid)
    assert held
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    if ctrl_c:  # a terminal tells all processes of the command
        os.killpg(sweep.process.pid, signal.SIGINT)
    else:
        sweep.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    for pid in held:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert sweep.end() == (130, {})
    assert sweep.said.splitlines()[-1] == (
        "error: study 'faulty': interrupted, its runs are closed; `sweep --resume` continues it"
    )
    assert "Traceback" not in sweep.said
    assert sweep.said.count("error: ") == 1
    parent, (first, second) = study_runs(store, "faulty")
    assert (parent.status, first.status) == ("KILLED", "FINISHED")
    assert (second.status, second.state) == ("KILLED", "interrupted")

    said, told = swept(home, tmp_path / "user", tiny_dataset.folder, "--resume")
    assert f" {first.trial_id} " not in said  # it is not trained again
    check_whole(store, told)
    assert values(told) == values(undisturbed)


@pytest.mark.parametrize(
    ("part", "ended"), [(b"gcs/gcs_server", "gcs_server"), (b"ray::RuntimeEnvAgent", "raylet")], ids=["store", "agent"]
)
def test_a_sweep_whose_ray_loses_a_part_ends_in_one_line_and_resumes(
    part: bytes, ended: str, undisturbed: dict[str, Any], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Ray's own answer: exit status 1 and a log line, to a lost agent at once, to a lost store after a minute."""
    home = tmp_path / "home"
    sweep = Sweep(home, tmp_path / "user", tiny_dataset.folder)
    sweep.wait_for(lambda: "trial 1/3" in sweep.said, "first trial")
    (lost,) = workers(sweep.process.pid, part)
    os.kill(lost, signal.SIGKILL)
    assert sweep.end() == (2, {}), sweep.said
    last = sweep.said.splitlines()[-1]
    assert last.startswith(f"error: Ray went away: its {ended} ended; ")
    assert "--resume" in last
    assert "Traceback" not in sweep.said
    _, told = swept(home, tmp_path / "user", tiny_dataset.folder, "--resume")
    check_whole(open_store(home), told)
    if ended == "raylet":
        # A driver outlives it for a moment: what it decides then of a report it decides anew when it goes on.
        assert [trial[0] for trial in values(told)] == [trial[0] for trial in values(undisturbed)]
    else:
        assert values(told) == values(undisturbed)


def test_an_interrupt_while_the_report_is_made_leaves_the_search_as_it_is(
    undisturbed: dict[str, Any], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    home, space = tmp_path / "home", SPACE.replace("images: 4}", "images: 4, regression: true}")
    sweep = Sweep(home, tmp_path / "user", tiny_dataset.folder, space=space)
    sweep.wait_for(lambda: "training the regression network" in sweep.said, "report")
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.end() == (130, {})
    line = "error: study 'faulty': interrupted after its search, before its report; `sweep --resume` makes that"
    assert sweep.said.splitlines()[-1] == line
    assert "Traceback" not in sweep.said
    store = open_store(home)
    parent, before = study_runs(store, "faulty")
    assert "report.html" not in {item.path for item in store.client.list_artifacts(parent.run_id)}

    again = Sweep(home, tmp_path / "user", tiny_dataset.folder, "--resume", space=space)
    again.wait_for(lambda: "training the regression network" in again.said, "report")
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == (130, {})
    assert again.said.splitlines()[-1] == line
    assert "Traceback" not in again.said

    _, told = swept(home, tmp_path / "user", tiny_dataset.folder, "--resume", space=space)
    check_whole(store, told)
    assert values(told) == values(undisturbed)
    parent, after = study_runs(store, "faulty")
    assert [(run.run_id, run.ended_ms) for run in after] == [(run.run_id, run.ended_ms) for run in before]
    assert "report.html" in {item.path for item in store.client.list_artifacts(parent.run_id)}


@pytest.mark.cluster
def test_a_lost_node_costs_no_trial(undisturbed: dict[str, Any], tiny_dataset: Dataset, tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        doomed = cluster.add_node(num_cpus=1)
        sweep = Sweep(tmp_path / "home", tmp_path, tiny_dataset.folder, "--ray-address", cluster.address)
        sweep.wait_for(lambda: "trial 1/3" in sweep.said, "first trial")
        cluster.add_node(num_cpus=1)
        cluster.remove_node(doomed, allow_graceful=False)
        status, told = sweep.end()
    finally:
        cluster.shutdown()
    assert status == 0, sweep.said
    check_whole(open_store(tmp_path / "home"), told)
    assert values(told) == values(undisturbed)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
    """The address of an MLflow server, and what starts it."""
    port = free_port()
    command = mlflow_command(port, f"sqlite:///{tmp_path}/server.db", f"{tmp_path}/files")
    environment = {**os.environ, **MLFLOW_SETTINGS}
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "server.log").open("a") as log:
            started.append(
                subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log, process_group=0)
            )
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                open_store(tmp_path / "unused", f"http://127.0.0.1:{port}")
                return started[-1]
            except TrackingError:
                assert time.monotonic() < deadline
                time.sleep(0.5)

    yield f"http://127.0.0.1:{port}", start
    for process in started:
        kill_group(process)


@pytest.fixture
def bereft(tiny_dataset: Dataset, server: Any, tmp_path: Path) -> Sweep:
    """A sweep whose MLflow server was killed when its first trial had ended."""
    address, start = server
    first = start()
    sweep = Sweep(tmp_path / "home", tmp_path / "user", tiny_dataset.folder, "--tracking-uri", address)
    sweep.wait_for(lambda: "trial 1/3" in sweep.said, "first trial")
    kill_group(first)
    return sweep


def kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_tracking_server_that_dies_and_comes_back_lacks_nothing_in_the_end(
    undisturbed: dict[str, Any], server: Any, bereft: Sweep, tmp_path: Path
) -> None:
    (address, start), sweep = server, bereft
    sweep.wait_for(lambda: "trial 2/3" in sweep.said, "second trial, without the server")
    # A trial here takes less time than a server to start: the search waits for it.
    os.kill(sweep.process.pid, signal.SIGSTOP)
    start()
    os.kill(sweep.process.pid, signal.SIGCONT)
    status, told = sweep.end()
    assert status == 0, sweep.said
    assert sweep.said.count("tracking store: ") == 1
    check_whole(open_store(tmp_path / "unused", address), told)
    assert values(told) == values(undisturbed)


def test_a_tracking_server_that_stays_away_gets_the_result_when_the_study_is_resumed(
    undisturbed: dict[str, Any], tiny_dataset: Dataset, server: Any, bereft: Sweep, tmp_path: Path
) -> None:
    (address, start), sweep = server, bereft
    assert sweep.end() == (2, {})
    last = sweep.said.splitlines()[-1]
    assert last.startswith("error: study 'faulty': is finished, but not all of it is in MLflow, which lacks parts of ")
    assert "Traceback" not in sweep.said
    kept = json.loads((study_folder(tmp_path / "home", "faulty") / "result.json").read_text())
    assert values(kept) == values(undisturbed)

    start()
    line = ("--tracking-uri", address, "--resume")
    resumed = Sweep(tmp_path / "home", tmp_path / "user", tiny_dataset.folder, *line)
    status, told = resumed.end()
    assert status == 0, resumed.said
    assert "trial 1/3" not in resumed.said
    check_whole(open_store(tmp_path / "unused", address), told)
    assert told["trials"] == kept["trials"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_sweep_with_one_line_and_it_resumes(
    undisturbed: dict[str, Any], tiny_dataset: Dataset, small_disk: Path, tmp_path: Path
) -> None:
    home = small_disk / "home"
    sweep = Sweep(home, tmp_path / "user", tiny_dataset.folder)
    sweep.wait_for(lambda: "trial 1/3" in sweep.said, "first trial")
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    status, _ = sweep.end()
    assert status == 2, sweep.said
    last = sweep.said.splitlines()[-1]
    assert last.startswith("error: study 'faulty': stopped: ")
    assert "No space left on device" in last
    assert "Traceback" not in sweep.said

    ballast.unlink()
    resumed = Sweep(home, tmp_path / "user", tiny_dataset.folder, "--resume")
    status, told = resumed.end()
    assert status == 0, resumed.said
    check_whole(open_store(home), told)
    assert values(told) == values(undisturbed)
