"""Which version of a registered model is the champion: one change after another, also when two people promote at once.

MLflow gives an alias to whoever asks last: two people who both compared with the same champion would both win, and the
first would never know that he lost it again. But MLflow never changes a parameter that a run has; of two processes that
give it two values the database refuses one. So every change is first written as the parameter `change_0007` of the
model's journal, a run of its own, and only then the aliases follow. That holds on SQLite and on a server alike.
"""

import json
import uuid
from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from sm_search.config.errors import TrackingError
from sm_search.tracking.names import KIND, NOTE
from sm_search.tracking.runs import experiment_id
from sm_search.tracking.store import Store

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
JOURNAL = "champions_run"
"""Tag of a registered model: the run that is its journal."""
APPLIED = "applied"
"""Tag of the journal: how many of its changes the aliases have followed."""
CHANGE = "change_{:04d}"
MAX_COLLISIONS = 10


@dataclass(frozen=True)
class Change:
    """`version` became champion after `after` (None: there was none)."""

    version: int
    after: int | None
    why: str


def ensure_registered(store: Store, name: str) -> None:
    """Create a registered model with its journal; of two processes that do so at once, one creates both."""
    try:
        store.client.get_registered_model(name)
        return
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    journal = _create_journal(store, name)
    try:
        store.client.create_registered_model(name, tags={JOURNAL: journal})
    except MlflowException as error:
        store.client.delete_run(journal)
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def model_aliases(store: Store, name: str) -> dict[str, int]:
    """The aliases of a registered model and the versions that they stand for.

    Raises:
        TrackingError: no such model.
    """
    with store.asked(f"model {name!r}"):
        return _aliases(store, name)


def champion_of(store: Store, name: str) -> int | None:
    """The version that is champion now; a change that its writer died over is finished first.

    Raises:
        TrackingError: no such model.
    """
    with store.asked(f"model {name!r}"):
        _settle(store, name, _journal(store, name))
        return _aliases(store, name).get(CHAMPION)


def champion_history(store: Store, name: str) -> list[Change]:
    """Every change of champion that went through here, oldest first.

    Raises:
        TrackingError: no such model.
    """
    with store.asked(f"model {name!r}"):
        return _changes(store.client.get_run(_journal(store, name)))


def change_champion(store: Store, name: str, version: int, expected: int | None, why: str) -> None:
    """Make `version` the champion and the champion until now `previous`, if that is still `expected`.

    Args:
        expected: the champion that was compared with; None when there was none.

    Raises:
        TrackingError: no such model or version, or somebody else changed the champion meanwhile: then nothing is moved.
    """
    with store.asked(f"model {name!r}, version {version}"):
        store.client.get_model_version(name, str(version))
        journal = _journal(store, name)
        number = 1 + _settle(store, name, journal)
        if _aliases(store, name).get(CHAMPION) == expected:
            change = {"version": version, "after": expected, "why": why, "by": uuid.uuid4().hex}
            if _write(store, journal, CHANGE.format(number), json.dumps(change)):
                _settle(store, name, journal)
                return
    raise TrackingError(
        f"{store.uri}: model {name!r}: its champion is version {champion_of(store, name) or 'none'} by now and was "
        f"{expected or 'none'} when version {version} was compared with it; promote again to compare with the new one"
    )


def roll_back(store: Store, name: str) -> tuple[int, int | None]:
    """Exchange `champion` and `previous`; the new champion and the one until now, None if that version was deleted.

    Raises:
        TrackingError: no such model, no previous champion, or somebody else changed the champion meanwhile.
    """
    champion = champion_of(store, name)
    previous = model_aliases(store, name).get(PREVIOUS)
    if previous is None:
        why = f"{store.uri}: model {name!r}: has no previous champion to go back to"
        last = next((change.after for change in reversed(champion_history(store, name)) if change.after), None)
        if last is not None and not _exists(store, name, last):
            why += f": that was version {last}, which is deleted"
        raise TrackingError(why)
    change_champion(store, name, previous, champion, "rollback")
    return previous, champion


def _write(store: Store, journal: str, key: str, text: str) -> bool:
    """Write a change under a key that nobody has yet; False if somebody was faster."""
    try:
        store.client.log_param(journal, key, text, synchronous=True)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return False
    return True


def _settle(store: Store, name: str, journal: str) -> int:
    """Let the aliases follow the last change; the number of changes.

    Whoever moved an alias looks once more, so that a slow process cannot leave an older change behind.
    """
    collisions = 0
    while True:
        run = store.client.get_run(journal)
        changes = _changes(run)
        if int(run.data.tags.get(APPLIED, "0")) >= len(changes):
            return len(changes)
        try:
            if _exists(store, name, changes[-1].version):  # whoever wrote the change died, and the version was deleted
                _follow(store, name, changes[-1])
            store.client.set_tag(journal, APPLIED, str(len(changes)), synchronous=True)
        except MlflowException as error:
            # Two processes that both find an alias or a tag missing both add it, and the database refuses one of them.
            collisions += 1
            if error.error_code != "BAD_REQUEST" or collisions > MAX_COLLISIONS:
                raise


def _follow(store: Store, name: str, change: Change) -> None:
    aliases = _aliases(store, name)
    if change.after is not None and _exists(store, name, change.after):
        store.client.set_registered_model_alias(name, PREVIOUS, str(change.after))
    elif aliases.get(PREVIOUS) == change.version:
        store.client.delete_registered_model_alias(name, PREVIOUS)  # the champion after it was deleted
    store.client.set_registered_model_alias(name, CHAMPION, str(change.version))
    if aliases.get(CHALLENGER) == change.version:
        store.client.delete_registered_model_alias(name, CHALLENGER)


def _changes(run: Run) -> list[Change]:
    texts = [run.data.params[key] for key in sorted(run.data.params) if key.startswith("change_")]
    return [Change(entry["version"], entry["after"], entry["why"]) for entry in map(json.loads, texts)]


def _aliases(store: Store, name: str) -> dict[str, int]:
    aliases = store.client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in aliases.items()}


def _exists(store: Store, name: str, version: int) -> bool:
    try:
        store.client.get_model_version(name, str(version))
        return True
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _journal(store: Store, name: str) -> str:
    """The journal of a model, which a model registered by hand does not have yet, and whose run may have been deleted:
    taken out of MLflow's trash then, or begun anew where it is not even there.
    """
    tags = store.client.get_registered_model(name).tags
    if JOURNAL in tags:
        try:
            if store.client.get_run(tags[JOURNAL]).info.lifecycle_stage != "active":
                store.client.restore_run(tags[JOURNAL])
            return str(tags[JOURNAL])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    store.client.set_registered_model_tag(name, JOURNAL, _create_journal(store, name))
    return str(store.client.get_registered_model(name).tags[JOURNAL])


def _create_journal(store: Store, name: str) -> str:
    note = f"Every change of `models:/{name}@champion`, oldest first, as parameters. Written by `sm-search promote`."
    run = store.client.create_run(
        experiment_id(store), tags={KIND: "journal", NOTE: note}, run_name=f"champions of {name}"
    )
    store.client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)
