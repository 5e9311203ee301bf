"""`SystemMatrix`, the value that flows through the house, and its simulation.

Shapes: C receive channels (x, y), K components (mixing orders), N voxels with x fastest; P = N_d+1 lines (x drive
periods) in a Lissajous period, B panels in a line, Q nodes in a panel, L = B·Q, V voxels of one chunk.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.dataset import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation import FieldName, FieldSettings, Grid, MixingOrders, Scan
from sm_search.physics.particles import (
    brownian_rate,
    brownian_time_zero_field,
    langevin_parameter_per_tesla,
)
from sm_search.physics.quadrature import gauss_panel
from sm_search.physics.relaxation import NODES, RELAXATIONS, Kinetics, Trajectory, steady_state

CHUNK_SAMPLES = 1_500_000
"""Samples (time × voxels) worked on at once: bounds the memory of a worker at any grid and trajectory."""

TOLERANCE = 1e-6
"""Largest error of any component relative to its own maximum: what the constants here and in `relaxation` are chosen
for, and `tests/physics/test_accuracy.py` holds. Written to the tracer where the sampling is the default one."""

ROUNDING = 3e-15
"""Rounding errors of a component, relative to the strongest one."""

SMALLEST_XI = 0.02
"""|ξ|^1.72 is taken as smooth over panels of this half length, and of `SMALLEST_SHARE` of the drive amplitude: where
the drive is weak the high orders are faint, and feel it first."""

SMALLEST_SHARE = 0.006


@dataclass(frozen=True)
class SystemMatrix:
    """The scanner's response to a point sample at every voxel.

    Attributes:
        values_CKN: complex128 Fourier coefficients c_k of the signal s(t) = Σ_k c_k exp(iω_k t).
        mixing_orders: K pairs (m_x, m_y); the component's frequency index is k = m_x(N_d+1) + m_y·N_d.
        grid: voxel layout.
        field: gradient and drive amplitude.
        fx_hz: x drive frequency in Hz.
        nd: Lissajous trajectory number N_d; f_y = N_d/(N_d+1)·f_x.
        tracer: what is known of the particle and its model, SI numbers and words by name (empty for a measurement).
        unit: "A/m" for the magnetisation of the magnetic core material, "V" for the induced voltage.
        background_CKE: E frames without sample, in the same unit.
        snr_CK: signal-to-noise ratio of each component.
        transfer_function_CK: a_k of the receiver that the values still contain; None where there is nothing to correct.
    """

    values_CKN: NDArray[np.complex128]
    mixing_orders: tuple[tuple[int, int], ...]
    grid: Grid
    field: FieldSettings
    fx_hz: float
    nd: int
    tracer: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    unit: str = "A/m"
    background_CKE: NDArray[np.complex128] | None = None
    snr_CK: NDArray[np.float64] | None = None
    transfer_function_CK: NDArray[np.complex128] | None = None

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
        if channel and len({*self.field.gradients_t_per_m}) + len({*self.field.drives_t}) > 2:
            raise DataError(
                f"the y-channel is no exchanged x-channel where the axes have different fields: {self.field}"
            )
        images = self.values_CKN[channel].reshape(len(self.mixing_orders), size_y, size_x)
        if channel == 0:
            return images
        return images[swapped_orders(self.mixing_orders, self.grid)].transpose(0, 2, 1)


def from_channel_images(
    images: Sequence[NDArray[np.complexfloating]], orders: tuple[tuple[int, int], ...], grid: Grid
) -> NDArray[np.complex128]:
    """The inverse of `channel_images` for the channels x (and y), shape (C, K, N)."""
    values: list[NDArray[np.complexfloating]] = [np.asarray(images[0], dtype=np.complex128)]
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


def panels_per_line(path: Trajectory, kinetics: Kinetics | None, orders: MixingOrders) -> int:
    """Panels in one x drive period: enough for the highest frequency wanted and for the fastest relaxation.

    A panel spans at most one period of the highest frequency. The kernel's width does not enter: panels are refined
    where it matters. An even number keeps the trajectory's half-period symmetry exact. `tests/physics` holds the
    accuracy reached.
    """
    wanted = max(4.0, (orders.max_x + orders.max_y) / 2)
    if kinetics is not None:
        farthest_2 = path.static_2V.abs().amax(dim=1) + torch.tensor(path.drive, dtype=torch.float64)
        fastest_hz = kinetics.rate(farthest_2.square().sum()[None]).item()
        wanted = max(wanted, fastest_hz / (path.fx_hz * RELAXATIONS))
    return 2 * math.ceil(wanted / 2)


def simulate(settings: DatasetSettings, scan: Scan, which: FieldName, *, samples: int | None = None) -> SystemMatrix:
    """Simulate the system matrix of one scan at the low or the high field.

    Args:
        settings: grid, particle, magnetisation model and mixing orders.
        samples: time samples in an x drive period before refinement, rounded up to an even number of panels; by
            default from `panels_per_line`.
    """
    drive = settings.field(which)
    particle = settings.particle_of(scan)
    xi_per_tesla = langevin_parameter_per_tesla(scan.core_diameter_m, particle)
    xi_drive = (xi_per_tesla * drive.drives_t[0], xi_per_tesla * drive.drives_t[1])
    xi_per_m_21 = -xi_per_tesla * np.array(drive.gradients_t_per_m)[:, None]
    static_2N = torch.from_numpy(np.stack(voxel_centres(settings.grid)) * xi_per_m_21)
    orders = settings.orders.pairs()
    kinetics = _kinetics(settings, scan, min(xi_drive))
    whole = Trajectory(xi_drive, static_2N, scan.fx_hz, scan.nd)
    if samples is None:
        panels = panels_per_line(whole, kinetics, settings.orders)
    else:
        panels = 2 * math.ceil(samples / (2 * NODES))

    computed = _half(scan.nd, settings.grid)
    transform = _Transform(orders, scan.nd, panels)
    values_CKN = np.empty((2, len(orders), settings.grid.voxels), dtype=np.complex128)
    chunk = max(1, CHUNK_SAMPLES // (panels * NODES * (scan.nd + 1)))
    for begin in range(0, len(computed), chunk):
        voxels = computed[begin : begin + chunk]
        path = dataclasses.replace(whole, static_2V=static_2N[:, voxels])
        values_CKN[:, :, voxels] = transform(steady_state(path, kinetics, panels)).numpy()
    _fill_by_symmetry(values_CKN, orders, scan.nd, settings.grid)
    values_CKN *= particle.saturation_magnetisation_ka_per_m * 1e3
    tracer = _tracer(settings, scan, panels)
    if samples is None:
        tracer["tolerance"] = _tolerance(values_CKN)
    return SystemMatrix(values_CKN, orders, settings.grid, drive, scan.fx_hz, scan.nd, tracer)


def _kinetics(settings: DatasetSettings, scan: Scan, xi_drive: float) -> Kinetics | None:
    """The relaxation that `settings` names."""
    if settings.magnetisation == "equilibrium":
        return None
    tau_s = brownian_time_zero_field(scan.core_diameter_m, settings.particle_of(scan))
    if settings.magnetisation == "debye":
        return Kinetics(lambda xi2: torch.full_like(xi2, 1 / tau_s), None)
    return Kinetics(partial(brownian_rate, tau_zero_s=tau_s), min(SMALLEST_XI, SMALLEST_SHARE * xi_drive))


def _tolerance(values_CKN: NDArray[np.complex128]) -> float:
    """The accuracy to state, relative to each component's own maximum: `TOLERANCE`, or 1 where nothing can be said of
    the faintest component, as under the equilibrium model with small cores: it drowns in rounding."""
    largest_CK = np.abs(values_CKN).max(axis=-1)
    rounding = ROUNDING * largest_CK.max() / max(largest_CK.min(), np.finfo(float).tiny)
    return float(min(1.0, max(TOLERANCE, rounding)))


def _tracer(settings: DatasetSettings, scan: Scan, panels: int) -> dict[str, float | str]:
    """What was simulated, and how finely: SI numbers and words."""
    particle = settings.particle_of(scan)
    return {
        "magnetisation": settings.magnetisation,
        "coreDiameter": scan.core_diameter_m,
        "shellThickness": particle.shell_thickness_nm * 1e-9,
        "saturationMagnetisation": particle.saturation_magnetisation_ka_per_m * 1e3,
        "temperature": particle.temperature_k,
        "viscosity": particle.viscosity_mpa_s * 1e-3,
        "samplesPerPeriod": float(panels * NODES),
        "samplesPerPanel": float(NODES),
    }


def voxel_centres(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the N voxel centres in m, x fastest: FOV/2·(2i−1−n)/n for i = 1…n (MDF)."""
    axes = [fov / 2 * (2 * np.arange(1, n + 1) - 1 - n) / n for fov, n in zip(grid.fov_m, grid.size, strict=True)]
    y_YX, x_YX = np.meshgrid(axes[1], axes[0], indexing="ij")
    return x_YX.ravel(), y_YX.ravel()


class _Transform:
    """c_k = (1/T_R)∫ M exp(−iω_k t) dt for the wanted k only, as two small matrix products.

    With t = (p + u)/f_x and k = (m_x+m_y)(N_d+1) − m_y, the sum over lines p depends on m_y alone.
    """

    def __init__(self, orders: tuple[tuple[int, int], ...], nd: int, panels: int) -> None:
        lines = nd + 1
        self.m_y = sorted({m_y for _, m_y in orders})
        my_M, p_P = torch.tensor(self.m_y)[:, None], torch.arange(lines)[None, :]
        lines_MP = _turn(((my_M * p_P) % lines).double() / lines)
        self.lines_RP = torch.cat((lines_MP.real, lines_MP.imag))  # R = 2M rows, so that one product serves both
        self.members: list[tuple[list[int], Tensor]] = []
        panel = gauss_panel(NODES)
        u_L = torch.from_numpy((np.arange(panels)[:, None] + panel.nodes_Q).ravel() / panels)
        weights_L = torch.from_numpy(np.tile(panel.weights_Q, panels) / (panels * lines))
        for m_y in self.m_y:
            members = [index for index, order in enumerate(orders) if order[1] == m_y]
            turns_K = torch.tensor([orders[i][0] + m_y * nd / lines for i in members], dtype=torch.float64)
            self.members.append((members, _turn(-turns_K[:, None] * u_L) * weights_L))
        self.size = len(orders)

    def __call__(self, moment_BQCPV: Tensor) -> Tensor:
        """Coefficients of shape (C, K, V)."""
        panels, order, channels, _, voxels = moment_BQCPV.shape
        summed = torch.stack([self.lines_RP @ moment_QCPV for moment_QCPV in moment_BQCPV])
        real_LCMV, imag_LCMV = summed.view(panels * order, channels, -1, voxels).chunk(2, dim=2)
        result = torch.empty(self.size, channels * voxels, dtype=torch.complex128)
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
