"""Relaxation towards the equilibrium with the field-dependent Brownian time of Yoshida and Enpuku."""

import math
from typing import TYPE_CHECKING

from sm_search.config.simulation_settings import Particle
from sm_search.physics.magnetisation.model import MagnetisationModel, relaxing
from sm_search.physics.particles import brownian_time_zero_field

if TYPE_CHECKING:
    from sm_search.physics.linear_relaxation import Kinetics


def kinetics(diameter_m: float, particle: Particle, xi_drive: float, largest_xi: float) -> "Kinetics":
    from sm_search.physics.linear_relaxation import Kinetics, smallest_xi
    from sm_search.physics.panel_kernel import BROWNIAN

    return Kinetics(BROWNIAN, brownian_time_zero_field(diameter_m, particle), smallest_xi=smallest_xi(xi_drive))


MODEL = MagnetisationModel(relaxing(kinetics), size_nodes=lambda spread: 6 + math.ceil(600 * spread**2))
