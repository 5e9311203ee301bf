"""`mlflow models serve` as a user starts it, without any pickle: a real model answers over HTTP."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sm_search.data.dataset import Dataset, Pair
from sm_search.synthesis import load_synthesiser
from sm_search.tracking.registry import register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store
from tests.tracking.servers import free_port, running

pytestmark = pytest.mark.slow
PICKLE_FREE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


@pytest.fixture(scope="module")
def address(store: Store, good_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    register(store, StudyLog.open(store, "served").start_trial("t"), good_model, "served")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/served@challenger"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("served") / "served.log"
    # MLflow starts `uvicorn` by its name, which a virtual environment that is not activated does not have on its path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**PICKLE_FREE, "PATH": path, "MLFLOW_TRACKING_URI": store.uri, "MLFLOW_REGISTRY_URI": store.uri}
    with running(command, log, f"http://127.0.0.1:{port}/ping", environment):
        yield f"http://127.0.0.1:{port}"


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
            return error.code, json.load(error)


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
