"""The denoisers: one interface, two backbones.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels, D coefficients, H hidden width.

A denoiser works on a *state*: pixels for the U-Net, basis coefficients for the linear basis. Both maps are orthonormal
up to one factor, so white noise drawn on pixels is white noise on the state.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sm_search.config.errors import SettingsError
from sm_search.config.model_settings import (
    BackboneSettings,
    LinearBasisSettings,
    Prediction,
    TrainingSettings,
    UNetSettings,
)
from sm_search.diffusion.basis import FeatureBasis, LinearBasis
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.spread import SpreadHead
from sm_search.regression.scan_features import relative_scales

ORDER_FREQUENCIES = 8
LOG_SCALE_UNIT = 4.0
"""log10 scales reach down to −8; divided by this they are of order 1."""


class Denoiser(nn.Module, ABC):
    """Predicts ε, v or x_0 of a state from its noisy version, the condition and ᾱ_t.

    Attributes:
        spread: what draws x_0 about the prediction; None in networks that only predict.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spread: SpreadHead | None = None

    @abstractmethod
    def fit_constants(self, targets: Tensor, condition: Condition) -> None:
        """Fit what is not trained by gradient to training images (B, 2, Y, X) and their conditions."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images or white noise (B, 2, Y, X) to states (B, …): noise keeps unit variance."""

    @abstractmethod
    def to_state(self, images: Tensor) -> Tensor:
        """Target images (B, 2, Y, X) to states (B, …), scaled to the variance that the diffusion wants."""

    @abstractmethod
    def to_images(self, states: Tensor) -> Tensor:
        """Inverse of `to_state` on the span of the basis."""

    @abstractmethod
    def forward(self, x_t: Tensor, alpha_bar: Tensor, condition: Condition, z: Tensor | None = None) -> Tensor:
        """The network output at states x_t (B, …) and ᾱ (B,).

        Args:
            z: white noise (M·B, Z) to draw with, M times of each image, all once and then again; None and 0 give the
                mean. Networks without `spread` take none.
        """


def noise_features(alpha_bar: Tensor) -> Tensor:
    """Smooth features of the noise level, from the log signal-to-noise ratio, shape (B, 16)."""
    log_snr = 0.5 * (alpha_bar.log() - (1 - alpha_bar).clamp(min=1e-12).log())
    scaled = log_snr[:, None] / 5.0
    frequencies = math.pi * torch.arange(1, 8, device=alpha_bar.device, dtype=alpha_bar.dtype) / 2
    phases = scaled * frequencies
    last = (alpha_bar[:, None] < 1e-4).to(alpha_bar.dtype)
    return torch.cat((scaled, last, torch.sin(phases), torch.cos(phases)), 1)


NOISE_FEATURES = 16


NO_NOISE = 1e-6
"""A level of noise, in the image's unit, that counts as none."""


class ComponentFeatures(nn.Module):
    """What a network is told beside images: mixing orders, scale of the component, and what the whole matrix tells;
    with `noise` also the level of the condition's noise, and the trajectory, which noise does not touch.

    Attributes:
        size: how many numbers that is.
    """

    def __init__(self, settings: BackboneSettings, features: int, noise: bool) -> None:
        super().__init__()
        if settings.context > features:
            raise SettingsError(
                f"backbone {settings.backbone}: context = {settings.context} exceeds the {features} features of a scan"
            )
        self.with_orders = settings.order_embedding == "fourier"
        self.context = FeatureBasis(features, settings.context) if settings.context else None
        self.trajectory = FeatureBasis(2, 2) if noise else None
        self.size = 1 + settings.context + (4 * ORDER_FREQUENCIES if self.with_orders else 0) + (3 if noise else 0)

    def fit(self, condition: Condition) -> None:
        if self.context is not None:
            self.context.fit(condition.features)
        if self.trajectory is not None:
            self.trajectory.fit(condition.features[:, -2:])

    def forward(self, condition: Condition) -> Tensor:
        """Shape (B, size); of a dropped condition only the orders are told."""
        keep = condition.keep[:, None]
        parts = [condition.log_scale[:, None] / LOG_SCALE_UNIT * keep]
        if self.context is not None:
            parts.append(self.context(condition.features) * keep)
        if self.trajectory is not None:
            level = condition.noise.clamp(min=NO_NOISE).log10()[:, None] / LOG_SCALE_UNIT + 1
            parts += [level * keep, self.trajectory(condition.features[:, -2:]) * keep]
        if self.with_orders:
            frequencies = math.pi / 2.0 ** torch.arange(ORDER_FREQUENCIES, device=condition.image.device)
            phases = condition.orders[:, :, None] * frequencies
            parts += [torch.sin(phases).flatten(1), torch.cos(phases).flatten(1)]
        return torch.cat(parts, 1)


DROWNED = 10.0
"""Noise of 1/√10 of a component's maximum halves what is told of its pattern."""
FITTED_ROWS = 20_000


class Patterns(nn.Module):
    """Spectra of voxels with each value in units of its component's own maximum, and of its spread in training.

    In units of the strongest component the others fall by a power of the core's volume, each by another one; in its own
    a component hardly changes. What noise drowns is told less of.
    """

    spread: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        self.size = 2 * components
        self.register_buffer("spread", torch.ones(self.size))

    def fit(self, condition: Condition) -> None:
        some = condition[:: max(1, len(condition) // FITTED_ROWS)]
        spread = self._patterns(some).std(0)
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, condition: Condition) -> Tensor:
        """Shape (B, 2K); 0 of a dropped condition."""
        return self._patterns(condition) / self.spread * condition.keep[:, None]

    def _patterns(self, condition: Condition) -> Tensor:
        scales_BK = relative_scales(condition.features, self.size // 2)
        told_BK = scales_BK / (scales_BK.square() + DROWNED * condition.noise.square()[:, None])
        return (condition.image[:, :, 0] * told_BK[:, None]).flatten(1)


WHITENED_UNIT = 100.0
"""Not wholly whitened, that coefficient of the condition is of order 1 whose spread is the leading one's over this."""


class LinearBasisDenoiser(Denoiser):
    """Residual MLP on basis coefficients; the noise level modulates every block (scale and shift).

    The outlet's numbers are of order 1 whatever the coefficient and the noise level: see `output_preconditioning`.
    """

    def __init__(
        self,
        settings: LinearBasisSettings,
        shape: tuple[int, int],
        prediction: Prediction,
        features: int,
        noise: bool,
        draws: bool,
    ) -> None:
        super().__init__()
        self.prediction = prediction
        pixels = 2 * shape[0] * shape[1]
        count = min(settings.coefficients, pixels)
        self.shape = shape
        self.wiener_input, self.whitening = settings.wiener_input, settings.whitening
        self.target_basis = LinearBasis(pixels, count)
        self.condition_basis = LinearBasis(pixels, count)
        self.register_buffer("scale", torch.ones(()))
        width = settings.width
        self.component = ComponentFeatures(settings, features, noise)
        self.patterns = Patterns(shape[1]) if settings.patterns else None
        told = self.component.size + (self.patterns.size if self.patterns else 0)
        self.inlet = nn.Linear(2 * count + 1 + told, width)
        self.noise_inlet = nn.Sequential(nn.Linear(NOISE_FEATURES, 128), nn.SiLU())
        self.blocks = nn.ModuleList(_ModulatedBlock(width, 128) for _ in range(settings.blocks))
        self.outlet = nn.Linear(width, count)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)
        if draws:
            self.spread = SpreadHead(width, count)

    scale: Tensor

    def fit_constants(self, targets: Tensor, condition: Condition) -> None:
        self.target_basis.fit(targets)
        self.condition_basis.fit(condition.image)
        self.component.fit(condition)
        if self.patterns:
            self.patterns.fit(condition)
        # Mean square 1 over the coefficients: the leading ones stand far above the noise, the last far below.
        self.scale.copy_(self.target_basis.spread_D.square().mean().sqrt())

    def encode(self, images: Tensor) -> Tensor:
        return self.target_basis.encode(images)

    def to_state(self, images: Tensor) -> Tensor:
        return self.target_basis.encode(images) / self.scale

    def to_images(self, states: Tensor) -> Tensor:
        return self.target_basis.decode(states * self.scale, self.shape)

    def forward(self, x_t: Tensor, alpha_bar: Tensor, condition: Condition, z: Tensor | None = None) -> Tensor:
        spread_D = self.target_basis.spread_D / self.scale
        a = alpha_bar[:, None]
        if self.wiener_input:
            x_in = a.sqrt() * spread_D * x_t / (a * spread_D.square() + 1 - a)
        else:
            x_in = x_t / (a * spread_D.square() + 1 - a).sqrt()
        keep = condition.keep[:, None]
        # Wiener's estimate of each coefficient in units of its spread; half of the noise is in either part.
        seen_spread_D = self.condition_basis.spread_D
        variance = condition.noise.square()[:, None] / 2
        seen = self.condition_basis.encode(condition.image) / (seen_spread_D + variance / seen_spread_D) * keep
        if self.whitening < 1:
            seen = seen * (WHITENED_UNIT * seen_spread_D / seen_spread_D[0]) ** (1 - self.whitening)
        told = [self.component(condition)] + ([self.patterns(condition)] if self.patterns else [])
        h = self.inlet(torch.cat((x_in, seen, keep, *told), 1))
        modulation = self.noise_inlet(noise_features(alpha_bar))
        for block in self.blocks:
            h = block(h, modulation)
        skip, scale = output_preconditioning(self.prediction, a, spread_D)
        output = skip * x_t + scale * self.outlet(h)
        if self.spread is None or z is None:
            return output
        drawn: Tensor = output + scale * self.spread(h, z)
        return drawn.flatten(0, 1)


def output_preconditioning(prediction: Prediction, alpha_bar: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of x_t and of the network in the output, for coefficients x_0 ~ N(0, spread²) (after Karras et al. 2022).

    For ε and v the skip is the posterior mean without condition, and the scale the posterior's standard deviation: the
    network adds only what the condition tells. A coefficient far below the noise is then still given its ε, which is
    x_t, and not 0. For x_0 the network gives the whole estimate, in units of the prior's standard deviation.
    """
    total = alpha_bar * spread.square() + 1 - alpha_bar
    if prediction == "epsilon":
        return (1 - alpha_bar).sqrt() / total, alpha_bar.sqrt() * spread / total.sqrt()
    if prediction == "v":
        return (alpha_bar * (1 - alpha_bar)).sqrt() * (1 - spread.square()) / total, spread / total.sqrt()
    return torch.zeros_like(total), spread.expand_as(total)


class _ModulatedBlock(nn.Module):
    def __init__(self, width: int, modulation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(modulation, 2 * width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        gain, shift = self.modulate(modulation).chunk(2, 1)
        return h + self.body(self.norm(h) * (1 + gain) + shift)


class UNetDenoiser(Denoiser):
    """Pixel U-Net of diffusers; mixing orders and scale enter beside the noise level's embedding.

    With `patch` > 1 the convolutions see the image as squares of pixels, a rearrangement that the state does not feel.
    """

    def __init__(
        self,
        settings: UNetSettings,
        shape: tuple[int, int],
        prediction: Prediction,
        features: int,
        noise: bool,
        draws: bool,
    ) -> None:
        super().__init__()
        if draws:
            raise SettingsError("backbone unet: draws by its sampler alone, so spread_share must be 0")
        levels, patch = len(settings.channels), settings.patch
        settings.require_grid(*shape)
        self.part, self.join = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        # diffusers takes four seconds to import, which only this backbone has to pay.
        from diffusers.models.unets.unet_2d import UNet2DModel

        self.net = UNet2DModel(
            in_channels=4 * patch**2 + 1,
            out_channels=2 * patch**2,
            block_out_channels=settings.channels,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=settings.layers,
            norm_num_groups=8,
            add_attention=False,
            class_embed_type="identity",
        )
        embedding = settings.channels[0] * 4
        self.component = ComponentFeatures(settings, features, noise)
        self.features = nn.Sequential(
            nn.Linear(self.component.size + NOISE_FEATURES, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.register_buffer("scale", torch.ones(()))

    scale: Tensor

    def fit_constants(self, targets: Tensor, condition: Condition) -> None:
        self.scale.copy_(targets.square().mean().sqrt())
        self.component.fit(condition)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def to_state(self, images: Tensor) -> Tensor:
        return images / self.scale

    def to_images(self, states: Tensor) -> Tensor:
        return states * self.scale

    def forward(self, x_t: Tensor, alpha_bar: Tensor, condition: Condition, z: Tensor | None = None) -> Tensor:
        keep = condition.keep[:, None, None, None]
        pixels = self.part(torch.cat((x_t, condition.image * keep), 1))
        pixels = torch.cat((pixels, keep.expand(-1, 1, *pixels.shape[2:])), 1)
        features = torch.cat((self.component(condition), noise_features(alpha_bar)), 1)
        # The noise level enters through our own features; diffusers' timestep input stays at zero, made on the device:
        # a number would be copied there, and a CUDA graph cannot hold that.
        time = torch.zeros((), dtype=torch.int64, device=pixels.device)
        return self.join(self.net(pixels, time, class_labels=self.features(features)).sample)


BACKBONES: dict[str, Callable[..., Denoiser]] = {"linear-basis": LinearBasisDenoiser, "unet": UNetDenoiser}
"""By the names of the settings' `backbone`: each takes the arguments of `build_denoiser`."""


def build_denoiser(
    settings: BackboneSettings,
    shape: tuple[int, int],
    prediction: Prediction,
    features: int = 0,
    noise: bool = False,
    draws: bool = False,
) -> Denoiser:
    """A freshly initialised denoiser.

    Args:
        shape: of its images, (Y, X).
        prediction: what its output means.
        features: numbers in `Condition.features`; only `context` and `noise` need them.
        noise: whether it is told how noisy its condition is.
        draws: whether it has a `spread`.

    Raises:
        SettingsError: the shape does not suit the backbone, or there are fewer features than `context` asks for, or the
            backbone cannot draw.
    """
    return BACKBONES[settings.backbone](settings, shape, prediction, features, noise, draws)


def denoiser_of(training: TrainingSettings, shape: tuple[int, int], features: int) -> Denoiser:
    """`build_denoiser` by the settings of a training run."""
    prediction, draws, backbone = training.diffusion.prediction, training.spread_steps > 0, training.backbone
    if not training.by_voxel and isinstance(backbone, LinearBasisSettings):
        backbone = backbone.model_copy(update={"patterns": False})
    return build_denoiser(backbone, shape, prediction, features, training.told_noise, draws)
