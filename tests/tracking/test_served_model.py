"""The stored model behind MLflow's own JSON interface, with a synthesiser that can be checked by hand."""

import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sm_search.config.errors import CheckpointError
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.tracking.registry import register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store


class Doubler:
    """Doubles every value, and keeps what it was given."""

    grid = Grid(size=(2, 1))
    low = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    unit = "A/m"
    orders = ((1, 0), (2, 3))

    def __init__(self, folder: Path) -> None:
        self.settings = (folder / "checkpoint.json").read_text()
        self.seen: list[SystemMatrix] = []

    def outside(self, low: SystemMatrix) -> str | None:
        return "the condition's f_x is too far away" if low.fx_hz > 1e6 else None

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        if low.nd == 7:
            raise CheckpointError("the model knows better")
        self.seen.append(low)
        return replace(low, values_CKN=2 * low.values_CKN)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Doubler]:
    doublers: list[Doubler] = []
    module: Any = types.ModuleType("sm_search.synthesis")
    module.load_synthesiser = lambda folder: doublers.append(Doubler(folder)) or doublers[-1]
    monkeypatch.setitem(sys.modules, "sm_search.synthesis", module)
    return doublers


@pytest.fixture
def server(store: Store, study: str, checkpoint: Path, loaded: list[Doubler], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    register(store, StudyLog.open(store, study).start_trial("t"), checkpoint, f"model-{study}")
    assert loaded == []
    with warnings.catch_warnings():
        # MLflow warns about its own models when it is imported, and Starlette about the client that MLflow's tests use.
        warnings.simplefilter("ignore")
        from mlflow.pyfunc import load_model
        from mlflow.pyfunc.scoring_server import init
        from starlette.testclient import TestClient
    return TestClient(init(load_model(store.client.get_model_version_download_uri(f"model-{study}", "1"))))


def test_the_server_answers_with_the_synthesised_values(
    server: Any, loaded: list[Doubler], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: dict[str, list[Any]] = {
        "values": [[[[[1.5, 2], [3, 4]], [[0, -1], [1e-9, 0]]]]],
        "mixing_orders": [[1, 0], [2, 3]],
        "fx_hz": [25e3],
        "nd": [99],
    }
    answer = server.post("/invocations", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": {"values": [[[[[3, 4], [6, 8]], [[0, -2], [2e-9, 0]]]]]}}
    (doubler,) = loaded
    (low,) = doubler.seen
    monkeypatch.setenv("SM_SEARCH_MAX_MATRICES", "2")
    assert doubler.settings == '{"grid": [2, 1]}'
    assert (low.mixing_orders, low.fx_hz, low.nd) == (((1, 0), (2, 3)), 25e3, 99)
    assert (low.grid, low.field) == (Doubler.grid, Doubler.low)
    assert low.values_CKN.tolist() == [[[1.5 + 2j, 3 + 4j], [-1j, 1e-9]]]

    for change, rule in [
        ({"mixing_orders": [[1, 0]]}, "mixing_orders asks for 1 components"),
        ({"values": [[[[[1, 2]], [[1, 2]]]]]}, "the model for 2 voxels"),
        ({"nd": [0]}, "nd is 0: must be a positive number"),
        ({"nd": [7]}, "the model knows better"),
        ({"fx_hz": [2e6]}, "the condition's f_x is too far away"),
        ({"values": 3 * inputs["values"], "fx_hz": 3 * [25e3], "nd": 3 * [99]}, "3 matrices; must be at most 2"),
        ({"nd": None}, ""),
    ]:
        refused = server.post("/invocations", json={"inputs": {**inputs, **change}})
        assert refused.status_code == 400
        assert rule in refused.json()["message"]


def test_what_nobody_waits_for_is_not_computed(
    server: Any, loaded: list[Doubler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    matrix = [[[[1.5, 2], [3, 4]], [[0, -1], [1e-9, 0]]]]
    inputs = {"values": 3 * [matrix], "mixing_orders": [[1, 0], [2, 3]], "fx_hz": 3 * [25e3], "nd": 3 * [99]}
    refused = server.post("/invocations", json={"inputs": inputs})
    assert refused.status_code == 400
    assert "of 3 matrices took longer than MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT allows" in refused.json()["message"]
    assert len(loaded[0].seen) < 3
