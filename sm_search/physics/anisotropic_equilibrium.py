"""The equilibrium of cores with uniaxial anisotropy whose easy axes lie along the selection field at their place, or
in every direction.

With h = m·B/(k_B T), σ = KV/(k_B T) and the easy axis n the directions u of the moments have the density
exp(h·u + σ(u·n)²), and the mean moment lies in the plane of h and n: M/M_s = g_∥·h_∥ n + g_⊥·h_⊥. The two functions
of (h_∥, h_⊥) are integrals over x = u·n,

    h_∥ g_∥ = ⟨x⟩,   h_⊥ g_⊥ = ⟨√(1−x²)·I_1/I_0⟩   with the weight exp(σx² + h_∥x)·I_0(h_⊥√(1−x²)) on −1…1,

and are tabulated: polynomials of degree D−1 in asinh |h_∥| and asinh |h_⊥| on square cells. Kluth, Szwargulski and
Knopp (New J. Phys. 21, 103032, 2019) and arXiv:2403.00602 fitted measured matrices with an anisotropic equilibrium.
The mean over axes of every direction lies along h: g_∥ = g_⊥ = g(h), with g(0) = ⅓ whatever σ is.

Shapes: X quadrature nodes, c cells along an axis, D powers, N voxels.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import i0e, i1e

from sm_search.config.simulation_settings import EasyAxes
from sm_search.physics.panel_kernel import CELL, POWERS

Functions = tuple[NDArray[np.float64], NDArray[np.float64]]
Moment = Callable[[NDArray[np.float64], NDArray[np.float64]], Functions]

X_NODES = 240
AXES = 48
"""Nodes of the angle between field and easy axis, for the mean over all directions."""
SPLINE_POINTS = 600


def easy_axes(static_3N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions of the selection field, shape (N, 3); where it vanishes z, which breaks no symmetry of the plane."""
    size_N = np.linalg.norm(static_3N, axis=0)
    axis_N3 = (static_3N / np.where(size_N > 0, size_N, 1.0)).T
    axis_N3[size_N == 0] = (0.0, 0.0, 1.0)
    return np.ascontiguousarray(axis_N3)


def mean_moment(h_along: NDArray[np.float64], h_across: NDArray[np.float64], sigma: float) -> Functions:
    """g_∥ and g_⊥ at positive h_∥ and h_⊥, by quadrature."""
    x_X, weight_X = legendre.leggauss(X_NODES)
    s_X = np.sqrt(1 - x_X**2)
    argument = h_across[..., None] * s_X
    exponent = sigma * x_X**2 + h_along[..., None] * x_X + argument
    density = weight_X * np.exp(exponent - exponent.max(axis=-1, keepdims=True))
    zeroth = density * i0e(argument)
    total = zeroth.sum(axis=-1)
    # ⟨x⟩ from the pairs ±x: nothing cancels where h_∥ is small.
    pairs = np.tanh(h_along[..., None] * x_X)
    symmetric = zeroth + zeroth[..., ::-1]
    along = (symmetric * pairs * x_X).sum(axis=-1) / 2
    across = (density * i1e(argument) * s_X).sum(axis=-1)
    return along / total / h_along, across / total / h_across


def mean_over_axes(h: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """g of axes that are spread evenly over the sphere, at positive h."""
    cosine, weight = ((values + shift) / 2 for values, shift in zip(legendre.leggauss(AXES), (1, 0), strict=True))
    sine = np.sqrt(1 - cosine**2)
    along, across = mean_moment(h[..., None] * cosine, h[..., None] * sine, sigma)
    return np.asarray(along * cosine**2 + across * sine**2) @ weight


@lru_cache(maxsize=16)
def moment_table(sigma: float, cells: int, axes: EasyAxes = "selection-field") -> NDArray[np.float64]:
    """Polynomials of g_∥ and g_⊥ in the position within each cell (−1…1), shape (c, c, 2, D, D)."""
    moment = partial(mean_moment, sigma=sigma) if axes == "selection-field" else _isotropic(sigma, cells)
    t_D = np.cos(math.pi * (np.arange(POWERS) + 0.5) / POWERS)
    h_cD = np.sinh((np.arange(cells)[:, None] + (t_D + 1) / 2) * CELL)
    to_chebyshev = np.linalg.inv(chebyshev.chebvander(t_D, POWERS - 1))
    to_powers = np.array([np.pad(chebyshev.cheb2poly(row), (0, POWERS))[:POWERS] for row in np.eye(POWERS)]).T
    to_powers = to_powers @ to_chebyshev
    table = np.empty((cells, cells, 2, POWERS, POWERS))
    for i in range(cells):
        along, across = np.broadcast_arrays(h_cD[i][:, None, None], h_cD[None])
        values_2DcD = np.stack(moment(along, across))
        table[i] = np.einsum("ai,gicj,bj->cgab", to_powers, values_2DcD, to_powers)
    return table


def _isotropic(sigma: float, cells: int) -> Moment:
    """g as both functions of (h_∥, h_⊥), from a spline over asinh h."""
    asinh_h = np.linspace(1e-6, CELL * cells + 1, SPLINE_POINTS)
    g = [mean_over_axes(np.sinh(part), sigma) for part in asinh_h.reshape(-1, 60)]  # at once it would fill the memory
    spline = CubicSpline(asinh_h, np.concatenate(g))

    def moment(h_along: NDArray[np.float64], h_across: NDArray[np.float64]) -> Functions:
        both = spline(np.arcsinh(np.hypot(h_along, h_across)))
        return both, both

    return moment


def cells_for(largest_xi: float) -> int:
    """Cells along an axis of the table up to this ξ."""
    return math.ceil(math.asinh(largest_xi) / CELL) + 1
