"""What all calls share: who is told, and where the local state lies."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sm_search.tracking.store import Store

HOME_VARIABLE = "SM_SEARCH_HOME"
Announce = Callable[[str], None]
"""Is told what goes on, one line at a time."""
Progress = Callable[[int, int, str], None]
"""Is told how many are done, of how many, and which one was done last."""


def silent(line: str) -> None:
    """Tells nobody."""


def default_home() -> Path:
    """The home of who names none: $SM_SEARCH_HOME, or `outputs` in the current folder."""
    return Path(os.environ.get(HOME_VARIABLE, "outputs")).expanduser()


def opened_store(home: str | Path | None, tracking_uri: str | None) -> "Store":
    """The MLflow server, or without one the SQLite store in the home folder."""
    from sm_search.tracking.store import open_store

    return open_store(default_home() if home is None else Path(home), tracking_uri)
