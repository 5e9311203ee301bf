"""The spectrum of the mean magnetic moment in any Lissajous field: every magnetisation model behind one function.

Shapes: C receive channels, D = 3 components of the moment, K components (mixing orders), N voxels, S core sizes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Magnetisation, MixingOrders, Particle
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.magnetisation import MODELS
from sm_search.physics.magnetisation.model import Spectrum
from sm_search.physics.sizes import Sizes


def moment_spectrum(
    field: LissajousField,
    magnetisation: Magnetisation,
    sizes: Sizes,
    particle: Particle,
    orders: MixingOrders,
    *,
    sensitivity_CDN: NDArray[np.float64] | None = None,
    samples: int | None = None,
) -> Spectrum:
    """Coefficients c_k of p·M(t)/M_s = Σ_k c_k exp(iω_k t), ω_k = 2π·(m_x·f_x + m_y·f_y), at every voxel.

    Every component is within `system_matrix.TOLERANCE` of its own maximum, a size distribution's quadrature apart.

    Args:
        sizes: core diameters and what each counts (`sizes.core_sizes`).
        sensitivity_CDN: p of each channel; by default the channels are the three components of M. Less work than to
            compute these and mix them.
        samples: in an x drive period before refinement, rounded up to an even number of panels; by default enough.
    """
    model = MODELS[magnetisation]
    frequencies_hz = [field.fx_hz, field.fx_hz * field.nd / (field.nd + 1)]
    omega_K: NDArray[np.float64] = 2 * math.pi * (np.array(orders.pairs()) @ frequencies_hz)
    voxels = field.static_3N.shape[1]
    sensitivity_CDN = along_axes(3, voxels) if sensitivity_CDN is None else sensitivity_CDN
    values_CKN = np.zeros((len(sensitivity_CDN), len(omega_K), voxels), dtype=np.complex128)
    finest: dict[str, float] = {}
    for diameter_m, share in zip(sizes.diameter_m_S.tolist(), sizes.share_S.tolist(), strict=True):
        values, sampling = model.response(field, diameter_m, particle, orders, sensitivity_CDN, samples)
        if model.lag is not None:
            values /= model.lag(omega_K, diameter_m, particle)[:, None]
        values_CKN += share * values
        finest = max(finest or sampling, sampling, key=lambda each: each["samplesPerPeriod"])
    return values_CKN, finest


def along_axes(channels: int, voxels: int) -> NDArray[np.float64]:
    """The sensitivities of channels that see x, y and, if there are three, z alone; shape (C, D, N)."""
    return np.broadcast_to(np.eye(3)[:channels, :, None], (channels, 3, voxels))
