"""System-matrix components of a magnetisation that lags behind the field, by integration along the trajectory.

Shapes: C receive channels (x, y), K components (mixing orders), N voxels with x fastest; P = N_d+1 lines (x drive
periods) in a Lissajous period, B panels in a line, Q nodes in a panel, L = B·Q, V voxels of one chunk.
"""

import dataclasses
import itertools
import math

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.simulation_settings import Grid, MixingOrders
from sm_search.physics.quadrature import gauss_panel
from sm_search.physics.relaxation import NODES, RELAXATIONS, Kinetics, Trajectory, steady_state

CHUNK_SAMPLES = 1_500_000
"""Samples (time × voxels) worked on at once: bounds the memory of a worker at any grid and trajectory."""

LEAST_POINTS, MOST_POINTS = 6, 12
XI_PER_POINT = 13.0
"""Points along an axis of a voxel, for the mean over it: one more than the least for every so much ξ."""

MEAN_TOLERANCE = 1e-3
"""Largest error of that mean in any component, relative to its own maximum, as long as `MOST_POINTS` suffice."""

VoxelPoints = list[tuple[float, float, float]]
"""Offsets from a voxel's centre along x and y, in units of ξ, and what the point counts; the sum is 1."""

CENTRE: VoxelPoints = [(0.0, 0.0, 1.0)]


def panels_per_line(path: Trajectory, kinetics: Kinetics, orders: MixingOrders) -> int:
    """Panels in one x drive period: enough for the highest frequency wanted and for the fastest relaxation.

    A panel spans at most one period of the highest frequency. The kernel's width does not enter: panels are refined
    where it matters. An even number keeps the trajectory's half-period symmetry exact. `tests/physics` holds the
    accuracy reached.
    """
    wanted = max(4.0, (orders.max_x + orders.max_y) / 2)
    farthest_2 = path.static_2V.abs().amax(dim=1) + torch.tensor(path.drive, dtype=torch.float64, device=path.device)
    fastest_hz = kinetics.rate(farthest_2.square().sum()[None]).item()
    if not kinetics.stiff:
        wanted = max(wanted, fastest_hz / (path.fx_hz * RELAXATIONS))
    return 2 * math.ceil(wanted / 2)


def lissajous_components(
    path: Trajectory, kinetics: Kinetics, panels: int, box: MixingOrders, grid: Grid, points: VoxelPoints
) -> NDArray[np.complex128]:
    """SM_k/M_s for the voxels with their centres on `path`, shape (C, K, N): half of them, mirrored."""
    orders = box.pairs()
    computed = _half(path.nd, grid)
    transform = _Transform(orders, path.nd, panels, path.device)
    values_CKN = np.zeros((2, len(orders), grid.voxels), dtype=np.complex128)
    chunk = max(1, CHUNK_SAMPLES // (panels * NODES * path.lines))
    for offset_x, offset_y, share in points:
        shift_21 = path.static_2V.new_tensor([[offset_x], [offset_y]])
        for begin in range(0, len(computed), chunk):
            voxels = computed[begin : begin + chunk]
            part = dataclasses.replace(path, static_2V=path.static_2V[:, voxels] + shift_21)
            values_CKN[:, :, voxels] += share * transform(steady_state(part, kinetics, panels)).cpu().numpy()
    _fill_by_symmetry(values_CKN, orders, path.nd, grid)
    return values_CKN


def voxel_points(width_xi: tuple[float, float]) -> VoxelPoints:
    """Gauss–Legendre points for the mean over a voxel whose selection field changes by `width_xi` along x and y.

    |ξ|^1.72 leaves the response a little rough along the trajectory, so that the error falls like N⁻³ only and
    `MEAN_TOLERANCE` is what N points along an axis are chosen for. Their cost is N².
    """
    axes = []
    for width in width_xi:
        roots, weights = legendre.leggauss(min(MOST_POINTS, LEAST_POINTS + int(width / XI_PER_POINT)))
        axes.append(list(zip(roots * width / 2, weights / 2, strict=True)))
    return [(x, y, share_x * share_y) for (x, share_x), (y, share_y) in itertools.product(*axes)]


class _Transform:
    """c_k = (1/T_R)∫ M exp(−iω_k t) dt for the wanted k only, as two small matrix products.

    With t = (p + u)/f_x and k = (m_x+m_y)(N_d+1) − m_y, the sum over lines p depends on m_y alone.
    """

    def __init__(self, orders: tuple[tuple[int, int], ...], nd: int, panels: int, device: torch.device) -> None:
        lines = nd + 1
        self.m_y = sorted({m_y for _, m_y in orders})
        my_M, p_P = torch.tensor(self.m_y)[:, None], torch.arange(lines)[None, :]
        lines_MP = _turn(((my_M * p_P) % lines).double() / lines)
        self.lines_RP = torch.cat((lines_MP.real, lines_MP.imag)).to(device)  # R = 2M rows: one product for both
        self.members: list[tuple[list[int], Tensor]] = []
        panel = gauss_panel(NODES)
        u_L = torch.from_numpy((np.arange(panels)[:, None] + panel.nodes_Q).ravel() / panels)
        weights_L = torch.from_numpy(np.tile(panel.weights_Q, panels) / (panels * lines))
        for m_y in self.m_y:
            members = [index for index, order in enumerate(orders) if order[1] == m_y]
            turns_K = torch.tensor([orders[i][0] + m_y * nd / lines for i in members], dtype=torch.float64)
            self.members.append((members, (_turn(-turns_K[:, None] * u_L) * weights_L).to(device)))
        self.size = len(orders)

    def __call__(self, moment_BQCPV: Tensor) -> Tensor:
        """Coefficients of shape (C, K, V)."""
        panels, order, channels, _, voxels = moment_BQCPV.shape
        summed = torch.stack([self.lines_RP @ moment_QCPV for moment_QCPV in moment_BQCPV])
        real_LCMV, imag_LCMV = summed.view(panels * order, channels, -1, voxels).chunk(2, dim=2)
        result = torch.empty(self.size, channels * voxels, dtype=torch.complex128, device=summed.device)
        for position, (members, twiddle_KL) in enumerate(self.members):
            line_sums = torch.complex(real_LCMV[:, :, position], imag_LCMV[:, :, position])
            result[members] = twiddle_KL @ line_sums.flatten(1)
        return result.view(self.size, channels, voxels).transpose(0, 1)


def _turn(turns: Tensor) -> Tensor:
    """exp(2πi·turns)."""
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def _half(nd: int, grid: Grid) -> NDArray[np.int64]:
    """Voxels to compute: the half that the exact parity of the trajectory (y if N_d is odd, else x) maps to all."""
    size_x, size_y = grid.size
    index_YX = np.arange(grid.voxels).reshape(size_y, size_x)
    half = index_YX[: (size_y + 1) // 2] if nd % 2 else index_YX[:, : (size_x + 1) // 2]
    return half.ravel()


def _fill_by_symmetry(
    values_CKN: NDArray[np.complex128], orders: tuple[tuple[int, int], ...], nd: int, grid: Grid
) -> None:
    """Mirror the computed half: the x-channel has parity (−1)^(m_y) in y (N_d odd) or −(−1)^(m_x) in x (N_d even)."""
    size_x, size_y = grid.size
    values = values_CKN.reshape(2, len(orders), size_y, size_x)
    order_K = np.asarray(orders)[:, 1 if nd % 2 else 0]
    along = (-1.0) ** order_K[:, None, None]
    signs = (along, -along) if nd % 2 else (-along, along)
    for channel, sign in enumerate(signs):
        if nd % 2:
            half = size_y // 2
            values[channel, :, size_y - half :] = sign * values[channel, :, half - 1 :: -1][:, :half]
        else:
            half = size_x // 2
            values[channel, :, :, size_x - half :] = sign * values[channel, :, :, half - 1 :: -1][:, :, :half]
