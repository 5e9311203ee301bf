"""The full rotational dynamics that the Brownian model approximates: the Fokker–Planck (Smoluchowski) equation

    2τ_B ∂W/∂t = ∇²W − ∇·(W ∇(b·u)),    b = m·B/(k_B T) in the x-y plane, u the direction of a rigid dipole

(W. F. Brown, Phys. Rev. 130, 1677 (1963); Coffey, Kalmykov and Waldron, The Langevin Equation, 2nd ed. (2004),
chapter 7), in spherical harmonics. Quantised along the field, every m is a tridiagonal system in l; quantised along z,
a change of the field's direction is a phase. The state is kept along z and every static step is taken along its field.

W is even in z, which leaves l+1 real numbers per l: cos(mφ), m = 0…l, about the field; Re and Im of Λ = l, l−2, … ≥ 0
about z. Normalisation: Y_00 has coefficient 1 and ⟨cos θ⟩ = c_10/√3.

Shapes: V voxels; N = Σ(⌊l/2⌋+1) coefficients about z (complex); F = Σ(l+1) coefficients about the field (real).
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

Field = Callable[[float], NDArray[np.float64]]
"""b_x, b_y of all voxels at a time in s, shape (2, V)."""

POLE = 3 + 1j * math.sqrt(3)
RESIDUE = 6 - 6j * math.sqrt(3)
"""exp(z) ≈ (1 + z/2 + z²/12)/(1 − z/2 + z²/12) = 1 + 2·Re[a/(z − p)] for real z: Padé, order 4, A-stable."""

EARLY, LATE = 0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6
NEAR, FAR = 0.5 + math.sqrt(3) / 3, 0.5 - math.sqrt(3) / 3


class FokkerPlanck:
    """Dipoles with Brownian time `tau_s`, harmonics up to `l_max`."""

    def __init__(self, l_max: int, tau_s: float) -> None:
        self.tau_s = tau_s
        self.bases = [quantisation_change(degree) for degree in range(l_max + 1)]
        self.along_z = slices([degree // 2 + 1 for degree in range(l_max + 1)])
        self.along_field = slices([degree + 1 for degree in range(l_max + 1)])
        self.order_N = np.concatenate([np.arange(degree % 2, degree + 1, 2)[::-1] for degree in range(l_max + 1)])
        # cos θ·Y_lm = α_{l+1}·Y_{l+1} + α_l·Y_{l−1}; here for m = 0…l−1, as α vanishes at m = l.
        self.alpha = [
            np.sqrt((degree**2 - np.arange(degree)[:, None] ** 2) / (4.0 * degree**2 - 1))
            for degree in range(l_max + 1)
        ]

    def uniform(self, voxels: int) -> NDArray[np.complex128]:
        """All directions equally likely, shape (N, V)."""
        state_NV = np.zeros((len(self.order_N), voxels), dtype=complex)
        state_NV[0] = 1
        return state_NV

    def moment(self, state_NV: NDArray[np.complex128]) -> NDArray[np.float64]:
        """⟨u_x⟩, ⟨u_y⟩, shape (2, V)."""
        even, odd = self.bases[1]
        (one,) = state_NV[self.along_z[1]]
        return np.stack([even[0, 0] * one.real, -odd[0, 0] * one.imag]) / math.sqrt(3)

    def static(
        self, state_NV: NDArray[np.complex128], field_2V: NDArray[np.float64], duration_s: float
    ) -> NDArray[np.complex128]:
        """One step in a constant field, shape (N, V): Padé's exponential of the operator."""
        angle_V = np.arctan2(field_2V[1], field_2V[0])
        turn_NV = np.exp(1j * np.arange(len(self.bases))[:, None] * angle_V)[self.order_N]
        turned_NV = state_NV * turn_NV
        real_NV, imag_NV = turned_NV.real.copy(), turned_NV.imag.copy()
        field_FV = np.empty((self.along_field[-1].stop, state_NV.shape[1]))
        for (even, odd), z, f in zip(self.bases, self.along_z, self.along_field, strict=True):
            field_FV[f][0::2] = even @ real_NV[z]
            field_FV[f][1::2] = -odd @ imag_NV[z]
        field_FV += 2 * self._resolvent(field_FV, np.hypot(*field_2V), duration_s / (2 * self.tau_s)).real
        for (even, odd), z, f in zip(self.bases, self.along_z, self.along_field, strict=True):
            real_NV[z] = even.T @ field_FV[f][0::2]
            imag_NV[z] = -odd.T @ field_FV[f][1::2]
        return (real_NV + 1j * imag_NV) * turn_NV.conj()

    def _resolvent(
        self, value_FV: NDArray[np.float64], xi_V: NDArray[np.float64], step: float
    ) -> NDArray[np.complex128]:
        """a·(step·L − p)^(−1), shape (F, V), L tridiagonal in l for each m:

        (L c)_l = −l(l+1)·c_l + ξ·[(l+1)·α_l·c_{l−1} − l·α_{l+1}·c_{l+1}].
        """
        solved_FV = RESIDUE * value_FV
        pivots: list[NDArray[np.complex128]] = []
        for degree, f in enumerate(self.along_field):
            pivot_MV = np.full((degree + 1, len(xi_V)), -step * degree * (degree + 1) - POLE)
            if degree:
                ratio_MV = step * xi_V * self.alpha[degree] / pivots[-1]
                pivot_MV[:-1] += (degree**2 - 1) * step * xi_V * self.alpha[degree] * ratio_MV
                solved_FV[f][:-1] -= (degree + 1) * ratio_MV * solved_FV[self.along_field[degree - 1]]
            pivots.append(pivot_MV)
        for degree, f in reversed(list(enumerate(self.along_field))):
            if degree + 1 < len(pivots):
                above_MV = solved_FV[self.along_field[degree + 1]][:-1]
                solved_FV[f] += degree * step * xi_V * self.alpha[degree + 1] * above_MV
            solved_FV[f] /= pivots[degree]
        return solved_FV

    def drive(
        self, state_NV: NDArray[np.complex128], field: Field, times_s: NDArray[np.float64]
    ) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        """The state at the last of the T+1 times, and the moments at the first T, shape (2, V, T).

        Commutator-free Magnus integrator of order 4: two static steps in mixtures of the fields at two Gauss nodes
        (Blanes and Moan, Appl. Numer. Math. 56, 1519 (2006)).
        """
        moments = []
        for begin, end in itertools.pairwise(times_s.tolist()):
            moments.append(self.moment(state_NV))
            duration_s = end - begin
            first, second = field(begin + EARLY * duration_s), field(begin + LATE * duration_s)
            state_NV = self.static(state_NV, NEAR * first + FAR * second, duration_s / 2)
            state_NV = self.static(state_NV, FAR * first + NEAR * second, duration_s / 2)
        return state_NV, np.stack(moments, axis=-1)


def two_times(moment_2V: NDArray[np.float64], b_2V: NDArray[np.float64], tau_s: float) -> NDArray[np.float64]:
    """dM/dt in 1/s, shape (2, V), with the times of a small deviation from equilibrium along and across the field:

    τ_∥ = τ_B·d ln L/d ln ξ, τ_⊥ = 2L/(ξ − L)·τ_B (Martsenyuk, Raikher and Shliomis, Sov. Phys. JETP 38, 413 (1974)).
    """
    xi_V = np.hypot(*b_2V)
    ratio_V, slope_V = langevin_ratio_and_slope(xi_V)
    unit_2V = b_2V / xi_V
    along_2V = (moment_2V * unit_2V).sum(axis=0) * unit_2V
    longitudinal_2V = ratio_V / slope_V * (along_2V - ratio_V * b_2V)
    return -(longitudinal_2V + (1 / ratio_V - 1) / 2 * (moment_2V - along_2V)) / tau_s


def effective_field(e_2V: NDArray[np.float64], b_2V: NDArray[np.float64], tau_s: float) -> NDArray[np.float64]:
    """de/dt in 1/s, shape (2, V), of the field e whose equilibrium has the moments M = L(e)·ê.

    The first moment of the Fokker–Planck equation is exactly τ_B dM/dt = −½(1 − ⟨uu⟩)(e − b) if W is the equilibrium
    in e (Martsenyuk, Raikher and Shliomis 1974): along e L/e, across it (1 − L/e)/2.
    """
    size_V = np.hypot(*e_2V)
    ratio_V, slope_V = langevin_ratio_and_slope(size_V)
    unit_2V = e_2V / size_V
    along_2V = (b_2V * unit_2V).sum(axis=0) * unit_2V
    return ((1 / ratio_V - 1) / 2 * (b_2V - along_2V) - ratio_V / slope_V * (e_2V - along_2V)) / tau_s


def langevin_ratio_and_slope(xi: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L(ξ)/ξ and L'(ξ) = 1 − L² − 2L/ξ."""
    small = xi < 0.1
    safe = np.where(small, 1.0, xi)
    ratio = np.where(small, 1 / 3 - xi**2 / 45 + 2 * xi**4 / 945 - xi**6 / 4725, (1 / np.tanh(safe) - 1 / safe) / safe)
    slope = np.where(small, 1 / 3 - xi**2 / 15 + 2 * xi**4 / 189 - xi**6 / 675, 1 - (ratio * xi) ** 2 - 2 * ratio)
    return ratio, slope


def runge_kutta(
    slope: Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.float64]],
    start_2V: NDArray[np.float64],
    field: Field,
    times_s: NDArray[np.float64],
    tau_s: float,
) -> NDArray[np.float64]:
    """The solution of `two_times` or `effective_field` at the first T of T+1 times, shape (2, V, T); order 4."""
    y, states = start_2V, []
    for begin, end in itertools.pairwise(times_s.tolist()):
        states.append(y)
        h, b_0, b_1, b_2 = end - begin, field(begin), field((begin + end) / 2), field(end)
        k_1 = slope(y, b_0, tau_s)
        k_2 = slope(y + h / 2 * k_1, b_1, tau_s)
        k_3 = slope(y + h / 2 * k_2, b_1, tau_s)
        k_4 = slope(y + h * k_3, b_2, tau_s)
        y = y + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    return np.stack(states, axis=-1)


def slices(sizes: list[int]) -> list[slice]:
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for end, size in zip(ends.tolist(), sizes, strict=True)]


def quantisation_change(degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From coefficients about z (with the field along x) to the even and the odd cos(mφ) about x.

    c_even = E·Re z and c_odd = −O·Im z; orthogonal. The generator of rotations about z, quantised along x, is
    tridiagonal in m; its eigenvectors are the harmonics about z, its eigenvalues Λ = −l, −l+2, …, l.
    """
    m = np.arange(degree)
    ladder = np.sqrt((degree - m) * (degree + m + 1)) / 2
    ladder[:1] *= math.sqrt(2)
    if degree == 0:
        return np.ones((1, 1)), np.empty((0, 1))
    eigenvectors = eigh_tridiagonal(np.zeros(degree + 1), ladder)[1]
    columns = eigenvectors[:, ::-1][:, : degree // 2 + 1] * math.sqrt(2)
    if degree % 2 == 0:
        columns[:, -1] /= math.sqrt(2)
    sign = (-1.0) ** (np.arange(degree + 1) // 2)
    columns *= sign[:, None]
    return np.ascontiguousarray(columns[0::2]), np.ascontiguousarray(columns[1::2])
