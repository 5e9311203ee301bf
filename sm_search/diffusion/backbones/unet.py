"""The U-Net: convolutions on the pixels of an image. Shapes: B images, 2 parts (real, imaginary), Y and X pixels."""

import torch
from torch import Tensor, nn

from sm_search.config.errors import SettingsError
from sm_search.config.model_settings import Prediction, UNetSettings
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.condition_features import ComponentFeatures
from sm_search.diffusion.denoiser import NOISE_FEATURES, Denoiser, noise_features


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
