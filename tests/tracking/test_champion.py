"""One champion after another, whatever two processes do at once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
from mlflow.store.tracking.dbmodels.models import SqlTag
from sqlalchemy import event
from sqlalchemy.orm import Session

from sm_search.config.errors import TrackingError
from sm_search.tracking import champion
from sm_search.tracking.champion import champion_history, champion_of, change_champion, model_aliases, roll_back
from sm_search.tracking.registry import register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store

# Opens the store, says so, waits for a line, then promotes its version; prints what came of it.
PROMOTER = """
import sys
from pathlib import Path
from sm_search.config.errors import TrackingError
from sm_search.tracking.champion import change_champion, champion_of
from sm_search.tracking.store import open_store

store, name, version = open_store(Path("unused"), sys.argv[1]), sys.argv[2], int(sys.argv[3])
expected = champion_of(store, name)
print("ready", flush=True)
sys.stdin.readline()
try:
    change_champion(store, name, version, expected, "a race")
    print("won")
except TrackingError as error:
    print("lost:", error)
"""


def race(uri: str, name: str, versions: list[int]) -> list[str]:
    """Processes that promote one version each at the same moment; what each of them says."""
    command = [sys.executable, "-c", PROMOTER, uri, name]
    all_of_them = [
        subprocess.Popen([*command, str(version)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for version in versions
    ]
    for process in all_of_them:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in all_of_them:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=120)[0] for process in all_of_them]


def assert_one_winner(store: Store, name: str, said: list[str]) -> None:
    winners = [version for version, line in enumerate(said, 1) if line == "won\n"]
    assert len(winners) == 1, said
    (winner,) = winners
    for version, line in enumerate(said, 1):
        if version != winner:
            assert line.startswith("lost: ")
            assert f"its champion is version {winner} by now and was none when version {version} was compared" in line
    assert model_aliases(store, name)["champion"] == winner
    assert [change.version for change in champion_history(store, name)] == [winner]


@pytest.fixture
def name(store: Store, study: str, checkpoint: Path) -> str:
    """A registered model of three versions, none of them champion."""
    run_id = StudyLog.open(store, study).start_trial("t")
    for _ in range(3):
        register(store, run_id, checkpoint, f"model-{study}")
    return f"model-{study}"


def test_champion_and_previous_follow_each_change_and_the_challenger_rises(store: Store, name: str) -> None:
    assert (champion_of(store, name), model_aliases(store, name)) == (None, {"challenger": 3})
    change_champion(store, name, 1, None, "first")
    assert model_aliases(store, name) == {"challenger": 3, "champion": 1}
    change_champion(store, name, 3, 1, "better")
    assert model_aliases(store, name) == {"champion": 3, "previous": 1}
    change_champion(store, name, 2, 3, "better still")
    assert model_aliases(store, name) == {"champion": 2, "previous": 3}
    with pytest.raises(TrackingError, match=r"version 4.*not found"):
        change_champion(store, name, 4, 2, "no such version")
    assert [(change.version, change.after, change.why) for change in champion_history(store, name)] == [
        (1, None, "first"),
        (3, 1, "better"),
        (2, 3, "better still"),
    ]


def test_a_champion_that_changed_meanwhile_is_not_replaced(store: Store, name: str) -> None:
    change_champion(store, name, 1, None, "first")
    rule = rf"model '{name}': its champion is version 1 by now and was none when version 2 was compared"
    with pytest.raises(TrackingError, match=rule):
        change_champion(store, name, 2, None, "too late")
    assert model_aliases(store, name) == {"challenger": 3, "champion": 1}
    assert len(champion_history(store, name)) == 1


def test_rollback_goes_back_and_forth(store: Store, name: str) -> None:
    with pytest.raises(TrackingError, match="has no previous champion"):
        roll_back(store, name)
    change_champion(store, name, 1, None, "first")
    change_champion(store, name, 2, 1, "second")
    assert roll_back(store, name) == (1, 2)
    assert model_aliases(store, name) == {"challenger": 3, "champion": 1, "previous": 2}
    assert roll_back(store, name) == (2, 1)
    with pytest.raises(TrackingError, match=r"model 'nobody'.*not found"):
        roll_back(store, "nobody")


def test_of_processes_that_promote_at_once_one_wins_and_the_others_know(store: Store, name: str) -> None:
    assert_one_winner(store, name, race(store.uri, name, [1, 2]))


@pytest.mark.parametrize("step", ["set_registered_model_alias", "delete_registered_model_alias", "set_tag"])
def test_a_promotion_that_dies_half_way_is_finished_by_whoever_looks_next(
    store: Store, name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_champion(store, name, 1, None, "first")
    with monkeypatch.context() as dying:
        dying.setattr(store.client, step, die)
        with pytest.raises(KeyboardInterrupt):
            change_champion(store, name, 3, 1, "dies")
    with pytest.raises(TrackingError, match="its champion is version 3 by now and was 1"):
        change_champion(store, name, 2, 1, "must not win as well")
    assert model_aliases(store, name) == {"champion": 3, "previous": 1}


def test_a_slow_process_does_not_leave_an_older_champion_behind(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote its change, fell asleep, and wakes when the next one is champion already."""
    settle: Callable[[Store, str, str], int] = champion._settle
    slept = []

    def sleepy(store: Store, name: str, journal: str) -> int:
        run = store.client.get_run(journal)
        if len(champion._changes(run)) == 1 and not slept:
            slept.append(True)
            settle(store, name, journal)
            change_champion(store, name, 2, 1, "while it sleeps")
            store.client.set_registered_model_alias(name, "champion", "1")
            store.client.set_tag(journal, champion.APPLIED, "1")
        return settle(store, name, journal)

    monkeypatch.setattr(champion, "_settle", sleepy)
    change_champion(store, name, 1, None, "slow")
    assert slept
    assert model_aliases(store, name) == {"challenger": 3, "champion": 2, "previous": 1}


@pytest.mark.parametrize("row", [SqlRegisteredModelAlias, SqlTag], ids=["alias", "tag"])
def test_a_promotion_that_another_process_finishes_first_has_won(
    store: Store, home: Path, name: str, row: type
) -> None:
    """MLflow looks for the row, finds none and adds it: here the other process adds it in between."""
    other, met = open_store(home), []

    def meanwhile(session: Session, *context: object) -> None:
        if not met and any(isinstance(new, row) for new in session.new):
            met.append(True)
            assert champion_of(other, name) == 1

    event.listen(Session, "before_flush", meanwhile)
    try:
        change_champion(store, name, 1, None, "both move it")
    finally:
        event.remove(Session, "before_flush", meanwhile)
    assert met
    assert model_aliases(store, name) == {"challenger": 3, "champion": 1}
    assert len(champion_history(store, name)) == 1


def test_an_alias_moved_by_hand_counts(store: Store, name: str) -> None:
    change_champion(store, name, 1, None, "first")
    store.client.set_registered_model_alias(name, "champion", "2")
    assert champion_of(store, name) == 2
    change_champion(store, name, 3, 2, "third")
    assert model_aliases(store, name) == {"champion": 3, "previous": 2}


def test_a_model_registered_by_hand_gets_a_journal(store: Store, study: str, checkpoint: Path) -> None:
    store.client.create_registered_model(f"by-hand-{study}")
    register(store, StudyLog.open(store, study).start_trial("t"), checkpoint, f"by-hand-{study}")
    change_champion(store, f"by-hand-{study}", 1, None, "first")
    assert champion_of(store, f"by-hand-{study}") == 1
    journal = store.client.get_run(store.client.get_registered_model(f"by-hand-{study}").tags[champion.JOURNAL])
    assert journal.info.status == "FINISHED"
    assert json.loads(journal.data.params["change_0001"])["version"] == 1


def test_a_deleted_journal_comes_back_with_the_next_change(store: Store, name: str) -> None:
    change_champion(store, name, 1, None, "first")
    change_champion(store, name, 2, 1, "second")
    journal = store.client.get_registered_model(name).tags[champion.JOURNAL]
    store.client.delete_run(journal)
    assert roll_back(store, name) == (1, 2)
    store.client.delete_run(journal)
    change_champion(store, name, 3, 1, "third")
    assert model_aliases(store, name) == {"champion": 3, "previous": 1}
    assert [change.version for change in champion_history(store, name)] == [1, 2, 1, 3]


def test_a_journal_that_is_gone_for_good_is_begun_anew(store: Store, name: str) -> None:
    change_champion(store, name, 1, None, "first")
    store.client.set_registered_model_tag(name, champion.JOURNAL, "0" * 32)
    change_champion(store, name, 2, 1, "second")
    assert model_aliases(store, name) == {"challenger": 3, "champion": 2, "previous": 1}
    assert [change.version for change in champion_history(store, name)] == [2]


def test_after_the_champion_was_deleted_a_rollback_makes_the_previous_one_champion(store: Store, name: str) -> None:
    change_champion(store, name, 1, None, "first")
    change_champion(store, name, 2, 1, "second")
    store.client.delete_model_version(name, "2")
    assert champion_of(store, name) is None
    assert roll_back(store, name) == (1, None)
    assert model_aliases(store, name) == {"challenger": 3, "champion": 1}


def test_a_previous_champion_that_was_deleted_is_named(store: Store, name: str) -> None:
    change_champion(store, name, 1, None, "first")
    change_champion(store, name, 2, 1, "second")
    store.client.delete_model_version(name, "1")
    with pytest.raises(TrackingError, match="no previous champion to go back to: that was version 1, which is deleted"):
        roll_back(store, name)
    assert champion_of(store, name) == 2


def test_a_change_to_a_version_that_was_deleted_before_it_was_followed_is_left(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_champion(store, name, 1, None, "first")
    with monkeypatch.context() as dying:
        dying.setattr(store.client, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            change_champion(store, name, 2, 1, "dies")
    store.client.delete_model_version(name, "2")
    assert champion_of(store, name) == 1


def die(*arguments: object, **named: object) -> None:
    raise KeyboardInterrupt
