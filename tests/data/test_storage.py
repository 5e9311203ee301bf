"""Datasets on S3, against a real S3 server on loopback: written by Ray, resumed, damaged, read by two at once."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from sm_search.compute.parallel_simulation import simulate_dataset
from sm_search.compute.session import ray_session
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import Scan
from sm_search.data import storage
from sm_search.data.dataset import FIELDS, MANIFEST, Dataset, FileHashes, file_name, write_scan
from sm_search.data.storage import S3Folder, absolute, is_uri
from sm_search.tracking.records import best_trials, study_runs
from sm_search.tracking.store import open_store
from sm_search.training import training_images
from tests.conftest import run_here

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass(frozen=True)
class Server:
    """moto's S3 server in a process of its own, with one bucket."""

    endpoint: str
    log: Path

    def client(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(endpoint_override=self.endpoint, region="us-east-1", allow_bucket_creation=True)

    def keys(self, folder: str) -> set[str]:
        found = self.client().get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(f"{folder}/") for info in found if info.is_file}

    def transfers(self, folder: str) -> list[str]:
        """The objects below `folder` that were read so far, once for each time."""
        return re.findall(rf"GET /{folder}/(\S+\.mdf) HTTP", self.log.read_text())

    def require_credentials(self, required: bool) -> None:
        body, headers = b"0" if required else b"inf", {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", body, headers, method="POST")
        urllib.request.urlopen(request).close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("s3") / "log")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, server.log.open("wb") as log:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint}.items():
            patch.setenv(name, value)
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(server, process)
            server.client().create_dir("bucket")
            yield server
        finally:
            process.terminate()
            process.wait()


def wait_for(server: Server, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None, server.log.read_text()
        try:
            urllib.request.urlopen(f"{server.endpoint}/moto-api/").close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(server.endpoint)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SM_SEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stored(server: Server, tiny_dataset: Dataset, request: pytest.FixtureRequest) -> Dataset:
    """The tiny dataset in a folder of the bucket, one folder for each test."""
    dataset = Dataset.create(f"s3://bucket/{request.node.name}/tiny", tiny_dataset.settings)
    put(dataset, {scan.id: scan for scan, _ in dataset.expected()}.values(), tiny_dataset)
    return Dataset.open(dataset.location)


def put(dataset: Dataset, scans: Iterable[Scan], source: Dataset) -> None:
    """Write scans that another dataset has."""
    hashes, created = {}, dataset.manifest.created
    for scan in scans:
        for which in FIELDS:
            sm = source.read(scan, which)
            hashes[file_name(scan, which)] = write_scan(dataset.location, dataset.settings, created, scan, which, sm)
    dataset.record(hashes)


def key(dataset: Dataset, name: str = "") -> str:
    return f"{dataset.location}/{name}".removeprefix("s3://").rstrip("/")


def overwrite(server: Server, path: str, change: Callable[[bytearray], None]) -> None:
    with server.client().open_input_stream(path) as stream:
        content = bytearray(stream.read())
    change(content)
    with server.client().open_output_stream(path) as stream:
        stream.write(bytes(content))


def flip(content: bytearray) -> None:
    content[len(content) // 2] ^= 1


def test_a_stored_dataset_reads_like_a_local_one(stored: Dataset, tiny_dataset: Dataset, server: Server) -> None:
    assert stored.settings == tiny_dataset.settings
    assert server.keys(key(stored)) == {MANIFEST, *(name for _, name in stored.expected())}
    assert stored.unfinished() == []
    for (scan, name), which in zip(stored.expected(), FIELDS * 4, strict=True):
        sm = stored.read(scan, which)
        assert isinstance(sm.values_CKN.base, np.memmap)
        assert np.array_equal(sm.values_CKN, tiny_dataset.read(scan, which).values_CKN)
        assert sha256((stored.folder / name).read_bytes()).hexdigest() == stored.manifest.files[name]


def test_ray_simulates_into_the_bucket_and_repairs_what_is_lost_or_damaged(
    server: Server, tiny_settings: DatasetSettings
) -> None:
    uri, folder = "s3://bucket/ray/tiny", "bucket/ray/tiny"
    with ray_session(cpus=2):
        first = simulate_dataset(uri, tiny_settings)
        names = [name for _, name in first.expected()]
        assert sorted(first.manifest.files) == sorted(names)
        server.client().delete_file(f"{folder}/{names[0]}")
        overwrite(server, f"{folder}/{names[-1]}", flip)
        redone: list[str] = []
        second = simulate_dataset(uri, tiny_settings, lambda done, total, name: redone.append(name))
    assert {name.split("/")[0] for name in redone} == {names[0].split("/")[0], names[-1].split("/")[0]}
    assert second.manifest == first.manifest
    assert Dataset.open(uri).unfinished() == []
    assert server.keys(folder) == {MANIFEST, *names}


def test_other_settings_at_the_uri_are_refused(stored: Dataset, tiny_settings: DatasetSettings) -> None:
    other = tiny_settings.model_copy(update={"magnetisation": "equilibrium"})
    with pytest.raises(DataError, match=f"^{stored.location}: holds dataset 'tiny' with other settings"):
        Dataset.create(stored.location, other)


@pytest.mark.parametrize("change", [flip, lambda content: content.__delitem__(slice(100, None)), bytearray.clear])
def test_a_damaged_object_is_named_and_never_cached(
    stored: Dataset, server: Server, change: Callable[[bytearray], None]
) -> None:
    scan = stored.settings.scans("validation")[0]
    name = file_name(scan, "low")
    overwrite(server, key(stored, name), change)
    assert stored.unfinished() == [(scan, "low")]
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            stored.read(scan, "low")
        rule = "its SHA-256 is not the one in manifest.json; simulate again to repair it"
        assert str(caught.value) == f"{stored.location}/{name}: {rule}"
    assert [path.name for path in stored.folder.rglob("*") if path.is_file()] == [".low.mdf.lock"]
    assert stored.read(scan, "high").nd == scan.nd


def test_a_missing_object_is_named(stored: Dataset, server: Server) -> None:
    scan = stored.settings.scans("test")[0]
    server.client().delete_file(key(stored, file_name(scan, "high")))
    with pytest.raises(DataError) as caught:
        stored.read(scan, "high")
    assert str(caught.value) == f"{stored.location}/{file_name(scan, 'high')}: does not exist"


READ = """
import sys
from hashlib import sha256
from sm_search.data.dataset import Dataset
from sm_search.training import training_images
from tests.conftest import run_here

print("ready", flush=True)
sys.stdin.readline()
images, _ = training_images(Dataset.open(sys.argv[1]), "train", (0, 1), "none")
print(sha256(images.targets.numpy().tobytes()).hexdigest())
"""


def test_two_processes_at_once_fetch_each_file_once(stored: Dataset, server: Server, tiny_dataset: Dataset) -> None:
    expected, _ = training_images(tiny_dataset, "train", (0, 1), "none")
    names = sorted(file_name(scan, which) for scan in stored.settings.scans("train") for which in FIELDS)
    command = [sys.executable, "-c", READ, stored.location]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    for reader in readers:
        reader.stdin.write("\n")
        reader.stdin.flush()
    digests = [reader.communicate()[0].strip() for reader in readers]
    assert digests == [sha256(expected.targets.numpy().tobytes()).hexdigest()] * 2
    assert sorted(server.transfers(key(stored))) == names

    training_images(Dataset.open(stored.location), "train", (0, 1), "none")
    assert sorted(server.transfers(key(stored))) == names


def test_a_damaged_copy_in_the_cache_is_fetched_again(stored: Dataset, tiny_dataset: Dataset) -> None:
    scan = stored.settings.scans("test")[0]
    copy = stored.file(scan, "low")
    content = bytearray(copy.read_bytes())
    flip(content)
    copy.write_bytes(content)
    again = Dataset.open(stored.location).read(scan, "low")
    assert np.array_equal(again.values_CKN, tiny_dataset.read(scan, "low").values_CKN)


def test_a_cache_that_cannot_be_written_is_named(
    stored: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SM_SEARCH_CACHE", str(tmp_path / "file"))
    dataset = Dataset.open(stored.location)
    with pytest.raises(DataError, match=rf"^{tmp_path}/file/.*cannot be written: .*\$SM_SEARCH_CACHE"):
        dataset.read(dataset.settings.scans("test")[0], "low")


def test_a_large_object_in_several_parts_comes_back(server: Server) -> None:
    content = np.random.default_rng(0).bytes(11 << 20)
    folder = S3Folder("s3://bucket/large")
    folder.write("file", content)
    assert folder.read("file") == content
    assert folder.sha256("file") == sha256(content).hexdigest()
    assert folder.sha256("other") is None


def attempts(uri: str, settings: DatasetSettings) -> Iterator[str]:
    """What opening and creating say, each within seconds and on one line."""
    for attempt in (lambda: Dataset.open(uri), lambda: Dataset.create(uri, settings)):
        begin = time.monotonic()
        with pytest.raises(DataError) as caught:
            attempt()
        assert time.monotonic() - begin < 20
        assert str(caught.value).startswith(f"{uri}/{MANIFEST}: ")
        assert "\n" not in str(caught.value)
        yield str(caught.value)


def test_a_wrong_bucket_is_named(server: Server, tiny_settings: DatasetSettings) -> None:
    opened, created = attempts("s3://bukket/tiny", tiny_settings)
    assert opened.endswith("there is no bucket 'bukket'")
    assert "NO_SUCH_BUCKET" in created


def test_a_bucket_without_the_dataset_says_so(server: Server) -> None:
    with pytest.raises(DataError, match=r"^s3://bucket/none/manifest\.json: does not exist"):
        Dataset.open("s3://bucket/none")


def test_wrong_credentials_are_told_with_where_they_come_from(
    stored: Dataset, server: Server, tiny_settings: DatasetSettings
) -> None:
    server.require_credentials(True)
    try:
        messages = list(attempts(stored.location, tiny_settings))
    finally:
        server.require_credentials(False)
    for message in messages:
        assert "ACCESS_DENIED" in message
        assert message.endswith("Credentials come from the environment, ~/.aws or the machine's role.")
    assert Dataset.open(stored.location).unfinished() == []


def test_an_endpoint_that_refuses_is_told_in_seconds(
    server: Server, tiny_settings: DatasetSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for message in attempts("s3://bucket/tiny", tiny_settings):
        assert "Could not connect" in message


def test_an_endpoint_that_is_silent_is_told_in_seconds(
    server: Server, tiny_settings: DatasetSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SILENCE_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "Timeout was reached" in next(attempts("s3://bucket/tiny", tiny_settings))


@pytest.mark.parametrize(
    "uri", ["s3:/bucket/x", "s3://", "s3:///x", "s3://B/x", "s3://bucket//x", "s3://bucket/x?region=y", "gs://bucket/x"]
)
def test_a_uri_that_is_no_folder_in_a_bucket_is_refused(uri: str, tiny_settings: DatasetSettings) -> None:
    for attempt in (Dataset.open, lambda uri: Dataset.create(uri, tiny_settings)):
        with pytest.raises(DataError, match=f"^{re.escape(uri)}: must be a folder or s3://BUCKET/FOLDER"):
            attempt(uri)


def test_a_path_is_no_uri_and_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("data/demo", Path("data/demo"), "./data/demo"):
        assert not is_uri(path)
        assert Path(absolute(path)) == tmp_path / "data" / "demo"
    assert absolute("s3://bucket/data") == "s3://bucket/data"


SPACE = """
study: stored
training:
  steps: 4
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {steps: {choice: [1, 2]}}
budget: {trials: 2, first_rung: 2, reduction: 2, schedules: 2, images: 4}
"""


@pytest.mark.slow
def test_every_verb_that_takes_a_dataset_takes_a_uri(stored: Dataset, server: Server, tmp_path: Path) -> None:
    """The road of a cluster: the study's files are in the bucket too, and each dataset file is fetched once."""
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "run.yaml").write_text("training: {steps: 2, batch_size: 4, backbone: {backbone: linear-basis}}\n")
    home, data = ["--home", str(tmp_path / "home")], ["--data", stored.location]
    swept = command("sweep", "--space", tmp_path / "space.yaml", "--storage", "s3://bucket/ray", *data, *home)
    assert [trial["state"] for trial in swept["trials"]].count("complete") >= 1
    assert "studies/stored/tune/tuner.pkl" in server.keys("bucket/ray")
    command("promote", "--study", "stored", *data, *home)
    rated = command("evaluate", "--model", "models:/sm-search@champion", *data, *home)
    assert {row["method"] for row in rated["rows"]} >= {"copy", "nearest", "model"}
    (champion,) = best_trials(open_store(tmp_path / "home"), "stored", swept["metric"])[:1]
    tuned = command("tune-schedule", "--run", champion.run_id, "--trials", "2", *data, *home)
    assert {"val_psnr_db", "val_ssim", "val_crps", "val_spread_error"} <= tuned["metrics"].keys()
    command("train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "model", *data)
    assert sorted(server.transfers(key(stored))) == sorted(name for _, name in stored.expected())


@pytest.mark.slow
def test_a_study_begins_while_its_dataset_comes_into_the_bucket(
    tiny_dataset: Dataset, server: Server, tmp_path: Path
) -> None:
    """The test scan comes when a trial, which does without it, has stored its first rung."""
    settings = tiny_dataset.settings
    dataset = Dataset.create("s3://bucket/early/tiny", settings)
    put(dataset, [*settings.scans("train"), *settings.scans("validation")], tiny_dataset)
    (tmp_path / "space.yaml").write_text(SPACE)
    stored: list[bool] = []

    def finish() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not any(stored):
            stored.append(any("checkpoint_" in name for name in server.keys("bucket/early/ray")))
            time.sleep(0.5)
        put(dataset, settings.scans("test"), tiny_dataset)

    simulation = threading.Thread(target=finish)
    simulation.start()
    study = ["sweep", "--space", tmp_path / "space.yaml", "--storage", "s3://bucket/early/ray", "--while-simulating"]
    try:
        swept = command(*study, "--data", dataset.location, "--home", str(tmp_path / "home"))
    finally:
        simulation.join()
    assert stored[-1]
    assert "complete" in [trial["state"] for trial in swept["trials"]]
    parent, _ = study_runs(open_store(tmp_path / "home"), "stored")
    assert parent.tags["dataset_hash"] == Dataset.open(dataset.location).content_hash()


def command(*arguments: str | Path) -> dict[str, Any]:
    """The JSON object that a verb prints."""
    done = run_here(*arguments, "--json")
    assert done.status == 0, done.stderr
    return done.object


def test_a_reader_of_a_dataset_that_is_being_written_sees_each_new_file(stored: Dataset) -> None:
    files = dict(stored.manifest.files)
    scan, name = stored.expected()[0]
    stored.manifest = stored.manifest.model_copy(update={"files": {k: v for k, v in files.items() if k != name}})
    stored.record({})
    reader = Dataset.open(stored.location, complete=False)
    assert reader.missing() == [name]
    stored.record({name: FileHashes(files[name], stored.manifest.contents[name])})
    reader.refresh()
    assert (reader.missing(), reader.content_hash()) == ([], stored.content_hash())
    assert reader.read(scan, "low").values_CKN.shape == stored.read(scan, "low").values_CKN.shape
