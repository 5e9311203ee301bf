"""The effective-field equation of Martsenyuk, Raikher and Shliomis (1974): see `effective_field_kernel`."""

import math

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import MixingOrders, Particle
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.magnetisation.model import MagnetisationModel, Spectrum
from sm_search.physics.particles import brownian_time_zero_field, langevin_parameter_per_tesla


def response(
    field: LissajousField,
    diameter_m: float,
    particle: Particle,
    orders: MixingOrders,
    sensitivity_CDN: NDArray[np.float64],
    samples: int | None,
) -> Spectrum:
    from sm_search.physics.effective_field_spectrum import spectrum

    beta = langevin_parameter_per_tesla(diameter_m, particle)
    tau_s = brownian_time_zero_field(diameter_m, particle)
    steps = samples and 2 * math.ceil(samples / 2)
    values_CKN, used = spectrum(field, beta, tau_s, orders, sensitivity_CDN, steps)
    return values_CKN, {"samplesPerPeriod": float(used), "samplesPerPanel": 1.0}


MODEL = MagnetisationModel(response)
