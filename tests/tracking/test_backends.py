"""An MLflow server on PostgreSQL with its artifacts on S3: the whole life of a model, over HTTP alone."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from sm_search.data.dataset import Dataset
from sm_search.tracking.champion import champion_of, model_aliases
from sm_search.tracking.promotion import promote
from sm_search.tracking.records import best_trials, study_runs
from sm_search.tracking.registry import download_model, register
from sm_search.tracking.store import Store, open_store
from tests.tracking.conftest import add_study
from tests.tracking.servers import mlflow_server, postgres_programs, postgres_server, s3_server
from tests.tracking.test_champion import assert_one_winner, race

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="needs PostgreSQL: apt-get install postgresql"),
]


@dataclass(frozen=True)
class Lab:
    """A server and the logs of everything behind it."""

    store: Store
    folder: Path
    s3: dict[str, str]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    programs = postgres_programs()
    assert programs is not None
    # The keys of the bucket and the password of the database are the server's alone.
    with (
        s3_server(folder) as s3,
        # Below /tmp itself: another user must reach it, and pytest's folders are this one's.
        postgres_folder() as place,
        postgres_server(place, programs) as database,
        mlflow_server(folder, database, "s3://lab/artifacts", s3) as address,
    ):
        yield Lab(open_store(folder / "unused", address), folder, s3)


@contextmanager
def postgres_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_model_lives_on_postgresql_and_s3_over_http_alone(
    lab: Lab, study: str, tiny_dataset: Dataset, good_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in lab.s3:
        monkeypatch.delenv(name, raising=False)
    run_id = add_study(lab.store, study, good_model)
    parent, (trial,) = study_runs(lab.store, study)
    assert (parent.status, trial.state, trial.run_id) == ("FINISHED", "complete", run_id)
    assert best_trials(lab.store, study)[0].metrics == {"val_psnr_db": 30.0}
    done = promote(lab.store, study, tiny_dataset, f"model-{study}", seeds=1)
    assert done.shortfalls == []
    fetched = download_model(lab.store, f"models:/model-{study}@champion")
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in good_model.iterdir()
    }
    objects = stored_objects(lab)
    assert any(key.endswith("/artifacts/checkpoint/model.safetensors") for key in objects)
    assert any(key.endswith(f"/promotion/model-{study}-version-1.md") for key in objects)
    assert not (lab.folder / "unused").exists()
    assert "not-to-be-shown" not in (lab.folder / "mlflow.log").read_text()


def test_of_two_people_who_promote_at_once_one_wins(lab: Lab, study: str, checkpoint: Path) -> None:
    run_id = add_study(lab.store, study, checkpoint)
    name = f"raced-{study}"
    for _ in range(2):
        register(lab.store, run_id, checkpoint, name)
    assert_one_winner(lab.store, name, race(lab.store.uri, name, [1, 2]))
    assert champion_of(lab.store, name) == model_aliases(lab.store, name)["champion"]


def stored_objects(lab: Lab) -> list[str]:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=lab.s3["AWS_ENDPOINT_URL"], **keys)
    return [item["Key"] for item in client.list_objects_v2(Bucket="lab").get("Contents", [])]
