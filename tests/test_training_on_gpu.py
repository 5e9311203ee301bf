"""Training on a GPU: one result for a seed, no waiting for the device, and a captured step is the step itself."""

from typing import Any

import pytest
import torch

from sm_search.config.model_settings import BackboneSettings, LinearBasisSettings, TrainingSettings, UNetSettings
from sm_search.diffusion.condition import Condition
from sm_search.training import Trainer, TrainingImages

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LINEAR: BackboneSettings = LinearBasisSettings(coefficients=32, width=64, blocks=2)
BACKBONES = [LINEAR, UNetSettings(channels=(16, 16))]
STEPS = 12


def images(count: int = 96) -> TrainingImages:
    draw = torch.Generator().manual_seed(0)
    patterns, conditions = torch.randn((2, count, 2, 16, 16), generator=draw)
    orders = torch.randint(0, 5, (count, 2), generator=draw).float()
    log_scale, features, nothing = -torch.rand(count, generator=draw), torch.zeros(count, 4), torch.zeros(count)
    condition = Condition(conditions, orders, log_scale, features, nothing, torch.ones(count))
    return TrainingImages(patterns, condition)


def trained(backbone: BackboneSettings = LINEAR, *, captured: bool = False, **changes: Any) -> Trainer:
    settings = TrainingSettings(backbone=backbone, steps=STEPS, batch_size=32, **changes)
    trainer = Trainer(settings, images(), "cuda", captured=captured)
    list(trainer.train(STEPS))
    return trainer


def assert_same(first: Trainer, second: Trainer) -> None:
    others = second.state()
    for name, value in first.state().items():
        assert torch.equal(value, others[name]), name


def test_a_seed_gives_one_result() -> None:
    assert_same(trained(), trained())
    assert not torch.equal(trained().state()["ema.outlet.weight"], trained(seed=1).state()["ema.outlet.weight"])


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.backbone)
def test_no_step_waits_for_the_device(backbone: BackboneSettings, captured: bool) -> None:
    settings = TrainingSettings(backbone=backbone, steps=STEPS, batch_size=32, precision="bfloat16")
    trainer = Trainer(settings, images(), "cuda", captured=captured)
    list(trainer.train(6))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            trainer._advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"condition_noise": "same-level", "condition_weight": "decay"},
        {"augmentation": "parity", "loss_weighting": "min-snr", "diffusion": {"prediction": "v"}},
        {"precision": "bfloat16"},
    ],
    ids=["plain", "paper", "parity", "bfloat16"],
)
def test_a_captured_step_is_the_step(changes: dict[str, Any]) -> None:
    changes = TrainingSettings.model_validate(changes).model_dump(include=set(changes))
    assert_same(trained(**changes), trained(captured=True, **changes))


def test_the_unet_is_captured_too() -> None:
    eager, captured = (trained(BACKBONES[1], captured=way).state() for way in (False, True))
    # Its convolutions choose their algorithms at run time.
    torch.testing.assert_close(
        captured["ema.net.conv_in.weight"], eager["ema.net.conv_in.weight"], rtol=1e-3, atol=1e-5
    )


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped() -> None:
    whole = trained(captured=True)
    settings = TrainingSettings(backbone=LINEAR, steps=STEPS, batch_size=32)
    first = Trainer(settings, images(), "cuda", captured=True)
    list(first.train(7))
    second = Trainer(settings, images(), "cuda", captured=True)
    list(second.train(5))  # it has a captured step of its own, which must not write to what was there before
    second.restore(first.state())
    list(second.train(STEPS))
    assert_same(whole, second)


def test_the_learning_rate_and_the_average_follow_the_step_when_captured() -> None:
    settings = TrainingSettings(backbone=LINEAR, steps=STEPS, batch_size=32)
    trainer = Trainer(settings, images(), "cuda", captured=True)
    rates = []
    for record in trainer.train(STEPS, every=1):
        rates.append((float(trainer.optimizer.param_groups[0]["lr"]), trainer.learning_rate(record.step - 1)))
    for used, asked in rates:
        assert used == pytest.approx(asked, rel=1e-6)
    assert len({used for used, _ in rates}) == STEPS
