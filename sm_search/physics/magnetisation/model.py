"""What a model of the magnetisation is. Kernels are compiled, and their compiler imported, where one computes.

Shapes: C receive channels, D = 3 components of the moment, K components (mixing orders), N voxels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import MixingOrders, Particle
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.particles import langevin_parameter_per_tesla

if TYPE_CHECKING:
    from sm_search.physics.linear_relaxation import Kinetics

Spectrum = tuple[NDArray[np.complex128], dict[str, float]]
"""Components in units of M_s, shape (C, K, N), and how finely they were computed, for the tracer."""

Response = Callable[[LissajousField, float, Particle, MixingOrders, NDArray[np.float64], int | None], Spectrum]
"""Of cores of one diameter in m: M(t)/M_s = Σ_k c_k exp(iω_k t) in a Lissajous field as channels of these sensitivities
(C, D, N) receive it, with so many samples in an x drive period before refinement, or enough."""

Lag = Callable[[NDArray[np.float64], float, Particle], NDArray[np.complex128]]
"""By what a component at ω_K is divided, for cores of one diameter in m."""

ROUNDING = 3e-15
"""Rounding errors of a component, relative to the strongest one."""


def _smooth_nodes(spread: float) -> int:
    # At low fields order m goes like d^3m where it is not filtered: the faint high orders ask for more.
    return 10 + math.ceil(800 * spread**2)


@dataclass(frozen=True)
class MagnetisationModel:
    """One line of `MODELS`.

    Attributes:
        response: before `lag`.
        lag: None where there is none, or `response` has it.
        in_closed_form: `response` is the Langevin function of the field, whose spectrum in ideal fields `torus` knows.
        size_nodes: nodes for a size distribution of a given spread. As a function of ln d the response has its poles
            at ξ = ±iπ and ωτ = ±i, π/6 away from the real line. In units of √2·σ that is a = π/(6√2·σ), and the error
            of N nodes falls like exp(−2a·√(2N)).
        size_error: largest error of any component that these nodes leave, relative to its own maximum, measured by
            doubling them.
        rounding: error of a component, relative to the strongest one.
    """

    response: Response
    lag: Lag | None = None
    in_closed_form: bool = False
    size_nodes: Callable[[float], int] = _smooth_nodes
    size_error: Callable[[float], float] = lambda spread: 2e-6
    rounding: float = ROUNDING

    def size_tolerance(self, spread: float) -> float:
        """`size_error` of a distribution of any spread."""
        return self.size_error(spread) if spread else 0.0


def relaxing(kinetics: "Callable[[float, Particle, float, float], Kinetics]") -> Response:
    """The response of a magnetisation that relaxes linearly towards its equilibrium, or follows it.

    Args:
        kinetics: of a core diameter in m, the particle, the weaker drive's amplitude in ξ, and the field's largest ξ.
    """

    def response(
        field: LissajousField,
        diameter_m: float,
        particle: Particle,
        orders: MixingOrders,
        sensitivity_CDN: NDArray[np.float64],
        samples: int | None,
    ) -> Spectrum:
        from sm_search.physics.linear_relaxation import converged_spectrum

        beta = langevin_parameter_per_tesla(diameter_m, particle)
        chosen = kinetics(diameter_m, particle, beta * field.drive_t, beta * field.largest_t)
        return converged_spectrum(field, beta, chosen, orders, sensitivity_CDN, samples)

    return response
