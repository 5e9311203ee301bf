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
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.parity import mirrored
from sm_search.diffusion.spectra import POSITION_UNIT, Spectra
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.physics.system_matrix import voxel_centres
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images

MEAN_ALONE = ScheduleSettings(steps=0)
BACKBONE = LinearBasisSettings(coefficients=8, width=32, blocks=1)


def settings(**changes: Any) -> TrainingSettings:
    small = {"backbone": BACKBONE, "diffuse": "voxel", "batch_size": 32, "steps": 200, "learning_rate": 3e-3}
    return TrainingSettings(**{**small, **changes})


ORDERS = torch.tensor([[1, 0], [0, 1], [2, 0], [2, 1], [3, 2]])


def some_condition(images: torch.Tensor) -> Condition:
    count = len(images)
    return Condition(
        image=images,
        orders=ORDERS.float(),
        log_scale=-torch.rand(count),
        features=torch.randn(1, 3).expand(count, -1),
        noise=torch.rand(count),
        keep=torch.ones(count),
    )


@pytest.mark.parametrize("folded", [False, True])
def test_images_come_back_from_their_spectra(folded: bool) -> None:
    images = torch.randn(5, 2, 3, 4)
    spectra = Spectra(ORDERS, (3, 4), folded)
    found = spectra.of(images)
    assert found.shape == (12, 2, 1, 5)
    # Voxel 7 with x fastest on a grid of 4 × 3 is x = 3, y = 1: in the quadrant x, y ≥ 0 already.
    assert torch.equal(found[7, :, 0, :], images[:, :, 1, 3].T)
    assert torch.equal(spectra.images(found), images)


@pytest.mark.parametrize("shape", [(6, 6), (3, 5)])
@pytest.mark.parametrize(("along_x", "along_y"), [(True, False), (False, True), (True, True)])
def test_a_mirrored_matrix_has_the_folded_spectra_of_the_matrix(
    shape: tuple[int, int], along_x: bool, along_y: bool
) -> None:
    """So what a network answers to a scanner's mirror image is the mirror image of its answer."""
    images = torch.randn(5, 2, *shape)
    spectra = Spectra(ORDERS, shape, True)
    which = [torch.full((5,), asked) for asked in (along_x, along_y)]
    condition = some_condition(images)
    before = spectra.condition(condition, 0)
    after = spectra.condition(condition.with_image(mirrored(images, ORDERS, *which)), 0)
    voxels = torch.arange(shape[0] * shape[1]).reshape(shape)
    moved = voxels.flip([axis for axis, asked in ((1, along_x), (0, along_y)) if asked]).flatten()
    # A voxel on an axis of an odd grid is its own mirror image, and stays as it is.
    on_axis = (before.orders[:, 0] == 0) & along_x | (before.orders[:, 1] == 0) & along_y
    assert int(on_axis.sum()) == {(6, 6): 0}.get(shape, along_x * shape[0] + along_y * shape[1] - along_x * along_y)
    for name in ("image", "orders", "noise"):
        mirror = getattr(before, name)[moved]
        torch.testing.assert_close(getattr(after, name)[~on_axis], mirror[~on_axis], rtol=0, atol=0)


def test_the_voxels_of_one_ideal_matrix_fold_onto_one_quadrant(tiny_dataset: Dataset) -> None:
    """Up to aliases of orders about N_d, all four mirror images are one voxel."""
    images, _ = training_images(tiny_dataset, "train", (0,), "none", diffuse="folded-voxel")
    side = tiny_dataset.settings.grid.size[0]
    target = images.targets[: side**2].unflatten(0, (side, side))
    condition = images.condition.image[: side**2].unflatten(0, (side, side))
    for spectra in (target, condition):
        for axis in (0, 1):
            torch.testing.assert_close(spectra.flip(axis), spectra, rtol=0, atol=1e-2 * spectra.abs().max().item())
    apart, _ = training_images(tiny_dataset, "train", (0,), "none", diffuse="voxel")
    plain = apart.targets[: side**2].unflatten(0, (side, side))
    assert (plain.flip(1) - plain).abs().max() > 0.5


@pytest.mark.parametrize("diffuse", ["voxel", "folded-voxel"])
@pytest.mark.parametrize("mean", ["none", "kernel-ridge"])
def test_training_spectra_are_the_training_images(tiny_dataset: Dataset, mean: Any, diffuse: Any) -> None:
    images, _ = training_images(tiny_dataset, "train", (0, 1), mean)
    voxels, _ = training_images(tiny_dataset, "train", (0, 1), mean, diffuse=diffuse)
    folded = diffuse == "folded-voxel"
    scans, components, side = 4, 8, 12
    assert voxels.targets.shape == (scans * side**2, 2, 1, components)
    spectra = Spectra(torch.tensor(tiny_dataset.settings.orders.pairs()), (side, side), folded)
    # The condition's are in units of the matrix's strongest component.
    relative = images.condition.image * 10 ** images.condition.log_scale[:, None, None, None]
    assert relative.unflatten(0, (scans, -1)).square().sum(2).amax((1, 2, 3)) == pytest.approx(np.ones(scans), rel=1e-5)
    for theirs, ours in ((images.targets, voxels.targets), (relative, voxels.condition.image)):
        for scan, rows in zip(theirs.unflatten(0, (scans, -1)), ours.unflatten(0, (scans, -1)), strict=True):
            torch.testing.assert_close(spectra.images(rows), scan, rtol=1e-6, atol=0)
    position = voxels.condition.orders[: side**2] / POSITION_UNIT
    grid = tiny_dataset.settings.grid
    expected = np.stack(voxel_centres(grid), 1) / (np.array(grid.fov_m) / 2)
    np.testing.assert_allclose(position, np.abs(expected) if folded else expected, atol=1e-6)
    # Channel after channel of each scan.
    channels = voxels.condition.log_scale.unflatten(0, (scans, -1))
    assert torch.equal(channels, torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None].expand_as(channels))


def test_without_the_network_both_ways_rate_the_same_mean(tiny_dataset: Dataset) -> None:
    scores = []
    for diffuse in ("component", "voxel", "folded-voxel"):
        images, models = training_images(tiny_dataset, "train", (0,), "kernel-ridge", diffuse=diffuse)  # type: ignore[arg-type]
        trainer = Trainer(settings(diffuse=diffuse), images)
        validation = Validation.of(tiny_dataset, models, diffuse=diffuse, asked=["val_image_psnr_db"])  # type: ignore[arg-type]
        scores.append(validation.metrics(trainer.ema, trainer.settings.diffusion, MEAN_ALONE))
    assert "val_image_psnr_db" in scores[0]
    assert scores[1] == pytest.approx(scores[0], rel=1e-12)
    assert scores[2] == pytest.approx(scores[0], rel=1e-12)


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


@pytest.mark.parametrize("diffuse", ["voxel", "folded-voxel"])
def test_training_helps_and_the_checkpoint_synthesises_both_channels(
    tiny_dataset: Dataset, tmp_path: Path, diffuse: Any
) -> None:
    images, models = training_images(tiny_dataset, "train", (0, 1), "none", diffuse=diffuse)
    trainer = Trainer(settings(diffuse=diffuse, receive_channels=(0, 1), share_at_end=1.0), images)
    validation = Validation.of(tiny_dataset, models, diffuse=diffuse)
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
