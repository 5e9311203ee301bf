"""What is trained and how it is sampled: denoiser, diffusion process, training, sampling schedule."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sm_search.config.base import Settings
from sm_search.config.errors import SettingsError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Prediction = Literal["epsilon", "v", "x0"]
Mean = Literal["none", "kernel-ridge"]
Diffuse = Literal["component", "voxel", "folded-voxel"]
OrderEmbedding = Literal["none", "fourier"]
NoiseDb = Annotated[float, Field(ge=0, le=200)]
Context = Annotated[int, Field(ge=0, le=64)]


class LinearBasisSettings(Settings):
    """A residual MLP that diffuses the coefficients of an orthonormal basis fitted to the training targets.

    Attributes:
        coefficients: basis vectors kept for the target, and for the condition.
        width, blocks: hidden width and number of residual blocks.
        gated: the blocks multiply two linear maps, one of them through SiLU (SwiGLU; Shazeer 2020): patterns of many
            lobes are learnt sooner, in steps that take a tenth longer.
        wiener_input: feed the network the per-coefficient Wiener estimate of x_0 instead of x_t.
        order_embedding: `fourier` tells the network the mixing orders, or of a spectrum its voxel's position, as sines
            and cosines; `none` does not.
        whitening: the condition's coefficients enter in units of their spread to this power: 1 makes all alike, also
            the last ones, which noise drowns first; 0 leaves them as they are.
        patterns: the spectra of voxels enter also with each value in units of its component's own maximum, not only in
            those of the strongest one: so faint components keep their say with cores of other sizes. Images of
            components are in such units anyway.
        context: principal components of the whole low-gradient matrix's features (`scan_features`) that the network is
            told beside the component that it draws; 0 is none. Many of them let it recognise the training scans, which
            costs quality on others.
    """

    added = frozenset({"whitening", "patterns", "gated"})

    backbone: Literal["linear-basis"] = "linear-basis"
    coefficients: Annotated[int, Field(ge=8, le=4096)] = 384
    width: Annotated[int, Field(ge=16, le=8192)] = 512
    blocks: Annotated[int, Field(ge=1, le=64)] = 4
    gated: bool = False
    wiener_input: bool = True
    whitening: Share = 1.0
    patterns: bool = False
    order_embedding: OrderEmbedding = "fourier"
    context: Context = 0


class UNetSettings(Settings):
    """A pixel U-Net (diffusers' `UNet2DModel`).

    Attributes:
        channels: feature channels of each resolution level; the image side is halved between levels.
        layers: residual layers in each level.
        patch: images are taken as squares of this many pixels, each one pixel of more channels (Shi et al. 2016).
        order_embedding, context: as of the linear basis.
    """

    backbone: Literal["unet"] = "unet"
    channels: Annotated[tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...], Field(min_length=2, max_length=6)] = (
        32,
        64,
        96,
    )
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    patch: Literal[1, 2, 4] = 1
    order_embedding: OrderEmbedding = "fourier"
    context: Context = 0

    def require_grid(self, height: int, width: int) -> None:
        """Refuse images that cannot be halved between the levels.

        Raises:
            SettingsError: one line with the grid and the rule.
        """
        levels, factor = len(self.channels), self.patch * 2 ** (len(self.channels) - 1)
        if height % factor or width % factor:
            parted = f"parted into {self.patch} × {self.patch} pixels and " if self.patch > 1 else ""
            raise SettingsError(
                f"backbone unet: a grid of {width} × {height} cannot be {parted}halved {levels - 1} times "
                f"({levels} levels in `channels`); sides must be multiples of {factor}"
            )


BackboneSettings = Annotated[LinearBasisSettings | UNetSettings, Field(discriminator="backbone")]


class DiffusionSettings(Settings):
    """The forward process q(x_t | x_0) = N(√ᾱ_t x_0, 1 − ᾱ_t) and what the network predicts.

    Attributes:
        timesteps: T.
        noise_schedule: `linear` β from 1e-4 to 0.02 at T = 1000 (Ho et al. 2020), `cosine` (Nichol and Dhariwal 2021).
        prediction: `epsilon` (paper), `v` (Salimans and Ho 2022) or `x0`.
    """

    timesteps: Annotated[int, Field(ge=2, le=10_000)] = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    prediction: Prediction = "x0"


class TrainingSettings(Settings):
    """One training run.

    Attributes:
        diffuse: `component` draws each component's image by itself (paper), `voxel` the spectrum of each voxel: what
            imperfect scanners ask for, whose fields act on each voxel by itself (`spectra`). `folded-voxel` does that
            with all voxels mirrored into one quadrant of the field of view: a quarter is left to learn.
        mean: what the diffusion starts from: `none` diffuses the pattern itself (paper), `kernel-ridge` its residual
            about a regression over the training scans, in units of the regression's expected error.
        p_uncond: probability of replacing the condition by the null condition (Algorithm 1).
        condition_noise: `same-level` adds √(1−ᾱ_t)·ε to the condition in training (the paper's text), `none` does not.
        measurement_noise_db: range of the strongest low-gradient component over a receiver's white noise that is added
            to the conditions, drawn afresh in every step, each level in dB as likely as any other; above 120 dB none is
            added. The network is told the level, and reads the condition through a Wiener filter of it: so one model
            serves scans of any noise. None adds none.
        condition_weight: `decay` multiplies the condition by 1 − t/T in training (the paper's text), `none` does not.
        loss_weighting: `none`, or `min-snr` (Hang et al. 2023, γ = 5): the error of x_0 counts min(SNR, 5) times,
            whatever the network predicts.
        loss: `squared` is the error of what the network predicts. `crps` trains a one-step forecaster of a distribution
            instead: at t = T the network draws x_0 from x_T and the condition, and two draws of each image are rated by
            fair CRPS (Gneiting and Raftery 2007, eq. 20). It needs prediction x0 and `wiener_input: false`, by which
            x_T reaches the network.
        spread_share: share of the steps, the last ones, in which the network stays as it is and learns to draw x_0
            about what it predicts, also by fair CRPS of two draws (`spread`). It then draws where a schedule asks for
            two or more `samples`; one is its prediction. It needs the backbone linear-basis and prediction x0.
        share_at_end: share of the draws of t that are put at t = T, where the network is a regression.
        augmentation: `parity` mirrors each drawn pair along x and along y with probability ½ each, with the sign of its
            component (see `parity`): fresh noise where there is noise, next to nothing new where there is none.
        steps, batch_size, learning_rate, weight_decay: AdamW with linear warm-up and cosine decay to zero.
        ema_decay: decay of the weights' moving average, which is what is sampled.
        precision: `bfloat16` runs the matrix products of the network in it; weights, loss and sampling stay float32.
            For GPUs, and processors that multiply in it: others take many times longer.
        scans: only so many scans of the training split are trained on, the same ones in every run and spread over it
            (`DatasetSettings.scans`): all that is fitted sees no other; None for all.
        receive_channels: channels to learn, 0 = x and 1 = y.
    """

    added = frozenset({"diffuse", "measurement_noise_db", "loss", "spread_share"})

    backbone: BackboneSettings = LinearBasisSettings()
    diffuse: Diffuse = "component"
    diffusion: DiffusionSettings = DiffusionSettings()
    mean: Mean = "kernel-ridge"
    p_uncond: Share = 0.1
    condition_noise: Literal["none", "same-level"] = "none"
    condition_weight: Literal["none", "decay"] = "none"
    measurement_noise_db: tuple[NoiseDb, NoiseDb] | None = None
    loss: Literal["squared", "crps"] = "squared"
    spread_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    loss_weighting: Literal["none", "min-snr"] = "none"
    share_at_end: Share = 0.5
    augmentation: Literal["none", "parity"] = "none"
    steps: Annotated[int, Field(ge=1)] = 4000
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"
    scans: Annotated[int, Field(ge=2)] | None = None
    receive_channels: Annotated[tuple[Annotated[int, Field(ge=0, le=1)], ...], Field(min_length=1)] = (0,)
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _suits_voxels(self) -> "TrainingSettings":
        if self.by_voxel and self.backbone.backbone != "linear-basis":
            raise ValueError(f"diffuse: {self.diffuse} needs backbone linear-basis, not {self.backbone.backbone}")
        if self.by_voxel and self.augmentation != "none":
            raise ValueError(
                f"diffuse: {self.diffuse} knows no mirror images: augmentation is {self.augmentation}, must be none"
            )
        return self

    @property
    def by_voxel(self) -> bool:
        """Whether the spectra of voxels are diffused."""
        return self.diffuse != "component"

    @property
    def spread_steps(self) -> int:
        """The last steps, in which the network learns to draw; with a `spread_share` at least one."""
        return math.ceil(self.spread_share * self.steps)

    @property
    def spread_from(self) -> float:
        """The first of these; infinite without, also for a run that goes on beyond its steps."""
        return self.steps - self.spread_steps if self.spread_share else math.inf

    @property
    def told_noise(self) -> bool:
        """Whether the network is told how noisy its condition is."""
        return self.measurement_noise_db is not None

    @model_validator(mode="after")
    def _suits_noise_and_loss(self) -> "TrainingSettings":
        if self.measurement_noise_db and self.measurement_noise_db[0] > self.measurement_noise_db[1]:
            raise ValueError(f"measurement_noise_db: the range {list(self.measurement_noise_db)} must go upwards")
        if self.loss == "crps":
            if self.diffusion.prediction != "x0":
                raise ValueError(f"loss: crps needs diffusion.prediction x0, not {self.diffusion.prediction}")
            if self.backbone.backbone == "linear-basis" and self.backbone.wiener_input:
                raise ValueError("loss: crps needs backbone.wiener_input false: the filter keeps x_T from the network")
            if self.loss_weighting != "none":
                raise ValueError(f"loss: crps knows no loss_weighting {self.loss_weighting}")
        return self

    @model_validator(mode="after")
    def _suits_spread(self) -> "TrainingSettings":
        if self.spread_share:
            if self.backbone.backbone != "linear-basis" or self.diffusion.prediction != "x0":
                given = f"{self.backbone.backbone} and {self.diffusion.prediction}"
                raise ValueError(f"spread_share needs backbone linear-basis and diffusion.prediction x0, not {given}")
            if self.loss == "crps":
                raise ValueError("spread_share must be 0 with loss: crps, which makes the whole network draw")
            if self.spread_steps >= self.steps:
                raise ValueError(
                    f"spread_share = {self.spread_share:g} of steps = {self.steps} leaves none for the mean"
                )
        return self


class ScheduleSettings(Settings):
    """The condition-decay schedule of the paper (Algorithm 2) and the sampler that it steers, with u = t/T.

    η(u) = η_max(1−u)^γ is the noise on the condition, w(u) = w_min + (w_max−w_min)u^σ its weight.

    Attributes:
        sampler: `paper` is Algorithm 2 as printed, `ddpm` the standard posterior, `ddim` the deterministic one
            (Song et al. 2021), `dpmpp` DPM-Solver++ 2M (Lu et al. 2022), deterministic and of second order.
        steps: visited t, evenly spaced from T down (trailing spacing); 0 is the mean alone, without the network.
        fresh_condition_noise: draw ε_y at each step, not once.
        guidance: classifier-free guidance scale; 1 is off and costs one network evaluation a step.
        samples: draws of each image whose mean is the result; two or more also give its standard deviation.
    """

    sampler: Literal["paper", "ddpm", "ddim", "dpmpp"] = "ddim"
    steps: Annotated[int, Field(ge=0)] = 8
    eta_max: NotNegative = 0.0
    gamma: NotNegative = 1.0
    w_min: NotNegative = 1.0
    w_max: NotNegative = 1.0
    sigma: NotNegative = 1.0
    fresh_condition_noise: bool = False
    guidance: NotNegative = 1.0
    samples: Annotated[int, Field(ge=1, le=1000)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "ScheduleSettings":
        if self.w_min > self.w_max:
            raise ValueError(f"w_min = {self.w_min} must not exceed w_max = {self.w_max}")
        return self

    def unused(self) -> set[str]:
        """The settings that change nothing in the images that it draws.

        A single step visits u = 1 only, goes straight to x_0, and knows of the decay nothing but w(1) = w_max.
        """
        if self.steps == 0:
            return set(ScheduleSettings.model_fields) - {"steps"}
        straight = {"sampler", "eta_max", "w_min"} if self.steps == 1 and self.gamma > 0 else set()
        noiseless = {"gamma", "fresh_condition_noise"} if self.eta_max == 0 or "eta_max" in straight else set()
        constant = {"sigma"} if self.w_min == self.w_max or "w_min" in straight else set()
        return straight | noiseless | constant

    def essential(self) -> "ScheduleSettings":
        """The same with all that it does not use at one value: two that draw the same images are then equal."""
        unused = self.unused()
        used = {name: value for name, value in self.model_dump().items() if name not in unused}
        if "w_min" in unused and "w_max" in used:
            used["w_min"] = self.w_max
        return ScheduleSettings(**used)

    def in_words(self) -> str:
        """What it does, in one short line, without what it does not use."""
        if self.steps == 0:
            return "0 steps: the mean alone"
        words = [f"{self.sampler}, {self.steps} steps" if self.steps > 1 else f"{self.sampler}, 1 step"]
        if self.eta_max > 0:
            words.append(f"η_max {self.eta_max:.3g}, γ {self.gamma:.3g}")
        if self.w_min == self.w_max != 1.0:
            words.append(f"w {self.w_max:.3g}")
        elif self.w_min != self.w_max:
            words.append(f"w {self.w_max:.3g} to {self.w_min:.3g}, σ {self.sigma:.3g}")
        if self.guidance != 1.0:
            words.append(f"guidance {self.guidance:.3g}")
        if self.samples > 1:
            words.append(f"mean of {self.samples} samples")
        return ", ".join(words)

    def evaluations(self, timesteps: int) -> int:
        """Network evaluations per image; no more than T = `timesteps` can be visited."""
        return self.samples * min(self.steps, timesteps) * (1 if self.guidance == 1.0 else 2)
