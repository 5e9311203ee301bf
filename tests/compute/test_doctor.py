"""doctor names what is broken, and only that, on a real Ray session; several machines: tests/cluster/test_onprem.py."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from sm_search.cli.main import main
from sm_search.compute import doctor
from sm_search.compute.doctor import Check, examine
from sm_search.compute.nodes import NodeAnswer, ask_nodes, require_shared
from sm_search.tracking.store import open_store

NAMES = {"ray", "token", "mlflow", "versions", "gpu", "disk", "storage"}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """One more GPU than there is."""
    gpus = torch.cuda.device_count() + 1
    ray.init(
        address="local", num_cpus=1, num_gpus=gpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _no_token_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


def found(home: Path, storage: Path | None = None, tracking_uri: str | None = None) -> dict[str, Check]:
    checks = examine(None, str(storage) if storage else None, home, tracking_uri)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def failed(checks: dict[str, Check]) -> set[str]:
    assert all(check.remedy for check in checks.values() if check.status == "failed")
    return {name for name, check in checks.items() if check.status == "failed"}


def test_a_sound_machine_fails_only_with_the_gpu_that_is_not_there(tmp_path: Path) -> None:
    home, storage = tmp_path / "home", tmp_path / "storage"
    open_store(home)
    checks = found(home, storage)
    assert set(checks) == NAMES
    assert failed(checks) == {"gpu"}
    assert checks["gpu"].found.endswith(f"torch sees {torch.cuda.device_count()}")
    assert checks["storage"].found == f"{storage}: written and read from 1 nodes"
    assert f"ray {ray.__version__}" in checks["versions"].found
    assert "answers" in checks["mlflow"].found
    assert list(storage.iterdir()) == []


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checks = found(tmp_path / "home", tmp_path / "file/studies")
    assert failed(checks) == {"gpu", "storage"}
    assert "Not a directory" in checks["storage"].found


def test_a_storage_that_a_node_sees_as_another_folder(tmp_path: Path) -> None:
    """The node finds no mark of this process there."""
    (told,) = ask_nodes(ray.nodes(), doctor.look_around, str(tmp_path), "mark")
    with doctor.Mark(str(tmp_path)) as mark:
        (check,) = doctor._storage(str(tmp_path), True, mark, [told])
    assert check.status == "failed"
    assert "No such file" in check.found


def test_an_mlflow_server_that_is_away(tmp_path: Path) -> None:
    checks = found(tmp_path, tracking_uri="http://127.0.0.1:1")
    assert failed(checks) == {"gpu", "mlflow"}
    assert checks["mlflow"].found.startswith("http://127.0.0.1:1: the tracking server cannot be used")


def test_a_missing_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    checks = found(tmp_path)
    assert failed(checks) == {"gpu", "token"}
    (tmp_path / "token").write_text("secret")
    checks = found(tmp_path)
    assert failed(checks) == {"gpu"}
    assert "secret" not in repr(checks)


def test_a_node_with_another_ray(tmp_path: Path) -> None:
    mine = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "sm-search": "0.1.0"}
    check = doctor._versions(mine, [NodeAnswer("10.0.0.1", mine), NodeAnswer("10.0.0.2", {**mine, "ray": "2.55.0"})])
    assert check.status == "failed"
    assert check.found == "10.0.0.2 has ray 2.55.0, here 2.60.0"


def test_a_node_that_fails_to_answer_says_why() -> None:
    def question() -> None:
        raise ModuleNotFoundError("No module named 'sm_search'")

    (told,) = ask_nodes(ray.nodes(), question)
    assert told.error is not None
    assert "No module named 'sm_search'" in told.error


def test_one_machine_may_have_its_own_folder(tmp_path: Path) -> None:
    require_shared("--storage", tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_the_verb_says_each_remedy_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor", "--home", str(tmp_path), "--storage", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "→" not in line] == [
        *("ok", "skipped", "ok", "ok", "failed", "ok", "ok"),
    ]
    assert sum("→" in line for line in lines) == 1

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert main(["doctor", "--home", str(tmp_path), "--ray-address", "127.0.0.1:1", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    first, *others = told["checks"]
    assert (first["name"], first["status"]) == ("ray", "failed")
    assert "no Ray cluster answers" in first["found"]
    assert {check["name"] for check in others} == {"token", "mlflow"}
