"""A study's folder: one driver at a time, and what the study was when it began."""

import fcntl
import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sm_search.config.errors import InputError, SettingsError, SmSearchError
from sm_search.data.dataset import Dataset
from sm_search.data.storage import Place, absolute
from sm_search.search.space.space import Space
from sm_search.search.study.revision import Revision, revised

STUDY_FILE = "study.json"
STATES = "states"
"""In it: what the study was at its first start, and each revision."""
LOCK_FILE = "lock"
RESULT_FILE = "result.json"
"""There once a search of the study came to its end."""
VERSIONED = ("sm-search", "ray", "optuna", "torch", "mlflow", "numpy")


def study_folder(home: Path, study: str) -> Path:
    """Where a study keeps its local state."""
    return home.absolute() / "studies" / study


@contextmanager
def only_driver(folder: Path, study: str) -> Iterator[None]:
    """One process at a time drives a study; the lock ends with the process, however that ends."""
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"study {study!r}: is being run by another process, which holds {file.name}") from None
        yield


def note_study(states: Sequence[Revision], dataset: Dataset, home: Path, storage: str | None = None) -> None:
    """Note what a study is and was: at home, and in the storage, which outlives this machine.

    At its first start, whenever it is revised, and once more when the dataset has its hash, if that was still being
    simulated.
    """
    space = states[0].space
    noted = {**_identity(space, dataset), STATES: [_as_json(state) for state in states]}
    text = json.dumps(noted, indent=1) + "\n"
    for place in _places(space, home, storage):
        place.write(STUDY_FILE, text)


def study_exists(space: Space, home: Path, storage: str | None = None) -> bool:
    """Whether a study of that name was begun."""
    return any(place.exists(STUDY_FILE) for place in _places(space, home, storage))


def _as_json(state: Revision) -> dict[str, Any]:
    return {"space": state.space.model_dump(mode="json"), "changes": list(state.changes), "search": state.search}


def check_study(
    space: Space, dataset: Dataset, home: Path, resume: bool, storage: str | None = None
) -> tuple[Revision, ...]:
    """A study is its question and its data; both are noted at its first start and compared at every other.

    Returns:
        Its states: the first, its revisions, and the one that `space` makes of it if that is another.

    Raises:
        InputError: the study exists and `resume` is false, or it does not and `resume` is true, or it is another one.
        DataError: the storage cannot be read.
    """
    where = [storage_folder(storage, space.study)] if storage else []
    place = next((place for place in _places(space, home, storage) if place.exists(STUDY_FILE)), None)
    if place is None:
        if resume:
            places = " or ".join(map(str, [study_folder(home, space.study), *where]))
            raise InputError(f"study {space.study!r}: nothing to resume in {places}")
        return (Revision(space, ()),)
    if not resume:
        raise InputError(
            f"study {space.study!r}: exists in {place}; --resume continues it; a new study takes another "
            f"`study` name, and with `warm_start: [{space.study}]` learns from this one"
        )
    try:
        noted = json.loads(place.read(STUDY_FILE))
    except (OSError, ValueError) as error:
        raise SmSearchError(f"{place}/{STUDY_FILE}: cannot be read: {error}") from None
    states = tuple(
        Revision(Space.model_validate_json(json.dumps(each["space"])), tuple(each["changes"]), each["search"])
        for each in noted.get(STATES, ())
    )
    # What an older version began says no more of its space than the hash.
    identity = _identity(states[0].space if states else space, dataset)
    if noted.get("dataset_hash") in dataset.known_hashes():
        # The same content, made again or first noted by an older version.
        identity = {"space_hash": identity["space_hash"]}
    for key, value in identity.items():
        if noted.get(key, value) != value:
            raise SettingsError(
                f"study {space.study!r}: its {key} was {str(noted.get(key))[:12]} and is {value[:12]}: "
                "not the same study; take another `study` name or another --home"
            )
    if not states:
        return (Revision(space, ()),)
    has_ended = (study_folder(home, space.study) / RESULT_FILE).is_file()
    revision = revised(states[-1], space, has_ended=has_ended)
    return (*states, revision) if revision else states


def storage_folder(storage: str, study: str) -> str:
    """Where a study keeps what must outlive the machine that drives it."""
    return f"{absolute(storage).rstrip('/')}/studies/{study}"


def _places(space: Space, home: Path, storage: str | None) -> list[Place]:
    """The home first: it needs no network."""
    return [Place(study_folder(home, space.study)), *([Place(storage_folder(storage, space.study))] if storage else [])]


def _identity(space: Space, dataset: Dataset) -> dict[str, str]:
    """What is known now: a dataset that is still being simulated has no hash yet, but an origin."""
    identity = {"space_hash": space.space_hash(), "dataset_origin": dataset.origin_hash()}
    return identity if dataset.missing() else {**identity, "dataset_hash": dataset.content_hash()}


def environment_tags() -> dict[str, str]:
    """Versions, git commit and machine, for the run."""
    tags = {f"version.{name}": version(name) for name in VERSIONED}
    tags["machine"] = f"{platform.system()} {platform.machine()}"
    tags["python"] = platform.python_version()
    try:
        here = Path(__file__).parent
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        tags["git_commit"] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        tags["git_commit"] = "unknown"
    return tags
