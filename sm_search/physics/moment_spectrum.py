"""The spectrum of the mean magnetic moment in any Lissajous field: every magnetisation model behind one function.

Shapes: D components (x, y and, where wanted, z) of the moment, K components (mixing orders), N voxels, S core sizes.
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
    components: int = 3,
    samples: int | None = None,
) -> Spectrum:
    """Coefficients c_k of M(t)/M_s = Σ_k c_k exp(iω_k t), ω_k = 2π·(m_x·f_x + m_y·f_y), at every voxel.

    A receive channel with the sensitivity p(r) has Σ_d p_d(r)·c_d,k(r). Every component is within
    `system_matrix.TOLERANCE` of its own maximum, a size distribution's quadrature apart.

    Args:
        sizes: core diameters and what each counts (`sizes.core_sizes`).
        components: 2 leaves out M_z, which is zero where no field has a z component; the field's z counts in any case.
        samples: in an x drive period before refinement, rounded up to an even number of panels; by default enough.
    """
    model = MODELS[magnetisation]
    frequencies_hz = [field.fx_hz, field.fx_hz * field.nd / (field.nd + 1)]
    omega_K: NDArray[np.float64] = 2 * math.pi * (np.array(orders.pairs()) @ frequencies_hz)
    values_DKN = np.zeros((components, len(omega_K), field.static_3N.shape[1]), dtype=np.complex128)
    finest: dict[str, float] = {}
    for diameter_m, share in zip(sizes.diameter_m_S.tolist(), sizes.share_S.tolist(), strict=True):
        values, sampling = model.response(field, diameter_m, particle, orders, components, samples)
        if model.lag is not None:
            values /= model.lag(omega_K, diameter_m, particle)[:, None]
        values_DKN += share * values
        finest = max(finest or sampling, sampling, key=lambda each: each["samplesPerPeriod"])
    return values_DKN, finest
