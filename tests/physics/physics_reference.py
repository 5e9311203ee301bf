"""Independent references in plain numpy / scipy, written from the equations and not from the package.

Shapes: C = 2 channels, K mixing orders, V voxels, T samples of one Lissajous period.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from sm_search.config.dataset_settings import DatasetSettings, Design
from sm_search.config.simulation_settings import FieldName, Grid, MixingOrders, Scan

K_B = 1.380649e-23

SCAN = Scan(core_diameter_nm=30, fx_khz=25, nd=6)


def settings(
    magnetisation: str = "equilibrium", size: tuple[int, int] = (4, 4), orders: tuple[int, int] = (3, 3), **more
) -> DatasetSettings:
    """A small dataset; its splits only satisfy the schema."""
    designs = {
        split: (Design(core_diameter_nm=(30,), fx_khz=(fx,), nd=(999,)),)
        for split, fx in (("train", 10), ("validation", 11), ("test", 12))
    }
    return DatasetSettings(
        name="reference",
        magnetisation=magnetisation,
        grid=Grid(size=size),
        orders=MixingOrders(max_x=orders[0], max_y=orders[1]),
        splits=designs,
        **more,
    )


def voxels(chosen: DatasetSettings) -> NDArray[np.float64]:
    """Centres in m, shape (V, 2), x fastest."""
    (nx, ny), (fov_x, fov_y) = chosen.grid.size, chosen.grid.fov_mm
    return (
        np.array(
            [
                ((i + 0.5) / nx * fov_x - fov_x / 2, (j + 0.5) / ny * fov_y - fov_y / 2)
                for j in range(ny)
                for i in range(nx)
            ]
        )
        * 1e-3
    )


def beta(chosen: DatasetSettings, scan: Scan) -> float:
    """ξ/B in 1/T."""
    particle = chosen.particle
    volume = math.pi / 6 * (scan.core_diameter_nm * 1e-9) ** 3
    return particle.saturation_magnetisation_ka_per_m * 1e3 * volume / (K_B * particle.temperature_k)


def tau_brown(chosen: DatasetSettings, scan: Scan) -> float:
    """3ηV_h/(k_B T) in s."""
    particle = chosen.particle
    diameter = (scan.core_diameter_nm + 2 * particle.shell_thickness_nm) * 1e-9
    return 3 * particle.viscosity_mpa_s * 1e-3 * math.pi / 6 * diameter**3 / (K_B * particle.temperature_k)


def langevin(xi: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.abs(xi) < 0.05
    safe = np.where(small, 1.0, xi)
    series = xi / 3 - xi**3 / 45 + 2 * xi**5 / 945 - xi**7 / 4725 + 2 * xi**9 / 93555
    return np.where(small, series, 1 / np.tanh(safe) - 1 / safe)


def xi_vector(
    chosen: DatasetSettings, scan: Scan, which: FieldName, phases: tuple[NDArray, NDArray]
) -> NDArray[np.float64]:
    """ξ of all voxels at the drive phases (φ_x, φ_y), shape (2, V, *phases)."""
    field = chosen.field(which)
    r_2V = voxels(chosen).T
    extra = (1,) * phases[0].ndim
    drive = np.stack([a * np.cos(phase) for a, phase in zip(field.drives_t, phases, strict=True)])[:, None]
    static = (np.array(field.gradients_t_per_m)[:, None] * r_2V).reshape(2, -1, *extra)
    return beta(chosen, scan) * (drive - static)


def unit_equilibrium(xi: NDArray[np.float64]) -> NDArray[np.float64]:
    """L(ξ)·ξ̂ of vectors along the first axis."""
    size = np.sqrt((xi**2).sum(axis=0))
    return langevin(size) * xi / np.where(size == 0, 1, size)


def phases(scan: Scan, time_s: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    omega = 2 * math.pi * scan.fx_khz * 1e3
    return omega * time_s, omega * scan.nd / (scan.nd + 1) * time_s


def coefficients(chosen: DatasetSettings, scan: Scan, moment_CVT: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Fourier coefficients at k = m_x(N_d+1) + m_y·N_d by a full FFT, shape (C, K, V), in A/m."""
    spectrum = np.fft.rfft(moment_CVT, axis=-1) / moment_CVT.shape[-1]
    k = [m_x * (scan.nd + 1) + m_y * scan.nd for m_x, m_y in chosen.orders.pairs()]
    scale = chosen.particle.saturation_magnetisation_ka_per_m * 1e3
    return scale * np.moveaxis(spectrum[..., k], -1, 1)


def equilibrium_matrix(chosen: DatasetSettings, scan: Scan, which: FieldName, samples: int) -> NDArray[np.complex128]:
    """Plain time-domain FFT of the Langevin model with T equidistant samples."""
    time_s = np.arange(samples) / samples * (scan.nd + 1) / (scan.fx_khz * 1e3)
    return coefficients(chosen, scan, unit_equilibrium(xi_vector(chosen, scan, which, phases(scan, time_s))))


@cache
def brownian_moment(nd: int, which: FieldName, samples: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """M/M_s of 30 nm cores at 25 kHz: dM/dt = −(M − M_eq)/τ(ξ), adaptive Runge–Kutta, two periods of warm-up."""
    chosen, scan = settings("brownian", size=size), Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    tau = tau_brown(chosen, scan)
    period = (scan.nd + 1) / (scan.fx_khz * 1e3)

    def slope(time_s: float, flat: NDArray) -> NDArray:
        xi = xi_vector(chosen, scan, which, phases(scan, np.asarray([time_s])))
        rate = np.sqrt(1 + 0.126 * (xi**2).sum(axis=0) ** 0.86) / tau
        return (rate * (unit_equilibrium(xi) - flat.reshape(xi.shape))).ravel()

    wanted = (2 + np.arange(samples) / samples) * period
    solution = solve_ivp(
        slope, (0, wanted[-1]), np.zeros(2 * chosen.grid.voxels), method="DOP853", t_eval=wanted, rtol=1e-9,
        atol=1e-11, max_step=period / (scan.nd + 1) / 50,
    )  # fmt: skip
    return solution.y.reshape(2, -1, samples)


def stiff_matrix(
    chosen: DatasetSettings, scan: Scan, which: FieldName, rate: Callable[[NDArray], NDArray], samples: int
) -> NDArray[np.complex128]:
    """`coefficients` of dM/dt = −r(ξ)·(M − M_eq) with the second of two periods by an implicit Runge–Kutta (Radau)."""
    period = (scan.nd + 1) / (scan.fx_khz * 1e3)

    def at(time_s: float) -> tuple[NDArray, NDArray]:
        xi = xi_vector(chosen, scan, which, phases(scan, np.asarray([time_s])))
        return rate(np.sqrt((xi**2).sum(axis=0))) * np.ones_like(xi), unit_equilibrium(xi)

    def slope(time_s: float, flat: NDArray) -> NDArray:
        rates, equilibrium = at(time_s)
        return (rates * (equilibrium - flat.reshape(rates.shape))).ravel()

    wanted = (1 + np.arange(samples) / samples) * period
    solution = solve_ivp(
        slope, (0, wanted[-1]), np.zeros(2 * chosen.grid.voxels), method="Radau", t_eval=wanted, rtol=1e-7, atol=1e-10,
        jac=lambda time_s, flat: np.diag(-at(time_s)[0].ravel()), max_step=period / (scan.nd + 1) / 50,
    )  # fmt: skip
    return coefficients(chosen, scan, solution.y.reshape(2, -1, samples))


def worst(actual: NDArray, expected: NDArray) -> float:
    """Largest error of any component, relative to that component's own maximum over the voxels."""
    error = np.abs(actual - expected).max(axis=-1)
    return float((error / np.abs(expected).max(axis=-1)).max())


def brownian_by_lines(chosen: DatasetSettings, scan: Scan, which: FieldName, steps: int) -> NDArray[np.complex128]:
    """`coefficients` of the Brownian model with `steps` equal steps in an x period, Simpson's rule in each step.

    An exponential integrator of order 4 (2.7 where |ξ|^1.72 is not smooth); all lines step side by side, first from
    M = 0 and then again from their true start, which five Lissajous periods of line maps give.
    """
    tau = tau_brown(chosen, scan)
    lines = np.arange(scan.nd + 1)

    def at(step: float) -> tuple[NDArray, NDArray]:
        xi = xi_vector(chosen, scan, which, phases(scan, (lines + step / steps) / (scan.fx_khz * 1e3)))
        rate = np.sqrt(1 + 0.126 * (xi**2).sum(axis=0) ** 0.86) / tau / (scan.fx_khz * 1e3 * steps)
        return rate, rate * unit_equilibrium(xi)

    maps = []
    left = at(0)
    for step in range(steps):
        middle, right = at(step + 0.5), at(step + 1)
        decay = np.exp(-(left[0] + 4 * middle[0] + right[0]) / 6)
        late = np.exp(-(-left[0] + 8 * middle[0] + 5 * right[0]) / 24)
        maps.append((decay, (decay * left[1] + 4 * late * middle[1] + right[1]) / 6))
        left = right
    total_decay, total = np.ones_like(maps[0][0]), np.zeros_like(maps[0][1])
    for decay, offset in maps:
        total_decay, total = total_decay * decay, decay * total + offset
    start, moment = np.zeros_like(total), np.zeros_like(total[..., 0])
    for line in list(lines) * 5:
        start[..., line] = moment
        moment = total_decay[..., line] * moment + total[..., line]
    moments = []
    for decay, offset in maps:
        moments.append(start)
        start = decay * start + offset
    moment_CVPT = np.stack(moments, axis=-1)
    return coefficients(chosen, scan, moment_CVPT.reshape(*moment_CVPT.shape[:2], -1))
