"""Relaxation with 1/τ_B + 1/τ_N: two ways to turn that do not know each other."""

import math
from typing import TYPE_CHECKING

from sm_search.config.simulation_settings import Particle
from sm_search.physics.magnetisation.model import MagnetisationModel, relaxing
from sm_search.physics.particles import brownian_time_zero_field

if TYPE_CHECKING:
    from sm_search.physics.linear_relaxation import Kinetics

MOST_SIZE_NODES = 64
"""The Néel time grows like exp(d³): its poles in ln d are far nearer than others, and what is affordable decides."""


def kinetics(diameter_m: float, particle: Particle, xi_drive: float, largest_xi: float) -> "Kinetics":
    from sm_search.physics.linear_relaxation import Kinetics, smallest_xi
    from sm_search.physics.neel import neel_table
    from sm_search.physics.panel_kernel import NEEL_BROWN

    table_4T, table_hz = neel_table(diameter_m, particle, largest_xi)
    tau_s = brownian_time_zero_field(diameter_m, particle)
    return Kinetics(NEEL_BROWN, tau_s, smallest_xi=smallest_xi(xi_drive), table_4T=table_4T, table_hz=table_hz)


MODEL = MagnetisationModel(
    relaxing(kinetics),
    size_nodes=lambda spread: min(MOST_SIZE_NODES, 6 + math.ceil(3000 * spread**2)),
    size_error=lambda spread: min(1.0, 1.25 * spread**2),  # at 22 nm
)
