"""The loss of a step: the measurement noise that it adds, and the forecast of a distribution."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sm_search.config.model_settings import LinearBasisSettings, ScheduleSettings, TrainingSettings
from sm_search.diffusion.backbones import build_denoiser
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.noise_schedule import alpha_bars
from sm_search.diffusion.samplers import ImageNoise, sample_mean
from sm_search.diffusion.training_loss import SILENT_DB, TrainingLoss
from sm_search.evaluation.distribution import fair_crps, spread_over_error
from sm_search.training import Trainer, TrainingImages

FORECASTER = LinearBasisSettings(coefficients=8, width=64, blocks=1, wiener_input=False)
FORECAST: dict[str, Any] = {"backbone": FORECASTER, "loss": "crps", "p_uncond": 0.0}
SPREAD: dict[str, Any] = {
    "backbone": FORECASTER.model_copy(update={"wiener_input": True}),
    "spread_share": 0.5,
    "p_uncond": 0.0,
    "share_at_end": 1.0,
}


def loss_of(denoiser: Any, condition: Condition, **changes: Any) -> TrainingLoss:
    settings = TrainingSettings(**{"batch_size": 4096, "p_uncond": 0.0, **changes})
    return TrainingLoss(settings, denoiser, torch.zeros(len(condition), 2, 8, 8), condition, alphas(settings))


def alphas(settings: TrainingSettings) -> Tensor:
    return alpha_bars(settings.diffusion).float()


@pytest.mark.parametrize("diffuse", ["component", "voxel"])
def test_measurement_noise_is_white_in_units_of_the_strongest_component(
    function_denoiser, make_condition, diffuse: str
) -> None:
    denoiser, condition = function_denoiser(lambda x_t, alpha_bar, condition: x_t), make_condition(2)
    condition = replace(condition, log_scale=torch.tensor([0.0, -2.0]), noise=torch.tensor([0.0, 0.01]))
    loss = loss_of(denoiser, condition, diffuse=diffuse, measurement_noise_db=(20.0, 40.0))
    draws = loss.draws(0)
    loss(draws)
    seen, was = denoiser.seen[0], condition[draws.index]
    assert draws.level is not None
    decibels = -20 * draws.level.log10()
    assert 20 <= decibels.min() < 20.1
    assert 39.9 < decibels.max() <= 40.001
    assert decibels.mean() == pytest.approx(30, abs=0.5)
    # In units of a component of 1 % the noise is a hundred times as large; a spectrum is in the strongest's already.
    added = draws.level * (1.0 if diffuse == "voxel" else 10**-was.log_scale)
    torch.testing.assert_close(seen.noise, (was.noise**2 + added**2).sqrt())
    difference = (seen.image - was.image) / added[:, None, None, None]
    # Half of its power in either part.
    assert difference.square().mean((0, 2, 3)).tolist() == pytest.approx([0.5, 0.5], rel=0.01)
    assert abs(difference.mean()) < 0.005


def test_above_the_silent_level_nothing_is_added(function_denoiser, make_condition) -> None:
    denoiser, condition = function_denoiser(lambda x_t, alpha_bar, condition: x_t), make_condition(3)
    loss = loss_of(denoiser, condition, measurement_noise_db=(SILENT_DB - 20.0, SILENT_DB + 20.0))
    draws = loss.draws(0)
    assert draws.level is not None
    assert (draws.level == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    loss(draws)
    silent = draws.level == 0
    assert torch.equal(denoiser.seen[0].image[silent], condition[draws.index].image[silent])
    assert not torch.equal(denoiser.seen[0].image, condition[draws.index].image)


def test_a_condition_lost_in_the_noise_is_not_looked_at(make_condition) -> None:
    backbone = LinearBasisSettings(coefficients=8, width=16, blocks=1)
    torch.manual_seed(0)  # of the weights: whatever ran before
    denoiser = build_denoiser(backbone, (8, 8), "x0", features=6, noise=True)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(denoiser.outlet.weight, generator=generator)  # type: ignore[union-attr, arg-type]
    denoiser.fit_constants(torch.randn(50, 2, 8, 8, generator=generator), make_condition(50))
    x, level, condition = torch.zeros(2, 8), torch.full((2,), 0.5), make_condition(2)

    def change(noise: float) -> float:
        """How much another image changes the output."""
        here = replace(condition, noise=torch.full((2,), noise))
        with torch.no_grad():
            outputs = [denoiser(x, level, each) for each in (here, here.with_image(here.image + 1))]
        return (outputs[0] - outputs[1]).abs().max().item()

    assert change(1e4) < 1e-6 * change(0.0)
    assert change(0.0) > 0.01


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 2.0])
def test_the_forecast_s_loss_is_fair_crps(function_denoiser, make_condition, spread: float) -> None:
    """Truth N(0, 1), draws N(0, s²): √((1 + s²)·2/π) − s/√π."""
    denoiser = function_denoiser(lambda x_t, alpha_bar, condition: spread * x_t)
    settings = TrainingSettings(batch_size=4096, **FORECAST)
    targets = torch.randn(4096, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    loss = TrainingLoss(settings, denoiser, targets, make_condition(4096), alphas(settings))
    draws = loss.draws(0)
    assert (draws.t == settings.diffusion.timesteps).all()
    expected = math.sqrt((1 + spread**2) * 2 / math.pi) - spread / math.sqrt(math.pi)
    assert loss(draws).item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("how", [FORECAST, SPREAD], ids=["forecaster", "spread about the mean"])
def test_the_spread_that_the_condition_does_not_tell_is_learnt(make_condition, how: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    condition = make_condition(2000, seed=1)
    # Four directions of the image; what is told of each is half of what there is.
    basis = torch.linalg.qr(torch.randn(128, 4, generator=generator))[0]
    told, untold = (torch.randn(2000, 4, generator=generator) for _ in range(2))
    condition = condition.with_image((told @ basis.T).unflatten(1, (2, 8, 8)))
    targets = ((told + untold) @ basis.T).unflatten(1, (2, 8, 8))
    settings = TrainingSettings(steps=400, batch_size=256, learning_rate=5e-3, ema_decay=0.9, **how)
    trainer = Trainer(settings, TrainingImages(targets, condition))
    list(trainer.train(400))
    noise = ImageNoise(0, [str(n) for n in range(2000)], (8, 8))
    schedule = ScheduleSettings(steps=1, samples=8)
    drawn = sample_mean(trainer.ema, settings.diffusion, schedule, condition, noise, kept=8)
    draws, truth = drawn.draws[0].flatten(2) @ basis, targets.flatten(1) @ basis
    assert spread_over_error(draws.numpy(), truth.numpy()) == pytest.approx(1.0, abs=0.15)
    error = (drawn.mean.flatten(1) @ basis - told).square().mean().sqrt()
    assert error < 0.5
    assert fair_crps(draws.numpy(), truth.numpy()).mean() == pytest.approx(1 / math.sqrt(math.pi), rel=0.08)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"loss": "crps"}, "wiener_input false"),
        ({**FORECAST, "diffusion": {"prediction": "epsilon"}}, "needs diffusion.prediction x0, not epsilon"),
        ({**FORECAST, "loss_weighting": "min-snr"}, "knows no loss_weighting min-snr"),
        ({**FORECAST, "spread_share": 0.1}, "spread_share must be 0 with loss: crps"),
        ({"spread_share": 0.1, "backbone": {"backbone": "unet"}}, "needs backbone linear-basis .* not unet and x0"),
        ({"spread_share": 0.1, "diffusion": {"prediction": "v"}}, "diffusion.prediction x0, not linear-basis and v"),
        ({"spread_share": 0.9, "steps": 2}, "spread_share = 0.9 of steps = 2 leaves none for the mean"),
        ({"measurement_noise_db": (80.0, 60.0)}, r"the range \[80.0, 60.0\] must go upwards"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        TrainingSettings.model_validate(changes)


def test_older_settings_keep_their_hash() -> None:
    assert {"loss", "measurement_noise_db", "spread_share"}.isdisjoint(TrainingSettings().model_dump())
