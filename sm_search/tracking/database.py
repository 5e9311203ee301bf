"""The SQLite file of a home: built whole or not at all, and opened only where the installed MLflow can read it.

MLflow creates its tables by migrating the file in place, step by step, for seconds. A process that is killed meanwhile
leaves a file that MLflow refuses for ever after. So the file is built beside its place and renamed, and one that was
never finished, by an older version of this program or by MLflow's own pages, is recognised and built anew.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.version import VERSION
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sm_search.config.errors import TrackingError
from sm_search.data.atomic import atomic_path

SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database, and would replay into another one of the same name."""
FILLED_BY_MIGRATION = ("alembic_version", "workspaces")
"""Tables that have rows in a database that holds nothing."""
DEFAULT_EXPERIMENT = "0"
QUIET_S = 5.0
"""An unfinished file that nobody has written to for that long is not being made by anybody."""
LOCK_WAIT_S = 30


class DatabaseError(TrackingError):
    """A database that cannot be opened; `remedy` says what its owner can do."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}")
        self.remedy = remedy


def require_database(path: Path, artifact_root: str) -> None:
    """Build the database where there is none, or one that was never finished; the caller holds a lock on it.

    Raises:
        DatabaseError: it is of an older or a newer MLflow.
        ValueError: it is no database.
    """
    while (state := _state(path)) == "unfinished" and time.time() < path.stat().st_mtime + QUIET_S:
        time.sleep(QUIET_S / 10)  # MLflow's own pages may be making it, without our lock
    if state in ("absent", "unfinished"):
        _build(path, artifact_root)
    elif state == "newer":
        raise DatabaseError(
            f"{path}: was written by a newer MLflow than the installed {VERSION}",
            "install that version or a newer one",
        )
    elif state == "older":
        raise DatabaseError(
            f"{path}: was written by an older MLflow than the installed {VERSION}",
            f"copy the file, then run `mlflow db upgrade sqlite:///{path}`",
        )


def _state(path: Path) -> str:
    """`absent`, `unfinished` (no MLflow ever completed it, and nothing is in there), `older`, `current` or `newer`."""
    if not path.exists():
        return "absent"
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_WAIT_S)) as connection:
            # Reading also undoes what a killed process left half done.
            tables = {
                str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            revision = _revision(connection) if "alembic_version" in tables else None
            is_empty = not any(_rows(connection, tables))
    except sqlite3.Error as error:
        raise ValueError(str(error)) from None
    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    if revision == scripts.get_current_head():
        return "current"
    if revision is not None:
        try:
            scripts.get_revision(revision)
        except CommandError:
            return "newer"
    return "unfinished" if is_empty else "older"


def _revision(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _rows(connection: sqlite3.Connection, tables: set[str]) -> Iterator[object]:
    """Rows that somebody stored."""
    for table in tables:
        if table in FILLED_BY_MIGRATION or table.startswith("_alembic_tmp_"):
            continue
        mine = f" WHERE experiment_id != {DEFAULT_EXPERIMENT}" if table == "experiments" else ""
        yield from connection.execute(f'SELECT 1 FROM "{table}"{mine} LIMIT 1')  # names from the file's own catalogue


def _build(path: Path, artifact_root: str) -> None:
    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        left.unlink()  # of a process that was killed: we hold the lock
    with atomic_path(path) as part:
        _migrate(part, artifact_root)
        for suffix in SIDE_FILES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _migrate(path: Path, artifact_root: str) -> None:
    """All tables, by MLflow's migrations of an empty file."""
    uri, own = f"sqlite:///{path}", path.resolve()

    def hurry(connection: object, record: object) -> None:
        """Nobody opens the file before it is whole and on disk: its hundreds of transactions need not be kept apart.

        SQLAlchemy tells of every connection in the process; others keep their safety.
        """
        if isinstance(connection, sqlite3.Connection):
            _, _, opened = connection.execute("PRAGMA database_list").fetchone()
            if opened and Path(opened).resolve() == own:
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(Engine, "connect", hurry)
    try:
        SqlAlchemyStore(uri, artifact_root)
    finally:
        event.remove(Engine, "connect", hurry)
    SqlAlchemyStore._engine_map.pop(uri).dispose()
