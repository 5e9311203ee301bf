"""What is diffused: the K images of a matrix's components (the paper), or the spectra of its N voxels.

A scanner's field errors and receive profile act on each voxel by itself. The K low-gradient values of a voxel tell
where in the field it lies and how sensitive the coil is there, and the K high-gradient values follow. A spectrum is
held as an image of one row and K columns, so that denoisers of vectors and all samplers serve it unchanged.

The spectra of the condition are in units of the matrix's strongest component, all components alike: noise that is white
in the receiver is white in them, and what principal components leave out is mostly noise.

Shapes: K components, N = Y·X voxels with x fastest, 2 parts (real, imaginary), Y and X pixels.
"""

import torch
from torch import Tensor

from sm_search.diffusion.condition import Condition

POSITION_UNIT = 12.0
"""Positions run from −1 to 1 over the field of view, times this: about the range of the mixing orders, whose place in
the network they take."""


def spectra(images_K2YX: Tensor) -> Tensor:
    """The voxels' spectra, (N, 2, 1, K)."""
    return images_K2YX.flatten(2).permute(2, 1, 0)[:, :, None].contiguous()


def component_images(spectra_N21K: Tensor, shape: tuple[int, int]) -> Tensor:
    """The inverse, (K, 2, Y, X), of one matrix."""
    return spectra_N21K[:, :, 0].permute(2, 1, 0).unflatten(2, shape).contiguous()


def spectrum_condition(components: Condition, channel: int) -> Condition:
    """The condition of every voxel from those of the K components of one matrix and channel.

    In the place of mixing orders stands the position, in that of the component's scale the receive channel. The noise
    counts as white: root mean square over the components.
    """
    relative_K = 10**components.log_scale
    image = spectra(components.image * relative_K[:, None, None, None])
    height, width = components.image.shape[2:]
    y, x = (POSITION_UNIT * (2 * torch.arange(size) + 1 - size) / size for size in (height, width))
    position = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)
    voxels = len(image)
    return Condition(
        image=image,
        orders=position.float(),
        log_scale=torch.full((voxels,), float(channel)),
        features=components.features[:1].expand(voxels, -1),
        noise=(components.noise * relative_K).square().mean().sqrt().expand(voxels),
        keep=torch.ones(voxels),
    )


def state_shape(diffuse: str, components: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(Y, X) of what is diffused."""
    return (1, components) if diffuse == "voxel" else shape
