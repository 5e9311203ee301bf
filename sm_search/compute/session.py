"""Ray, started quietly for one command, and ended with it."""

import contextlib
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TQDM": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Seconds between Tune's snapshots of a study: what is younger than the last one is done again after a death.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # Tune would start one worker after the other, each some seconds: the searcher knows how many trials are wanted.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    # Tune would end on Ctrl-C as if the search were over, with what it has: see `interrupted_gently`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "RAY_DEDUP_LOGS": "1",
}
CONNECT_TIMEOUT_S = 5
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "KMP_WARNINGS": "0",
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

# Tune prints the traceback of every failed trial; it is in the trial's folder, and our own line names the reason.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

import ray  # noqa: E402  (Ray reads some of these variables when it is imported)

from sm_search.compute.lost_ray import ended_with_ray  # noqa: E402
from sm_search.compute.ray_folder import own_ray_folder  # noqa: E402
from sm_search.compute.ray_internals import signals_left_alone  # noqa: E402
from sm_search.config.errors import InputError  # noqa: E402


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Ray for the body: the cluster at `address`, or one of our own on this machine that ends with the body.

    A session that is open already is used as it is and left open. In the body SIGTERM interrupts as Ctrl-C does.

    Raises:
        InputError: no cluster answers at `address`, or Ray has no folder here that it can use, or cannot start or keep
            up its processes.
    """
    if ray.is_initialized():
        yield
        return
    if address is not None:
        require_cluster(address)
    with _token_folder(), ExitStack() as ray_folder:
        if address is None:
            ray_folder.enter_context(own_ray_folder())
        try:
            with _interrupted_by_sigterm(), ended_with_ray():
                _start_ray(address, cpus)
                if address is not None:
                    # Only now: `auto` looks for the cluster in the folder that Ray had at its start.
                    ray_folder.enter_context(own_ray_folder())
                yield
        finally:
            _end_ray()


def _start_ray(address: str | None, cpus: int | None) -> None:
    try:
        with _children_without(signal.SIGHUP), signals_left_alone(), _environment(WORKER_ENVIRONMENT):
            ray.init(
                address=address or "local",
                num_cpus=None if address else cpus,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env=_runtime_env(address),
            )
    except Exception as error:  # Ray raises a bare one where a process of its own does not come up
        what = f"--ray-address {address}: no Ray cluster answers" if address else "Ray cannot be started here"
        raise InputError(f"{what}: {' '.join(str(error).split())}") from None


def _end_ray() -> None:
    """Its compiled code takes SIGTERM's handler from the process without Python's knowledge: the next SIGTERM would end
    the process without a word.
    """
    ray.shutdown()
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _children_without(number: signal.Signals) -> Iterator[None]:
    """Processes that are started in the body do not get the signal; this one gets it when the body has ended.

    A terminal that is closed tells all processes below it. Ray's would end at once, before a study has closed its runs.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _runtime_env(address: str | None) -> dict[str, Any]:
    """What workers are started with.

    Ray has their Python started by a shell and does not quote its path, in which a space would end the command. A path
    without such characters is left to each node: on a cluster it may have its own.

    In a session of our own they inherit `WORKER_ENVIRONMENT`: Ray starts some ahead, and cannot use those for another.
    """
    python = shlex.quote(sys.executable)
    is_remote = (address or "").startswith("ray://")
    quoted = {} if python == sys.executable or is_remote else {"py_executable": python}
    return quoted if address is None else {"env_vars": WORKER_ENVIRONMENT, **quoted}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in the body have these variables; this one has its own again afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def interrupted_gently() -> Iterator[None]:
    """For a search of Tune as the body: at a signal to end it notes how far it is and stops; then KeyboardInterrupt.

    Tune does so by itself at SIGUSR1, and ends as if the search were over. A second signal does not wait for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_interrupted = False

    def stop(number: int, frame: Any) -> None:
        nonlocal is_interrupted
        if is_interrupted or signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:  # Tune does not listen yet
            raise KeyboardInterrupt
        is_interrupted = True
        if callable(before[number]):
            with contextlib.suppress(KeyboardInterrupt):
                before[number](number, frame)  # what else is to be done at it
        signal.raise_signal(signal.SIGUSR1)

    ending = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before: dict[int, Any] = {number: handler for number, handler in ending.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if is_interrupted:
        raise KeyboardInterrupt


def require_cluster(address: str) -> None:
    """Ray tries for minutes to reach a machine where nothing listens; this finds out at once.

    Raises:
        InputError: nothing listens at `address`, or it is no address.
    """
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    if not colon or "://" in place:
        if address not in ("auto", "local"):
            raise InputError(
                f"--ray-address {address}: must be auto, HOST:PORT or ray://HOST:PORT; `sweep` also takes http://HOST:PORT"
            )
        return
    require_listener(address, host.strip("[]"), port)


def require_listener(address: str, host: str, port: str | int) -> None:
    """Find out within seconds whether anybody listens at host and port, which `address` stands for.

    Raises:
        InputError: nobody does, or there is no such host or port.
    """
    try:
        if not 0 < int(port) < 2**16:  # a larger one would be another one: it wraps around
            raise ValueError(f"port {port} is not 1 to 65535")
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(f"--ray-address {address}: no Ray cluster answers: {error}") from None


@contextmanager
def _token_folder() -> Iterator[None]:
    """Ray writes a token under HOME; where HOME cannot be written, one of our own in a temporary folder serves."""
    if os.access(Path.home(), os.W_OK) or any(name in os.environ for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder, "token")
        token.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        try:
            yield
        finally:
            del os.environ["RAY_AUTH_TOKEN_PATH"]
