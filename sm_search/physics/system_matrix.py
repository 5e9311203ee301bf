"""`SystemMatrix`, the value that flows through the house, and its simulation.

Shapes: C receive channels (x, y), K components (mixing orders), N voxels with x fastest, S core diameters.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldName, FieldSettings, Grid, Scan
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.magnetisation import MODELS
from sm_search.physics.particles import langevin_parameter_per_tesla
from sm_search.physics.scanner_fields import actual, in_plane, received
from sm_search.physics.sizes import Sizes, core_sizes
from sm_search.physics.trajectory_symmetry import computed_half, fill_by_symmetry
from sm_search.physics.voxel_mean import points_for

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-6
"""Largest error of any component relative to its own maximum: what the constants here and in the kernels are chosen
for, and `tests/physics/test_accuracy.py` holds. Written to the tracer where the sampling is the default one."""

SHARPEST_XI = 20_000.0
"""Drive amplitude in ξ beyond which the kernel counts as this sharp: order m changes by some (m/ξ)²."""


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
        transfer_function_CK: a_k of the receiver, which the values still contain unless `corrections` say that it was
            divided out; None where there is none or none is known.
        corrections: what was done to the values, by the names of the MDF's flags: `isBackgroundCorrected`,
            `isTransferFunctionCorrected`.
        measured_order_F: 1-based place in the order of measurement of the foreground and then the background frames;
            None where they were measured in the order in which they are stored, or where it is not known.
        heights_m: z of each plane above the field-free point, evenly spaced; a volume has several, the voxels of one
            behind those of the other.
        origin_m: where the scanner's coordinates have the field-free point; an offset field moves it there.
        axes: which of the scanner's axes x, y and z are here: "xyz", or "yxz" where its faster drive is along y
            (`scanner_axes`).
        deviation_CKN: standard deviation of each value over the draws that a synthesised matrix was made of.
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
    corrections: frozenset[str] = frozenset()
    measured_order_F: NDArray[np.int64] | None = None
    heights_m: tuple[float, ...] = (0.0,)
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: str = "xyz"
    deviation_CKN: NDArray[np.float64] | None = None

    def planes(self) -> "list[SystemMatrix]":
        """A matrix of each plane, views of this one; the background and the SNR are those of all."""
        count, deviation_CKN = self.grid.voxels, self.deviation_CKN
        return [
            dataclasses.replace(
                self,
                values_CKN=self.values_CKN[..., at * count : (at + 1) * count],
                heights_m=(height_m,),
                measured_order_F=None,
                deviation_CKN=None if deviation_CKN is None else deviation_CKN[..., at * count : (at + 1) * count],
            )
            for at, height_m in enumerate(self.heights_m)
        ]

    def frequency_index(self) -> NDArray[np.int64]:
        """k = m_x(N_d+1) + m_y·N_d for each component, shape (K,)."""
        orders_K2 = np.asarray(self.mixing_orders, dtype=np.int64)
        return orders_K2[:, 0] * (self.nd + 1) + orders_K2[:, 1] * self.nd

    def drive_hz(self, channel: int) -> float:
        """Drive frequency along the axis of a receive channel: f_x or f_y."""
        return self.fx_hz if channel == 0 else self.fx_hz * self.nd / (self.nd + 1)

    def channel_images(self, channel: int) -> NDArray[np.complex128]:
        """One receive channel seen along its own axis, shape (K, Y, X), in the order of `mixing_orders`.

        The y-channel is the x-channel of a scan with exchanged axes: its images are transposed and m_x, m_y swapped,
        so that one model serves both.

        Raises:
            DataError: the y-channel is asked for on a grid that is not square, or without the swapped orders; or the
                matrix is of a volume.
        """
        size_x, size_y = self.grid.size
        if len(self.heights_m) > 1:
            raise DataError(f"is of a volume of {len(self.heights_m)} planes; a plane is asked for")
        if channel > 1:
            raise DataError(f"receive channel {channel + 1} is neither x nor y")
        if channel and len({*self.field.gradients_t_per_m}) + len({*self.field.drives_t}) > 2:
            raise DataError(
                f"the y-channel is no exchanged x-channel where the axes have different fields: {self.field}"
            )
        images = self.values_CKN[channel].reshape(len(self.mixing_orders), size_y, size_x)
        if channel == 0:
            return images
        return images[swapped_orders(self.mixing_orders, self.grid)].transpose(0, 2, 1)

    def channel_noise(self, channel: int) -> NDArray[np.float64] | None:
        """Standard deviation √E|n|² of the noise of `channel_images`, (K,), from background frames; None without."""
        if self.background_CKE is None or self.background_CKE.shape[-1] < 2:
            return None
        noise_K: NDArray[np.float64] = np.asarray(self.background_CKE[channel]).std(axis=-1, ddof=1)
        return noise_K if channel == 0 else noise_K[swapped_orders(self.mixing_orders, self.grid)]

    def above_noise_db(self, channel: int) -> float | None:
        """What the channel's strongest component stands above its noise, 20·log₁₀(max|S|/√E|n|²); None where there is
        none, or none is known."""
        noise_K = self.channel_noise(channel)
        if noise_K is None:
            return None
        scales_K = np.abs(self.channel_images(channel)).max(axis=(1, 2))
        strongest = int(np.argmax(scales_K))
        return 20 * math.log10(scales_K[strongest] / noise_K[strongest]) if noise_K[strongest] > 0 else None


def chosen_channels(sm: SystemMatrix, channels: Sequence[int]) -> SystemMatrix:
    """These receive channels, in this order."""
    chosen = list(channels)
    return dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN[chosen],
        background_CKE=None if sm.background_CKE is None else sm.background_CKE[chosen],
        snr_CK=None if sm.snr_CK is None else sm.snr_CK[chosen],
        transfer_function_CK=None if sm.transfer_function_CK is None else sm.transfer_function_CK[chosen],
        deviation_CKN=None if sm.deviation_CKN is None else sm.deviation_CKN[chosen],
    )


def with_orders(sm: SystemMatrix, orders: tuple[tuple[int, int], ...]) -> SystemMatrix:
    """The components of these mixing orders, in this order, found by their frequency; a view where nothing changes.

    Raises:
        DataError: `sm` lacks some of them.
    """
    if sm.mixing_orders == orders:
        return sm
    position = {int(k): at for at, k in enumerate(sm.frequency_index())}
    index_K = [m_x * (sm.nd + 1) + m_y * sm.nd for m_x, m_y in orders]
    missing = [order for order, k in zip(orders, index_K, strict=True) if k not in position]
    if missing:
        raise DataError(f"lacks {len(missing)} of {len(orders)} mixing orders, first {missing[0]}")
    chosen = [position[k] for k in index_K]
    return dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN[:, chosen],
        mixing_orders=orders,
        background_CKE=None if sm.background_CKE is None else sm.background_CKE[:, chosen],
        snr_CK=None if sm.snr_CK is None else sm.snr_CK[:, chosen],
        transfer_function_CK=None if sm.transfer_function_CK is None else sm.transfer_function_CK[:, chosen],
        deviation_CKN=None if sm.deviation_CKN is None else sm.deviation_CKN[:, chosen],
    )


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


def simulate(
    settings: DatasetSettings,
    scan: Scan,
    which: FieldName,
    *,
    samples: int | None = None,
    device: "torch.device | str" = "cpu",
) -> SystemMatrix:
    """Simulate the system matrix of one scan at the low or the high field.

    Args:
        settings: grid, particle, magnetisation model and mixing orders.
        samples: time samples in an x drive period before refinement, rounded up to an even number of panels; by
            default from `linear_relaxation.panels_per_line`. Models without a field-dependent rate take no time steps.
        device: where torch computes the equilibrium, in float64. Relaxation is compiled for the processor.
    """
    nominal, scanner = settings, settings.scanner_of(scan)
    fields = {which: actual(scanner, settings.field(which)), "magnetisation": settings.magnetisation_of(scan)}
    settings = settings.model_copy(update=fields)
    position_3N = in_plane(*voxel_centres(settings.grid), scan.height_m)
    particle = settings.particle_of(scan)
    model = MODELS[settings.magnetisation]
    sizes = core_sizes(scan.core_diameter_m, particle.size_spread, model.size_nodes(particle.size_spread))
    values_CKN: Values
    if not scanner.ideal_fields or (scan.height_m and model.in_closed_form):
        from sm_search.physics.real_scanner import real_scanner_components  # numba, as below

        own = nominal.model_copy(update={"magnetisation": settings.magnetisation})
        values_CKN, numerics = real_scanner_components(own, scanner, scan, which, sizes, position_3N, samples)
    elif model.in_closed_form:
        if samples is not None:
            raise ValueError(f"samples is {samples}, but {settings.magnetisation} takes no time steps")
        values_CKN, numerics = _langevin(settings, scan, which, sizes, device)
    else:
        values_CKN, numerics = _relaxing(settings, scan, which, sizes, samples)
    if scanner.ideal_fields and not scanner.ideal_coils:
        values_CKN = received(scanner, values_CKN.astype(np.complex128, copy=False), position_3N)
    values_CKN *= particle.saturation_magnetisation_ka_per_m * 1e3
    tracer = _tracer(settings, scan)
    own_tolerance = max(numerics.pop("tolerance", 0.0), model.size_tolerance(particle.size_spread))
    if samples is None:
        tracer["tolerance"] = max(_tolerance(values_CKN, model.rounding), own_tolerance)
    tracer |= {"sizes": float(len(sizes.share_S)), **numerics}
    return SystemMatrix(
        values_CKN.astype(np.complex128, copy=False),
        settings.orders.pairs(),
        settings.grid,
        nominal.field(which),
        scan.fx_hz,
        scan.nd,
        tracer,
        heights_m=(scan.height_m,),
    )


Values = NDArray[np.float64] | NDArray[np.complex128]

Result = tuple[Values, dict[str, float]]
"""Components in units of M_s, shape (C, K, N), and how finely they were computed, for the tracer."""


def _langevin(
    settings: DatasetSettings, scan: Scan, which: FieldName, sizes: Sizes, device: "torch.device | str"
) -> Result:
    """The equilibrium, behind the model's lag if it has one."""
    import torch  # seconds, which reading a file and all other models do without

    from sm_search.physics.torus import Axis, equilibrium_components, langevin_mixture

    field = settings.field(which)
    x, y = (
        Axis(drive, gradient * fov / 2, voxels, settings.voxel == "mean", max_order, step)
        for drive, gradient, fov, voxels, max_order, step in zip(
            field.drives_t,
            field.gradients_t_per_m,
            settings.grid.fov_m,
            settings.grid.size,
            (settings.orders.max_x, settings.orders.max_y),
            (scan.nd, -(scan.nd + 1)),
            strict=True,
        )
    )
    particle = settings.particle_of(scan)
    beta_S = np.array([langevin_parameter_per_tesla(d, particle) for d in sizes.diameter_m_S])
    beta_S = np.minimum(beta_S, SHARPEST_XI / max(field.drives_t))

    def components(chosen: slice) -> NDArray[np.float64]:
        mixture = langevin_mixture(beta_S[chosen], sizes.share_S[chosen], max(x.largest_t, y.largest_t))
        return equilibrium_components(mixture, x, y, torch.device(device))

    lag = MODELS[settings.magnetisation].lag
    if lag is None:
        return components(slice(None)), {}
    orders_K2 = np.array(settings.orders.pairs())
    omega_K = 2 * math.pi * (orders_K2 @ [scan.fx_hz, scan.fy_hz])
    values_CKN = np.zeros((2, len(orders_K2), settings.grid.voxels), dtype=np.complex128)
    for size, diameter_m in enumerate(sizes.diameter_m_S):
        values_CKN += components(slice(size, size + 1)) / lag(omega_K, diameter_m, particle)[:, None]
    return values_CKN, {}


def _relaxing(settings: DatasetSettings, scan: Scan, which: FieldName, sizes: Sizes, samples: int | None) -> Result:
    """The models that are followed along the trajectory, in half of the voxels, and then mirrored."""
    from sm_search.physics.moment_spectrum import along_axes, moment_spectrum  # numba: a second, as above

    field, grid, orders = ideal_field(settings, scan, which), settings.grid, settings.orders
    particle = settings.particle_of(scan)
    computed = computed_half(scan.nd, grid)
    values_CKN = np.zeros((2, len(orders.pairs()), grid.voxels), dtype=np.complex128)
    beta = langevin_parameter_per_tesla(float(sizes.diameter_m_S.max()), particle)
    gradients = settings.field(which).gradients_t_per_m
    width_x_t, width_y_t = (g * fov / n for g, fov, n in zip(gradients, grid.fov_m, grid.size, strict=True))
    points, tolerance = points_for(settings.voxel, (width_x_t, width_y_t), (beta, beta))
    numerics = {"tolerance": tolerance}
    for x_t, y_t, share in points:
        shifted_3N = field.static_3N[:, computed] + np.array([[x_t], [y_t], [0.0]])
        part = dataclasses.replace(
            field, static_3N=shifted_3N, x_3N=field.x_3N[:, computed], y_3N=field.y_3N[:, computed]
        )
        values, sampling = moment_spectrum(
            part,
            settings.magnetisation,
            sizes,
            particle,
            orders,
            sensitivity_CDN=along_axes(2, len(computed)),
            samples=samples,
        )
        values_CKN[:, :, computed] += share * values
        numerics |= sampling
    fill_by_symmetry(values_CKN, orders.pairs(), scan.nd, grid)
    return values_CKN, numerics | {"pointsPerVoxel": float(len(points))}


def ideal_field(settings: DatasetSettings, scan: Scan, which: FieldName) -> LissajousField:
    """B(r, t) = A∘cos(2πft) + diag(−G_x, −G_y, G_x + G_y)·r in the plane of the scan."""
    field = settings.field(which)
    zero_N = np.zeros(settings.grid.voxels)
    x_N, y_N = voxel_centres(settings.grid)
    (gradient_x, gradient_y), (drive_x, drive_y) = field.gradients_t_per_m, field.drives_t
    above_N = zero_N + (gradient_x + gradient_y) * scan.height_m
    return LissajousField(
        static_3N=np.stack((-gradient_x * x_N, -gradient_y * y_N, above_N)),
        x_3N=np.stack((zero_N + drive_x, zero_N, zero_N)),
        y_3N=np.stack((zero_N, zero_N + drive_y, zero_N)),
        fx_hz=scan.fx_hz,
        nd=scan.nd,
    )


def _tolerance(values_CKN: Values, error: float) -> float:
    """The accuracy to state, relative to each component's own maximum: `TOLERANCE`, or 1 where nothing can be said of
    the faintest component, as under the equilibrium model with small cores: it drowns in rounding."""
    if np.iscomplexobj(values_CKN):
        largest_CK = np.abs(values_CKN).max(axis=-1)
    else:
        largest_CK = np.maximum(values_CKN.max(axis=-1), -values_CKN.min(axis=-1))
    rounding = error * largest_CK.max() / max(largest_CK.min(), np.finfo(float).tiny)
    return float(min(1.0, max(TOLERANCE, rounding)))


def _tracer(settings: DatasetSettings, scan: Scan) -> dict[str, float | str]:
    """What was simulated: SI numbers and words."""
    particle = settings.particle_of(scan)
    return {
        "magnetisation": settings.magnetisation,
        "coreDiameter": scan.core_diameter_m,
        "shellThickness": particle.shell_thickness_nm * 1e-9,
        "saturationMagnetisation": particle.saturation_magnetisation_ka_per_m * 1e3,
        "temperature": particle.temperature_k,
        "viscosity": particle.viscosity_mpa_s * 1e-3,
        "anisotropy": particle.anisotropy_kj_per_m3 * 1e3,
        "easyAxes": particle.easy_axes,
        "damping": particle.damping,
        "sizeSpread": particle.size_spread,
        "voxel": settings.voxel,
    }


def voxel_centres(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the N voxel centres in m, x fastest: FOV/2·(2i−1−n)/n for i = 1…n (MDF)."""
    axes = [fov / 2 * (2 * np.arange(1, n + 1) - 1 - n) / n for fov, n in zip(grid.fov_m, grid.size, strict=True)]
    y_YX, x_YX = np.meshgrid(axes[1], axes[0], indexing="ij")
    return x_YX.ravel(), y_YX.ravel()
