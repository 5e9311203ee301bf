"""Signals end a command as Ctrl-C does, and none is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sm_search.cli.signals import interruptible
from sm_search.compute import lost_ray
from sm_search.compute.session import ray_session
from sm_search.config.errors import InputError
from tests.processes import workers

WAIT_S = 60


@pytest.fixture(autouse=True)
def _as_a_command_finds_them() -> Iterator[None]:
    """A session of Ray's in this process may have left handlers of its own."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_interrupts_and_its_handler_is_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def signalled() -> None:
        with interruptible():
            os.kill(os.getpid(), number)
            time.sleep(WAIT_S)

    with pytest.raises(KeyboardInterrupt):
        signalled()
    assert signal.getsignal(number) == before


def test_a_signal_to_end_while_ray_starts_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sets a handler of its own then, which ends the process with status 15 and not a word."""
    import ray

    def init(**options: Any) -> None:
        ray._private.utils.set_sigterm_handler(lambda *_: sys.exit(15))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(WAIT_S)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KeyboardInterrupt), interruptible(), ray_session(cpus=1):
        pass


def test_ray_that_does_not_come_up_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr(ray, "init", init)
    line = r"^Ray cannot be started here: The .* startup\. This could happen because$"
    with pytest.raises(InputError, match=line), ray_session(cpus=1):
        pass


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_in_a_weakref_callback_is_not_lost() -> None:
    class Thing:
        pass

    def callback(reference: object) -> None:
        raise KeyboardInterrupt

    def swallowed() -> None:
        with interruptible():
            thing = Thing()
            reference = weakref.ref(thing, callback)
            del thing
            assert reference() is None  # and the interrupt was swallowed here
            time.sleep(WAIT_S)

    with pytest.raises(KeyboardInterrupt):
        swallowed()


def test_a_terminal_that_is_gone_takes_no_more_text() -> None:
    code = """
import os, signal, sys
from sm_search.cli.signals import interruptible
try:
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
        signal.pause()
except KeyboardInterrupt:
    sys.stderr.write("closing")
    sys.stderr.flush()
    os._exit(7)
"""
    terminal, other_end = os.openpty()
    done = subprocess.Popen([sys.executable, "-c", code], stdout=other_end, stderr=other_end)
    os.close(other_end)
    os.close(terminal)
    assert done.wait(WAIT_S) == 7


def test_a_command_whose_ray_has_lost_a_process_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_ray, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(lost_ray, "dead_processes", lambda: ["gcs_server"])
    with (
        pytest.raises(InputError, match=r"Ray went away: its gcs_server ended; .*--resume"),
        interruptible(),
        lost_ray.ended_with_ray(),
    ):
        time.sleep(WAIT_S)


def test_a_command_whose_ray_loses_a_process_while_it_starts_ends_in_one_line(tmp_path: Path) -> None:
    """Ray's own answer: exit status 1 and two log lines after a minute."""
    code = """
import sys
from sm_search.cli.main import main
from sm_search.compute import lost_ray
lost_ray.SECOND_SIGNAL_S = 1.0
sys.exit(main(["simulate", "--preset", "paper-12", "--out", sys.argv[1]]))
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "data"], stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + WAIT_S
    while not (found := workers(command.pid, b"gcs/gcs_server")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)  # it answers already, and Ray waits for it in its compiled code
    os.kill(found[0], signal.SIGKILL)
    _, said = command.communicate(timeout=WAIT_S)
    assert command.returncode == 2, said
    assert said.splitlines()[-1].startswith("error: Ray went away: its gcs_server ended; ")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("ending", "status"), [("os._exit(1)", 1), ("os.kill(os.getpid(), 9)", -9)], ids=["Ray", "system"]
)
def test_a_command_that_is_ended_there_and_then_has_a_last_line(ending: str, status: int) -> None:
    code = f"""
import os
from sm_search.compute.lost_ray import ended_with_ray
with ended_with_ray():
    pass
with ended_with_ray():
    {ending}
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stderr) == (status, f"{lost_ray.KILLED}\n")


def test_a_session_that_ends_while_it_is_looked_at_interrupts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looking, ended = threading.Event(), threading.Event()

    def dead() -> list[str]:
        looking.set()
        ended.wait(WAIT_S)  # the session ends, and its processes with it
        return ["raylet"]

    monkeypatch.setattr(lost_ray, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(lost_ray, "dead_processes", dead)
    with interruptible():
        with lost_ray.ended_with_ray():
            assert looking.wait(WAIT_S)
        ended.set()
        time.sleep(0.3)


def test_ray_that_cannot_start_its_workers_is_told_in_one_line() -> None:
    from ray.exceptions import RaySystemError

    with (
        pytest.raises(InputError, match=r"cannot run its workers: System error: Failed to startup worker; .*doctor"),
        lost_ray.ended_with_ray(),
    ):
        raise RaySystemError("Failed to startup worker")
