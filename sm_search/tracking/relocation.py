"""A home that was moved or copied: its database names the files of its runs and models by absolute paths.

MLflow writes the place of each run, model and version into its tables when it is made. So whoever opens a database
whose files lie beside it, and not where it says, has these places rewritten; a copy is then a store of its own.
"""

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from sm_search.config.errors import TrackingError
from sm_search.tracking.names import EXPERIMENT

ARTIFACTS = "artifacts"
"""Folder beside the database."""
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's tables that hold such places."""
LOCK_WAIT_S = 30


def moved_from(database: Path) -> Path | None:
    """Where the files beside a database are by its own account, if that is another place; None for no database."""
    if not database.is_file():
        return None
    with closing(sqlite3.connect(database, timeout=LOCK_WAIT_S)) as connection:
        try:
            row = connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)
            ).fetchone()
        except sqlite3.DatabaseError:
            return None  # nothing of ours is in there yet, or it is for others to say what it is
    said = urlsplit(str(row[0])) if row else None
    if said is None or said.scheme != "file" or not said.path.endswith(f"/{ARTIFACTS}"):
        return None  # somebody's own server keeps the files elsewhere
    old, new = Path(unquote(said.path)), database.parent / ARTIFACTS
    if old == new or (old.exists() and new.exists() and old.samefile(new)):
        return None  # or the same folder by another name, which whoever made it may still need
    return old


def mend_locations(database: Path) -> None:
    """Let a database name its files where they are: beside it. The caller holds a lock on it.

    Raises:
        TrackingError: they are not there, or a study of this home is being run under the old name.
    """
    old = moved_from(database)
    if old is None:
        return
    new = database.parent / ARTIFACTS
    with closing(sqlite3.connect(database, timeout=LOCK_WAIT_S)) as connection, connection:
        if not new.is_dir() and connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone():
            raise TrackingError(
                f"{database}: was moved here without the files of its runs, which were in {old}; bring them to {new}"
            )
        if study := _running_study(database.parent):
            raise TrackingError(
                f"{database}: its files are known as {old}, and study {study!r} is being run under that name; "
                "wait until it has ended, or open it by that name"
            )
        before, after = old.as_uri(), new.as_uri()
        for table, column in LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (after, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )
    # Of every process, by run; a copy has the runs of its original.
    _artifact_repos_cache.clear()


def _running_study(home: Path) -> str | None:
    """A study of a home whose driver lives: it holds the lock in its folder."""
    for path in home.glob("studies/*/lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return path.parent.name
    return None
