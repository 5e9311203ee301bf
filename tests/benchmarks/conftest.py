"""What the benchmarks of trained models share: a dataset, its images, the quality on scans that no training saw."""

import os
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from sm_search.compute.parallel_simulation import simulate_dataset
from sm_search.compute.session import ray_session
from sm_search.config.dataset_settings import preset
from sm_search.config.model_settings import ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import Checkpoint
from sm_search.evaluation.comparison import pair_quality
from sm_search.regression.scan_models import ScanModels
from sm_search.synthesis import Synthesiser
from sm_search.training import TrainingImages, training_images

SPLITS = ("test", "diameter", "joint")


@pytest.fixture(scope="session")
def paper_54(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """The preset: the folder that PAPER_54 names, else simulated first."""
    folder = os.environ.get("PAPER_54")
    if folder:
        yield Dataset.open(folder)
        return
    with ray_session(None):
        yield simulate_dataset(tmp_path_factory.mktemp("data") / "paper-54", preset("paper-54-brownian"))


@pytest.fixture(scope="session")
def training_data(paper_54: Dataset) -> Callable[..., tuple[TrainingImages, ScanModels]]:
    """Training images and scan models of the x-channel, read once for each mean and way to diffuse."""
    return cache(lambda mean, diffuse="component": training_images(paper_54, "train", (0,), mean, diffuse=diffuse))


@pytest.fixture(scope="session")
def unseen_quality(paper_54: Dataset) -> Callable[[Checkpoint, ScheduleSettings], str]:
    """Mean PSNR dB / SSIM on the scans of `SPLITS`, as cells of a table."""

    def cells(checkpoint: Checkpoint, schedule: ScheduleSettings) -> str:
        model = Synthesiser(checkpoint, schedule)
        found = [pair_quality(model.predict(pair.low), pair) for split in SPLITS for pair in paper_54.pairs(split)]
        return " | ".join(f"{quality.psnr_db_mean:.1f} / {quality.ssim_mean:.3f}" for quality in found)

    return cells
