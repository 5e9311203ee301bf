"""One thread and one Ray token for every test, and a tiny dataset and model that several rooms share.

With `-n` tests run in several processes: the tests of a file in one, and those of the files that share a study.
"""

import contextlib
import copy
import io
import json
import os
import secrets
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sm_search.cli.main import main
from sm_search.config.dataset_settings import DatasetSettings, Design
from sm_search.config.model_settings import LinearBasisSettings, TrainingSettings
from sm_search.config.simulation_settings import Grid, MixingOrders
from sm_search.data.dataset import Dataset
from sm_search.evaluation.validation import Validation
from sm_search.training import Trainer, training_images
from tests.datasets import simulated

TINY_TRAINING = TrainingSettings(
    backbone=LinearBasisSettings(coefficients=8, width=16, blocks=1), steps=20, batch_size=8, learning_rate=3e-3
)

torch.set_num_threads(1)
# Each command of a test has a home of its own, where matplotlib would look through the machine's fonts anew.
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / f"sm-search-tests-matplotlib-{os.getuid()}"))
# Ray's workers give way to every other process, and the tests beside them would keep them waiting.
os.environ.setdefault("RAY_worker_niceness", "0")
# What a shell puts into the background ignores Ctrl-C, and so would all processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def object(self) -> dict[str, Any]:
        """The one JSON object of stdout."""
        return json.loads(self.stdout)


def run_here(*arguments: Any) -> Finished:
    """`sm-search` in this process: no imports to wait for, and the Ray session that is open, if one is."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            status = int(stopped.code or 0)
    return Finished(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run() -> Callable[..., Finished]:
    """`run_here`."""
    return run_here


SHARED_STUDY = ("tests/cli/test_errors.py", "tests/cli/test_sweep.py", "tests/cli/test_verbs.py")
"""Files of one finished study, which takes longer than their tests."""
SHARED_RAY = (
    "tests/cli/test_study_options.py",
    "tests/compute/test_parallel_simulation.py",
    "tests/compute/test_parallel_synthesis.py",
    "tests/compute/test_tasks.py",
    "tests/data/test_interruption.py",
    "tests/search/schedule/test_workers.py",
    "tests/search/study/test_time_limit.py",
)
"""Files of one Ray session, `two_cpus`: to start one, and its workers, takes as long as many of their tests."""


LONGEST_FIRST = (
    "tests/cluster/test_lost_nodes.py",
    "tests/search/study/test_faults.py",
    "tests/cluster/test_lost_head.py",
    "tests/cluster/test_jobs.py",
    "tests/cluster/test_gpu_up.py",
    "tests/cli/test_demo.py",
)
"""Files whose tests take minutes: one of them that begins last keeps a core waiting as long."""


def _together(nodeid: str) -> str:
    """The file of a test, or the first of those that it shares something with."""
    file = nodeid.partition("::")[0]
    return next((files[0] for files in (SHARED_STUDY, SHARED_RAY) if file in files), file)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which files begin: the longest, then those of most tests."""
    turns = {file: turn for turn, file in enumerate(LONGEST_FIRST)}
    tests = Counter(_together(item.nodeid) for item in items)

    def turn(item: pytest.Item) -> tuple[int, int, str]:
        file = _together(item.nodeid)
        return turns.get(file, len(turns)), -tests[file], file

    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    config.option.loadscopereorder = False  # by the order of the items
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _no_addresses() -> Iterator[None]:
    """Of the developer's own cluster and server, which the verbs would take."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield


_open_ray = contextlib.ExitStack()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that does not ask for `two_cpus` finds no Ray session left open by those that do."""
    if "two_cpus" not in getattr(item, "fixturenames", ()):
        _open_ray.close()
    database = sys.modules.get("sm_search.tracking.database")  # to import it takes seconds, which few files need
    if database and not isinstance(database._migrate, CopiedDatabase):
        database._migrate = CopiedDatabase(database._migrate)


class CopiedDatabase:
    """MLflow makes a database by dozens of migrations, for seconds: here once for all that a process of tests needs."""

    ROOT = "file:///of/the/first"
    first: Path

    def __init__(self, migrate: Callable[[Path, str], None]) -> None:
        self.migrate = migrate

    def __call__(self, path: Path, artifact_root: str) -> None:
        if not self.first.exists():
            self.migrate(self.first, self.ROOT)
        shutil.copy(self.first, path)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            change = "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)"
            connection.execute(change, (self.ROOT, artifact_root))


@pytest.fixture(scope="session", autouse=True)
def _first_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    CopiedDatabase.first = tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module")
def two_cpus() -> None:
    """A Ray session with two CPUs, open from one file that asks for it to the next."""
    import ray

    from sm_search.compute.session import ray_session

    if not ray.is_initialized():
        _open_ray.enter_context(ray_session(cpus=2))


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    """A Ray session with one CPU, for the rest of a file."""
    from sm_search.compute.session import ray_session

    with ray_session(cpus=1):
        yield


@pytest.fixture(scope="session", autouse=True)
def _ray_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token outside HOME. One for the whole run: Ray reads it once in a process, and keeps it for later sessions."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield
        _open_ray.close()


@pytest.fixture(scope="session")
def tiny_settings() -> DatasetSettings:
    """Two training scans and one of each other split; 8 components on 12 × 12 voxels, the least that SSIM allows."""

    def design(core_diameter_nm: float, fx_khz: float) -> Design:
        return Design(core_diameter_nm=(core_diameter_nm,), fx_khz=(fx_khz,), nd=(9,))

    return DatasetSettings(
        name="tiny",
        magnetisation="brownian",
        grid=Grid(size=(12, 12)),
        orders=MixingOrders(max_x=2, max_y=2),
        splits={
            "train": (design(20.0, 10.0), design(30.0, 30.0)),
            "validation": (design(20.0, 20.0),),
            "test": (design(25.0, 20.0),),
        },
    )


@pytest.fixture(scope="session")
def tiny_dataset(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A finished dataset of `tiny_settings`. Read only: a test that changes a file copies the folder first."""
    return simulated(tiny_settings, tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def trainer(tiny_dataset: Dataset) -> Trainer:
    """A model trained for 20 steps. Read only."""
    images, _ = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean)
    trainer = Trainer(TINY_TRAINING, images)
    list(trainer.train(20))
    return trainer


@pytest.fixture
def diverging(trainer: Trainer) -> torch.nn.Module:
    """The model with one weight that is not a number: every sample leaves the finite numbers."""
    broken = copy.deepcopy(trainer.ema)
    with torch.no_grad():
        next(iter(broken.parameters())).view(-1)[0] = float("nan")
    return broken


@pytest.fixture(scope="session")
def validation(tiny_dataset: Dataset) -> Validation:
    _, models = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean)
    return Validation.of(tiny_dataset, models)
