"""`SystemMatrix`, the value that flows through the house, and its simulation.

Shapes: C receive channels (x, y), K components (mixing orders), N voxels with x fastest; L samples in a block
(one x drive period), P = N_d+1 blocks in a Lissajous period, V voxels of one chunk.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.errors import DataError
from sm_search.config.simulation import DatasetSettings, FieldName, FieldSettings, Grid, Scan
from sm_search.physics.particles import (
    brownian_rate,
    brownian_time_zero_field,
    langevin_over_xi,
    langevin_parameter_per_tesla,
)
from sm_search.physics.relaxation import HALO, periodic_steady_state

CHUNK_SAMPLES = 1_000_000
"""Samples (time × voxels) worked on at once: bounds the memory of a worker at any grid and trajectory."""


@dataclass(frozen=True)
class SystemMatrix:
    """The scanner's response to a point sample at every voxel.

    Attributes:
        values_CKN: complex128 Fourier coefficients c_k of the signal s(t) = Σ_k c_k exp(iω_k t), unit A/m:
            the magnetisation of the magnetic core material, not yet the induced voltage.
        mixing_orders: K pairs (m_x, m_y); the component's frequency index is k = m_x(N_d+1) + m_y·N_d.
        grid: voxel layout.
        field: gradient and drive amplitude.
        fx_hz: x drive frequency in Hz.
        nd: Lissajous trajectory number N_d; f_y = N_d/(N_d+1)·f_x.
        tracer: what is known of the particle and its model, SI numbers and words by name (empty for a measurement).
    """

    values_CKN: NDArray[np.complex128]
    mixing_orders: tuple[tuple[int, int], ...]
    grid: Grid
    field: FieldSettings
    fx_hz: float
    nd: int
    tracer: Mapping[str, float | str] = field(default_factory=dict)

    def frequency_index(self) -> NDArray[np.int64]:
        """k = m_x(N_d+1) + m_y·N_d for each component, shape (K,)."""
        orders_K2 = np.asarray(self.mixing_orders, dtype=np.int64)
        return orders_K2[:, 0] * (self.nd + 1) + orders_K2[:, 1] * self.nd

    def channel_images(self, channel: int) -> NDArray[np.complex128]:
        """One receive channel seen along its own axis, shape (K, Y, X), in the order of `mixing_orders`.

        The y-channel is the x-channel of a scan with exchanged axes: its images are transposed and m_x, m_y swapped,
        so that one model serves both.

        Raises:
            DataError: the y-channel is asked for on a grid that is not square, or without the swapped orders.
        """
        size_x, size_y = self.grid.size
        images = self.values_CKN[channel].reshape(len(self.mixing_orders), size_y, size_x)
        if channel == 0:
            return images
        return images[swapped_orders(self.mixing_orders, self.grid)].transpose(0, 2, 1)


def from_channel_images(
    images: Sequence[NDArray[np.complexfloating]], orders: tuple[tuple[int, int], ...], grid: Grid
) -> NDArray[np.complex128]:
    """The inverse of `channel_images` for the channels x (and y), shape (C, K, N)."""
    values = [np.asarray(images[0], dtype=np.complex128)]
    values += [other.transpose(0, 2, 1)[swapped_orders(orders, grid)] for other in images[1:]]
    return np.stack([value.reshape(len(orders), -1) for value in values])


def swapped_orders(orders: tuple[tuple[int, int], ...], grid: Grid) -> list[int]:
    """For each (m_x, m_y) the position of (m_y, m_x)."""
    position = {order: index for index, order in enumerate(orders)}
    missing = [order for order in orders if order[::-1] not in position]
    if missing or grid.size[0] != grid.size[1] or grid.fov_mm[0] != grid.fov_mm[1]:
        raise DataError(
            f"the y-channel needs a square grid (is {grid.size[0]} × {grid.size[1]} over {grid.fov_mm[0]:g} × "
            f"{grid.fov_mm[1]:g} mm) and every mixing order with its swap"
            + (f" (missing {missing[0][::-1]})" if missing else "")
        )
    return [position[order[::-1]] for order in orders]


def samples_per_period(xi_drive: float, highest_order: int) -> int:
    """Time samples in one x drive period, from the width of the Langevin kernel.

    M_eq's Fourier coefficients decay like exp(−π·m/ξ_A) (poles of L at ±iπ); the interpolation of the relaxation
    wants some thirty samples for each period of the highest mixing order. `tests/physics` holds the accuracy reached.
    """
    return 2 * math.ceil(max(32.0 * highest_order, 3.0 * xi_drive) / 2)


def simulate(settings: DatasetSettings, scan: Scan, which: FieldName, *, samples: int | None = None) -> SystemMatrix:
    """Simulate the system matrix of one scan at the low or the high field.

    Args:
        settings: grid, particle, magnetisation model and mixing orders.
        samples: time samples in an x drive period; by default from `samples_per_period`.
    """
    drive = settings.field(which)
    particle = settings.particle
    xi_per_tesla = langevin_parameter_per_tesla(scan.core_diameter_m, particle)
    highest = max(settings.orders.max_x, settings.orders.max_y)
    if samples is None:
        samples = samples_per_period(xi_per_tesla * drive.drive_t, highest)
    tau_s = brownian_time_zero_field(scan.core_diameter_m, particle) if settings.magnetisation == "brownian" else None
    orders = settings.orders.pairs()

    x_N, y_N = voxel_centres(settings.grid)
    computed = _half(scan.nd, settings.grid)
    transform = _Transform(orders, scan.nd, samples)
    values_CKN = np.empty((2, len(orders), settings.grid.voxels), dtype=np.complex128)
    chunk = max(1, CHUNK_SAMPLES // (samples * (scan.nd + 1)))
    for begin in range(0, len(computed), chunk):
        voxels = computed[begin : begin + chunk]
        xi_x, xi_y = (torch.from_numpy(drive.gradient_t_per_m * r_N[voxels] * xi_per_tesla) for r_N in (x_N, y_N))
        moment_LPCV = _magnetisation(xi_x, xi_y, xi_per_tesla * drive.drive_t, scan, samples, tau_s)
        values_CKN[:, :, voxels] = transform(moment_LPCV).numpy()
    values_CKN *= particle.saturation_magnetisation_ka_per_m * 1e3
    _fill_by_symmetry(values_CKN, orders, scan.nd, settings.grid)
    tracer: dict[str, float | str] = {
        "magnetisation": settings.magnetisation,
        "coreDiameter": scan.core_diameter_m,
        "shellThickness": particle.shell_thickness_nm * 1e-9,
        "saturationMagnetisation": particle.saturation_magnetisation_ka_per_m * 1e3,
        "temperature": particle.temperature_k,
        "viscosity": particle.viscosity_mpa_s * 1e-3,
        "samplesPerPeriod": float(samples),
    }
    return SystemMatrix(values_CKN, orders, settings.grid, drive, scan.fx_hz, scan.nd, tracer)


def voxel_centres(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the N voxel centres in m, x fastest: FOV/2·(2i−1−n)/n for i = 1…n (MDF)."""
    axes = [fov / 2 * (2 * np.arange(1, n + 1) - 1 - n) / n for fov, n in zip(grid.fov_m, grid.size, strict=True)]
    y_YX, x_YX = np.meshgrid(axes[1], axes[0], indexing="ij")
    return x_YX.ravel(), y_YX.ravel()


def _magnetisation(
    xi_x: Tensor, xi_y: Tensor, xi_drive: float, scan: Scan, samples: int, tau_s: float | None
) -> Tensor:
    """M/M_s at every sample, shape (L, P, C, V); `xi_x`, `xi_y` are the voxel's static ξ, shape (V,)."""
    halo = 0 if tau_s is None else 2 * HALO
    periods = scan.nd + 1
    last = samples - 1 if tau_s is None else samples + halo
    l_L1 = torch.arange(-halo, last + 1, dtype=torch.float64)[:, None]
    p_1P = torch.arange(periods, dtype=torch.float64)[None, :]
    # φ_y = N_d/(N_d+1)·φ_x; whole turns are dropped before multiplying by 2π to keep the phase's digits.
    turns_x = l_L1 / samples
    turns_y = (scan.nd * (l_L1 / samples + p_1P) / periods) % 1.0
    b_x = xi_drive * torch.cos(2 * math.pi * turns_x)[:, :, None] + xi_x
    b_y = xi_drive * torch.cos(2 * math.pi * turns_y)[:, :, None] + xi_y
    xi2_LPV = b_y.square().add_(b_x.square())
    ratio = langevin_over_xi(xi2_LPV.sqrt())
    equilibrium_LPCV = torch.stack((ratio * b_x, ratio * b_y), dim=2)
    if tau_s is None:
        return equilibrium_LPCV
    rate_LPV = brownian_rate(xi2_LPV, tau_s)
    step_s = 1 / (scan.fx_hz * samples)
    return periodic_steady_state(rate_LPV, equilibrium_LPCV[HALO:-HALO], step_s)


class _Transform:
    """c_k = (1/T_R)∫ M exp(−iω_k t) dt for the wanted k only, as two small matrix products.

    With t = p·L + l and k = (m_x+m_y)(N_d+1) − m_y, the sum over blocks p depends on m_y alone.
    """

    def __init__(self, orders: tuple[tuple[int, int], ...], nd: int, samples: int) -> None:
        periods = nd + 1
        self.m_y = sorted({m_y for _, m_y in orders})
        my_M, p_P = torch.tensor(self.m_y)[:, None], torch.arange(periods)[None, :]
        blocks_MP = _turn(((my_M * p_P) % periods).double() / periods)
        self.blocks_RP = torch.cat((blocks_MP.real, blocks_MP.imag))  # R = 2M rows, so that one product serves both
        self.rows: list[tuple[list[int], Tensor]] = []
        l_L = torch.arange(samples)
        for m_y in self.m_y:
            members = [index for index, order in enumerate(orders) if order[1] == m_y]
            k_K = torch.tensor([orders[i][0] * periods + m_y * nd for i in members])[:, None]
            turns = ((k_K * l_L) % (samples * periods)).double() / (samples * periods)
            self.rows.append((members, _turn(-turns) / (samples * periods)))
        self.size = len(orders)

    def __call__(self, signal_LPCV: Tensor) -> Tensor:
        """Coefficients of shape (C, K, V)."""
        samples, _, channels, voxels = signal_LPCV.shape
        flat = signal_LPCV.reshape(samples, signal_LPCV.shape[1], channels * voxels)
        real_LMS, imag_LMS = (self.blocks_RP @ flat).chunk(2, dim=1)
        result = torch.empty(self.size, channels * voxels, dtype=torch.complex128)
        for position, (members, twiddle_KL) in enumerate(self.rows):
            result[members] = twiddle_KL @ torch.complex(real_LMS[:, position], imag_LMS[:, position])
        return result.reshape(self.size, channels, voxels).transpose(0, 1)


def _turn(turns: Tensor) -> Tensor:
    """exp(2πi·turns)."""
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def _half(nd: int, grid: Grid) -> NDArray[np.int64]:
    """Voxels to compute: the half-plane that the exact parity of the trajectory (y if N_d is odd, else x) maps to all."""
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
