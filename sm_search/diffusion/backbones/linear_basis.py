"""The linear basis: a residual MLP on principal components, of images or of the spectra of voxels.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels, D coefficients, H hidden width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sm_search.config.model_settings import LinearBasisSettings, Prediction
from sm_search.diffusion.basis import LinearBasis
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.condition_features import ComponentFeatures, Patterns
from sm_search.diffusion.denoiser import NOISE_FEATURES, Denoiser, noise_features
from sm_search.diffusion.spread import SpreadHead

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
        self.blocks = nn.ModuleList(_ModulatedBlock(width, 128, settings.gated) for _ in range(settings.blocks))
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
    def __init__(self, width: int, modulation: int, gated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(modulation, 2 * width)
        hidden = 3 * width // 2 if gated else 2 * width
        inlet = nn.Linear(width, 2 * hidden if gated else hidden)
        self.body = nn.Sequential(inlet, _Gate() if gated else nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        gain, shift = self.modulate(modulation).chunk(2, 1)
        return h + self.body(self.norm(h) * (1 + gain) + shift)


class _Gate(nn.Module):
    def forward(self, both: Tensor) -> Tensor:
        gate, value = both.chunk(2, -1)
        return functional.silu(gate) * value
