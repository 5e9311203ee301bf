"""The equilibrium of cores whose easy axes lie along the selection field at their place, or anyhow."""

from typing import TYPE_CHECKING

from sm_search.config.simulation_settings import Particle
from sm_search.physics.magnetisation.model import MagnetisationModel, relaxing

if TYPE_CHECKING:
    from sm_search.physics.linear_relaxation import Kinetics

TABLE_ERROR = 1e-8
"""Of the table of this equilibrium, relative to the strongest component."""


def kinetics(diameter_m: float, particle: Particle, xi_drive: float, largest_xi: float) -> "Kinetics":
    from sm_search.physics.anisotropic_equilibrium import cells_for, moment_table
    from sm_search.physics.linear_relaxation import Kinetics
    from sm_search.physics.neel import barrier
    from sm_search.physics.panel_kernel import ANISOTROPIC

    return Kinetics(
        ANISOTROPIC, moments=moment_table(barrier(diameter_m, particle), cells_for(largest_xi), particle.easy_axes)
    )


MODEL = MagnetisationModel(relaxing(kinetics), rounding=TABLE_ERROR)
