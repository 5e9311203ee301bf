"""Ray, started quietly for one command, and ended with it."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TQDM": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "RAY_DEDUP_LOGS": "1",
}
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

from sm_search.config.errors import InputError  # noqa: E402


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Ray for the body: the cluster at `address`, or one of our own on this machine that ends with the body.

    A session that is open already is used as it is and left open.

    Raises:
        InputError: no cluster answers at `address`.
    """
    if ray.is_initialized():
        yield
        return
    with _token_folder():
        try:
            ray.init(
                address=address or "local",
                num_cpus=None if address else cpus,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"--ray-address {address}: no Ray cluster answers: {' '.join(str(error).split())}"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _token_folder() -> Iterator[None]:
    """Ray keeps a token under HOME; where HOME cannot be written, a temporary folder serves."""
    if os.access(Path.home(), os.W_OK) or "RAY_AUTH_TOKEN_PATH" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAY_AUTH_TOKEN_PATH"] = f"{folder}/token"
        try:
            yield
        finally:
            del os.environ["RAY_AUTH_TOKEN_PATH"]
