"""Real servers on the loopback interface: MLflow's, its model server, PostgreSQL and S3."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], log: Path, answers: str, environment: dict[str, str]) -> Iterator[None]:
    """A process for the body, from when `answers` is a URL that does until it has ended."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=log.parent, env={**os.environ, **environment}, stdout=file, stderr=file, process_group=0
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(answers):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


MLFLOW_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def mlflow_command(port: int, backend: str, artifacts: str) -> list[str]:
    """An MLflow server as README and cluster file start it."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [*command, "--backend-store-uri", backend, "--artifacts-destination", artifacts]


@contextmanager
def mlflow_server(
    folder: Path, backend: str, artifacts: str, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """A server from when it answers; its address."""
    port, settings = free_port(), {**MLFLOW_SETTINGS, **(environment or {})}
    address = f"http://127.0.0.1:{port}"
    with running(mlflow_command(port, backend, artifacts), folder / "mlflow.log", f"{address}/health", settings):
        yield address


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """moto's S3 with the bucket `lab`; the environment of whoever may use it."""
    import boto3

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "s3.log", f"{endpoint}/moto-api/", {}):
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket="lab")
        yield {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "MLFLOW_S3_ENDPOINT_URL": endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian does not put it on PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextmanager
def postgres_server(folder: Path, programs: Path) -> Iterator[str]:
    """A PostgreSQL cluster of its own with a password; the URI of its database. It refuses to run as root."""
    port, data, password = free_port(), folder / "cluster", folder / "password"
    password.write_text("not-to-be-shown")
    data.mkdir()
    user: dict[str, int] = {}
    if os.geteuid() == 0:
        import pwd

        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid}
        for path in (data, password):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    arguments = ["-U", "lab", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "-D", str(data)]
    log = folder / "postgres.log"
    with log.open("ab") as file:
        subprocess.run([programs / "initdb", *arguments], cwd="/", check=True, stdout=file, stderr=file, **user)  # type: ignore[call-overload]
        command = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-c", "fsync=off"]
        server = subprocess.Popen(command, cwd="/", stdout=file, stderr=file, **user)  # type: ignore[call-overload]
    try:
        _create_database(f"host=127.0.0.1 port={port} user=lab password=not-to-be-shown", log)
        yield f"postgresql+psycopg2://lab:not-to-be-shown@127.0.0.1:{port}/tracking"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _create_database(place: str, log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + START_S
    while True:
        try:
            connection = psycopg2.connect(f"{place} dbname=postgres")
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE tracking")
    connection.close()
