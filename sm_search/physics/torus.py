"""The Langevin magnetisation's spectrum over independent drive phases, and from it the equilibrium system matrix.

L(ξ)/ξ = Σ_n 2/(ξ² + n²π²) (n ≥ 1) is a mixture of Gaussians, ∫_0^∞ exp(−v²ξ²)·w(v) dv with
w(v) = 2v·(ϑ(v²) − 1), ϑ(t) = Σ_{n∈Z} exp(−n²π²t): the partial fractions of coth, each written as a Laplace integral.
A Gaussian of |B| is a product of one of B_x and one of B_y, where B_x knows x and φ_x only, and B_y knows y and φ_y. So

    M/M_s = B·Σ_r w_r·exp(−γ_r²B_x²)·exp(−γ_r²B_y²)

with some dozens of terms, and each coefficient c[a, b] of the 2-D spectrum over independent phases is, at each voxel, a
sum of products of 1-D ones. The drives are cosines, so those are real, even in their order, and Chebyshev–Gauss sums.
By aliasing SM_k = Σ_j c[m_x + jN_d, m_y − j(N_d+1)], so that a matrix product over r and j gives every component.
A mixture of particle sizes only changes the weights w_r, and the mean over a voxel is taken of the 1-D kernels.

With independent phases both parities are exact, so a quarter of the voxels is computed: x→−x multiplies a term of the
x-channel by −(−1)^(m_x + jN_d), y→−y by (−1)^(m_y + j(N_d+1)).

Shapes: C channels, R Gaussians, S sizes, N voxels along an axis, H = ⌈N/2⌉ of them, T nodes of a drive's phase,
J aliases of one parity, I = R·J, O = m_max + 1 mixing orders of an axis.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

NODES = 14
"""Gauss–Legendre nodes of a panel of v: with `RATIO` L(ξ)/ξ comes out within 1e-11 of itself."""

RATIO = 3.0
"""The panels of v grow by this factor."""

LARGEST_V = 2.3
"""w(v) ≈ 4v·exp(−π²v²) is below 1e-15 beyond."""

NEGLIGIBLE = 1e-17
"""A contribution to M/M_s that is left out; and where the kernel is sharp, so that no component is faint: …"""

NEGLIGIBLE_IF_SHARP = 1e-12

SHARP = 5
"""The kernel is sharp if its spectrum is not negligible at this many times the largest m_x + m_y."""

SPARE_NODES = 8
"""The spectrum of exp(−γ²A²cos²φ) falls like exp(−a²/(2γA)²) for γA ≫ 1, more slowly else."""

CHUNK = 4_000_000
"""Numbers worked on at once."""

WIDE_VOXEL = 1.0
"""From this γ·(width of a voxel) on, the mean of a Gaussian is a difference of error functions."""

VOXEL_POINTS = 8
"""Gauss–Legendre points of the mean over narrower voxels: exact to rounding."""


@dataclass(frozen=True)
class Mixture:
    """M/M_s = B·Σ_r weight_r·exp(−gamma_r²·|B|²), both in 1/T, gamma ascending."""

    gamma_R: NDArray[np.float64]
    weight_R: NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """One axis of the grid and the field along it.

    Attributes:
        drive_t: drive amplitude in T.
        edge_t: selection field at the first edge of the grid in T; at the opposite edge it is −edge_t.
        voxels: N.
        mean: average over each voxel, instead of the response at its centre.
        max_order: the largest mixing order wanted.
        step: what an alias adds to the order: N_d on the x axis, −(N_d+1) on the y axis.
    """

    drive_t: float
    edge_t: float
    voxels: int
    mean: bool
    max_order: int
    step: int

    @property
    def largest_t(self) -> float:
        return abs(self.edge_t) + self.drive_t

    @property
    def half(self) -> int:
        return (self.voxels + 1) // 2

    @property
    def width_t(self) -> float:
        """What the selection field changes by over a voxel."""
        return 2 * abs(self.edge_t) / self.voxels

    def centres_t(self) -> NDArray[np.float64]:
        """Selection field at the first half of the voxel centres, shape (H,)."""
        return self.edge_t * (1 - (2 * np.arange(self.half) + 1) / self.voxels)

    def orders(self, alias_J: NDArray[np.int64]) -> NDArray[np.int64]:
        """|m + j·step|, shape (J, O)."""
        return np.abs(np.arange(self.max_order + 1) + alias_J[:, None] * self.step)


def langevin_mixture(xi_per_tesla_S: NDArray[np.float64], share_S: NDArray[np.float64], largest_t: float) -> Mixture:
    """Of particles with these ξ/B and shares of the core volume, for fields up to `largest_t` along each axis."""
    smallest, largest = xi_per_tesla_S.min(), xi_per_tesla_S.max()
    first = min(math.sqrt(2) / largest_t, LARGEST_V / RATIO**2 * smallest)
    panels = math.ceil(math.log(LARGEST_V * largest / first, RATIO))
    edges = np.append(0.0, np.geomspace(first, LARGEST_V * largest, panels + 1))
    nodes, weights = _panel()
    gamma_R = (edges[:-1, None] + np.diff(edges)[:, None] * nodes).ravel()
    d_gamma_R = (np.diff(edges)[:, None] * weights).ravel()
    return Mixture(gamma_R, d_gamma_R * (share_S @ gaussian_weight(gamma_R / xi_per_tesla_S[:, None])))


@cache
def _panel() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss–Legendre nodes and weights of a panel of unit length."""
    roots, weights = legendre.leggauss(NODES)
    return (roots + 1) / 2, weights / 2


def gaussian_weight(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """w(v) = 2v·(ϑ(v²) − 1): for large v by ϑ's own series, else by that of its Poisson sum."""
    t = np.square(v)
    n2 = np.arange(1, 7).reshape(-1, *[1] * v.ndim) ** 2
    series = 2 * np.exp(-(math.pi**2) * n2 * t).sum(axis=0)
    poisson = (1 + 2 * np.exp(-n2 / t).sum(axis=0)) / np.sqrt(math.pi * t) - 1
    return 2 * v * np.where(t > 1 / math.pi, series, poisson)


@dataclass(frozen=True)
class _Group:
    """Gaussians that share `nodes` phase nodes and aliases j = −reach…reach."""

    gamma_R: NDArray[np.float64]
    weight_R: NDArray[np.float64]
    nodes: int
    reach: int

    def aliases(self, parity: int) -> NDArray[np.int64]:
        """The even (0) or odd (1) j."""
        alias_J = np.arange(-self.reach, self.reach + 1)
        return alias_J[alias_J % 2 == parity]


def equilibrium_components(mixture: Mixture, x: Axis, y: Axis, device: torch.device) -> NDArray[np.float64]:
    """SM_k/M_s for the box of mixing orders without (0, 0): real, shape (C, K, N_y·N_x)."""
    rows, columns = (y.max_order + 1) * y.half, (x.max_order + 1) * x.half
    even, odd = torch.zeros(2, rows, columns, dtype=torch.float64, device=device), None
    for group in _groups(mixture, x, y):
        x_spectra = _Spectra(x, group, device)
        y_spectra = x_spectra if _same_line(x, y) else _Spectra(y, group, device)
        _add_products(even, x_spectra, y_spectra, x, y, group, 0)
        if group.reach:
            odd = torch.zeros_like(even) if odd is None else odd
            _add_products(odd, x_spectra, y_spectra, x, y, group, 1)
    shape = 2, y.max_order + 1, y.half, x.max_order + 1, x.half
    values = _mirrored(even.view(shape), None if odd is None else odd.view(shape), x, y)
    return values.reshape(2, -1, y.voxels * x.voxels)[:, 1:]


def _add_products(
    sums: Tensor, x_spectra: "_Spectra", y_spectra: "_Spectra", x: Axis, y: Axis, group: _Group, parity: int
) -> None:
    """Add Σ_r Σ_j of the aliases of one parity to `sums`, shape (C, O_y·H_y, O_x·H_x)."""
    alias_J = group.aliases(parity)
    x_IM, bx_IM = x_spectra.at(x.orders(alias_J))
    y_IM, by_IM = x_IM, bx_IM
    if y_spectra is not x_spectra or group.reach or x.max_order != y.max_order:
        y_IM, by_IM = y_spectra.at(y.orders(alias_J))
    weight_I1 = torch.from_numpy(np.repeat(group.weight_R, len(alias_J))).to(sums.device)[:, None]
    sums[0].addmm_((y_IM * weight_I1).T, bx_IM)
    sums[1].addmm_((by_IM * weight_I1).T, x_IM)


def _mirrored(even: Tensor, odd: Tensor | None, x: Axis, y: Axis) -> NDArray[np.float64]:
    """All voxels, shape (C, O_x, O_y, N_y, N_x), from a quarter of them, shape (C, O_y, H_y, O_x, H_x): the sums over
    the even aliases and over the odd ones, if there are any."""
    same = other = even.permute(0, 3, 1, 2, 4).cpu().numpy()
    if odd is not None:
        odd_part = odd.permute(0, 3, 1, 2, 4).cpu().numpy()
        same, other = same + odd_part, same - odd_part
    channel = np.array([1.0, -1.0]).reshape(2, 1, 1, 1, 1)
    sign_x = -channel * (-1.0) ** np.arange(x.max_order + 1).reshape(-1, 1, 1, 1)
    sign_y = channel * (-1.0) ** np.arange(y.max_order + 1).reshape(-1, 1, 1)
    mirror_x, mirror_y = (other, same) if x.step % 2 else (same, other)
    far_x, far_y = slice(None, -(x.voxels // 2) - 1, -1), slice(None, -(y.voxels // 2) - 1, -1)
    twin_x, twin_y = slice(x.voxels // 2), slice(y.voxels // 2)
    values = np.empty((*same.shape[:3], y.voxels, x.voxels))
    values[..., : y.half, : x.half] = same
    np.multiply(mirror_x[..., twin_x], sign_x, out=values[..., : y.half, far_x])
    np.multiply(mirror_y[..., twin_y, :], sign_y, out=values[..., far_y, : x.half])
    np.multiply(other[..., twin_y, twin_x], sign_x * sign_y, out=values[..., far_y, far_x])
    return values


def _same_line(x: Axis, y: Axis) -> bool:
    return (x.drive_t, x.edge_t, x.voxels) == (y.drive_t, y.edge_t, y.voxels)


def _groups(mixture: Mixture, x: Axis, y: Axis) -> Iterator[_Group]:
    """Sharp Gaussians have the broadest spectra, and need the most nodes and aliases."""
    drive_t = max(x.drive_t, y.drive_t)
    size_R = mixture.weight_R * max(x.largest_t, y.largest_t)
    cut_R = 2 * mixture.gamma_R * np.sqrt(np.log(np.maximum(size_R / NEGLIGIBLE, 1)))
    if cut_R.max() * drive_t > SHARP * (x.max_order + y.max_order):
        cut_R = 2 * mixture.gamma_R * np.sqrt(np.log(np.maximum(size_R / NEGLIGIBLE_IF_SHARP, 1)))
    level_R = np.where(cut_R > 0, np.ceil(np.log2(np.maximum(cut_R * drive_t, 64.0) / 64.0)), -1)
    for level in np.unique(level_R[level_R >= 0]):
        here = np.flatnonzero(level_R == level)
        cut = cut_R[here].max()
        reach = _reach(x, y, cut)
        highest = max(axis.max_order + reach * abs(axis.step) for axis in (x, y))
        nodes = next_fast_len(max(math.ceil((cut * drive_t + highest) / 2), highest) + SPARE_NODES, real=True)
        most = max((axis.max_order + 1) * axis.half * (reach + 1) for axis in (x, y))
        most = max(most, nodes * max(x.half, y.half))
        for part in np.array_split(here, math.ceil(len(here) / max(1, CHUNK // most))):
            yield _Group(mixture.gamma_R[part], mixture.weight_R[part], nodes, reach)


def _reach(x: Axis, y: Axis, cut: float) -> int:
    """The largest j for which a coefficient c[m_x + jN_d, m_y − j(N_d+1)] is not negligible."""

    def matters(j: int) -> bool:
        order_x, order_y = (max(0, j * abs(axis.step) - axis.max_order) for axis in (x, y))
        return (order_x / x.drive_t) ** 2 + (order_y / y.drive_t) ** 2 < cut**2

    j = 0
    while matters(j + 1):
        j += 1
    return j


class _Spectra:
    """1-D spectra of exp(−γ²B²) and of B·exp(−γ²B²) at the first half of an axis' voxels, or their means over each.

    The sum of f(φ_t)·cos(aφ_t) over φ_t = π(t+½)/T is a discrete cosine transform: with the even t first and the
    odd ones backwards behind them, the real part of exp(−iπa/2T) times their Fourier transform (Makhoul 1980).
    """

    def __init__(self, axis: Axis, group: _Group, device: torch.device) -> None:
        nodes = group.nodes
        t_T = torch.cat((torch.arange(0, nodes, 2), torch.arange(1, nodes, 2).flip(0))).to(device)
        drive_T = axis.drive_t * torch.cos(math.pi * (t_T.double() + 0.5) / nodes)
        gamma_R11 = torch.from_numpy(group.gamma_R).to(device)[:, None, None]
        centre_H1 = torch.from_numpy(axis.centres_t()).to(device)[:, None]
        kernels_RHT = _kernels(drive_T + centre_H1, gamma_R11, axis.width_t if axis.mean else 0.0)
        self.nodes = nodes
        self.transform_2RHF = torch.fft.rfft(torch.stack(kernels_RHT))

    def at(self, order_JO: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Coefficients of these orders, of the kernel without and with the factor B; both (R·J, O·H)."""
        order_F = torch.from_numpy(order_JO.ravel()).to(self.transform_2RHF.device)
        angle_F = math.pi / 2 / self.nodes * order_F.double()
        beyond_F = 2 * order_F > self.nodes
        picked_2RHF = self.transform_2RHF[..., torch.where(beyond_F, self.nodes - order_F, order_F)]
        sine_F = torch.where(beyond_F, -angle_F.sin(), angle_F.sin())
        values_2RHF = (picked_2RHF.real * angle_F.cos()).addcmul_(picked_2RHF.imag, sine_F).div_(self.nodes)
        gaussians = values_2RHF.shape[1]
        values_2IM = values_2RHF.transpose(2, 3).reshape(2, gaussians * len(order_JO), -1)
        return values_2IM[0], values_2IM[1]


def _kernels(field_HT: Tensor, gamma_R11: Tensor, width_t: float) -> tuple[Tensor, Tensor]:
    """exp(−γ²B²) and B·exp(−γ²B²), averaged over a width of the field; both (R, H, T)."""
    if width_t == 0:
        plain = (-gamma_R11.square() * field_HT.square()).exp_()
        return plain, plain * field_HT
    if gamma_R11.min() * width_t >= WIDE_VOXEL:
        first, last = field_HT - width_t / 2, field_HT + width_t / 2
        mean = torch.erf(gamma_R11 * last).sub_(torch.erf(gamma_R11 * first)).mul_(math.sqrt(math.pi) / 2 / gamma_R11)
        gamma2 = gamma_R11.square()
        field_mean = (-gamma2 * first.square()).exp_().sub_((-gamma2 * last.square()).exp_()).div_(2 * gamma2)
        return mean.div_(width_t), field_mean.div_(width_t)
    roots, weights = legendre.leggauss(VOXEL_POINTS)
    parts = [_kernels(field_HT + root * width_t / 2, gamma_R11, 0.0) for root in roots]
    shares = field_HT.new_tensor(weights / 2)
    return torch.tensordot(shares, torch.stack([p[0] for p in parts]), 1), torch.tensordot(
        shares, torch.stack([p[1] for p in parts]), 1
    )
