"""`LinearBasis`: an orthonormal basis of images, fitted to a training set.

Shapes: B images, P = 2·Y·X real numbers in an image, D coefficients.
"""

import torch
from torch import Tensor, nn


class LinearBasis(nn.Module):
    """Leading eigenvectors of the images' second-moment matrix, and the spread of their coefficients.

    Orthonormal: white noise on the image is white noise on the coefficients.
    """

    vectors_PD: Tensor
    spread_D: Tensor

    def __init__(self, pixels: int, coefficients: int) -> None:
        super().__init__()
        self.register_buffer("vectors_PD", torch.zeros(pixels, coefficients))
        self.register_buffer("spread_D", torch.ones(coefficients))

    def fit(self, images: Tensor) -> None:
        """Fit to images of shape (B, 2, Y, X)."""
        flat_BP = images.flatten(1).double()
        _, vectors_PP = torch.linalg.eigh(flat_BP.T @ flat_BP)
        vectors_PD = vectors_PP.flip(1)[:, : self.vectors_PD.shape[1]]
        # An eigenvector's sign is arbitrary: fix it, so that the basis is the same on every machine.
        largest = vectors_PD.abs().argmax(0, keepdim=True)
        vectors_PD = vectors_PD * vectors_PD.gather(0, largest).sign()
        self.vectors_PD.copy_(vectors_PD)
        self.spread_D.copy_((flat_BP @ vectors_PD).square().mean(0).sqrt().clamp(min=1e-6))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 2, Y, X) to coefficients (B, D)."""
        return images.flatten(1) @ self.vectors_PD

    def decode(self, coefficients_BD: Tensor, shape: tuple[int, int]) -> Tensor:
        """Coefficients (B, D) to images (B, 2, Y, X)."""
        return (coefficients_BD @ self.vectors_PD.T).unflatten(1, (2, *shape))
