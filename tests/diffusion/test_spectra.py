"""Spectra of voxels: an arrangement of the same numbers, so what is drawn from it must be what the images say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sm_search.config.model_settings import LinearBasisSettings, ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.diffusion.spectra import POSITION_UNIT, component_images, spectra
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.physics.system_matrix import voxel_centres
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images

MEAN_ALONE = ScheduleSettings(steps=0)
BACKBONE = LinearBasisSettings(coefficients=8, width=32, blocks=1)


def settings(**changes: Any) -> TrainingSettings:
    small = {"backbone": BACKBONE, "diffuse": "voxel", "batch_size": 32, "steps": 200, "learning_rate": 3e-3}
    return TrainingSettings(**{**small, **changes})


def test_images_come_back_from_their_spectra() -> None:
    images = torch.randn(5, 2, 3, 4)
    found = spectra(images)
    assert found.shape == (12, 2, 1, 5)
    # Voxel 7 with x fastest on a grid of 4 × 3 is x = 3, y = 1.
    assert torch.equal(found[7, :, 0, :], images[:, :, 1, 3].T)
    assert torch.equal(component_images(found, (3, 4)), images)


@pytest.mark.parametrize("mean", ["none", "kernel-ridge"])
def test_training_spectra_are_the_training_images(tiny_dataset: Dataset, mean: Any) -> None:
    images, _ = training_images(tiny_dataset, "train", (0, 1), mean)
    voxels, _ = training_images(tiny_dataset, "train", (0, 1), mean, diffuse="voxel")
    scans, components, side = 4, 8, 12
    assert voxels.targets.shape == (scans * side**2, 2, 1, components)
    # The condition's are in units of the matrix's strongest component.
    relative = images.condition.image * 10 ** images.condition.log_scale[:, None, None, None]
    assert relative.unflatten(0, (scans, -1)).square().sum(2).amax((1, 2, 3)) == pytest.approx(np.ones(scans), rel=1e-5)
    for theirs, ours in ((images.targets, voxels.targets), (relative, voxels.condition.image)):
        for scan, rows in zip(theirs.unflatten(0, (scans, -1)), ours.unflatten(0, (scans, -1)), strict=True):
            torch.testing.assert_close(component_images(rows, (side, side)), scan, rtol=1e-6, atol=0)
    position = voxels.condition.orders[: side**2] / POSITION_UNIT
    grid = tiny_dataset.settings.grid
    expected = np.stack(voxel_centres(grid), 1) / (np.array(grid.fov_m) / 2)
    np.testing.assert_allclose(position, expected, atol=1e-6)
    # Channel after channel of each scan.
    channels = voxels.condition.log_scale.unflatten(0, (scans, -1))
    assert torch.equal(channels, torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None].expand_as(channels))


def test_without_the_network_both_ways_rate_the_same_mean(tiny_dataset: Dataset) -> None:
    scores = []
    for diffuse in ("component", "voxel"):
        images, models = training_images(tiny_dataset, "train", (0,), "kernel-ridge", diffuse=diffuse)  # type: ignore[arg-type]
        trainer = Trainer(settings(diffuse=diffuse), images)
        validation = Validation.of(tiny_dataset, models, diffuse=diffuse)  # type: ignore[arg-type]
        scores.append(validation.metrics(trainer.ema, trainer.settings.diffusion, MEAN_ALONE))
    assert scores[1] == pytest.approx(scores[0], rel=1e-12)


def test_a_subset_of_scans_is_rated_as_within_all(tiny_dataset: Dataset) -> None:
    """Noise has names, so neither company nor order changes a score."""
    images, models = training_images(tiny_dataset, "train", (0,), "none", diffuse="voxel")
    trainer = Trainer(settings(), images)
    list(trainer.train(2))
    # The training split has two scans.
    every = Validation.of(tiny_dataset, models, "train", "voxel")
    schedule = ScheduleSettings(sampler="ddpm", steps=3, eta_max=0.1)
    whole = ScheduleScorer(trainer.ema, trainer.settings.diffusion, every)([schedule], 0, 2)
    for number in (0, 1):
        alone = ScheduleScorer(trainer.ema, trainer.settings.diffusion, every.part(number, number + 1))
        score = alone([schedule], 0, 1)["val_psnr_db"][0, 0]
        assert score == pytest.approx(whole["val_psnr_db"][0, number], rel=1e-6)
    assert whole["val_psnr_db"][0, 0] != whole["val_psnr_db"][0, 1]


def test_training_helps_and_the_checkpoint_synthesises_both_channels(tiny_dataset: Dataset, tmp_path: Path) -> None:
    images, models = training_images(tiny_dataset, "train", (0, 1), "none", diffuse="voxel")
    trainer = Trainer(settings(receive_channels=(0, 1), share_at_end=1.0), images)
    validation = Validation.of(tiny_dataset, models, diffuse="voxel")
    one_step = ScheduleSettings(steps=1)
    scores = []
    for until in (1, 200):
        list(trainer.train(until))
        scores.append(validation.metrics(trainer.ema, trainer.settings.diffusion, one_step)["val_psnr_db"])
    assert scores[1] > scores[0] + 6
    make_checkpoint(trainer, tiny_dataset, models, one_step, {}).save(tmp_path)
    low = next(iter(tiny_dataset.pairs("validation"))).low
    loaded = Synthesiser(load_checkpoint(tmp_path)).predict(low)
    assert loaded.values_CKN.shape == low.values_CKN.shape
    ours = Synthesiser(make_checkpoint(trainer, tiny_dataset, models, one_step, {})).predict(low)
    np.testing.assert_array_equal(loaded.values_CKN, ours.values_CKN)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"backbone": {"backbone": "unet"}}, "diffuse: voxel needs backbone linear-basis, not unet"),
        ({"augmentation": "parity"}, "augmentation is parity, must be none"),
    ],
)
def test_what_knows_only_images_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        TrainingSettings.model_validate({"diffuse": "voxel", **changes})


def test_the_settings_of_older_models_keep_their_hash() -> None:
    assert "diffuse" not in TrainingSettings().model_dump()
    assert TrainingSettings(diffuse="voxel").content_hash() != TrainingSettings().content_hash()
