"""The SQLite file of a home: whole or absent whatever kills its maker, and of a version that can be opened."""

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar

import pytest
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import Engine, create_engine

from sm_search.compute.doctor import examine_mlflow
from sm_search.config.errors import TrackingError
from sm_search.tracking import database
from sm_search.tracking.store import Store, open_store

OPEN = "import sys, pathlib; from sm_search.tracking.store import open_store; open_store(pathlib.Path(sys.argv[1]))"
ADDED_A_COLUMN, BEFORE_IT = "acf3f17fdcc7", "2d6e25af4d3e"
"""Two neighbours of MLflow's migrations: to do the later one twice is an error (duplicate column storage_location)."""
HALF_MIGRATED_BYTES = 250_000
"""A database with all its tables has four times as many."""


def _unfinished(path: Path) -> None:
    """What a kill leaves between a migration and the note that it is done."""
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    command.upgrade(_get_alembic_config(f"sqlite:///{path}"), ADDED_A_COLUMN)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (BEFORE_IT,))


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # a journal comes and goes
            sizes.append(file.stat().st_size)
    return max(sizes)


@pytest.fixture
def aged(store: Store, home: Path, tmp_path: Path) -> Path:
    """A copy of a database with a run in it."""
    store.client.create_run("0")
    shutil.copy(home / "mlflow.db", tmp_path)
    return tmp_path / "mlflow.db"


def _set_revision(path: Path, revision: str) -> bytes:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    return path.read_bytes()


def test_a_kill_while_the_database_is_made_costs_nothing(tmp_path: Path) -> None:
    maker = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)])
    try:
        while _largest_file(tmp_path) < HALF_MIGRATED_BYTES:
            assert maker.poll() is None
            time.sleep(0.002)
    finally:
        maker.kill()
        maker.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert open_store(tmp_path).client.get_experiment("0").name == "Default"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_a_database_that_was_never_finished_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "QUIET_S", 0.2)
    _unfinished(tmp_path / "mlflow.db")
    store = open_store(tmp_path)
    assert store.client.get_run(store.client.create_run("0").info.run_id).info.status == "RUNNING"


def test_an_unfinished_database_that_somebody_just_writes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "QUIET_S", 1.0)
    _unfinished(tmp_path / "mlflow.db")
    written = (tmp_path / "mlflow.db").stat().st_mtime
    open_store(tmp_path)
    assert time.time() > written + 1.0


def test_a_database_of_a_newer_mlflow_is_left_alone_and_the_remedy_is_a_newer_one(aged: Path) -> None:
    before = _set_revision(aged, "cafe")
    with pytest.raises(TrackingError, match=r"newer MLflow than the installed 3\.\S+; install that version or a newer"):
        open_store(aged.parent)
    assert aged.read_bytes() == before
    check = examine_mlflow(aged.parent, None)
    assert (check.status, check.remedy) == ("failed", "install that version or a newer one")


def test_a_database_of_an_older_mlflow_is_left_alone_and_its_upgrade_named(aged: Path) -> None:
    before = _set_revision(aged, BEFORE_IT)
    with pytest.raises(TrackingError, match=r"older MLflow .*copy the file, then run `mlflow db upgrade sqlite:///"):
        open_store(aged.parent)
    assert aged.read_bytes() == before


def test_while_a_database_is_made_other_connections_keep_their_safety(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: dict[str, int] = {}

    class TwoDatabases:
        """What opens the new file, and another one beside it."""

        _engine_map: ClassVar[dict[str, Engine]] = {}

        def __init__(self, uri: str, root: str) -> None:
            for name, address in (("own", uri), ("other", f"sqlite:///{tmp_path / 'other.db'}")):
                self._engine_map[address] = engine = create_engine(address)
                with engine.connect() as connection:
                    levels[name] = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    monkeypatch.setattr(database, "SqlAlchemyStore", TwoDatabases)
    migrate = getattr(database._migrate, "migrate", database._migrate)  # the tests copy what is made once
    migrate(tmp_path / "new.db", "root")
    assert levels == {"own": 0, "other": 2}
