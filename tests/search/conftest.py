"""A tiny study on the shared tiny dataset."""

import copy

import pytest
import torch

from sm_search.config.model_settings import LinearBasisSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.evaluation.validation import Validation
from sm_search.training import Trainer, training_images

TINY_TRAINING = TrainingSettings(
    backbone=LinearBasisSettings(coefficients=8, width=16, blocks=1), steps=20, batch_size=8, learning_rate=3e-3
)


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
