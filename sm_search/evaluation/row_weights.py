"""How far each equation of an image may be off, by which a reconstruction weighs it.

An equation u_k = Σ_n S_kn c_n is off by the noise ν of the measurement and by the errors s of the matrix, which count
with the concentration that they are multiplied with (errors in variables):

    σ_k² = ν_k² + Σ_n s_kn² c_n²

Equations divided by their σ_k are whitened: least squares then trusts each as far as it deserves. Shapes: C receive
channels, K components (of all channels, where there is no C), N voxels.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.physics.receive import noise_deviation
from sm_search.physics.system_matrix import SystemMatrix

Weighting = Literal["none", "whitening", "uncertainty"]

Array = NDArray[np.float64]


def matrix_variance(sm: SystemMatrix, c_N: Array) -> Array:
    """Σ_n s_kn² c_n², (C, K), of the draws that a synthesised matrix was made of, or of a measured one's noise.

    Raises:
        DataError: the matrix has neither.
    """
    noise_CK = noise_deviation(sm.background_CKE)
    if sm.deviation_CKN is None and noise_CK is None:
        raise DataError(
            "the system matrix has neither a deviation of its values nor background frames that vary: there is no "
            "uncertainty to weight by; reconstruct without"
        )
    variance_CK = np.zeros(sm.values_CKN.shape[:2])
    if sm.deviation_CKN is not None:
        variance_CK += np.square(sm.deviation_CKN) @ c_N**2
    return variance_CK if noise_CK is None else variance_CK + noise_CK**2 * np.sum(c_N**2)


def equation_deviation(
    noise_K: Array | None, matrix_variance_K: Array, residual_K: NDArray[np.complexfloating]
) -> Array:
    """σ_k of each equation, (K,), all in a unit in which unknown noise is white.

    Args:
        noise_K: of the measurement; where that is not known the residuals' median stands for it.
        residual_K: u − S c of a first image.
    """
    if noise_K is None:  # |r|² of a complex normal r has the median ln 2 · E|r|²
        typical = np.median(np.abs(residual_K) ** 2) / math.log(2)
        return np.asarray(np.sqrt(max(float(typical), np.finfo(float).tiny) + matrix_variance_K))
    return np.asarray(np.hypot(noise_K, np.sqrt(matrix_variance_K)))
