"""`mlflow models serve` as a user starts it, without any pickle: a real model answers over HTTP."""

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow.artifacts
import numpy as np
import pytest

from sm_search.data.dataset import Dataset, Pair
from sm_search.synthesis import load_synthesiser
from sm_search.tracking.logged_models import EXAMPLE_FILE
from sm_search.tracking.registry import register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store
from tests.tracking.servers import free_port, running

pytestmark = pytest.mark.slow
PICKLE_FREE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
MODEL = "models:/served@challenger"
MANY, TIMEOUT_S = 2000, 4
LIMITS = {"SM_SEARCH_MAX_MATRICES": str(MANY), "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(TIMEOUT_S)}
MAX_BYTES = 2_000_000
TOO_LONG = (({"Content-Length": str(10 * 10**9)}, b""), ({"Transfer-Encoding": "chunked"}, b"1" * 65536))


@pytest.fixture(scope="module")
def environment(store: Store, good_model: Path, tiny_dataset: Dataset) -> dict[str, str]:
    """Of a server of the model `served`, which has an example."""
    example = tiny_dataset.read(tiny_dataset.settings.scans("train")[0], "low")
    register(store, StudyLog.open(store, "served").start_trial("t"), good_model, "served", example=example)
    # MLflow starts `uvicorn` by its name, which a virtual environment that is not activated does not have on its path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**PICKLE_FREE, "PATH": path, "MLFLOW_TRACKING_URI": store.uri, "MLFLOW_REGISTRY_URI": store.uri}


@contextmanager
def serving(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    line = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    with running(line, folder / "served.log", f"{address}/ping", environment):
        yield address


@pytest.fixture(scope="module")
def address(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = ["mlflow", "models", "serve", "--model-uri", MODEL, "--env-manager", "local"]
    with serving(command, environment | LIMITS, tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="module")
def bounded_address(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    own = {"SM_SEARCH_SERVED_MODEL": MODEL, "SM_SEARCH_MAX_REQUEST_BYTES": str(MAX_BYTES)}
    command = ["uvicorn", "sm_search.tracking.model_server:served", "--factory"]
    with serving(command, environment | own, tmp_path_factory.mktemp("bounded")) as found:
        yield found


@pytest.fixture
def pair(tiny_dataset: Dataset) -> Pair:
    return next(iter(tiny_dataset.pairs("test")))


def request_of(pair: Pair) -> dict[str, Any]:
    values_CKN = pair.low.values_CKN
    return {
        "values": [np.stack([values_CKN.real, values_CKN.imag], axis=-1).tolist()],
        "mixing_orders": [list(order) for order in pair.low.mixing_orders],
        "fx_hz": [pair.low.fx_hz],
        "nd": [pair.low.nd],
    }


def post(address: str, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
            return error.code, json.loads(body) if body[:1] in b"{[" else body.decode()


def test_the_answer_is_what_synthesis_makes(address: str, pair: Pair, good_model: Path) -> None:
    status, answer = post(address, json.dumps({"inputs": request_of(pair)}).encode())
    assert status == 200, answer
    (parts,) = np.array(answer["predictions"]["values"])
    expected = load_synthesiser(good_model).predict(pair.low).values_CKN
    np.testing.assert_array_equal(parts[..., 0] + 1j * parts[..., 1], expected)


def test_a_batch_is_answered_as_its_matrices_one_by_one(address: str, pair: Pair, good_model: Path) -> None:
    one = request_of(pair)
    batch = {**one, "values": [*one["values"], *(2 * np.array(one["values"])).tolist()]}
    batch |= {"fx_hz": 2 * one["fx_hz"], "nd": 2 * one["nd"]}
    status, answer = post(address, json.dumps({"inputs": batch}).encode())
    assert status == 200, answer
    parts = np.array(answer["predictions"]["values"])
    assert parts.shape == (2, *np.shape(one["values"])[1:])
    expected = load_synthesiser(good_model).predict(pair.low).values_CKN
    np.testing.assert_array_equal(parts[0, ..., 0] + 1j * parts[0, ..., 1], expected)
    np.testing.assert_allclose(parts[1], 2 * parts[0], rtol=1e-4, atol=1e-4 * np.abs(parts).max())


def bad(pair: Pair) -> dict[str, tuple[dict[str, Any] | bytes, str]]:
    good = request_of(pair)
    holes = np.array(good["values"])
    holes[0, 0, 3, 7, 1] = np.nan
    return {
        "one voxel too few": ({**good, "values": np.array(good["values"])[:, :, :, 1:].tolist()}, "144 voxels"),
        "one component too few": ({**good, "values": np.array(good["values"])[:, :, 1:].tolist()}, "7 components"),
        "no imaginary parts": ({**good, "values": np.array(good["values"])[..., :1].tolist()}, "values"),
        "too few axes": ({**good, "values": [1.0, 2.0]}, "values"),
        "no channel": ({**good, "values": []}, "values"),
        "text for numbers": ({**good, "values": "abc"}, "could not convert"),
        "a missing tensor": ({name: value for name, value in good.items() if name != "nd"}, "nd"),
        "not a number": ({**good, "values": holes.tolist()}, "matrix 0, channel 0, component 3, voxel 7 is nan"),
        "another order": ({**good, "mixing_orders": [[9, 9], *good["mixing_orders"][1:]]}, "mixing orders"),
        "no frequency": ({**good, "fx_hz": [0.0]}, "fx_hz is 0.0: must be"),
        "two frequencies for one": ({**good, "fx_hz": [1e4, 2e4]}, "fx_hz"),
        "no division of the frequency": ({**good, "nd": [-3]}, "nd is -3: must be"),
        "nothing": ({}, ""),
        "no JSON": (b"{", ""),
    }


CASES = [
    "one voxel too few",
    "one component too few",
    "no imaginary parts",
    "too few axes",
    "no channel",
    "text for numbers",
    "a missing tensor",
    "not a number",
    "another order",
    "no frequency",
    "two frequencies for one",
    "no division of the frequency",
    "nothing",
    "no JSON",
]


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_is_refused_with_its_reason(address: str, pair: Pair, case: str) -> None:
    body, word = bad(pair)[case]
    sent = body if isinstance(body, bytes) else json.dumps({"inputs": body}).encode()
    status, answer = post(address, sent)
    assert 400 <= status < 500, answer
    assert word in str(answer)
    assert "Traceback" not in str(answer.get("message"))
    assert post(address, json.dumps({"inputs": request_of(pair)}).encode())[0] == 200


def test_the_stored_example_is_answered_over_http(address: str, store: Store, good_model: Path, tmp_path: Path) -> None:
    location = store.client.get_model_version_by_alias("served", "challenger").source
    file = mlflow.artifacts.download_artifacts(artifact_uri=f"{location}/{EXAMPLE_FILE}", dst_path=str(tmp_path))
    status, answer = post(address, Path(file).read_bytes())
    assert status == 200, answer
    sent = json.loads(Path(file).read_text())["inputs"]["values"]
    assert np.shape(answer["predictions"]["values"]) == np.shape(sent) == (1, 1, 8, 144, 2)


def test_a_request_that_takes_too_long_is_ended_and_the_next_one_answered(address: str, pair: Pair) -> None:
    """Thousands of matrices, of one digit a number so that they are read quickly, take longer than this server lets."""
    one = request_of(pair)
    parts = np.array(one["values"])[:, :1]
    digits = np.round(9 * parts / np.abs(parts).max((-2, -1), keepdims=True)).astype(int).tolist()
    many = {**one, "values": MANY * digits, "fx_hz": MANY * one["fx_hz"], "nd": MANY * one["nd"]}
    body = json.dumps({"inputs": many}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=120)
    with caught.value as error:
        assert error.code == 504
        assert b"exceeded limit" in error.read()
    good = json.dumps({"inputs": one}).encode()
    # At most one matrix more is made of the long one; a busy machine may need another try beside that.
    assert any(post(address, good)[0] == 200 for _ in range(5))


def test_a_trajectory_outside_the_training_scans_is_refused(address: str, pair: Pair) -> None:
    status, answer = post(address, json.dumps({"inputs": {**request_of(pair), "fx_hz": [90e3]}}).encode())
    assert status == 400
    assert "f_x is 90 kHz; the model was trained for 10 to 30 kHz" in answer["message"]


def test_a_bounded_server_answers_and_refuses_what_is_too_long_unread(bounded_address: str, pair: Pair) -> None:
    good = json.dumps({"inputs": request_of(pair)}).encode()
    assert len(good) < MAX_BYTES
    assert post(bounded_address, good)[0] == 200
    host = bounded_address.removeprefix("http://")
    for headers, chunk in TOO_LONG:
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.putrequest("POST", "/invocations")
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        for _ in range(2 * MAX_BYTES // len(chunk) if chunk else 0):
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        # Neither body ever comes to its end.
        answer = connection.getresponse()
        assert answer.status == 413
        assert f"longer than {MAX_BYTES} bytes" in json.load(answer)["detail"]
        connection.close()
    assert post(bounded_address, good)[0] == 200
