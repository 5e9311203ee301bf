"""Complex components to real patterns at unit maximum modulus, and back.

Shapes: K components, 2 parts (real, imaginary), Y and X pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScaledImages:
    """The transform, its inverse and its constants.

    Attributes:
        patterns: real and imaginary parts at unit maximum modulus, float64, (K, 2, Y, X); 0 where the scale is 0.
        scales: maximum modulus of each component, (K,), in the unit of the images.
    """

    patterns: NDArray[np.float64]
    scales: NDArray[np.float64]

    @staticmethod
    def of(images: NDArray[np.complexfloating]) -> "ScaledImages":
        """Scale complex images of shape (K, Y, X)."""
        scales = np.abs(images).max(axis=(1, 2)).astype(np.float64)
        safe = np.where(scales > 0, scales, 1.0)[:, None, None]
        normal = images / safe
        return ScaledImages(np.stack([normal.real, normal.imag], axis=1), scales)

    def images(self) -> NDArray[np.complex128]:
        """The complex images, (K, Y, X)."""
        images: NDArray[np.complex128] = self.patterns[:, 0] + 1j * self.patterns[:, 1]
        return images * self.scales[:, None, None]
