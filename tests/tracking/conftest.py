"""One real SQLite store for the room; each test has a study of its own in it."""

import itertools
from pathlib import Path

import pytest

from sm_search.config.model_settings import LinearBasisSettings, ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store
from sm_search.training import Trainer, make_checkpoint, training_images

_numbers = itertools.count()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With the characters that a file URI has to escape.
    return tmp_path_factory.mktemp("tracking") / "a home, ü#1"


@pytest.fixture(scope="session")
def store(home: Path) -> Store:
    return open_store(home)


@pytest.fixture
def study() -> str:
    return f"study-{next(_numbers)}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that looks like a checkpoint from outside."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "checkpoint.json").write_text('{"grid": [2, 1]}')
    (folder / "model.safetensors").write_bytes(b"\x00weights\xff")
    return folder


def _trained(dataset: Dataset, folder: Path, settings: TrainingSettings) -> Path:
    images, models = training_images(dataset, "train", (0,), settings.mean)
    trainer = Trainer(settings, images)
    list(trainer.train(settings.steps))
    make_checkpoint(trainer, dataset, models, ScheduleSettings(steps=2), {}).save(folder)
    return folder


@pytest.fixture(scope="session")
def good_model(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a regression over the scans with a little network on top."""
    backbone = LinearBasisSettings(coefficients=8, width=16, blocks=1)
    return _trained(
        tiny_dataset, tmp_path_factory.mktemp("good"), TrainingSettings(backbone=backbone, steps=20, batch_size=8)
    )


@pytest.fixture(scope="session")
def poor_model(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network alone: better than a copy, worse than the good one."""
    settings = TrainingSettings(
        backbone=LinearBasisSettings(coefficients=16, width=64, blocks=1),
        steps=300,
        batch_size=16,
        learning_rate=3e-3,
        p_uncond=0.0,
        mean="none",
    )
    return _trained(tiny_dataset, tmp_path_factory.mktemp("poor"), settings)


def add_study(store: Store, study: str, checkpoint: Path, val_psnr_db: float = 30.0) -> str:
    """A finished study of one trial with this checkpoint; the run of the trial."""
    log = StudyLog.open(store, study, params={"metric": "val_psnr_db"})
    run_id = log.start_trial("t")
    log.log_metrics("t", 1, {"val_psnr_db": val_psnr_db})
    log.log_folder("t", checkpoint, "checkpoint")
    log.finish_trial("t", "complete")
    log.finish()
    return run_id
