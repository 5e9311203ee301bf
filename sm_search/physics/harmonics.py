"""Vector fields in source-free space as gradients of solid harmonics.

R_l^m = r^l·P_l^m(cos θ)·exp(imφ)/(l+m)! without the Condon–Shortley phase. Its derivatives are harmonics again,

    ∂R_l^m/∂z = R_{l−1}^m,   (∂/∂x ± i∂/∂y)R_l^m = ∓R_{l−1}^{m±1}

(Epton and Dembart 1995, SIAM J. Sci. Comput. 16, 865, there with that phase), so divergence and curl vanish term by
term. A term's field is R^{1−l}·∇Re R_l^m (order m ≥ 0) or R^{1−l}·∇Im R_l^|m| (order −|m|), divided by its root mean
square over the sphere of radius R: then the squares of the coefficients of a field add up to its mean square there, and
the coefficients of degree 1, orders 1, −1 and 0, are a homogeneous field's components along x, y and z.

Shapes: N positions.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sm_search.config.scanner_settings import Term

Harmonics = dict[tuple[int, int], NDArray[np.complex128]]


def solid_harmonics(position_3N: NDArray[np.float64], degree: int) -> Harmonics:
    """R_l^m for 0 ≤ m ≤ l ≤ degree, in the unit of the position to the power l, each of shape (N,).

    R_m^m = (x + iy)·R_{m−1}^{m−1}/(2m) and (l² − m²)·R_l^m = (2l−1)·z·R_{l−1}^m − r²·R_{l−2}^m.
    """
    x_N, y_N, z_N = position_3N
    r2_N = x_N**2 + y_N**2 + z_N**2
    found: Harmonics = {(0, 0): np.ones(x_N.shape, dtype=complex)}
    for m in range(degree + 1):
        if m:
            found[m, m] = (x_N + 1j * y_N) / (2 * m) * found[m - 1, m - 1]
        for el in range(m + 1, degree + 1):
            before = found[el - 2, m] if el >= m + 2 else 0.0
            found[el, m] = ((2 * el - 1) * z_N * found[el - 1, m] - r2_N * before) / (el**2 - m**2)
    return found


def _signed(harmonics: Harmonics, el: int, m: int) -> NDArray[np.complex128]:
    """R_l^m for every m: R_l^{−m} = (−1)^m·conj(R_l^m), and 0 for |m| > l."""
    if abs(m) > el:
        return np.zeros_like(harmonics[0, 0])
    return harmonics[el, m] if m >= 0 else (-1) ** m * harmonics[el, -m].conj()


def harmonic_field(terms: Sequence[Term], position_3N: NDArray[np.float64], radius_m: float) -> NDArray[np.float64]:
    """Σ coefficient·(normalised gradient of the harmonic), shape (3, N), in the unit of the coefficients.

    Args:
        terms: degree, order, coefficient.
        position_3N: in m, the centre is the origin.
        radius_m: R, the reference radius.
    """
    field_3N = np.zeros(position_3N.shape)
    if not terms:
        return field_3N
    harmonics = solid_harmonics(position_3N / radius_m, max(degree for degree, _, _ in terms) - 1)
    for degree, order, coefficient in terms:
        m = abs(order)
        up, same, down = (_signed(harmonics, degree - 1, m + step) for step in (1, 0, -1))
        gradient_3N = np.stack((0.5 * (down - up), 0.5j * (down + up), same))
        part_3N = gradient_3N.real if order >= 0 else gradient_3N.imag
        field_3N += coefficient * _normalisation(degree, m) * part_3N
    return field_3N


def _normalisation(degree: int, m: int) -> float:
    """1/(root mean square over the unit sphere of |∇Re R_l^m|).

    The mean of |R_l^m|² is 1/((2l+1)(l−m)!(l+m)!), half of it in the real part for m > 0; that of the gradient of a
    real harmonic is l(2l+1) times that of the harmonic.
    """
    halves = 2 if m else 1
    return math.sqrt(math.factorial(degree - m) * math.factorial(degree + m) * halves / degree)
