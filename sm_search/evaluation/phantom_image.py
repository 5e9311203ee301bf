"""What a model is for, as a score of validation: the image of a phantom with a synthesised matrix.

Shapes: K components of the x-channel, N voxels with x fastest; Y and X pixels.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sm_search.evaluation.phantoms import phantom
from sm_search.evaluation.reconstruction import NOISE_LEVEL, REGULARISATIONS, image_quality, measure, reconstruct
from sm_search.physics.system_matrix import SystemMatrix, chosen_channels

PHANTOM = "vessel"


@dataclass(frozen=True)
class PhantomImage:
    """`PHANTOM` as the true matrix of a scan measures it, with noise that is white in the voltage.

    Measured on the voxels of the matrix, which a measured dataset allows too: of paper-54, the finer grid of
    `images_of` makes 0.1 dB of difference.

    Attributes:
        truth: the true matrix, of its x-channel alone.
        signal_CK: what it measures, (1, K).
        concentration_N: of the phantom.
    """

    truth: SystemMatrix
    signal_CK: NDArray[np.complex128]
    concentration_N: NDArray[np.float64]

    @staticmethod
    def of(high: SystemMatrix) -> "PhantomImage":
        truth, concentration_N = chosen_channels(high, (0,)), phantom(PHANTOM, high.grid)
        return PhantomImage(truth, measure(truth, concentration_N, noise_level=NOISE_LEVEL), concentration_N)

    def psnr_db(self, relative_KYX: NDArray[np.complex128]) -> float:
        """Of the image with an estimate of the matrix, at the best of `REGULARISATIONS`; of an empty one where the
        estimate has nothing that is received.

        Args:
            relative_KYX: the estimate in units of each component's true maximum modulus.
        """
        truth_KN, shape = self.truth.values_CKN[0], relative_KYX.shape[1:]
        values_KN = relative_KYX.reshape(truth_KN.shape) * np.abs(truth_KN).max(axis=1, keepdims=True)
        received_K = np.abs(np.asarray(self.truth.mixing_orders)).sum(axis=1) > 1
        if not values_KN[received_K].any():
            return image_quality(np.zeros(shape), self.concentration_N.reshape(shape))[0]
        sm = dataclasses.replace(self.truth, values_CKN=values_KN[None])
        images = [reconstruct(sm, self.signal_CK, regularisation=each).reshape(shape) for each in REGULARISATIONS]
        return max(image_quality(image, self.concentration_N.reshape(shape))[0] for image in images)
