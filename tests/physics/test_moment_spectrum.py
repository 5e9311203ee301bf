"""The moment's spectrum in general fields: vectors that turn together, steps in time, and the ideal case."""

import math

import numpy as np
import physics_reference as reference
import pytest
from scipy.integrate import solve_ivp

from sm_search.config.simulation_settings import MixingOrders, Particle, Scan
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.moment_spectrum import along_axes, moment_spectrum
from sm_search.physics.sizes import core_sizes
from sm_search.physics.system_matrix import ideal_field, simulate

ORDERS = MixingOrders(max_x=3, max_y=3)
VOXELS = 5


def skewed_field(nd: int, scale_t: float = 0.02) -> LissajousField:
    """Three general vectors at each of five voxels."""
    random = np.random.default_rng(5)
    static_3N, x_3N, y_3N = scale_t * random.uniform(-1, 1, (3, 3, VOXELS))
    return LissajousField(static_3N, x_3N, y_3N, 25e3, nd)


def turned(field: LissajousField, turn_33: np.ndarray) -> LissajousField:
    parts = (turn_33 @ part_3N for part_3N in (field.static_3N, field.x_3N, field.y_3N))
    return LissajousField(*parts, field.fx_hz, field.nd)


@pytest.mark.parametrize("magnetisation", ["equilibrium", "debye", "brownian", "neel-brown", "effective-field"])
def test_a_turned_field_turns_the_moment(magnetisation: str) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    field, sizes = skewed_field(6), core_sizes(25e-9, 0.0, 1)
    values, _ = moment_spectrum(field, magnetisation, sizes, Particle(), ORDERS)
    other, _ = moment_spectrum(turned(field, rotation), magnetisation, sizes, Particle(), ORDERS)
    assert np.abs(other - np.einsum("de,ekn->dkn", rotation, values)).max() < 1e-10 * np.abs(values).max()
    assert np.abs(values[2]).max() > 1e-2
    two, _ = moment_spectrum(field, magnetisation, sizes, Particle(), ORDERS, sensitivity_CDN=along_axes(2, VOXELS))
    assert np.array_equal(two, values[:2])


def test_channels_see_what_their_sensitivities_mix() -> None:
    """Before the steady state is found, for models that relax linearly, or where samples are taken."""
    sensitivity_CDN = np.random.default_rng(3).normal(size=(2, 3, VOXELS))
    for magnetisation in ("anisotropic", "brownian", "effective-field"):
        arguments = skewed_field(6), magnetisation, core_sizes(25e-9, 0.0, 1), Particle(), ORDERS
        moment_DKN, _ = moment_spectrum(*arguments)
        seen_CKN, _ = moment_spectrum(*arguments, sensitivity_CDN=sensitivity_CDN)
        expected_CKN = np.einsum("cdn,dkn->ckn", sensitivity_CDN, moment_DKN)
        assert np.abs(seen_CKN - expected_CKN).max() < 1e-13


def test_fields_in_a_plane_are_the_limit_of_those_that_leave_it() -> None:
    """The effective field has a kernel of two components for them."""
    field = skewed_field(6)
    for part_3N in (field.static_3N, field.x_3N, field.y_3N):
        part_3N[2] = 0
    field.static_3N[2, 0] = 1e-12
    arguments = "effective-field", core_sizes(25e-9, 0.0, 1), Particle(), ORDERS
    spatial_DKN, _ = moment_spectrum(field, *arguments)
    field.static_3N[2, 0] = 0
    planar_DKN, _ = moment_spectrum(field, *arguments)
    assert np.abs(planar_DKN[:2] - spatial_DKN[:2]).max() < 1e-13
    assert np.abs(planar_DKN[2]).max() == 0


@pytest.mark.parametrize("magnetisation", ["equilibrium", "debye", "brownian", "neel-brown", "effective-field"])
@pytest.mark.parametrize("which", ["low", "high"])
def test_ideal_fields_give_the_system_matrix(magnetisation: str, which: str) -> None:
    """All voxels along the trajectory, where `simulate` takes closed forms (equilibrium) and symmetries."""
    chosen = reference.settings(magnetisation, size=(3, 4))
    scan = Scan(core_diameter_nm=25, fx_khz=25, nd=7)
    field = ideal_field(chosen, scan, which)
    values, _ = moment_spectrum(field, magnetisation, core_sizes(25e-9, 0.0, 1), chosen.particle, chosen.orders)
    expected = simulate(chosen, scan, which).values_CKN / 474e3
    assert np.abs(values[:2] - expected).max() < 1e-9 * np.abs(expected).max()
    assert np.abs(values[2]).max() == 0


def test_brownian_in_a_general_field_equals_a_runge_kutta() -> None:
    field, particle, nd = skewed_field(3, 5e-3), Particle(), 3
    chosen, scan = reference.settings("brownian"), Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    tau_s, beta, period_s = reference.tau_brown(chosen, scan), reference.beta(chosen, scan), scan.period_s
    samples = 512 * (nd + 1)

    def slope(time_s: float, flat: np.ndarray) -> np.ndarray:
        phase_x, phase_y = reference.phases(scan, np.asarray(time_s))
        xi = beta * (field.static_3N + field.x_3N * np.cos(phase_x) + field.y_3N * np.cos(phase_y))
        rate = np.sqrt(1 + 0.126 * (xi**2).sum(axis=0) ** 0.86) / tau_s
        return (rate * (reference.unit_equilibrium(xi) - flat.reshape(3, -1))).ravel()

    wanted = (2 + np.arange(samples) / samples) * period_s
    solution = solve_ivp(
        slope, (0, wanted[-1]), np.zeros(3 * VOXELS), method="DOP853", t_eval=wanted, rtol=1e-9, atol=1e-11,
        max_step=1 / (50 * scan.fx_hz),
    )  # fmt: skip
    expected = reference.coefficients(chosen, scan, solution.y.reshape(3, VOXELS, -1)) / 474e3
    values, numerics = moment_spectrum(field, "brownian", core_sizes(30e-9, 0.0, 1), particle, ORDERS)
    assert np.abs(values - expected).max() < 2e-8 * np.abs(expected).max()
    assert numerics["samplesPerPeriod"] >= 64


def test_equilibrium_in_a_general_field_equals_a_plain_fft() -> None:
    field, nd = skewed_field(6), 6
    chosen, scan = reference.settings("equilibrium"), Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    time_s = np.arange(4096 * (nd + 1)) / (4096 * scan.fx_hz)
    phase_x, phase_y = reference.phases(scan, time_s)
    drive = field.x_3N[..., None] * np.cos(phase_x) + field.y_3N[..., None] * np.cos(phase_y)
    moment = reference.unit_equilibrium(reference.beta(chosen, scan) * (field.static_3N[..., None] + drive))
    expected = reference.coefficients(chosen, scan, moment) / 474e3
    values, _ = moment_spectrum(field, "equilibrium", core_sizes(30e-9, 0.0, 1), Particle(), ORDERS)
    assert np.abs(values - expected).max() < 1e-8 * np.abs(expected).max()


def test_sizes_are_mixed_by_their_share() -> None:
    field = skewed_field(4)
    sizes = core_sizes(25e-9, 0.1, 3)
    mixed, _ = moment_spectrum(field, "brownian", sizes, Particle(), ORDERS)
    alone = [
        share * moment_spectrum(field, "brownian", core_sizes(d, 0.0, 1), Particle(), ORDERS)[0]
        for d, share in zip(sizes.diameter_m_S.tolist(), sizes.share_S.tolist(), strict=True)
    ]
    assert math.isclose(float(np.abs(mixed - sum(alone)).max()), 0.0, abs_tol=1e-15)
