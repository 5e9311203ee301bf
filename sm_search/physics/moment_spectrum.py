"""The spectrum of the mean magnetic moment in any Lissajous field: every magnetisation model behind one function.

Shapes: D components (x, y and, where wanted, z) of the moment, K components (mixing orders), N voxels, S core sizes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Magnetisation, MixingOrders, Particle
from sm_search.physics import linear_relaxation
from sm_search.physics.linear_relaxation import kinetics_of, panels_per_line
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.panel_kernel import NODES
from sm_search.physics.particles import brownian_time_zero_field, langevin_parameter_per_tesla
from sm_search.physics.sizes import Sizes

Spectrum = tuple[NDArray[np.complex128], dict[str, float]]
"""Components in units of M_s, shape (D, K, N), and how finely they were computed, for the tracer."""


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
    shape = components, len(orders.pairs()), field.static_3N.shape[1]
    values_DKN = np.zeros(shape, dtype=np.complex128)
    most_panels = 0
    for diameter_m, share in zip(sizes.diameter_m_S, sizes.share_S, strict=True):
        beta = langevin_parameter_per_tesla(diameter_m, particle)
        # A constant relaxation time changes component k of the equilibrium by 1/(1 + iω_kτ), and nothing else.
        followed = "equilibrium" if magnetisation == "debye" else magnetisation
        kinetics = kinetics_of(followed, diameter_m, particle, beta * field.drive_t, beta * field.largest_t)
        panels = panels_per_line(field.fx_hz, beta * field.largest_t, kinetics, orders)
        if samples is not None:
            panels = 2 * math.ceil(samples / (2 * NODES))
        values = linear_relaxation.spectrum(field, beta, kinetics, panels, orders, components)
        if magnetisation == "debye":
            fy_hz = field.fx_hz * field.nd / (field.nd + 1)
            omega_K = 2 * math.pi * (np.array(orders.pairs()) @ [field.fx_hz, fy_hz])
            values /= (1 + 1j * omega_K * brownian_time_zero_field(diameter_m, particle))[:, None]
        values_DKN += share * values
        most_panels = max(most_panels, panels)
    return values_DKN, {"samplesPerPeriod": float(most_panels * NODES), "samplesPerPanel": float(NODES)}
