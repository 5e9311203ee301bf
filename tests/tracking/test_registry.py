import tempfile
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from sm_search.config.errors import CheckpointError, TrackingError
from sm_search.tracking.champion import model_aliases
from sm_search.tracking.registry import download_model, find_version, register, version_tags
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store


@pytest.fixture
def run_id(store: Store, study: str) -> str:
    return StudyLog.open(store, study).start_trial("t")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_comes_back_by_version_alias_and_run(
    store: Store, study: str, run_id: str, checkpoint: Path
) -> None:
    name = f"model-{study}"
    assert register(store, run_id, checkpoint, name, {"dataset": "abc"}) == 1
    (checkpoint / "checkpoint.json").write_text('{"second": true}')
    assert register(store, run_id, checkpoint, name) == 2
    first = download_model(store, f"models:/{name}/1")
    second = download_model(store, f"models:/{name}@challenger")
    assert _bytes(second) == _bytes(checkpoint)
    assert _bytes(first) == {**_bytes(checkpoint), "checkpoint.json": b'{"grid": [2, 1]}'}
    assert version_tags(store, name, 1) == {"dataset": "abc"}

    StudyLog.attach(store, study).log_folder("t", checkpoint, "deep/checkpoint")
    assert _bytes(download_model(store, f"runs:/{run_id}/deep/checkpoint")) == _bytes(checkpoint)
    assert download_model(store, str(checkpoint)) == checkpoint


def test_the_model_belongs_to_its_run_and_holds_no_pickle(
    store: Store, study: str, run_id: str, checkpoint: Path
) -> None:
    name = f"model-{study}"
    register(store, run_id, checkpoint, name)
    experiment = store.client.get_run(run_id).info.experiment_id
    (logged,) = store.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    version = store.client.get_model_version(name, "1")
    assert (version.run_id, version.source, logged.status.value) == (run_id, logged.artifact_location, "READY")
    assert [output.model_id for output in store.client.get_run(run_id).outputs.model_outputs] == [logged.model_id]
    files = {item.path for item in store.client.list_logged_model_artifacts(logged.model_id)}
    assert "served_model.py" in files
    assert not {path for path in files if path.endswith((".pkl", ".pickle"))}


def test_unknown_aliases_and_versions(store: Store, study: str, run_id: str, checkpoint: Path) -> None:
    name = f"model-{study}"
    register(store, run_id, checkpoint, name)
    with pytest.raises(TrackingError, match=rf"model '{name}' has no alias 'winner'; it has challenger \(version 1\)"):
        download_model(store, f"models:/{name}@winner")
    with pytest.raises(TrackingError, match=r"version=4.*not found"):
        download_model(store, f"models:/{name}/4")


def test_a_version_is_found_again_by_run_and_tags(store: Store, study: str, run_id: str, checkpoint: Path) -> None:
    name = f"model-{study}"
    assert find_version(store, name, run_id, {}) is None
    for digest in ("a", "b", "b"):
        register(store, run_id, checkpoint, name, {"digest": digest, "other": "x"})
    assert find_version(store, name, run_id, {"digest": "b"}) == 2
    assert find_version(store, name, run_id, {"digest": "c"}) is None
    assert find_version(store, name, "0" * 32, {"digest": "b"}) is None


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/model", "models:/a/b/c", "models:/a@b/c", "models:/a/latest", "runs:/123/x", "no/such/folder", ""],
)
def test_other_uris_are_refused_with_the_rule(
    store: Store, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"models:/NAME@ALIAS|has no file 'checkpoint.json'") as caught:
        download_model(store, uri)
    assert repr(uri)[1:-1] in str(caught.value)


def test_unknown_models_runs_and_artifacts(store: Store, run_id: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"model 'nobody'.*not found"):
        download_model(store, "models:/nobody@champion")
    with pytest.raises(TrackingError, match=f"run '{'0' * 32}'.*not found"):
        download_model(store, f"runs:/{'0' * 32}/checkpoint")
    with pytest.raises(TrackingError, match="No such artifact: 'checkpoint'"):
        download_model(store, f"runs:/{run_id}/checkpoint")
    with pytest.raises(CheckpointError, match="would leave the run's artifacts"):
        download_model(store, f"runs:/{run_id}/../../secret")


def test_a_model_on_this_machine_is_read_where_it_lies(
    store: Store, home: Path, study: str, run_id: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy would stay behind in the temporary folder of every process that is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    register(store, run_id, checkpoint, f"model-{study}")
    StudyLog.attach(store, study).log_folder("t", checkpoint, "deep/checkpoint")
    for uri in (f"models:/model-{study}/1", f"runs:/{run_id}/checkpoint", f"runs:/{run_id}/deep/checkpoint"):
        assert download_model(store, uri).is_relative_to(home)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("missing", ["checkpoint.json", "model.safetensors"])
def test_a_checkpoint_needs_both_files(store: Store, run_id: str, checkpoint: Path, missing: str) -> None:
    (checkpoint / missing).unlink()
    with pytest.raises(CheckpointError, match=f"has no file '{missing}'"):
        register(store, run_id, checkpoint)
    with pytest.raises(CheckpointError, match=f"has no file '{missing}'"):
        download_model(store, str(checkpoint))


def test_a_checkpoint_holds_neither_pickles_nor_links(store: Store, study: str, run_id: str, checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").write_bytes(b"\x80\x04")
    StudyLog.attach(store, study).log_folder("t", checkpoint, "checkpoint")
    with pytest.raises(CheckpointError, match=r"'optimizer.pt': a checkpoint holds only .json and .safetensors"):
        download_model(store, f"runs:/{run_id}/checkpoint")
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "extra.json").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match=r"'extra.json': .*no links"):
        register(store, run_id, checkpoint)


def test_a_failed_upload_leaves_no_version(
    store: Store, study: str, run_id: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise MlflowException("disk full")

    monkeypatch.setattr(store.client, "log_model_artifacts", refuse)
    with pytest.raises(TrackingError, match=r"storing .* as a model of run .*: disk full"):
        register(store, run_id, checkpoint, f"model-{study}")
    with pytest.raises(TrackingError, match="not found"):
        model_aliases(store, f"model-{study}")
    experiment = store.client.get_run(run_id).info.experiment_id
    models = store.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert [model.status.value for model in models] == ["FAILED"]
