"""A model of other scans is gone on from on a few pairs: `train --from`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sm_search.config.dataset_settings import DatasetSettings, Design
from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.simulation_settings import Particle
from sm_search.data.dataset import Dataset
from sm_search.evaluation.comparison import pair_quality
from sm_search.synthesis import load_synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images
from tests.conftest import TINY_TRAINING, Finished
from tests.datasets import simulated


@pytest.fixture(scope="module")
def base(tiny_dataset: Dataset, trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, models = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean)
    folder = tmp_path_factory.mktemp("base")
    make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(steps=0), {}).save(folder)
    return folder


@pytest.fixture(scope="module")
def other(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Particles in a fluid of five times the viscosity: the few pairs of another scanner."""

    def design(core_diameter_nm: float, fx_khz: float) -> Design:
        return Design(core_diameter_nm=(core_diameter_nm,), fx_khz=(fx_khz,), nd=(9,))

    settings = tiny_settings.model_copy(
        update={
            "name": "other",
            "particle": Particle(viscosity_mpa_s=5.0),
            "splits": {
                "train": (design(25.0, 20.0),),
                "validation": (design(25.0, 22.0),),
                "test": (design(26.0, 20.0),),
            },
        }
    )
    return simulated(settings, tmp_path_factory.mktemp("data") / "other")


def test_one_pair_of_another_scanner_makes_a_model_that_serves_it(
    base: Path, other: Dataset, tmp_path: Path, run: Callable[..., Finished]
) -> None:
    out = tmp_path / "tuned"
    done = run("train", "--from", base, "--data", other.folder, "--out", out, "--json")
    assert done.status == 0, done.stderr
    before, after = load_synthesiser(base), load_synthesiser(out)
    assert after.checkpoint.info.training_scans == 3, "two of the base and one of its own"
    assert after.checkpoint.info.dataset == "other"
    assert after.checkpoint.info.training.steps == 400
    pair = next(iter(other.pairs("test")))
    errors = [pair_quality(model.predict(pair.low), pair).nrmse_mean for model in (before, after)]
    assert errors[1] < 0.5 * errors[0]
    first, second = before.distance(pair.low), after.distance(pair.low)
    assert first is not None
    assert second is not None
    assert second < first


def test_the_network_begins_with_the_weights_of_the_base(tiny_dataset: Dataset, trainer: Trainer) -> None:
    images, _ = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean)
    again = Trainer(TINY_TRAINING, images, start=trainer.ema)
    for name, value in trainer.ema.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], value), name
    assert again.step == 0
    list(again.train(1))
    assert any(
        not torch.equal(a, b) for a, b in zip(again.denoiser.parameters(), trainer.ema.parameters(), strict=True)
    )


def test_far_from_the_new_scans_the_models_say_what_they_said(tiny_dataset: Dataset) -> None:
    _, models = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean)
    _, same = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean, base=models)
    features = models.gain.regression.features_SF[0]
    scales = torch.ones(8)
    np.testing.assert_allclose(same.gain(features, scales), models.gain(features, scales), rtol=1e-2)
    assert len(same.gain.regression.features_SF) == 4


def test_another_network_is_refused(base: Path, other: Dataset, tmp_path: Path, run: Callable[..., Finished]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({"training": {"mean": "none", "steps": 1}, "schedule": {"steps": 1}}))
    done = run("train", "--from", base, "--config", config, "--data", other.folder, "--out", tmp_path / "out")
    assert done.status == 2
    assert "training.backbone is " in done.stderr
    assert "the model that the run goes on from has " in done.stderr
