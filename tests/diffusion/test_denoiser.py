"""Both backbones behind one interface."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from sm_search.config.errors import SettingsError
from sm_search.config.model_settings import BackboneSettings, LinearBasisSettings, Prediction, UNetSettings
from sm_search.diffusion.backbones import BACKBONES, build_denoiser
from sm_search.diffusion.backbones.linear_basis import LinearBasisDenoiser, output_preconditioning
from sm_search.diffusion.backbones.unet import UNetDenoiser
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.condition_features import DROWNED, ComponentFeatures
from sm_search.diffusion.denoiser import NOISE_FEATURES, Denoiser, noise_features
from sm_search.diffusion.noise_schedule import diffuse, training_target

SHAPE = (8, 8)
FEATURES = 6
SMALL = LinearBasisSettings(coefficients=24, width=32, blocks=2)
Make = Callable[..., Condition]


SETTINGS = {
    "linear-basis": SMALL,
    "linear-basis, no Wiener input, context": SMALL.model_copy(update={"wiener_input": False, "context": 2}),
    "linear-basis, half whitened": SMALL.model_copy(update={"whitening": 0.5}),
    "linear-basis, gated": SMALL.model_copy(update={"gated": True}),
    "unet": UNetSettings(channels=(8, 16)),
    "unet, patch 2, context": UNetSettings(channels=(8, 16), patch=2, context=2),
}
"""What every law here is tried with: a new backbone at least once, under its own name."""


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def denoiser(request: pytest.FixtureRequest, make_condition: Make) -> Denoiser:
    torch.manual_seed(0)
    built = build_denoiser(request.param, SHAPE, "x0", FEATURES).eval()
    targets, seen = 3 * torch.randn((2, 200, 2, *SHAPE), generator=torch.Generator().manual_seed(1))
    built.fit_constants(targets, make_condition(200, seed=1).with_image(seen))
    for parameter in built.parameters():  # the outlets begin at zero, where nothing could be seen
        torch.nn.init.normal_(parameter, std=0.1)
    return built


def test_every_backbone_of_the_table_can_be_set_and_is_tried_here() -> None:
    members = get_args(get_args(BackboneSettings)[0])
    assert set(BACKBONES) == {member.model_fields["backbone"].default for member in members}
    assert set(BACKBONES) == {settings.backbone for settings in SETTINGS.values()}


@pytest.mark.parametrize("whitening", [1.0, 0.75, 0.0])
def test_the_condition_enters_in_units_of_its_spread_to_a_power(make_condition: Make, whitening: float) -> None:
    built = build_denoiser(SMALL.model_copy(update={"whitening": whitening}), SHAPE, "x0")
    assert isinstance(built, LinearBasisDenoiser)
    generator = torch.Generator().manual_seed(1)
    targets, seen = torch.randn((2, 400, 2, *SHAPE), generator=generator) * torch.logspace(0, -3, 8)
    condition = make_condition(400, seed=1).with_image(seen)
    built.fit_constants(targets, condition)
    entered: list[torch.Tensor] = []
    built.inlet.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    built(built.to_state(targets), torch.full((400,), 0.5), condition)
    spread_D = built.condition_basis.spread_D
    root_mean_square_D = entered[0][:, 24:48].square().mean(0).sqrt()
    expected_D = (100 * spread_D / spread_D[0]) ** (1 - whitening)
    torch.testing.assert_close(root_mean_square_D, expected_D, rtol=1e-4, atol=0)


def test_a_pattern_enters_in_units_of_its_own_component_and_fades_in_noise(make_condition: Make) -> None:
    components = 5
    built = build_denoiser(SMALL.model_copy(update={"patterns": True}), (1, components), "x0", features=16)
    assert isinstance(built, LinearBasisDenoiser)
    assert built.patterns is not None
    condition = make_condition(300, shape=(1, components), features=16)
    scales_BK = 10 ** condition.features[:, :components]
    condition = condition.with_image(condition.image * scales_BK[:, None, None])
    built.patterns.fit(condition)
    told = built.patterns(condition)
    torch.testing.assert_close(told.std(0), torch.ones(2 * components))
    torch.testing.assert_close(told * built.patterns.spread, (condition.image[:, :, 0] / scales_BK[:, None]).flatten(1))
    fainter = replace(condition, features=condition.features - 1).with_image(condition.image / 10)
    torch.testing.assert_close(built.patterns(fainter), told, rtol=1e-4, atol=1e-5)
    halved = built.patterns(replace(condition, noise=scales_BK[:, 2] / DROWNED**0.5)).unflatten(1, (2, components))
    torch.testing.assert_close(halved[..., 2], told.unflatten(1, (2, components))[..., 2] / 2)
    assert not built.patterns(condition.dropped(torch.ones(300, dtype=torch.bool))).any()


def states(denoiser: Denoiser, batch: int, seed: int = 2) -> torch.Tensor:
    return denoiser.encode(torch.randn((batch, 2, *SHAPE), generator=torch.Generator().manual_seed(seed)))


def test_states_have_unit_mean_square_and_come_back(denoiser: Denoiser) -> None:
    images = 3 * torch.randn((200, 2, *SHAPE), generator=torch.Generator().manual_seed(1))
    found = denoiser.to_state(images)
    assert found.square().mean().item() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(denoiser.to_state(denoiser.to_images(found)), found, rtol=1e-4, atol=1e-5)
    assert denoiser.to_images(found).shape == images.shape


def test_noise_keeps_unit_variance(denoiser: Denoiser) -> None:
    assert states(denoiser, 4000).var().item() == pytest.approx(1, rel=0.02)


def test_a_dropped_condition_makes_the_output_independent_of_the_image(
    denoiser: Denoiser, make_condition: Make
) -> None:
    x, level, condition = states(denoiser, 3), torch.tensor([0.9, 0.5, 1e-4]), make_condition(3)
    drop = torch.tensor([True, True, False])
    other = replace(
        condition,
        image=condition.image + 1,
        log_scale=condition.log_scale - 1,
        features=condition.features + 1,
        noise=condition.noise + 1,
    )
    with torch.no_grad():
        first, second = (denoiser(x, level, each.dropped(drop)) for each in (condition, other))
    assert torch.equal(first[:2], second[:2])
    assert not torch.allclose(first[2], second[2])


def test_the_output_depends_on_all_that_is_given(denoiser: Denoiser, make_condition: Make) -> None:
    x, level, condition = states(denoiser, 2), torch.full((2,), 0.5), make_condition(2)
    other = make_condition(2, seed=5)
    with torch.no_grad():
        reference = denoiser(x, level, condition)
        assert reference.shape == x.shape
        variants = [
            denoiser(x + 0.1, level, condition),
            denoiser(x, level - 0.2, condition),
            denoiser(x, level, condition.with_image(other.image)),
            denoiser(x, level, replace(condition, orders=other.orders)),
            denoiser(x, level, replace(condition, log_scale=other.log_scale)),
        ]
        of_another_scan = denoiser(x, level, replace(condition, features=other.features))
    for variant in variants:
        assert (variant - reference).abs().max() > 1e-5
    with_context = denoiser.component.context is not None  # type: ignore[union-attr]
    assert ((of_another_scan - reference).abs().max() > 1e-5) == with_context


def test_gradients_reach_every_parameter_and_every_pixel(denoiser: Denoiser, make_condition: Make) -> None:
    images = torch.randn((4, 2, *SHAPE), generator=torch.Generator().manual_seed(3)).requires_grad_()
    x = denoiser.to_state(images)
    # Not the mean square: group norms would keep it.
    output = denoiser(x, torch.full((4,), 0.5), make_condition(4))
    (output * torch.linspace(-1, 2, output[0].numel()).view(output[0].shape)).sum().backward()
    unused = [name for name, parameter in denoiser.named_parameters() if parameter.grad is None]
    assert all("time_embedding" in name for name in unused)
    assert images.grad is not None
    assert (images.grad != 0).all()
    denoiser.zero_grad()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_parting_and_joining_pixels_are_exact_inverses_around_the_network(patch: int, make_condition: Make) -> None:
    """A network that hands through its first channels, the parted x_t, makes the whole the identity."""

    class Through(torch.nn.Module):
        def forward(self, pixels: torch.Tensor, timestep: int, class_labels: torch.Tensor) -> SimpleNamespace:
            self.seen = pixels
            return SimpleNamespace(sample=pixels[:, : 2 * patch**2])

    built = build_denoiser(UNetSettings(channels=(8, 8), patch=patch), (8, 16), "x0")  # type: ignore[arg-type]
    assert isinstance(built, UNetDenoiser)
    built.net = Through()
    x, condition = torch.randn(3, 2, 8, 16), make_condition(3, (8, 16))
    assert torch.equal(built(x, torch.full((3,), 0.5), condition), x)
    assert built.net.seen.shape == (3, 4 * patch**2 + 1, 8 // patch, 16 // patch)
    assert built.net.seen.square().sum() == pytest.approx(
        (x.square().sum() + condition.image.square().sum() + 3 * 8 * 16 / patch**2).item(), rel=1e-5
    )


def test_the_u_net_refuses_a_grid_that_cannot_be_halved() -> None:
    message = r"a grid of 12 × 10 cannot be halved 2 times \(3 levels in `channels`\); sides must be multiples of 4"
    with pytest.raises(SettingsError, match=message):
        build_denoiser(UNetSettings(channels=(8, 8, 8)), (10, 12), "x0")
    build_denoiser(UNetSettings(channels=(8, 8, 8)), (8, 12), "x0")
    message = "a grid of 12 × 8 cannot be parted into 4 × 4 pixels and halved 1 times .* must be multiples of 8"
    with pytest.raises(SettingsError, match=message):
        build_denoiser(UNetSettings(channels=(8, 8), patch=4), (8, 12), "x0")
    build_denoiser(UNetSettings(channels=(8, 8), patch=4), (8, 16), "x0")


def test_more_context_than_features_is_refused() -> None:
    for settings in (SMALL, UNetSettings(channels=(8, 8))):
        asked = settings.model_copy(update={"context": 7})
        with pytest.raises(SettingsError, match=f"{settings.backbone}: context = 7 exceeds the 6 features of a scan"):
            build_denoiser(asked, SHAPE, "x0", FEATURES)
        build_denoiser(asked, SHAPE, "x0", 7)


def test_the_basis_has_no_more_vectors_than_pixels() -> None:
    built = build_denoiser(LinearBasisSettings(coefficients=4096, width=16, blocks=1), (4, 6), "x0")
    assert built.encode(torch.zeros(1, 2, 4, 6)).shape == (1, 48)


def test_a_fresh_linear_basis_predicts_zero(make_condition: Make) -> None:
    built = build_denoiser(LinearBasisSettings(coefficients=8, width=16, blocks=1), SHAPE, "x0")
    assert not built(torch.randn(2, 8), torch.tensor([0.3, 0.9]), make_condition(2)).any()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_fresh_linear_basis_is_the_ideal_denoiser_of_its_prior(prediction: Prediction, make_condition: Make) -> None:
    """x_0 ~ N(0, spread²) without knowledge of the condition: the exact posterior mean, at every noise level."""
    built = build_denoiser(LinearBasisSettings(coefficients=48, width=16, blocks=1), SHAPE, prediction)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((500, 2, *SHAPE), generator=generator) * torch.logspace(-3, 1, SHAPE[1])
    built.fit_constants(images, make_condition(500).with_image(images))
    spread = built.target_basis.spread_D / built.scale
    assert spread.max() / spread.min() > 10
    alpha_bar = torch.tensor([0.9999, 0.7, 0.1, 1e-4])[:, None]
    x_t = torch.randn(4, 48)
    x0 = alpha_bar.sqrt() * spread**2 * x_t / (alpha_bar * spread**2 + 1 - alpha_bar)
    noise = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    expected = training_target(prediction, x0, noise, alpha_bar)
    torch.testing.assert_close(built(x_t, alpha_bar[:, 0], make_condition(4)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_outlet_is_scaled_by_the_posterior_spread(prediction: Prediction) -> None:
    """The variance that the skip leaves unexplained, over draws of x_0 and ε."""
    spread, alpha_bar = torch.tensor([3.0, 0.3, 0.01]), torch.tensor([0.999, 0.5, 0.01])[:, None, None]
    x0, noise = torch.randn((2, 3, 100_000, 3), generator=torch.Generator().manual_seed(0))
    x0 = x0 * spread
    skip, scale = output_preconditioning(prediction, alpha_bar, spread)
    x_t = diffuse(x0, noise, alpha_bar)
    left = training_target(prediction, x0, noise, alpha_bar) - skip * x_t
    torch.testing.assert_close(left.std(1), scale[:, 0], rtol=0.02, atol=1e-4)
    assert ((left * x_t).mean(1).abs() < 0.02 * x_t.std(1) * left.std(1) + 1e-4).all()


def test_features_are_finite_at_both_ends_and_told_apart(make_condition: Make) -> None:
    levels = torch.tensor([1.0, 0.9999, 0.5, 1e-4, 1e-9, 1e-30])
    features = noise_features(levels)
    assert features.shape == (6, NOISE_FEATURES)
    assert torch.isfinite(features).all()
    assert torch.cdist(features, features).add(torch.eye(6)).min() > 0.1
    orders = torch.cartesian_prod(torch.arange(13.0), torch.arange(13.0))
    every = replace(make_condition(169), orders=orders, log_scale=torch.zeros(169))
    component = ComponentFeatures(SMALL, 0, noise=False)
    features = component(every)
    assert features.shape == (169, component.size)
    assert torch.cdist(features, features).add(torch.eye(169)).min() > 0.1
    without = ComponentFeatures(SMALL.model_copy(update={"order_embedding": "none"}), 0, noise=False)
    assert not without(every).any()
    assert without(make_condition(3)).shape == (3, without.size)


@pytest.mark.parametrize("settings", [LinearBasisSettings, UNetSettings])
def test_the_bounds_of_the_switches(settings: type[LinearBasisSettings | UNetSettings]) -> None:
    assert settings.model_validate({"context": 64}).context == 64
    for refused in ({"context": -1}, {"context": 65}, {"patch": 3}, {"order_embedding": "learned"}):
        with pytest.raises(ValidationError):
            settings.model_validate(refused)
