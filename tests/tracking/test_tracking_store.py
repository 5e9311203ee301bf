import base64
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sm_search.config.errors import TrackingError
from sm_search.tracking.store import PROBE_TIMEOUT_S, Store, open_store

OPEN = "import sys; from pathlib import Path; from sm_search.tracking.store import open_store; "
OPEN_AND_COUNT = OPEN + "print(len(open_store(Path(sys.argv[1])).client.search_experiments()))"


def test_two_processes_may_open_a_fresh_store_at_once_and_say_nothing(tmp_path: Path) -> None:
    work = tmp_path / "elsewhere"
    work.mkdir()
    command = [sys.executable, "-c", OPEN_AND_COUNT, str(tmp_path / "home")]
    both = [
        subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert outputs == [("1\n", "")] * 2
    assert [process.returncode for process in both] == [0, 0]
    assert list(work.iterdir()) == []


def test_everything_lies_below_home(store: Store, home: Path) -> None:
    assert store.uri == f"sqlite:///{home}/mlflow.db"
    assert store.artifact_root == (home / "artifacts").as_uri()
    default = store.client.get_experiment("0")
    assert default.artifact_location.startswith(store.artifact_root)


def test_a_worker_opens_the_same_store_by_its_uri(store: Store, tmp_path: Path) -> None:
    again = open_store(tmp_path / "not used", store.uri)
    assert (again.uri, again.artifact_root) == (store.uri, store.artifact_root)
    assert not (tmp_path / "not used").exists()


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("mlruns", "must be http://…, https://… or sqlite:////absolute/file.db"),
        ("sqlite:///relative.db", "must be http://…"),
        ("postgresql://me:secret@host/db", "'postgresql://***@host/db': must be"),
        ("http://me:secret@host:5000", "http://***@host:5000: the tracking server cannot be used: user and password"),
        ("https://me:sec/ret:secret@host", "https://***@host: the tracking server cannot be used"),
        ("http://", "names no host"),
        ("http://[", "Invalid IPv6 URL"),
        ("sqlite:////tmp/what?.db", "'?'"),
        ("sqlite:////dev/null/x/mlflow.db", "Not a directory"),
    ],
)
def test_a_bad_uri_is_refused_in_one_line(tmp_path: Path, uri: str, rule: str) -> None:
    with pytest.raises(TrackingError) as caught:
        open_store(tmp_path, uri)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_noticed_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(TrackingError, match=rf"http://127.0.0.1:{port}: .*Connection refused"):
            open_store(tmp_path, f"http://127.0.0.1:{port}")
    assert time.monotonic() - start < 3


def test_a_password_comes_from_the_environment_and_reaches_the_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_error(401)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackingError, match="401") as caught:
            open_store(tmp_path, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert {base64.b64decode((value or "").removeprefix("Basic ")) for value in seen} == {b"me:secret"}
    assert "secret" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up_in_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(TrackingError, match="timed out"):
            open_store(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - start < PROBE_TIMEOUT_S + 3


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("something else altogether, and long enough to be looked at" * 20)
    start = time.monotonic()
    with pytest.raises(TrackingError, match="file is not a database"):
        open_store(tmp_path)
    assert time.monotonic() - start < 3


def test_the_environment_names_a_store_as_for_mlflow_itself(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert open_store(tmp_path / "not used").uri == store.uri
    assert not (tmp_path / "not used").exists()
    given = f"sqlite:///{tmp_path}/given/mlflow.db"
    assert open_store(tmp_path / "not used", given).uri == given
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(TrackingError, match=r"^MLFLOW_TRACKING_URI 'databricks': must be http"):
        open_store(tmp_path / "not used")
    with pytest.raises(TrackingError, match=r"^--tracking-uri 'mlruns': must be http"):
        open_store(tmp_path / "not used", "mlruns")
