"""The particle: volume, magnetic moment and Brownian relaxation time, in SI units."""

import math

from scipy import constants

from sm_search.config.simulation_settings import Particle

BOLTZMANN = constants.Boltzmann  # J/K


def sphere_volume(diameter_m: float) -> float:
    """Volume in m³."""
    return math.pi / 6 * diameter_m**3


def magnetic_moment(core_diameter_m: float, particle: Particle) -> float:
    """m = M_s·V_core in A·m²."""
    return particle.saturation_magnetisation_ka_per_m * 1e3 * sphere_volume(core_diameter_m)


def langevin_parameter_per_tesla(core_diameter_m: float, particle: Particle) -> float:
    """ξ/B = m/(k_B T) in 1/T."""
    return magnetic_moment(core_diameter_m, particle) / (BOLTZMANN * particle.temperature_k)


def brownian_time_zero_field(core_diameter_m: float, particle: Particle) -> float:
    """τ_B = 3ηV_h/(k_B T) in s, V_h the volume of core and shell."""
    hydrodynamic_diameter_m = core_diameter_m + 2e-9 * particle.shell_thickness_nm
    viscosity = particle.viscosity_mpa_s * 1e-3
    return 3 * viscosity * sphere_volume(hydrodynamic_diameter_m) / (BOLTZMANN * particle.temperature_k)
