"""Where a password could end up: every file and every line that a study leaves behind is searched for it."""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm_search.data.dataset import Dataset
from tests.cli.conftest import SPACE, Command
from tests.tracking.servers import mlflow_server

PASSWORD, KEY = "geheim-7Qx2vLw9", "aws-key-0pZr5TnY3"
SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "lab",
    "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    "AWS_ACCESS_KEY_ID": "lab",
    "AWS_SECRET_ACCESS_KEY": KEY,
}
FORBIDDEN = [PASSWORD.encode(), KEY.encode(), base64.b64encode(f"lab:{PASSWORD}".encode())]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's logs, below a short name: its sockets are there too."""
    folder = Path(tempfile.mkdtemp(prefix="leak-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def found(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [f"{path}: {secret!r}" for path in files for secret in FORBIDDEN if secret in path.read_bytes()]


@pytest.mark.slow
def test_no_secret_is_written_anywhere(
    command: Command, tiny_dataset: Dataset, tmp_path: Path, ray_folder: Path
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    server_folder, home = tmp_path / "server", tmp_path / "home"
    server_folder.mkdir()
    database = f"sqlite:///{server_folder}/mlflow.db"
    with mlflow_server(server_folder, database, str(server_folder / "artifacts"), dict(SECRETS)) as address:
        more = ("--home", home, "--tracking-uri", address)
        lines = [
            ("sweep", "--space", tmp_path / "space.yaml", "--data", tiny_dataset.folder, *more),
            ("promote", "--study", "tiny-study", "--data", tiny_dataset.folder, *more),
            ("promote", "--study", "no-such-study", "--data", tiny_dataset.folder, *more),
            ("report", "--study", "tiny-study", "--out", tmp_path / "report.html", *more),
            ("doctor", *more),
        ]
        told = [command(*line, RAY_TMPDIR=str(ray_folder), **SECRETS) for line in lines]
    assert [done.status for done in told[:2]] == [0, 0], told[0].stderr + told[1].stderr
    assert told[2].status == 2
    said = "".join(done.stdout + done.stderr for done in told)
    assert not [secret for secret in FORBIDDEN if secret.decode() in said]
    assert (home / "studies/tiny-study").is_dir()
    assert any(ray_folder.rglob("*.log"))
    assert found(tmp_path) + found(ray_folder) == []
    # The search itself finds what is there.
    (tmp_path / "planted").write_bytes(b"x" + PASSWORD.encode())
    assert len(found(tmp_path)) == 1
    assert os.path.getsize(server_folder / "mlflow.log") > 0
