"""The equilibrium behind a constant relaxation time, τ_B without field: component k divided by 1 + iω_kτ."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Particle
from sm_search.physics.magnetisation import equilibrium
from sm_search.physics.particles import brownian_time_zero_field


def lag(omega_K: NDArray[np.float64], diameter_m: float, particle: Particle) -> NDArray[np.complex128]:
    return np.asarray(1 + 1j * omega_K * brownian_time_zero_field(diameter_m, particle))


MODEL = dataclasses.replace(equilibrium.MODEL, lag=lag)
