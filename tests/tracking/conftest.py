"""One real SQLite store for the room; each test has a study of its own in it."""

import itertools
from pathlib import Path

import pytest

from sm_search.tracking.store import Store, open_store

_numbers = itertools.count()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With the characters that a file URI has to escape.
    return tmp_path_factory.mktemp("tracking") / "a home, ü#1"


@pytest.fixture(scope="session")
def store(home: Path) -> Store:
    return open_store(home)


@pytest.fixture
def study() -> str:
    return f"study-{next(_numbers)}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that looks like a checkpoint from outside."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "checkpoint.json").write_text('{"grid": [2, 1]}')
    (folder / "model.safetensors").write_bytes(b"\x00weights\xff")
    return folder
