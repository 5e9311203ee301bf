"""Néel relaxation: how fast the moment turns inside the core, against its anisotropy and with the field's help.

W. F. Brown, Phys. Rev. 130, 1677 (1963): the direction x = cos θ of the moment of a core with uniaxial anisotropy K,
its easy axis along the field, diffuses as

    2τ_0 ∂W/∂t = ∂/∂x (1 − x²)(∂W/∂x + W·∂v/∂x),   v(x) = −σx² − ξx,   σ = KV/(k_B T),   ξ = mB/(k_B T)

with τ_0 = m(1 + α²)/(2αγ·k_B T). The rate taken is the smallest eigenvalue λ_1 above zero: that of crossing the
barrier σ(1 − h)², h = ξ/2σ, and of the remaining decay where there is none (h > 1). W = exp(−v/2)·u makes the operator
symmetric, −d/dx (1 − x²) d/dx + U(x), a band matrix of Legendre polynomials. Where λ_1 drowns in rounding, Brown's
(1963, eq. 4.53; Aharoni 1969) result for high barriers takes over, in logarithms:

    λ_1 τ_0 = σ^{3/2} (1 − h²)/√π · [(1 + h)·exp(−σ(1 + h)²) + (1 − h)·exp(−σ(1 − h)²)]

What it lacks is of the order of the inverse barrier, and is carried over from where the two meet.

All easy axes lie along the field: for those askew the barrier vanishes at lower fields (Stoner and Wohlfarth 1948).
"""

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.constants import physical_constants
from scipy.interpolate import CubicSpline
from scipy.linalg import eigvals_banded

from sm_search.config.simulation_settings import Particle
from sm_search.physics.particles import BOLTZMANN, magnetic_moment, sphere_volume

GYROMAGNETIC = physical_constants["electron gyromag. ratio"][0]  # rad/(s·T)

SMALLEST = 1e-6
"""Of the eigenvalue, in units of 1/τ_0: below, Brown's result for high barriers."""

HIGH_BARRIER = 8.0
"""Least barrier for that, in k_B T."""

STEP = 0.01
"""Of the table of ln λ_1, in asinh ξ."""


def barrier(core_diameter_m: float, particle: Particle) -> float:
    """σ = KV/(k_B T)."""
    anisotropy = particle.anisotropy_kj_per_m3 * 1e3
    return anisotropy * sphere_volume(core_diameter_m) / (BOLTZMANN * particle.temperature_k)


def free_neel_time(core_diameter_m: float, particle: Particle) -> float:
    """τ_0 = m(1 + α²)/(2αγ·k_B T) in s: the relaxation time without anisotropy and field."""
    damping = (1 + particle.damping**2) / (2 * particle.damping)
    thermal = BOLTZMANN * particle.temperature_k
    return magnetic_moment(core_diameter_m, particle) * damping / (GYROMAGNETIC * thermal)


def neel_table(core_diameter_m: float, particle: Particle, largest_xi: float) -> tuple[NDArray[np.float64], float]:
    """ln(λ_1 τ_0) as cubics in asinh ξ on cells of `STEP`, shape (4, cells), up to `largest_xi`; and 1/τ_0 in 1/s."""
    table_4T = _spline(barrier(core_diameter_m, particle), math.ceil(math.asinh(largest_xi) / STEP) + 1)
    return table_4T, 1 / free_neel_time(core_diameter_m, particle)


@lru_cache(maxsize=64)
def _spline(sigma: float, cells: int) -> NDArray[np.float64]:
    """Cubics of ln(λ_1 τ_0) in asinh ξ on cells of `STEP`, shape (4, cells); even in ξ."""
    position = STEP * np.arange(cells + 1)
    spline = CubicSpline(position, log_rates(sigma, np.sinh(position)), bc_type=((1, 0.0), "not-a-knot"))
    return np.ascontiguousarray(spline.c)


def log_rates(sigma: float, xi_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(λ_1 τ_0) at ascending ξ."""
    h_T = xi_T / (2 * sigma)
    high_T = (h_T < 1) & (sigma * (1 - h_T) ** 2 > HIGH_BARRIER)
    log_T = np.zeros_like(xi_T)
    log_T[high_T] = high_barrier_log_rate(sigma, h_T[high_T])
    high_T &= log_T < math.log(SMALLEST)
    exact = [math.log(eigenvalue(sigma, xi)) for xi in xi_T[~high_T]]
    if exact and high_T.any():
        join = h_T[~high_T][0]
        missing = exact[0] - high_barrier_log_rate(sigma, np.array([join]))
        log_T[high_T] += missing * ((1 - join) / (1 - h_T[high_T])) ** 2
    log_T[~high_T] = exact
    return log_T


def high_barrier_log_rate(sigma: float, h_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of Brown's λ_1 τ_0 for high barriers, 0 ≤ h < 1."""
    ways = np.logaddexp(np.log1p(h_T) - sigma * (1 + h_T) ** 2, np.log1p(-h_T) - sigma * (1 - h_T) ** 2)
    return 1.5 * math.log(sigma) - 0.5 * math.log(math.pi) + np.log1p(-(h_T**2)) + ways


def eigenvalue(sigma: float, xi: float) -> float:
    """λ_1 τ_0 from the symmetric operator in Legendre polynomials.

    U = (1 − x²)·v'²/4 − ((1 − x²)·v')'/2 with v' = −2σx − ξ; normalised, x is tridiagonal with l/√(4l² − 1).
    """
    degrees = 24 + math.ceil(8 * math.sqrt(2 * sigma + xi))
    potential = [xi**2 / 4 + sigma, (sigma - 1) * xi, sigma**2 - xi**2 / 4 - 3 * sigma, -sigma * xi, -(sigma**2)]
    band = np.tensordot(potential, _powers(64 * math.ceil(degrees / 64))[:, :, :degrees], 1)
    degree = np.arange(degrees)
    band[0] += degree * (degree + 1)
    return float(eigvals_banded(band, lower=True, select="i", select_range=(1, 1))[0]) / 2


@cache
def _powers(degrees: int) -> NDArray[np.float64]:
    """Lower bands of x⁰ to x⁴ in normalised Legendre polynomials, (5 powers, 5 bands, L)."""
    degree = np.arange(1.0, degrees + 8)  # a power of x reaches 4 degrees beyond
    step = degree / np.sqrt(4 * degree**2 - 1)
    return np.stack([_banded(np.eye(5)[power, : power + 1], step)[:, :degrees] for power in range(5)])


def _banded(coefficients: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower bands (5, L) of a polynomial of degree 4 in the tridiagonal matrix with `step` beside a zero diagonal."""
    size = len(step) + 1
    full = {0: np.full(size, coefficients[-1])}
    for coefficient in coefficients[-2::-1]:
        moved: dict[int, NDArray[np.float64]] = {}
        for offset, values in full.items():
            up, down = np.zeros(size), np.zeros(size)
            # Entry (i, i − offset) of x·p: step[i−1]·p(i−1, i−offset) + step[i]·p(i+1, i−offset).
            up[1:] = step * values[:-1]
            down[:-1] = step * values[1:]
            moved[offset + 1] = moved.get(offset + 1, 0) + up
            moved[offset - 1] = moved.get(offset - 1, 0) + down
        moved[0] = moved.get(0, np.zeros(size)) + coefficient
        full = moved
    bands = np.zeros((5, size))
    for offset, values in full.items():
        if 0 <= offset < 5:
            bands[offset, : size - offset] = values[offset:]
    return bands
