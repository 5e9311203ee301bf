"""The training loop: it learns, resumes bit by bit, repeats itself, and stops when it leaves the finite numbers."""

import math
import multiprocessing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sm_search.config.dataset_settings import DatasetSettings, SobolDesign
from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import (
    DiffusionSettings,
    LinearBasisSettings,
    ScheduleSettings,
    TrainingSettings,
    UNetSettings,
)
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.parity import mirrored
from sm_search.regression.scan_features import scan_features
from sm_search.training import AdamW, Trainer, TrainingImages, make_checkpoint, training_images
from tests.datasets import simulated

SHAPE = (4, 4)
LINEAR = LinearBasisSettings(coefficients=8, width=32, blocks=1)
UNET = UNetSettings(channels=(8, 8))


def settings(**changes: Any) -> TrainingSettings:
    small = {"backbone": LINEAR, "steps": 30, "batch_size": 8, "diffusion": DiffusionSettings(timesteps=50)}
    return TrainingSettings(**{**small, **changes})


def images(count: int = 40, seed: int = 0) -> TrainingImages:
    """Targets that are a fixed linear map of the condition, in a space of 4 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn((count, 4), generator=generator)
    maps = torch.randn((2, 4, 2 * SHAPE[0] * SHAPE[1]), generator=torch.Generator().manual_seed(99)) / 4
    low, high = (hidden @ maps).unflatten(2, (2, *SHAPE))
    orders = torch.randint(0, 3, (count, 2), generator=generator).float()
    log_scale, features = -torch.rand(count, generator=generator), hidden[:, :2]
    return TrainingImages(high, Condition(low, orders, log_scale, features, torch.zeros(count), torch.ones(count)))


def trained(until: int, data: TrainingImages | None = None, **changes: Any) -> Trainer:
    trainer = Trainer(settings(**changes), data or images())
    for _ in trainer.train(until):
        pass
    return trainer


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_the_loss_falls(prediction: str) -> None:
    trainer = Trainer(
        settings(
            steps=300,
            batch_size=64,
            learning_rate=3e-3,
            diffusion=DiffusionSettings(timesteps=50, prediction=prediction),  # type: ignore[arg-type]
            share_at_end=0.0,
        ),
        images(200),
    )
    losses = [record.loss for record in trainer.train(300, every=30)]
    assert losses[-1] < 0.5 * losses[0]


def test_where_the_condition_tells_all_regression_at_the_end_learns_it() -> None:
    data = images(200)
    changes = {"steps": 400, "batch_size": 64, "learning_rate": 3e-3, "share_at_end": 1.0, "p_uncond": 0.0}
    trainer = trained(400, data, **changes)
    states = trainer.denoiser.to_state(data.targets)
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = trainer.ema(noise, trainer.training_loss.bars[-1].expand(200), data.condition)
    assert (found - states).square().mean() < 0.05 * states.square().mean()


@pytest.mark.parametrize("backbone", [LINEAR, UNET], ids=["linear-basis", "unet"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"condition_noise": "same-level", "condition_weight": "decay", "augmentation": "parity"},
        {"precision": "bfloat16"},
    ],
)
def test_a_resumed_run_is_bit_by_bit_the_uninterrupted_one(backbone: Any, options: dict[str, Any]) -> None:
    changes = {"backbone": backbone, "steps": 12, **options}
    whole = trained(12, **changes)
    first = trained(5, **changes)
    state = first.state()
    kept = {name: value.clone() for name, value in state.items()}
    for _ in first.train(12):  # going on must not change what was saved
        pass
    assert equal(state, kept)
    for _ in range(2):  # nor must restoring
        resumed = Trainer(settings(**changes), images())
        resumed.restore(state)
        assert resumed.step == 5
        records = list(resumed.train(12))
        assert equal(resumed.state(), whole.state())
        assert records[-1].step == 12
        assert equal(state, kept)
    assert not equal(first.ema.state_dict(), trained(11, **changes).ema.state_dict())


def test_the_spread_is_trained_about_a_mean_that_stays() -> None:
    whole = trained(12, steps=12, spread_share=0.4)
    mean = trained(7, steps=7).ema.state_dict()
    state = whole.ema.state_dict()
    assert equal({name: state[name] for name in mean}, mean)
    assert any(state[name].any() for name in state.keys() - mean.keys())
    alone = trained(1, steps=5)
    assert [whole.learning_rate(step) for step in range(7, 13)] == [alone.learning_rate(step) for step in range(6)]
    for stop in (5, 7, 9):
        resumed = Trainer(settings(steps=12, spread_share=0.4), images())
        resumed.restore(trained(stop, steps=12, spread_share=0.4).state())
        list(resumed.train(12))
        assert equal(resumed.state(), whole.state())


def test_a_run_may_go_on_beyond_its_steps() -> None:
    """As where the cost of a step is measured."""
    for share in (0.0, 0.5):
        trainer = trained(4, steps=4, spread_share=share)
        before = trainer.state()
        list(trainer.train(6))
        assert trainer.step == 6
        assert not equal(trainer.state(), before)


def test_the_stop_points_do_not_matter() -> None:
    trainer = Trainer(settings(), images())
    for until in (1, 2, 9, 30):
        for _ in trainer.train(until, every=4):
            pass
    assert equal(trainer.state(), trained(30).state())


def test_an_absurd_learning_rate_diverges_and_names_the_steps() -> None:
    trainer = Trainer(settings(learning_rate=1e30), images())
    with pytest.raises(
        DivergenceError, match=r"the training loss is (nan|inf) in steps 1 to 10 \(learning_rate 1e\+30\)"
    ):
        list(trainer.train(30, every=10))


def test_a_target_that_is_not_finite_diverges_at_its_step() -> None:
    trainer = Trainer(settings(batch_size=400), images())
    list(trainer.train(7, every=5))
    trainer.training_loss.states[3, 0] = math.nan
    with pytest.raises(DivergenceError, match="the training loss is nan in steps 8 to 9"):
        list(trainer.train(30, every=2))


def test_with_p_uncond_one_the_image_is_never_seen() -> None:
    """Nor the scale, which belongs to the condition."""
    data, other = images(), images(seed=1)
    swapped = TrainingImages(data.targets, replace(other.condition, orders=data.condition.orders))
    for backbone in (LINEAR, UNET):
        for p_uncond, same in ((1.0, True), (0.9, False)):
            first, second = (trained(5, each, p_uncond=p_uncond, backbone=backbone) for each in (data, swapped))
            assert equal(dict(first.denoiser.named_parameters()), dict(second.denoiser.named_parameters())) is same


def test_options_of_the_condition_change_what_is_learned() -> None:
    states = [trained(3, **changes).state() for changes in (
        {}, {"condition_noise": "same-level"}, {"condition_weight": "decay"}, {"share_at_end": 0.0}, {"seed": 1},
        {"augmentation": "parity"}, {"precision": "bfloat16"}, {"backbone": LINEAR.model_copy(update={"context": 1})},
    )]  # fmt: skip
    for index, first in enumerate(states):
        for second in states[index + 1 :]:
            assert not equal(first, second)


@pytest.mark.parametrize("backbone", [LINEAR, UNET], ids=["linear-basis", "unet"])
def test_parity_augmentation_of_symmetric_pairs_changes_nothing(backbone: Any) -> None:
    """Neither target nor condition is mirrored without its sign, nor one without the other, nor other draws touched."""
    data = images()
    orders, yes, no = data.condition.orders, torch.ones(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)

    def symmetric(each: Tensor) -> Tensor:
        each = each + mirrored(each, orders, yes, no)
        return each + mirrored(each, orders, no, yes)

    both = TrainingImages(symmetric(data.targets), data.condition.with_image(symmetric(data.condition.image)))
    one = TrainingImages(both.targets, data.condition)
    for each, same in ((both, True), (one, False)):
        plain, augmented = (
            trained(3, each, backbone=backbone, augmentation=choice).state() for choice in ("none", "parity")
        )
        assert same == all(torch.allclose(plain[name], augmented[name], rtol=1e-3, atol=2e-5) for name in plain)


@pytest.mark.parametrize("backbone", [LINEAR, UNET], ids=["linear-basis", "unet"])
def test_bfloat16_learns_nearly_the_same_with_weights_in_float32(backbone: Any) -> None:
    losses = {}
    # At 3e-3 the U-Net's roundings grow, on a processor that multiplies in bfloat16 to 2.2 %; here to 0.3 %.
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(settings(backbone=backbone, precision=precision, learning_rate=1e-3), images())
        losses[precision] = [record.loss for record in trainer.train(20, every=5)]
        assert {parameter.dtype for parameter in trainer.denoiser.parameters()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def fingerprint(seed: int) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    return {name: value.double().flatten().tolist() for name, value in trained(3, seed=seed).state().items()}


def test_same_seed_same_weights_in_a_spawned_process() -> None:
    torch.manual_seed(12345)  # the global generator must not matter
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(fingerprint, (7,)) == fingerprint(7)
    assert fingerprint(7) != fingerprint(8)


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    trained(2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("until", "every", "steps"),
    [(10, 3, [3, 6, 9, 10]), (9, 3, [3, 6, 9]), (2, 100, [2]), (0, 1, []), (3, 1, [1, 2, 3])],
)
def test_records_come_every_so_many_steps_and_at_the_end(until: int, every: int, steps: list[int]) -> None:
    trainer = Trainer(settings(), images())
    records = list(trainer.train(until, every))
    assert [record.step for record in records] == steps
    assert all(record.images_per_second > 0 for record in records)
    assert [record.learning_rate for record in records] == [trainer.learning_rate(step) for step in steps]
    assert list(trainer.train(until, every)) == []


def test_every_step_draws_anew() -> None:
    trainer = Trainer(settings(learning_rate=1e-30), images())
    losses = [record.loss for record in trainer.train(6, every=1)]
    assert len({round(loss, 6) for loss in losses}) == 6


def test_a_record_holds_the_mean_loss_since_the_last() -> None:
    single = [record.loss for record in Trainer(settings(), images()).train(6, every=1)]
    pairs = [record.loss for record in Trainer(settings(), images()).train(6, every=2)]
    assert pairs == pytest.approx([(a + b) / 2 for a, b in zip(single[::2], single[1::2], strict=True)], rel=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    trainer = Trainer(settings(steps=1000, learning_rate=2.0), images())
    rates = [trainer.learning_rate(step) for step in range(1001)]
    assert rates[0] == pytest.approx(2 / 51)
    assert (np.diff(rates[:50]) > 0).all()
    assert (np.diff(rates[50:]) < 0).all()
    assert max(rates) == pytest.approx(2.0, rel=0.02)
    assert rates[500] == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)


def test_the_average_follows_its_recursion() -> None:
    trainer = Trainer(settings(ema_decay=0.3), images())
    expected = {name: value.clone() for name, value in trainer.denoiser.named_parameters()}
    for record in trainer.train(6, every=1):
        decay = min(0.3, (1 + record.step) / (10 + record.step))
        for name, value in trainer.denoiser.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach()
    for name, value in trainer.ema.named_parameters():
        torch.testing.assert_close(value, expected[name])


def test_training_images_are_both_gradients_of_every_scan(tiny_dataset: Dataset) -> None:
    data, models = training_images(tiny_dataset, "train", (0, 1), "none")
    assert models.mean is None
    # 2 scans × 2 channels × 8 components.
    assert data.targets.shape == data.condition.image.shape == (32, 2, 12, 12)
    for patterns in (data.targets, data.condition.image):
        modulus = patterns.square().sum(1).sqrt().amax((1, 2))
        torch.testing.assert_close(modulus, torch.ones(32))
    pair = next(iter(tiny_dataset.pairs("train")))
    for channel in (0, 1):
        low = ScaledImages.of(pair.low.channel_images(channel))
        features = scan_features(low.patterns, low.scales, pair.low.drive_hz(channel), pair.low.nd)
        found = models.gain(features, torch.from_numpy(low.scales))
        high = torch.from_numpy(abs(pair.high.channel_images(channel)).max((1, 2)))
        torch.testing.assert_close(found, high, rtol=3e-2, atol=0)


def test_residuals_are_what_the_mean_of_the_other_scans_leaves(tiny_dataset: Dataset) -> None:
    """Mean square 1 over scans and pixels, and with mean and spread of the scan itself left out the truth again."""
    patterns, _ = training_images(tiny_dataset, "train", (0, 1), "none")
    data, models = training_images(tiny_dataset, "train", (0, 1), "kernel-ridge")
    assert models.mean is not None
    assert torch.equal(data.condition.image, patterns.condition.image)
    mean_square_K = data.targets.unflatten(0, (4, 8)).square().mean((0, 2, 3, 4))
    torch.testing.assert_close(mean_square_K, torch.ones(8), rtol=1e-4, atol=0)
    spread_SK = models.mean.spread_K.float() / models.mean.regression.precision_SS.diagonal().sqrt()[:, None].float()
    predicted = patterns.targets - data.targets * spread_SK.flatten()[:, None, None, None]
    others = torch.arange(4) != 2
    outputs_SP = patterns.targets.unflatten(0, (4, 8)).flatten(1)
    regression = models.mean.regression
    # By definition, with the same kernel and the same constant mean, and without the scan.
    similarity = torch.exp(-0.5 * (torch.cdist(regression.features_SF, regression.features_SF) / regression.width) ** 2)
    gram = similarity[others][:, others] + regression.ridge * torch.eye(3)
    centred = outputs_SP[others].double() - regression.mean_P
    expected = regression.mean_P + similarity[2, others] @ torch.linalg.solve(gram, centred)
    torch.testing.assert_close(predicted.unflatten(0, (4, 8))[2].flatten().double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_the_optimiser_is_that_of_torch(fused: bool) -> None:
    trained = []
    for optimiser in (AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
        own = optimiser(model.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
        for _ in range(4):
            own.zero_grad(set_to_none=True)
            model(torch.randn(8, 4)).square().sum().backward()
            own.step()
            own.load_state_dict(own.state_dict())
        assert all(value.requires_grad for value in model.parameters())
        trained.append(model.state_dict())
    assert equal(*trained)


def test_a_checkpoint_of_a_run_comes_back(tiny_dataset: Dataset, tmp_path: Any) -> None:
    data, models = training_images(tiny_dataset, "train", (0,), "kernel-ridge")
    trainer = Trainer(settings(), data)
    list(trainer.train(3))
    checkpoint = make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(), {"psnr_db_mean": 1.5})
    checkpoint.save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert equal(loaded.denoiser.state_dict(), trainer.ema.state_dict())
    assert loaded.info.dataset_hash == tiny_dataset.content_hash()
    assert loaded.info.orders == tiny_dataset.settings.orders.pairs()
    assert loaded.info.training_scans == 2


@pytest.fixture(scope="module")
def nested(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Dataset]:
    """The training scans of a quasi-random design of 4 scans, and of its first 3."""
    made = {}
    for count in (3, 4):
        design = SobolDesign(design="sobol", count=count, core_diameter_nm=(20, 40), fx_khz=(10, 30), nd=(8, 20))
        settings = tiny_settings.model_copy(update={"splits": {**tiny_settings.splits, "train": (design,)}})
        made[count] = simulated(settings, tmp_path_factory.mktemp("nested") / str(count), ["train"])
    return made


@pytest.mark.parametrize("mean", ["none", "kernel-ridge"])
def test_the_first_scans_of_a_dataset_train_as_the_dataset_of_these_alone(
    nested: dict[int, Dataset], mean: Any
) -> None:
    trained = []
    for dataset, scans in ((nested[4], 3), (nested[3], None), (nested[3], 3), (nested[4], None)):
        data, models = training_images(dataset, "train", (0,), mean, scans)
        trainer = Trainer(settings(mean=mean, scans=scans), data)
        list(trainer.train(3))
        checkpoint = make_checkpoint(trainer, dataset, models, ScheduleSettings(), {})
        assert (
            checkpoint.info.training_scans
            == len(models.gain.regression.features_SF)
            == (scans or len(data.targets) // 8)
        )
        fitted = {**models.gain.state_dict(), **(models.mean.state_dict() if models.mean else {})}
        trained.append((trainer.state(), fitted))
    first, alone, both, whole = trained
    for same in (alone, both):
        assert equal(first[0], same[0])
        assert equal(first[1], same[1])
    assert not equal(first[0], whole[0])


@pytest.mark.parametrize("scans", [1, 0, -3, 2.0, True])
def test_two_scans_are_the_fewest(scans: Any) -> None:
    assert TrainingSettings(scans=2).scans == 2
    with pytest.raises(ValidationError, match="scans"):
        TrainingSettings(scans=scans)
