"""Bad usage and bad input: exit status 2, one line that names what is wrong, nothing half-written."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sm_search.config.simulation_settings import Grid
from sm_search.data.dataset import Dataset, FileHashes, file_name


class _Nothing(BaseHTTPRequestHandler):
    """Knows no request."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    """The port of a web server that has nothing to do with Ray."""
    with HTTPServer(("127.0.0.1", 0), _Nothing) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def at(study: Any, tiny_dataset: Dataset, tmp_path: Path, other: int) -> dict[str, Any]:
    """Places for the command lines below, by the names that they use in braces."""
    scan = tiny_dataset.settings.scans("test")[0]
    low = tiny_dataset.folder / file_name(scan, "low")
    (tmp_path / "truncated.mdf").write_bytes(low.read_bytes()[:3000])
    (tmp_path / "half.mdf").write_bytes(low.read_bytes()[: low.stat().st_size // 2])
    (tmp_path / "text.mdf").write_text("not HDF5")
    (tmp_path / "there").write_text("precious")
    (tmp_path / "bad.yaml").write_text("name: x\ngrid:\n  siez: [12, 12]\nsplits: {}\n")
    (tmp_path / "bad_run.yaml").write_text("training:\n  batch_siez: 3\n")
    (tmp_path / "bad_space.yaml").write_text("training:\n  p_uncond: {float: [0.5, 0.1]}\n")
    (tmp_path / "many_scans.yaml").write_text("training:\n  scans: {choice: [2, 3]}\n")
    (tmp_path / "one_scan.yaml").write_text("training:\n  scans: {int: [1, 2]}\n")
    (tmp_path / "many_scans_run.yaml").write_text("training:\n  scans: 3\n")
    unfinished = Dataset.create(tmp_path / "unfinished", tiny_dataset.settings)
    unfinished.record({file_name(scan, "low"): FileHashes("0" * 64, "0" * 64)})
    # Whole by its manifest: what the settings forbid is refused before a file is read.
    small = tiny_dataset.settings.model_copy(update={"name": "small", "grid": Grid(size=(10, 12))})
    unrateable = Dataset.create(tmp_path / "small", small)
    unrateable.record({name: FileHashes("0" * 64, "0" * 64) for _, name in unrateable.expected()})
    (tmp_path / "folder").mkdir()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return {
        "tmp": tmp_path,
        "home": study.home,
        "data": study.data,
        "space": study.space,
        "low": low,
        "high": low.with_name("high.mdf"),
        "port": port,
        "other": other,
        "zeros": "0" * 32,
        "champion": "models:/sm-search@champion",
    }


SYNTHESIZE = "synthesize --home {home} --output {tmp}/out.mdf --model {champion} --input "
EVALUATE = "evaluate --home {home} --data {data} --model "
CASES = {
    "wrong key in a dataset": ("simulate --config {tmp}/bad.yaml --out {tmp}/d", ["bad.yaml:3", "siez", "'size'"]),
    "wrong key in a run": (
        "train --config {tmp}/bad_run.yaml --data {data} --out {tmp}/o",
        ["bad_run.yaml:2", "'batch_size'"],
    ),
    "wrong range in a space": (
        "sweep --space {tmp}/bad_space.yaml --data {data} --home {tmp}/h",
        ["bad_space.yaml:2", "low < high"],
    ),
    "more scans than there are": (
        "sweep --space {tmp}/many_scans.yaml --data {data} --home {tmp}/h",
        ["training.scans = 3: must be at most 2", "'train'", "'tiny'"],
    ),
    "more scans than there are for one model": (
        "train --config {tmp}/many_scans_run.yaml --data {data} --out {tmp}/o",
        ["training.scans = 3: must be at most 2"],
    ),
    "grid too small for a sweep": (
        "sweep --space {space} --data {tmp}/small --home {tmp}/h",
        ["dataset 'small': no model can be rated on it", "11 × 11 voxels, not 10 × 12"],
    ),
    "grid too small for a dry run": ("sweep --space {space} --data {tmp}/small --dry-run", ["11 × 11"]),
    "grid too small for one model": ("train --data {tmp}/small --out {tmp}/o", ["11 × 11"]),
    "grid too small for a schedule": ("tune-schedule --model {tmp}/m --data {tmp}/small", ["11 × 11"]),
    "grid too small for an evaluation": ("evaluate --model {tmp}/m --data {tmp}/small --home {tmp}/h", ["11 × 11"]),
    "one training scan": (
        "sweep --space {tmp}/one_scan.yaml --data {data} --home {tmp}/h",
        ["one_scan.yaml:2", "training.scans", "greater than or equal to 2"],
    ),
    "dataset that is being simulated": (
        "sweep --space {space} --data {tmp}/unfinished --home {tmp}/h",
        ["7 files are not simulated yet", "`sweep --while-simulating`"],
    ),
    "dry run on a dataset that is being simulated": (
        "sweep --space {space} --data {tmp}/unfinished --home {tmp}/h --while-simulating --dry-run",
        ["7 files are not simulated yet"],
    ),
    "no such config": ("simulate --config {tmp}/none.yaml --out {tmp}/d", ["none.yaml", "No such file"]),
    "no such preset": ("simulate --preset papre --out {tmp}/d", ["papre", "paper-54"]),
    "no such dataset": ("train --data {tmp}/none --out {tmp}/o", ["none/manifest.json", "does not exist"]),
    "no such file to validate": ("validate {tmp}/none.mdf", ["none.mdf", "does not exist"]),
    "no such condition": (SYNTHESIZE + "{tmp}/none.mdf", ["none.mdf"]),
    "no such matrix": ("reconstruct --sm {tmp}/none.mdf --phantom dots", ["none.mdf"]),
    "no such phantom": ("reconstruct --sm {high} --phantom cat", ["'cat'", "vessel"]),
    "no such scan": (
        "simulate --preset paper-12 --phantom dots --scan d1 --out {tmp}/m.mdf",
        ["--scan 'd1': no such scan; 'paper-12' has", "d30nm-fx25kHz-nd99"],
    ),
    "a label without a cluster": (
        "simulate --preset paper-12 --out {tmp}/d --on pool=cpu",
        ["--on pool=cpu", "--ray-address"],
    ),
    "no scan to measure": ("simulate --preset paper-12 --phantom dots --out {tmp}/m.mdf", ["--scan is missing"]),
    "no such phantom to measure": (
        "simulate --preset paper-12 --phantom cat --scan d30nm-fx25kHz-nd99 --out {tmp}/m.mdf",
        ["'cat'", "vessel"],
    ),
    "measurement exists": (
        "simulate --preset paper-12 --phantom dots --scan d30nm-fx25kHz-nd99 --out {tmp}/there",
        ["there: exists", "--force"],
    ),
    "grid that is not finer": (
        "simulate --preset paper-12 --phantom dots --scan d30nm-fx25kHz-nd99 --finer 0 --out {tmp}/m.mdf",
        ["finer 0"],
    ),
    "scan of a whole dataset": (
        "simulate --preset paper-12 --scan d30nm-fx25kHz-nd99 --out {tmp}/d",
        ["--scan", "--phantom"],
    ),
    "matrix in the place of a measurement": (
        "reconstruct --sm {high} --measurement {high}",
        ["high.mdf", "not a measurement"],
    ),
    "truth of a measurement": ("reconstruct --sm {high} --measurement {high} --truth {high}", ["--truth"]),
    "threshold without an SNR": (
        "reconstruct --sm {high} --phantom dots --snr-threshold 3",
        ["high.mdf", "neither an SNR nor background frames"],
    ),
    "truncated condition": (SYNTHESIZE + "{tmp}/truncated.mdf", ["truncated.mdf"]),
    "half a condition": (SYNTHESIZE + "{tmp}/half.mdf", ["half.mdf"]),
    "condition that is no HDF5": (SYNTHESIZE + "{tmp}/text.mdf", ["text.mdf"]),
    "truncated matrix": ("reconstruct --sm {tmp}/truncated.mdf --phantom dots", ["truncated.mdf"]),
    "condition of another gradient": (SYNTHESIZE + "{high}", ["gradient_t_per_m", "trained for 0.1"]),
    "folder without conditions": (SYNTHESIZE + "{tmp}/folder", ["folder: names no .mdf file"]),
    "list that is not there": (SYNTHESIZE + "{tmp}/none.txt", ["none.txt: cannot be read: No such file"]),
    "output in no folder": (
        "synthesize --home {home} --output {tmp}/none/out.mdf --model {champion} --input {low}",
        ["none/out.mdf"],
    ),
    "output exists": (
        "synthesize --home {home} --output {tmp}/there --model {champion} --input {low}",
        ["there: exists", "--force"],
    ),
    "figure exists": (EVALUATE + "{champion} --figure {tmp}/there", ["there: exists", "--force"]),
    "page exists": ("report --home {home} --study tiny-study --out {tmp}/there", ["there: exists", "--force"]),
    "no such split": (EVALUATE + "{champion} --split tset", ["'tset'", "train, validation, test"]),
    "no such alias": (EVALUATE + "models:/sm-search@nobody", ["nobody", "champion"]),
    "no such model": (EVALUATE + "models:/nothing@champion", ["nothing"]),
    "no such run": (EVALUATE + "runs:/{zeros}/checkpoint", ["{zeros}"]),
    "URI of no kind": (EVALUATE + "model:/sm-search", ["'model:/sm-search'", "models:/NAME@ALIAS"]),
    "folder that is no checkpoint": (EVALUATE + "{tmp}/folder", ["folder", "checkpoint.json"]),
    "tracking URI of no kind": (
        "promote --study s --data {data} --tracking-uri ftp://host",
        ["'ftp://host'", "must be http"],
    ),
    "server that is away": (
        "promote --study s --data {data} --tracking-uri http://127.0.0.1:{port}",
        ["127.0.0.1:{port}", "refused"],
    ),
    "no such study": ("promote --home {home} --data {data} --study nobody", ["'nobody'", "tiny-study"]),
    "nothing to compare on": ("promote --home {home} --study tiny-study", ["--data is missing"]),
    "no sampling seeds": ("promote --home {home} --study tiny-study --data {data} --seeds 0", ["--seeds 0"]),
    "no such dataset to compare on": ("promote --home {home} --study tiny-study --data {tmp}/none", ["none/manifest"]),
    "no previous champion": ("promote --home {home} --rollback", ["'sm-search'", "no previous champion"]),
    "no such run to tune": ("tune-schedule --home {home} --data {data} --run {zeros}", ["{zeros}"]),
    "no trials to tune": ("tune-schedule --home {home} --data {data} --run {zeros} --trials 0", ["--trials 0"]),
    "no space": ("sweep --data {data}", ["--space is missing"]),
    "no data": ("sweep --space {space}", ["--data is missing"]),
    "no space for a job": ("sweep --data {data} --ray-address http://127.0.0.1:{port}", ["--space is missing"]),
    "attached without an address": ("sweep --attach s", ["--attach s", "--ray-address http://HOST:PORT"]),
    "cancelled on a cluster": ("sweep --cancel s --ray-address auto", ["--cancel s", "--ray-address http://HOST:PORT"]),
    "attached with a space": (
        "sweep --attach s --space {space} --ray-address http://127.0.0.1:{port}",
        ["--attach s: takes no --space"],
    ),
    "jobs server that is away": (
        "sweep --space {space} --data {data} --ray-address http://127.0.0.1:{port}",
        ["--ray-address http://127.0.0.1:{port}", "refused"],
    ),
    "jobs server that is something else": (
        "sweep --attach s --ray-address http://127.0.0.1:{other}",
        ["--ray-address http://127.0.0.1:{other}: "],
    ),
    "jobs server of no kind": ("sweep --attach s --ray-address http://h:port", ["http://h:port"]),
    "relative data of a job": (
        "sweep --space {space} --data data/demo --ray-address http://127.0.0.1:{port}",
        ["--data data/demo", "an absolute path there"],
    ),
    "relative storage of a job": (
        "sweep --space {space} --data {data} --storage sm --ray-address http://127.0.0.1:{port}",
        ["--storage sm", "an absolute path there"],
    ),
    "password of a job": (
        "sweep --space {space} --data {data} --tracking-uri http://me:secret@h --ray-address http://127.0.0.1:{port}",
        ["--tracking-uri", "MLFLOW_TRACKING_PASSWORD"],
    ),
    "wrong space of a job": (
        "sweep --space {tmp}/bad_space.yaml --data {data} --ray-address http://127.0.0.1:{port}",
        ["bad_space.yaml:2", "low < high"],
    ),
    "jobs server of a verb without jobs": (
        "simulate --preset paper-12 --out {tmp}/d --ray-address http://127.0.0.1:{port}",
        ["HOST:PORT", "`sweep` also takes http://HOST:PORT"],
    ),
    "nothing to resume": ("sweep --space {space} --data {data} --home {tmp}/h --resume", ["nothing to resume"]),
    "study that exists": ("sweep --space {space} --data {data} --home {home}", ["exists", "--resume"]),
    "cluster that is away": (
        "simulate --preset paper-12 --out {tmp}/d --ray-address 127.0.0.1:{port}",
        ["--ray-address 127.0.0.1:{port}", "refused"],
    ),
    "cluster address of no kind": ("simulate --preset paper-12 --out {tmp}/d --ray-address nowhere", ["HOST:PORT"]),
    "demo with a database": ("demo --home {tmp}/h --tracking-uri sqlite:////x.db", ["--tracking-uri"]),
}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("line", "words"), CASES.values(), ids=list(CASES))
def test_bad_input_is_one_line_and_status_2(
    run: Callable[..., Any], at: dict[str, Any], champion: str, line: str, words: list[str], as_json: bool
) -> None:
    before = {path: path.read_bytes() for path in at["tmp"].rglob("*") if path.is_file()}
    done = run(*(word.format(**at) for word in line.split(" ")), *(["--json"] if as_json else []))
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word.format(**at) in done.stderr
    assert {path: path.read_bytes() for path in at["tmp"].rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sweeep",
        "sweep --attach s --cancel s",
        "validate",
        "simulate --out d",
        "simulate --preset paper-12 --config x --out d",
        "reconstruct --sm a",
        "reconstruct --sm a --phantom dots --measurement b",
        "synthesize --model m --input i --output o --seed one",
        "promote --study s --stduy t",
        "promote --data d",
        "promote --study s --rollback",
    ],
)
def test_bad_usage_is_status_2_with_the_usage(run: Callable[..., Any], line: str) -> None:
    done = run(*line.split())
    assert done.status == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: sm-search")
    assert "Traceback" not in done.stderr


def test_an_unreadable_home_is_one_line(run: Callable[..., Any], at: dict[str, Any]) -> None:
    done = run("promote", "--study", "s", "--data", at["data"], "--home", at["tmp"] / "there")
    assert done.status == 2
    assert done.stderr.count("\n") == 1
    assert "there" in done.stderr


def test_a_process_says_an_error_in_one_line_and_no_more(command: Any, at: dict[str, Any]) -> None:
    """As above, with whatever the libraries print when they are loaded or stopped."""
    line = (SYNTHESIZE + "{tmp}/half.mdf --json").replace("{champion}", "models:/nothing@champion")
    done = command(*(word.format(**at) for word in line.split()))
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_the_status_of_an_interrupt_is_ours_also_where_it_fell_into_code_from_a_text(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import runpy\n"
        "import sm_search.cli.main as cli\n"
        "def main():\n"
        "    try:\n"
        "        exec('raise KeyboardInterrupt')\n"
        "    except KeyboardInterrupt:\n"
        "        return 130\n"
        "cli.main = main\n"
        "runpy.run_module('sm_search', run_name='__main__')\n"
    )
    assert subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path).returncode == 130
