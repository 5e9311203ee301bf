"""What is diffused: the K images of a matrix's components (the paper), or the spectra of its N voxels.

A scanner's field errors and receive profile act on each voxel by itself. The K low-gradient values of a voxel tell
where in the field it lies and how sensitive the coil is there, and the K high-gradient values follow. A spectrum is
held as an image of one row and K columns, so that denoisers of vectors and all samplers serve it unchanged.

The spectra of the condition are in units of the matrix's strongest component, all components alike: noise that is white
in the receiver is white in them, and what principal components leave out is mostly noise.

Folded spectra are those of the mirror images that lie in the quadrant x, y ≥ 0 (`parity`). What is a condition's answer
is its mirror image's mirrored: a network that knows one quadrant, from four times the voxels, knows all.

Shapes: K components, N = Y·X voxels with x fastest, 2 parts (real, imaginary), Y and X pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sm_search.config.model_settings import Diffuse
from sm_search.diffusion.condition import Condition
from sm_search.diffusion.parity import parity_signs

POSITION_UNIT = 12.0
"""Positions run from −1 to 1 over the field of view, times this: about the range of the mixing orders, whose place in
the network they take."""


@dataclass(frozen=True)
class Spectra:
    """The spectra of the voxels of one channel's matrices.

    Attributes:
        orders: K mixing orders (m_x, m_y), (K, 2).
        shape: (Y, X).
        folded: whether all voxels are mirrored into one quadrant.
    """

    orders: Tensor
    shape: tuple[int, int]
    folded: bool

    @staticmethod
    def for_images(diffuse: Diffuse, orders: Tensor, shape: tuple[int, int]) -> "Spectra | None":
        """Those that are diffused; None where the images are."""
        return None if diffuse == "component" else Spectra(orders, shape, diffuse == "folded-voxel")

    def of(self, images_K2YX: Tensor) -> Tensor:
        """The voxels' spectra, (N, 2, 1, K)."""
        spectra = images_K2YX.flatten(2).permute(2, 1, 0)[:, :, None]
        return (spectra * self._signs(spectra) if self.folded else spectra).contiguous()

    def images(self, spectra_N21K: Tensor) -> Tensor:
        """The inverse, (K, 2, Y, X), of one matrix."""
        spectra = spectra_N21K * self._signs(spectra_N21K) if self.folded else spectra_N21K
        return spectra[:, :, 0].permute(2, 1, 0).unflatten(2, self.shape).contiguous()

    def condition(self, components: Condition, channel: int) -> Condition:
        """The condition of every voxel from those of the K components of one matrix and channel.

        In the place of mixing orders stands the position, in that of the component's scale the receive channel. The
        noise counts as white: root mean square over the components.
        """
        relative_K = 10**components.log_scale
        image = self.of(components.image * relative_K[:, None, None, None])
        position = self._position()
        voxels = len(image)
        return Condition(
            image=image,
            orders=(position.abs() if self.folded else position) * POSITION_UNIT,
            log_scale=torch.full((voxels,), float(channel)),
            features=components.features[:1].expand(voxels, -1),
            noise=(components.noise * relative_K).square().mean().sqrt().expand(voxels),
            keep=torch.ones(voxels),
        )

    def _position(self) -> Tensor:
        """(x, y) of the voxels, from −1 to 1 over the field of view, (N, 2)."""
        y, x = ((2 * torch.arange(size) + 1 - size) / size for size in self.shape)
        return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)

    def _signs(self, like: Tensor) -> Tensor:
        """Of the components of each voxel in its mirror image, (N, 1, 1, K), of the kind of `like`."""
        sign_x, sign_y = (sign.to(like) for sign in parity_signs(self.orders))
        left, below = (self._position().to(like.device) < 0)[:, :, None].unbind(1)
        return (torch.where(left, sign_x, 1.0) * torch.where(below, sign_y, 1.0))[:, None, None]


def state_shape(diffuse: Diffuse, components: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(Y, X) of what is diffused."""
    return shape if diffuse == "component" else (1, components)
