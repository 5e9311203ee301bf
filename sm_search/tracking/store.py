"""`open_store`: where runs and models are kept, an SQLite file of our own or somebody's MLflow server."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from sm_search.config.errors import TrackingError, without_password
from sm_search.tracking.database import require_database
from sm_search.tracking.relocation import ARTIFACTS, mend_locations

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
PROBE_TIMEOUT_S = 4
MAX_REASON = 300
# What a store may throw: MLflow's own, the database's, files and sockets (requests' errors are OSErrors), bad values.
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError, ValueError)
TRANSIENT_CODES = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}


@dataclass(frozen=True)
class Store:
    """A tracking store that has answered once.

    Attributes:
        uri: give this to worker processes: `open_store` opens it from any folder. Without a password.
        client: MLflow's client, bound to `uri` for runs and for models.
        artifact_root: URI of the artifacts, or None where the server decides.
    """

    uri: str
    client: MlflowClient
    artifact_root: str | None

    @contextmanager
    def asked(self, what: str) -> Iterator[None]:
        """Turn whatever the store throws inside into a TrackingError of one line that says `what` was asked."""
        try:
            yield
        except STORE_ERRORS as error:
            raise TrackingError(f"{self.uri}: {what}: {reason(error)}") from None


def open_store(home: Path, tracking_uri: str | None = None) -> Store:
    """Open the tracking store; an SQLite database is created, with all its tables, by one process at a time.

    Args:
        home: folder of the default store, `mlflow.db` and `artifacts/`; created when absent.
        tracking_uri: `http(s)://…` for a server, or `sqlite:////absolute/file.db`, whose artifacts lie in `artifacts/`
            beside it; None for what MLFLOW_TRACKING_URI names, as MLflow's own programs take it, or else that default.

    Raises:
        TrackingError: the URI is of another kind, the server or the database cannot be used.
    """
    named = "--tracking-uri" if tracking_uri else TRACKING_VARIABLE
    tracking_uri = tracking_uri or os.environ.get(TRACKING_VARIABLE) or None
    if tracking_uri is None:
        return _open_database(home.absolute() / "mlflow.db")
    if tracking_uri.lower().startswith(("http://", "https://")):
        return _open_server(tracking_uri)
    if tracking_uri.startswith("sqlite:////"):
        return _open_database(Path(tracking_uri.removeprefix("sqlite:///")))
    raise TrackingError(
        f"{named} {without_password(tracking_uri)!r}: must be http://…, https://… or sqlite:////absolute/file.db"
    )


def _open_server(uri: str) -> Store:
    # urllib3 would report every retry on stderr; the error that we raise says it once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        if not urlsplit(uri).hostname:
            raise ValueError("the URI names no host")
        if "@" in urlsplit(uri).netloc:
            # Ray keeps the command line of a driver, and every user of a machine sees those of all processes.
            raise ValueError(
                "user and password belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not in the URI: "
                "command lines are seen by others"
            )
        # Any answer will do here: a short wait, no retries. Then a real request, which needs our rights.
        http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=PROBE_TIMEOUT_S)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return Store(uri, client, None)
    except STORE_ERRORS as error:
        raise TrackingError(f"{without_password(uri)}: the tracking server cannot be used: {reason(error)}") from None


def _open_database(path: Path) -> Store:
    # It would print a traceback with each error that we pass on in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = f"sqlite:///{path}"
    artifact_root = (path.parent / ARTIFACTS).as_uri()
    try:
        if make_url(uri).database != str(path):
            raise ValueError("its path has a character, such as '?' or '%', that a database URI cannot hold")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f"{path.name}.lock")):
            require_database(path, artifact_root)
            mend_locations(path)
        # Only now: a client opens its database at birth, and would create the tables without the lock.
        return Store(uri, MlflowClient(tracking_uri=uri, registry_uri=uri), artifact_root)
    except STORE_ERRORS as error:
        raise TrackingError(f"{uri}: the tracking database cannot be used: {reason(error)}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def reason(error: BaseException) -> str:
    """The message of `error` on one line of bounded length, without passwords."""
    text = without_password(" ".join(str(getattr(error, "message", None) or error).split()))
    # A connection error wraps its cause twice; the innermost one says it.
    text = text.rpartition("(Caused by ")[2].removesuffix(")")
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def is_transient(error: BaseException) -> bool:
    """True when the same request may succeed later: the server is away, busy, or the database is locked."""
    if isinstance(error, MlflowException):
        return error.error_code in TRANSIENT_CODES
    return isinstance(error, ConnectionError | TimeoutError)
