"""A home that was moved or copied finds its files where they are now, or says in one line why not."""

import fcntl
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from sm_search.compute.doctor import examine_mlflow
from sm_search.config.errors import TrackingError
from sm_search.tracking.records import read_study_text
from sm_search.tracking.registry import download_model, register
from sm_search.tracking.relocation import LOCATIONS, moved_from
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store
from tests.tracking.conftest import add_study

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a study `s` and its registered model; its name holds what a URI escapes. Read only."""
    home = tmp_path_factory.mktemp("homes") / "a first home, ü"
    checkpoint = tmp_path_factory.mktemp("trained")
    (checkpoint / "checkpoint.json").write_text('{"grid": [2, 1]}')
    (checkpoint / WEIGHTS).write_bytes(b"weights")
    store = open_store(home)
    run_id = add_study(store, "s", checkpoint)
    StudyLog.attach(store, "s").log_text(None, "of the first", "space.json")
    register(store, run_id, checkpoint, "m")
    return home


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "a copy %")


def locations(home: Path) -> set[str]:
    with closing(sqlite3.connect(home / "mlflow.db")) as connection:
        found = [connection.execute(f"SELECT {column} FROM {table}").fetchall() for table, column in LOCATIONS]
    return {str(place) for rows in found for (place,) in rows if place}


def written(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_copied_home_is_a_store_of_its_own(original: Path, copy: Path) -> None:
    before = written(original)
    assert moved_from(copy / "mlflow.db") == original / "artifacts"
    store = open_store(copy)
    assert all(place.startswith(copy.as_uri()) for place in locations(copy))
    assert moved_from(copy / "mlflow.db") is None
    StudyLog.attach(store, "s").log_text(None, "of the copy", "space.json")
    add_study(store, "t", download_model(store, "models:/m/1"))
    assert read_study_text(store, "s", "space.json") == "of the copy"
    assert written(original) == before


def test_a_moved_home_finds_its_files_and_so_does_mlflow_alone(copy: Path, tmp_path: Path) -> None:
    open_store(copy)
    moved = copy.rename(tmp_path / "elsewhere")
    check = examine_mlflow(moved, None)
    assert check.status == "ok"
    assert f"its files, in {copy}/artifacts before, are found in {moved} now" in check.found
    assert "before" not in examine_mlflow(moved, None).found
    store = open_store(moved)
    assert read_study_text(store, "s", "space.json") == "of the first"
    for uri in ("models:/m/1", "models:/m@challenger"):
        assert (download_model(store, uri) / WEIGHTS).read_bytes() == b"weights"
    model = pyfunc_files(store, "m")
    assert model.is_relative_to(moved)
    assert (model / "MLmodel").is_file()
    assert not copy.exists()


def pyfunc_files(store: Store, name: str) -> Path:
    """Where MLflow itself finds the files of a version."""
    return Path(unquote(urlsplit(store.client.get_model_version_download_uri(name, "1")).path))


def test_a_database_without_its_files_is_refused_with_where_they_were(original: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(original / "mlflow.db", tmp_path / "alone")
    with pytest.raises(TrackingError) as caught:
        open_store(tmp_path / "alone")
    assert f"which were in {original}/artifacts; bring them to {tmp_path}/alone/artifacts" in str(caught.value)
    assert examine_mlflow(tmp_path / "alone", None).status == "failed"


def test_a_home_by_another_name_stays_as_it_is(copy: Path, tmp_path: Path) -> None:
    open_store(copy)
    link = tmp_path / "link"
    link.symlink_to(copy)
    assert read_study_text(open_store(link), "s", "space.json") == "of the first"
    assert all(place.startswith(copy.as_uri()) for place in locations(copy))


def test_a_home_is_not_renamed_under_a_running_study(copy: Path) -> None:
    (copy / "studies/s").mkdir(parents=True)
    with (copy / "studies/s/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = locations(copy)
        with pytest.raises(TrackingError, match="study 's' is being run under that name; wait"):
            open_store(copy)
        assert locations(copy) == before
    open_store(copy)


def test_files_that_a_server_keeps_elsewhere_stay_there(original: Path, copy: Path) -> None:
    with closing(sqlite3.connect(copy / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = 's3://bucket/1' WHERE name = 'sm_search'")
    before = locations(copy)
    open_store(copy)
    assert locations(copy) == before
