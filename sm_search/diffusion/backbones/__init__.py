"""The networks that denoise: a file for each, and here its line in the table."""

from collections.abc import Callable

from sm_search.config.model_settings import BackboneSettings, LinearBasisSettings, Prediction, TrainingSettings
from sm_search.diffusion.backbones.linear_basis import LinearBasisDenoiser
from sm_search.diffusion.backbones.unet import UNetDenoiser
from sm_search.diffusion.denoiser import Denoiser

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
