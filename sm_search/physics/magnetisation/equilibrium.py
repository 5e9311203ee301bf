"""The Langevin function of the field: no relaxation."""

from typing import TYPE_CHECKING

from sm_search.config.simulation_settings import Particle
from sm_search.physics.magnetisation.model import MagnetisationModel, relaxing

if TYPE_CHECKING:
    from sm_search.physics.linear_relaxation import Kinetics


def kinetics(diameter_m: float, particle: Particle, xi_drive: float, largest_xi: float) -> "Kinetics":
    from sm_search.physics.linear_relaxation import Kinetics
    from sm_search.physics.panel_kernel import EQUILIBRIUM

    return Kinetics(EQUILIBRIUM)


MODEL = MagnetisationModel(relaxing(kinetics), in_closed_form=True)
