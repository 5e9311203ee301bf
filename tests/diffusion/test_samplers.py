"""The samplers against the paper as printed, against diffusers, and against the exact answer for Gaussian data."""

import itertools
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import DiffusionSettings, LinearBasisSettings, ScheduleSettings, UNetSettings
from sm_search.diffusion.backbones import build_denoiser
from sm_search.diffusion.condition import Condition, condition_noise_level, condition_weight
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.noise_schedule import alpha_bars, training_target
from sm_search.diffusion.samplers import (
    SAMPLERS,
    ImageNoise,
    sample,
    sample_each,
    sample_mean,
    sample_mean_each,
    schedule_steps,
    visited_steps,
)

Make = Callable[..., Condition]


def some_network(x_t: Tensor, alpha_bar: Tensor, condition: Condition) -> Tensor:
    """Not a good denoiser, but one whose answer depends on everything that it is given."""
    return torch.tanh(0.7 * x_t + 0.3 * condition.image * condition.keep[:, None, None, None]) * (0.5 + 0.5 * alpha_bar)


def noise_for(condition: Condition, seed: int = 3) -> ImageNoise:
    return ImageNoise(seed, [f"image {i}" for i in range(len(condition))], condition.image.shape[2:])  # type: ignore[arg-type]


@given(st.integers(2, 1000), st.integers(1, 1200))
def test_visited_steps_fall_from_the_last_to_zero(timesteps: int, steps: int) -> None:
    visited = visited_steps(timesteps, steps)
    assert visited[0] == timesteps
    assert visited[-1] == 0
    assert len(visited) == min(steps, timesteps) + 1
    assert all(a > b for a, b in itertools.pairwise(visited))


def test_visited_steps_are_the_trailing_spacing_of_diffusers() -> None:
    for steps in (1, 2, 7, 8, 50, 999, 1000):
        reference = DDIMScheduler(1000, timestep_spacing="trailing")
        reference.set_timesteps(steps)
        # diffusers counts t from 0.
        assert visited_steps(1000, steps)[:-1] == [t + 1 for t in reference.timesteps.tolist()]


def near_ideal_noise(x_t: Tensor, alpha_bar: Tensor, condition: Condition) -> Tensor:
    """About ε of unit-variance data, so that x_t stays of order 1 and every term of a step is seen in the result."""
    return (1 - alpha_bar).sqrt() * x_t + 0.3 * alpha_bar.sqrt() * torch.tanh(x_t + condition.image)


def test_the_paper_sampler_is_algorithm_2_as_printed(function_denoiser, make_condition: Make) -> None:
    """Written out from the paper: linear β, t = T…1, one ε_y and one z for all steps, no noise after the last."""
    T = 100
    schedule = ScheduleSettings(sampler="paper", steps=T, eta_max=0.4, gamma=1.5, w_min=0.3, w_max=0.9, sigma=2.0)
    diffusion = DiffusionSettings(timesteps=T, prediction="epsilon")
    condition = make_condition()
    found = sample(function_denoiser(near_ideal_noise), diffusion, schedule, condition, noise_for(condition))

    beta = [(1e-4 + (0.02 - 1e-4) * i / (T - 1)) * 1000 / T for i in range(T)]
    alpha_bar = [math.prod(1 - b for b in beta[:t]) for t in range(T + 1)]
    noise = noise_for(condition)
    x, eps_y, z = (noise.draw(purpose).double() for purpose in ("start", "condition", "step"))
    for t in range(T, 0, -1):
        eta = 0.4 * (1 - t / T) ** 1.5
        w = 0.3 + (0.9 - 0.3) * (t / T) ** 2.0
        y_tilde = w * (condition.image + eta * eps_y)
        level = torch.full((2, 1, 1, 1), alpha_bar[t], dtype=torch.float64)
        eps_hat = near_ideal_noise(x, level, condition.with_image(y_tilde))
        mean = 1 / math.sqrt(alpha_bar[t]) * (x - (1 - alpha_bar[t]) / math.sqrt(1 - alpha_bar[t]) * eps_hat)
        x = mean + (math.sqrt(beta[t - 1]) * z if t > 1 else 0)
    assert 0.05 < x.std() < 5
    torch.testing.assert_close(found.double(), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("ddpm", DDPMScheduler), ("ddim", DDIMScheduler), ("dpmpp", DPMSolverMultistepScheduler)],
)
def test_the_standard_samplers_equal_those_of_diffusers(
    function_denoiser,
    make_condition: Make,
    sampler: str,
    scheduler: type,
    steps: int,
    prediction: str,
) -> None:
    diffusion = DiffusionSettings(prediction=prediction)  # type: ignore[arg-type]
    condition = make_condition()
    schedule = ScheduleSettings(sampler=sampler, steps=steps)  # type: ignore[arg-type]
    found = sample(function_denoiser(some_network), diffusion, schedule, condition, noise_for(condition))

    own = {"final_sigmas_type": "zero"} if sampler == "dpmpp" else {"clip_sample": False}
    reference = scheduler(
        1000,
        **own,
        beta_start=1e-4,
        beta_end=0.02,
        timestep_spacing="trailing",
        prediction_type={"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}[prediction],
    )
    reference.set_timesteps(steps)
    noise = noise_for(condition)
    x = noise.draw("start")
    for index, t in enumerate(reference.timesteps):
        level = reference.alphas_cumprod[t].expand(2)[:, None, None, None]
        output = some_network(x, level, condition)
        variance_noise = noise.draw("step", index=index) if sampler == "ddpm" and index < steps - 1 else None
        x = _reference_step(reference, output, t, x, variance_noise)
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3 * x.abs().max().item())


def _reference_step(reference, output: Tensor, t: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
    """diffusers' step; its DDPM draws its own noise, so that draw is replaced by ours."""
    if not isinstance(reference, DDPMScheduler):
        return reference.step(output, t, x).prev_sample
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, lambda *_, **__: torch.zeros_like(x) if noise is None else noise)
        return reference.step(output, t, x).prev_sample


def ideal(std: Tensor, prediction: str) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    """The exact posterior mean for x_0 ~ N(0, std²), as the network output of each parameterisation."""

    def answer(x_t: Tensor, alpha_bar: Tensor, _: Condition) -> Tensor:
        x0 = alpha_bar.sqrt() * std**2 * x_t / (alpha_bar * std**2 + 1 - alpha_bar)
        return training_target(prediction, x0, (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt(), alpha_bar)

    return answer


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_ideal_denoiser_gives_the_variance_of_the_data(
    function_denoiser,
    make_condition: Make,
    sampler: str,
    prediction: str,
):
    std = torch.tensor([2.0, 0.5])[:, None, None]
    condition = make_condition(16, (32, 32))
    schedule = ScheduleSettings(sampler=sampler, steps=1000)  # type: ignore[arg-type]
    diffusion = DiffusionSettings(prediction=prediction)  # type: ignore[arg-type]
    images = sample(function_denoiser(ideal(std, prediction)), diffusion, schedule, condition, noise_for(condition))
    # 16 384 samples for each: the standard deviation is known to 0.6 %, and the steps take another 0.7 % off.
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.tensor([2.0, 0.5]), rtol=0.02, atol=0)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.05


def test_ddim_with_an_ideal_denoiser_is_the_exact_map(function_denoiser, make_condition: Make) -> None:
    """The probability flow of Gaussian data keeps x/√(ᾱ·std² + 1 − ᾱ): first-order convergence to it."""
    std, condition = torch.tensor(2.0), make_condition()
    diffusion = DiffusionSettings()
    last = alpha_bars(diffusion)[-1].float()
    exact = noise_for(condition).draw("start") * std / (last * std**2 + 1 - last).sqrt()
    errors = []
    for steps in (125, 250, 500, 1000):
        schedule = ScheduleSettings(sampler="ddim", steps=steps)
        found = sample(function_denoiser(ideal(std, "x0")), diffusion, schedule, condition, noise_for(condition))
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors[-1] < 0.005
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert ratios == pytest.approx([2, 2, 2], rel=0.15)


def test_the_second_order_solver_converges_faster(function_denoiser, make_condition: Make) -> None:
    std, condition = torch.tensor(2.0), make_condition()
    diffusion = DiffusionSettings(noise_schedule="cosine")
    last = alpha_bars(diffusion)[-1].float()
    exact = noise_for(condition).draw("start") * std / (last * std**2 + 1 - last).sqrt()
    errors = {}
    for sampler in ("ddim", "dpmpp"):
        schedule = ScheduleSettings(sampler=sampler, steps=50)  # type: ignore[arg-type]
        found = sample(function_denoiser(ideal(std, "x0")), diffusion, schedule, condition, noise_for(condition))
        errors[sampler] = ((found - exact).norm() / exact.norm()).item()
    assert errors["dpmpp"] < errors["ddim"] / 4


def test_the_mean_of_samples_and_their_deviation(function_denoiser, make_condition: Make) -> None:
    """An ideal denoiser of N(0, 2²) under DDPM: the mean of n draws has deviation 2/√n, and the deviation is 2."""
    condition = make_condition(8, (16, 16))
    denoiser = function_denoiser(ideal(torch.tensor(2.0), "x0"))
    schedule = ScheduleSettings(sampler="ddpm", steps=100, samples=16)
    mean, deviation, _ = sample_mean(denoiser, DiffusionSettings(), schedule, condition, noise_for(condition))
    assert denoiser.evaluations == schedule.evaluations(1000) == 1600
    assert mean.std().item() == pytest.approx(2 / 4, rel=0.05)
    assert deviation.square().mean().sqrt().item() == pytest.approx(2, rel=0.05)
    one = schedule.model_copy(update={"samples": 1})
    drawn = [sample(denoiser, DiffusionSettings(), one, condition, noise_for(condition), draw) for draw in range(3)]
    assert not torch.allclose(drawn[0], drawn[1])
    images, none, _ = sample_mean(denoiser, DiffusionSettings(), one, condition, noise_for(condition))
    assert torch.equal(images, drawn[0])
    assert not none.any()
    three = schedule.model_copy(update={"samples": 3})
    found = sample_mean(denoiser, DiffusionSettings(), three, condition, noise_for(condition))
    torch.testing.assert_close(found[0], torch.stack(drawn).mean(0))
    torch.testing.assert_close(found[1], torch.stack(drawn).std(0))
    assert not found.draws[0].numel()
    kept = sample_mean(denoiser, DiffusionSettings(), three, condition, noise_for(condition), kept=2).draws[0]
    assert torch.equal(kept, torch.stack(drawn[:2]))


def test_a_schedule_means_the_same_at_any_number_of_steps(function_denoiser, make_condition: Make) -> None:
    """With a condition of ones, no noise on it and w(u) = u, the network sees u itself."""
    condition = make_condition().with_image(torch.ones(2, 2, 8, 8))
    seen: dict[int, list[float]] = {}
    for steps in (4, 20, 100):
        denoiser = function_denoiser(some_network)
        schedule = ScheduleSettings(steps=steps, w_min=0.0, w_max=1.0, eta_max=0.0)
        sample(denoiser, DiffusionSettings(), schedule, condition, noise_for(condition))
        seen[steps] = [each.image[0, 0, 0, 0].item() for each in denoiser.seen]
    assert seen[4] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert seen[20][::5] == pytest.approx(seen[4])
    assert seen[100][::5] == pytest.approx(seen[20])


@pytest.mark.parametrize("fresh", [False, True])
def test_the_condition_is_perturbed_as_the_schedule_says(function_denoiser, make_condition: Make, fresh: bool) -> None:
    condition = make_condition(1)
    schedule = ScheduleSettings(
        steps=4, eta_max=0.5, gamma=1.0, w_min=0.5, w_max=1.0, sigma=2.0, fresh_condition_noise=fresh
    )
    denoiser = function_denoiser(some_network)
    sample(denoiser, DiffusionSettings(timesteps=4), schedule, condition, noise_for(condition))
    for index, (each, u) in enumerate(zip(denoiser.seen, (1.0, 0.75, 0.5, 0.25), strict=True)):
        drawn = noise_for(condition).draw("condition", index=index if fresh else 0)
        expected = condition_weight(schedule, u) * (condition.image + condition_noise_level(schedule, u) * drawn)
        torch.testing.assert_close(each.image, expected)


LINEAR = LinearBasisSettings(coefficients=32, width=32, blocks=1)
NETWORKS = pytest.mark.parametrize(
    ("backbone", "draws"),
    [(LINEAR, False), (LINEAR, True), (UNetSettings(channels=(8, 8)), False)],
    ids=["linear-basis", "linear-basis that draws", "unet"],
)


def network(backbone, make_condition: Make, draws: bool = False) -> Denoiser:
    torch.manual_seed(0)
    denoiser = build_denoiser(backbone, (8, 8), "x0", draws=draws).eval()
    denoiser.fit_constants(torch.randn(100, 2, 8, 8), make_condition(100))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return denoiser


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("fresh", [False, True])
@NETWORKS
def test_an_image_does_not_depend_on_its_batch(
    make_condition: Make, sampler, backbone, draws: bool, fresh: bool
) -> None:
    denoiser, condition = network(backbone, make_condition, draws), make_condition(5)
    schedule = ScheduleSettings(
        sampler=sampler, steps=5, eta_max=0.2, fresh_condition_noise=fresh, guidance=1.5, samples=2
    )
    names = [f"image {i}" for i in range(5)]

    def draw(which: list[int]) -> Tensor:
        noise = ImageNoise(3, [names[i] for i in which], (8, 8))
        return sample(denoiser, DiffusionSettings(timesteps=100), schedule, condition[torch.tensor(which)], noise)

    together = draw([0, 1, 2, 3, 4])
    assert torch.equal(draw([0, 1, 2, 3, 4]), together)
    scale = together.abs().max().item()
    for which in ([3], [4, 1], [0, 1, 2]):
        torch.testing.assert_close(draw(which), together[which], rtol=1e-4, atol=1e-5 * scale)
    assert not torch.allclose(together[0], together[1])


def mixed_schedules() -> list[ScheduleSettings]:
    """Every sampler at several numbers of steps, in no order, with all other settings mixed."""
    return [
        ScheduleSettings(
            sampler=sampler,  # type: ignore[arg-type]
            steps=(3, 1, 7, 4, 300)[number % 5],
            eta_max=(0.3, 0.0, 0.2)[number % 3],
            gamma=0.5 + number % 2,
            w_min=0.7,
            w_max=(0.9, 1.1)[number % 2],
            sigma=1.0 + number % 4,
            fresh_condition_noise=number % 4 > 1,
            guidance=(1.0, 2.0, 0.5)[number % 3],
            samples=(1, 1, 3)[number % 3],
        )
        for number, sampler in enumerate([*SAMPLERS] * 5)
    ]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_many_schedules_in_one_batch_are_one_at_a_time(
    function_denoiser, make_condition: Make, prediction: str
) -> None:
    """Elementwise arithmetic only, so that not even the rounding may differ. 50 timesteps cut the 300 steps."""
    condition, diffusion = make_condition(3), DiffusionSettings(timesteps=50, prediction=prediction)  # type: ignore[arg-type]
    schedules, denoiser = mixed_schedules(), function_denoiser(near_ideal_noise)
    together = sample_each(denoiser, diffusion, schedules, condition, noise_for(condition))
    means, deviations, _ = sample_mean_each(denoiser, diffusion, schedules, condition, noise_for(condition))
    assert together.shape == means.shape == (20, 3, 2, 8, 8)
    assert len({images.sum().item() for images in together}) > 15
    for images, mean, deviation, schedule in zip(together, means, deviations, schedules, strict=True):
        assert torch.equal(images, sample(denoiser, diffusion, schedule, condition, noise_for(condition)))
        alone = sample_mean(denoiser, diffusion, schedule, condition, noise_for(condition))
        assert torch.equal(mean, alone[0])
        assert torch.equal(deviation, alone[1])


@NETWORKS
def test_many_schedules_under_a_network_are_one_at_a_time(make_condition: Make, backbone, draws: bool) -> None:
    """Matrix products of another size round differently, and nothing else may differ."""
    denoiser, condition, diffusion = (
        network(backbone, make_condition, draws),
        make_condition(3),
        DiffusionSettings(timesteps=8),
    )
    together = sample_each(denoiser, diffusion, mixed_schedules(), condition, noise_for(condition))
    for images, schedule in zip(together, mixed_schedules(), strict=True):
        alone = sample(denoiser, diffusion, schedule, condition, noise_for(condition))
        torch.testing.assert_close(images, alone, rtol=1e-4, atol=1e-5 * alone.abs().max().item())


def test_a_network_that_draws_gives_its_mean_for_one_sample_and_draws_about_it_for_more(make_condition: Make) -> None:
    drawing, condition = network(LINEAR, make_condition, draws=True), make_condition(3)
    mean = network(LINEAR, make_condition)
    mean.load_state_dict({name: each for name, each in drawing.state_dict().items() if "spread." not in name})
    one, many = ScheduleSettings(steps=1), ScheduleSettings(steps=1, samples=500)
    options = condition, noise_for(condition)
    alone = sample_mean(drawing, DiffusionSettings(), one, *options)
    assert torch.equal(alone.mean, sample_mean(mean, DiffusionSettings(), one, *options).mean)
    assert not alone.deviation.any()
    drawn = sample_mean(drawing, DiffusionSettings(), many, *options, kept=500).draws[0]
    assert drawn.std(0).min() > 0
    # The numbers of a draw belong to it: as white as they are, no draw is like another.
    states = drawing.to_state(drawn.flatten(0, 1)).unflatten(0, (500, 3))
    first, second = (states[:, image] - states[:, image].mean(0) for image in (0, 1))
    between = (first * second).sum() / (first.norm() * second.norm())
    assert abs(between) < 0.1


def test_without_steps_nothing_is_added_to_the_mean(function_denoiser, make_condition: Make) -> None:
    condition, denoiser = make_condition(3), function_denoiser(some_network)
    none, two = ScheduleSettings(steps=0, samples=2), ScheduleSettings(steps=2, sampler="ddpm")
    both = sample_each(denoiser, DiffusionSettings(), [none, two], condition, noise_for(condition))
    assert not both[0].any()
    assert torch.equal(both[1], sample(denoiser, DiffusionSettings(), two, condition, noise_for(condition)))
    assert none.evaluations(1000) == 0
    calls = len(denoiser.seen)
    assert not torch.stack(sample_mean(denoiser, DiffusionSettings(), none, condition, noise_for(condition))[:2]).any()
    assert len(denoiser.seen) == calls


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_essential_schedule_draws_the_same(function_denoiser, make_condition: Make, sampler, steps: int) -> None:
    condition, denoiser = make_condition(3), function_denoiser(some_network)
    schedule = ScheduleSettings(
        sampler=sampler, steps=steps, eta_max=0.3, gamma=2, w_min=0.5, w_max=0.9, sigma=2, guidance=1.5, samples=2
    )
    drawn = sample_mean(denoiser, DiffusionSettings(), schedule, condition, noise_for(condition))
    again = sample_mean(denoiser, DiffusionSettings(), schedule.essential(), condition, noise_for(condition))
    for images, expected in zip(again[:2], drawn[:2], strict=True):
        torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)
    other = schedule.model_copy(update={"sampler": "dpmpp" if sampler == "ddim" else "ddim", "eta_max": 0.1})
    assert (other.essential() == schedule.essential()) == (steps < 2)


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({"eta_max": 0.0}, {"gamma", "fresh_condition_noise"}),
        ({"w_min": 0.9}, {"sigma"}),
        ({}, set()),
        ({"steps": 1}, {"sampler", "eta_max", "gamma", "fresh_condition_noise", "w_min", "sigma"}),
        ({"steps": 1, "gamma": 0.0}, set()),
        ({"steps": 0}, set(ScheduleSettings.model_fields) - {"steps"}),
    ],
)
def test_what_a_schedule_does_not_use_changes_nothing(function_denoiser, make_condition: Make, changes, unused) -> None:
    """And the rest does, but for what only another number of steps would show."""
    condition, denoiser = make_condition(3), function_denoiser(some_network)
    base = {"sampler": "ddpm", "steps": 3, "eta_max": 0.3, "gamma": 2, "w_min": 0.5, "w_max": 0.9, "sigma": 2}
    schedule = ScheduleSettings.model_validate({**base, "fresh_condition_noise": True, **changes})
    assert schedule.unused() == unused

    def drawn(schedule: ScheduleSettings) -> Tensor:
        return sample(denoiser, DiffusionSettings(), schedule, condition, noise_for(condition))

    expected = drawn(schedule)
    other = {"sampler": "ddim", "eta_max": 0.2, "gamma": 1.0, "w_min": 0.4, "w_max": 0.8, "sigma": 1.0}
    for name, value in {**other, "fresh_condition_noise": False, "guidance": 1.5, "samples": 2}.items():
        if name in unused:
            assert torch.equal(drawn(schedule.model_copy(update={name: value})), expected), name
        elif name in ("gamma", "eta_max", "w_min", "w_max") and schedule.steps > 1:
            assert not torch.equal(drawn(schedule.model_copy(update={name: value})), expected), name


def test_a_schedule_that_diverges_leaves_the_others_in_its_batch_alone(function_denoiser, make_condition: Make) -> None:
    """A network that gives infinity for a condition whose weight is above 1."""
    condition = make_condition()
    condition = condition.with_image(torch.ones_like(condition.image))
    denoiser = function_denoiser(lambda x, a, c: torch.where(c.image > 1.5, math.inf, some_network(x, a, c)))
    good, bad = ScheduleSettings(steps=4), ScheduleSettings(steps=2, w_max=2.0)
    both = sample_each(denoiser, DiffusionSettings(), [bad, good], condition, noise_for(condition))
    assert not both[0].isfinite().any()
    assert torch.equal(both[1], sample(denoiser, DiffusionSettings(), good, condition, noise_for(condition)))


@pytest.mark.parametrize("guided", [1.0, 2.0])
def test_a_batch_of_schedules_costs_its_longest(function_denoiser, make_condition: Make, guided: float) -> None:
    """Network calls are shared; the rows of a call are the images of the schedules that are still under way."""
    denoiser, condition = function_denoiser(some_network), make_condition(2)
    schedules = [ScheduleSettings(steps=steps) for steps in (1, 5, 3)] + [ScheduleSettings(steps=2, guidance=guided)]
    sample_each(denoiser, DiffusionSettings(), schedules, condition, noise_for(condition))
    rows = [len(seen) for seen in denoiser.seen]
    assert rows == ([8, 6, 4, 2, 2] if guided == 1.0 else [8, 2, 6, 2, 4, 2, 2])


def test_image_noise_depends_on_its_names_only() -> None:
    first, second = ImageNoise(1, ["a", "b"], (4, 6)), ImageNoise(1, ["b"], (4, 6), kept=1)
    assert first.draw("step").shape == (2, 2, 4, 6)
    for name in ({"purpose": "start"}, {"purpose": "step", "sample": 2}, {"purpose": "step", "index": 3}):
        assert torch.equal(first.draw(**name)[1], second.draw(**name)[0])
        assert torch.equal(first.draw(**name), first.draw(**name))
        assert not torch.equal(first.draw(**name), first.draw("step"))
        assert not torch.equal(first.draw(**name), ImageNoise(2, ["a", "b"], (4, 6)).draw(**name))
        assert not torch.equal(first.draw(**name)[0], first.draw(**name)[1])
    assert second.draw("start") is second.draw("start")
    assert second.draw("step") is not second.draw("step"), "one draw is kept, and no more"


def test_image_noise_is_white() -> None:
    drawn = ImageNoise(0, [str(i) for i in range(100)], (16, 16)).draw("start")
    # 51 200 numbers: mean and variance are known to 0.5 and 0.7 %.
    assert abs(drawn.mean()) < 0.02
    assert drawn.var().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("guidance", "each"), [(1.0, 1), (0.0, 2), (2.5, 2)])
def test_guidance_costs_what_it_says(
    function_denoiser, make_condition: Make, sampler, guidance: float, each: int
) -> None:
    denoiser, condition = function_denoiser(some_network), make_condition()
    schedule = ScheduleSettings(sampler=sampler, steps=6, guidance=guidance)
    sample(denoiser, DiffusionSettings(), schedule, condition, noise_for(condition))
    assert denoiser.evaluations == schedule.evaluations(1000) == 6 * each


def test_no_more_evaluations_than_timesteps(function_denoiser, make_condition: Make) -> None:
    denoiser, condition = function_denoiser(some_network), make_condition()
    schedule = ScheduleSettings(steps=50, samples=3, guidance=2.0)
    sample_mean(denoiser, DiffusionSettings(timesteps=4), schedule, condition, noise_for(condition))
    assert denoiser.evaluations == schedule.evaluations(4) == 3 * 4 * 2


def test_guidance_extrapolates_from_the_null_condition(function_denoiser, make_condition: Make) -> None:
    """With an output that is the condition itself (0 for the null condition), the one-step result is guidance·y."""
    condition = make_condition()
    denoiser = function_denoiser(lambda x, a, c: c.image * c.keep[:, None, None, None])
    for guidance in (0.0, 0.5, 1.0, 3.0):
        schedule = ScheduleSettings(steps=1, guidance=guidance)
        found = sample(denoiser, DiffusionSettings(prediction="x0"), schedule, condition, noise_for(condition))
        torch.testing.assert_close(found, guidance * condition.image)


def test_leaving_the_finite_numbers_is_an_error(function_denoiser, make_condition: Make) -> None:
    condition = make_condition()
    denoiser = function_denoiser(lambda x, a, c: x * math.inf)
    with pytest.raises(DivergenceError, match=r"sampler ddim, 3 steps"):
        sample(denoiser, DiffusionSettings(), ScheduleSettings(steps=3), condition, noise_for(condition))


def test_every_sampler_of_the_table_can_be_set() -> None:
    assert set(SAMPLERS) == set(get_args(ScheduleSettings.model_fields["sampler"].annotation))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3, 17])
def test_what_the_denoiser_knows_is_what_is_drawn(function_denoiser, make_condition: Make, sampler, steps: int) -> None:
    """The contract of every sampler: x_0 is met exactly where the network is sure of it, whatever the steps."""
    known = torch.linspace(-1, 1, 2 * 8 * 8).view(2, 8, 8)
    denoiser = function_denoiser(lambda x, level, condition: known.expand_as(x))
    schedule = ScheduleSettings(sampler=sampler, steps=steps)
    noise = ImageNoise(0, ["a", "b"], (8, 8))
    drawn = sample(denoiser, DiffusionSettings(prediction="x0"), schedule, make_condition(2), noise)
    torch.testing.assert_close(drawn, known.expand_as(drawn), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "paper"])
def test_a_step_carries_the_signal_to_its_share(sampler: str) -> None:
    """√ᾱ_t x_0 becomes √ᾱ_s x_0 where the estimate of x_0 is right; the paper's line 8 as printed does not ask that."""
    steps = schedule_steps(DiffusionSettings(), ScheduleSettings(sampler=sampler, steps=12))
    for here, after in itertools.pairwise(steps):
        assert here.x * math.sqrt(here.alpha_bar) + here.x0 + here.before == pytest.approx(math.sqrt(after.alpha_bar))
