"""The spectrum of the mean magnetic moment in any Lissajous field: every magnetisation model behind one function.

Shapes: D components (x, y and, where wanted, z) of the moment, K components (mixing orders), N voxels, S core sizes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Magnetisation, MixingOrders, Particle
from sm_search.physics import effective_field, linear_relaxation
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
    most = 0
    for diameter_m, share in zip(sizes.diameter_m_S.tolist(), sizes.share_S.tolist(), strict=True):
        beta = langevin_parameter_per_tesla(diameter_m, particle)
        tau_s = brownian_time_zero_field(diameter_m, particle)
        if magnetisation == "effective-field":
            steps = samples and 2 * math.ceil(samples / 2)
            values, used = effective_field.spectrum(field, beta, tau_s, orders, components, steps)
        else:
            # A constant relaxation time changes component k of the equilibrium by 1/(1 + iω_kτ), and nothing else.
            followed = "equilibrium" if magnetisation == "debye" else magnetisation
            kinetics = kinetics_of(followed, diameter_m, particle, beta * field.drive_t, beta * field.largest_t)
            panels = panels_per_line(field.fx_hz, beta * field.largest_t, kinetics, orders)
            if samples is not None:
                panels = 2 * math.ceil(samples / (2 * NODES))
            values, used = linear_relaxation.spectrum(field, beta, kinetics, panels, orders, components), panels * NODES
        if magnetisation == "debye":
            values /= _debye_filter(field, orders, tau_s)[:, None]
        values_DKN += share * values
        most = max(most, used)
    per_panel = 1 if magnetisation == "effective-field" else NODES
    return values_DKN, {"samplesPerPeriod": float(most), "samplesPerPanel": float(per_panel)}


def _debye_filter(field: LissajousField, orders: MixingOrders, tau_s: float) -> NDArray[np.complex128]:
    """1 + iω_kτ, shape (K,)."""
    frequencies_hz = [field.fx_hz, field.fx_hz * field.nd / (field.nd + 1)]
    omega_K: NDArray[np.float64] = 2 * math.pi * (np.array(orders.pairs()) @ frequencies_hz)
    return np.asarray(1 + 1j * omega_K * tau_s)
