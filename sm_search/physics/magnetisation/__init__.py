"""The models of the magnetisation: a file each and a line in `MODELS`. In goes a field, out the spectrum of the moment.

Begin with `model.py`; the equations that several of them share are in the modules beside this folder.
"""

from sm_search.config.simulation_settings import Magnetisation
from sm_search.physics.magnetisation import anisotropic, brownian, debye, effective_field, equilibrium, neel_brown
from sm_search.physics.magnetisation.model import MagnetisationModel

MODELS: dict[Magnetisation, MagnetisationModel] = {
    "equilibrium": equilibrium.MODEL,
    "debye": debye.MODEL,
    "brownian": brownian.MODEL,
    "neel-brown": neel_brown.MODEL,
    "effective-field": effective_field.MODEL,
    "anisotropic": anisotropic.MODEL,
}
