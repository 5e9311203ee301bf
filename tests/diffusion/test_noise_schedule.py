"""ᾱ_t against diffusers, and the conversions between x_0, ε and v."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from sm_search.config.model_settings import DiffusionSettings
from sm_search.diffusion.noise_schedule import alpha_bars, diffuse, min_snr_weight, training_target, x0_and_noise


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_alpha_bar_equals_that_of_diffusers(ours: str, theirs: str) -> None:
    reference = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=theirs).alphas_cumprod
    bars = alpha_bars(DiffusionSettings(noise_schedule=ours))  # type: ignore[arg-type]
    assert bars[0] == 1
    torch.testing.assert_close(bars[1:].float(), reference, rtol=1e-4, atol=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [2, 10, 100, 1000, 4000])
def test_alpha_bar_falls_from_one_to_almost_nothing(schedule: str, timesteps: int) -> None:
    bars = alpha_bars(DiffusionSettings(timesteps=timesteps, noise_schedule=schedule))  # type: ignore[arg-type]
    assert bars.shape == (timesteps + 1,)
    assert (bars.diff() < 0).all()
    assert 0 < bars[-1] < 2e-3


def test_the_linear_schedule_means_the_same_at_any_fine_number_of_steps() -> None:
    coarse, fine = (alpha_bars(DiffusionSettings(timesteps=steps)) for steps in (1000, 4000))
    # β(u)·du is the same density; the product over steps differs only by its discretisation.
    torch.testing.assert_close(fine[::4].log(), coarse.log(), rtol=0.03, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["epsilon", "v", "x0"]),
    st.floats(1e-3, 0.999),
    st.integers(0, 1000),
)
def test_the_target_gives_back_the_signal_and_the_noise(prediction: str, alpha_bar: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn((2, 3, 4), generator=generator, dtype=torch.float64)
    level = torch.tensor(alpha_bar, dtype=torch.float64)
    x_t = diffuse(x0, noise, level)
    output = training_target(prediction, x0, noise, level)
    found = x0_and_noise(prediction, output, x_t, level)
    torch.testing.assert_close(found[0], x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], noise, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["epsilon", "v", "x0"]), st.floats(1e-3, 0.999), st.integers(0, 1000))
def test_any_output_means_estimates_that_compose_x_t(prediction: str, alpha_bar: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_t, output = torch.randn((2, 3, 4), generator=generator, dtype=torch.float64)
    level = torch.tensor(alpha_bar, dtype=torch.float64)
    x0, noise = x0_and_noise(prediction, output, x_t, level)
    torch.testing.assert_close(diffuse(x0, noise, level), x_t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(training_target(prediction, x0, noise, level), output, rtol=1e-9, atol=1e-9)


def test_exact_cases() -> None:
    level, one = torch.tensor(0.36, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    assert diffuse(one, 2 * one, level).item() == pytest.approx(0.6 + 0.8 * 2)
    assert training_target("v", one, 2 * one, level).item() == pytest.approx(0.6 * 2 - 0.8)
    assert training_target("epsilon", one, 2 * one, level).item() == 2
    assert training_target("x0", one, 2 * one, level).item() == 1
    assert math.isclose(diffuse(one, one, torch.tensor(1.0)).item(), 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(prediction: str) -> None:
    """Whatever the network predicts, its weighted squared error is min(SNR, 5) times the squared error of x_0."""
    alpha_bar = torch.tensor([0.01, 0.5, 0.8, 0.99], dtype=torch.float64)
    x0, noise, wrong = torch.randn((3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t = diffuse(x0, noise, alpha_bar)
    # The output that means the x_0 estimate `wrong` at this x_t.
    output = training_target(prediction, wrong, (x_t - alpha_bar.sqrt() * wrong) / (1 - alpha_bar).sqrt(), alpha_bar)
    error = (output - training_target(prediction, x0, noise, alpha_bar)).square()
    snr = alpha_bar / (1 - alpha_bar)
    expected = snr.clamp(max=5) * (wrong - x0).square()
    torch.testing.assert_close(min_snr_weight(prediction, alpha_bar) * error, expected)
