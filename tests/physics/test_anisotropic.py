"""The anisotropic equilibrium against brute force on the sphere, its isotropic limit, and a plain FFT."""

import numpy as np
import physics_reference as reference
import pytest
from scipy.interpolate import CubicSpline

from sm_search.config.simulation_settings import Scan
from sm_search.physics.anisotropic_equilibrium import cells_for, easy_axes, mean_moment, mean_over_axes
from sm_search.physics.neel import barrier
from sm_search.physics.system_matrix import ideal_field, simulate


def on_the_sphere(h_3: np.ndarray, n_3: np.ndarray, sigma: float) -> np.ndarray:
    """∫ u·exp(h·u + σ(u·n)²)/∫ exp(…) with 400 × 400 nodes, about z."""
    cos, weight = np.polynomial.legendre.leggauss(400)
    phi = 2 * np.pi * np.arange(400) / 400
    sin = np.sqrt(1 - cos**2)
    u = np.stack([np.outer(sin, np.cos(phi)), np.outer(sin, np.sin(phi)), np.outer(cos, np.ones(400))])
    exponent = np.tensordot(h_3, u, 1) + sigma * np.tensordot(n_3, u, 1) ** 2
    density = weight[:, None] * np.exp(exponent - exponent.max())
    return (u * density).sum(axis=(1, 2)) / density.sum()


@pytest.mark.parametrize("sigma", [0.0, 1.0, 10.0])
def test_mean_moment_is_that_of_the_sphere(sigma: float) -> None:
    random = np.random.default_rng(3)
    for size in (1e-3, 1.0, 8.0, 60.0):
        h, n = size * random.normal(size=3), random.normal(size=3)
        n /= np.linalg.norm(n)
        along = h @ n
        across = h - along * n
        g_along, g_across = mean_moment(np.array(abs(along)), np.array(np.linalg.norm(across)), sigma)
        expected = on_the_sphere(h, n, sigma)
        assert g_along * along * n + g_across * across == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("which", ["low", "high"])
def test_without_anisotropy_it_is_langevins(which: str) -> None:
    chosen = reference.settings("anisotropic", size=(4, 3), particle={"anisotropy_kj_per_m3": 1e-9})
    scan = Scan(core_diameter_nm=25, fx_khz=25, nd=7)
    values = simulate(chosen, scan, which).values_CKN
    expected = simulate(reference.settings("equilibrium", size=(4, 3)), scan, which).values_CKN
    assert np.abs(values - expected).max() < 1e-8 * np.abs(expected).max()


@pytest.mark.parametrize("sigma", [0.3, 6.0, 15.0])
def test_axes_of_every_direction_give_the_mean_over_the_sphere(sigma: float) -> None:
    """And the first susceptibility, ⅓ of m²/(k_B T), does not depend on the anisotropy."""
    assert mean_over_axes(np.array([1e-4]), sigma) == pytest.approx(1 / 3, abs=1e-8)
    cosine, weight = np.polynomial.legendre.leggauss(1001)
    axis_3A = np.stack([np.sqrt(1 - cosine**2), 0 * cosine, cosine])
    for h in (0.5, 5.0, 80.0):
        along_A = h * axis_3A[2]
        across_3A = np.array([[0], [0], [h]]) - along_A * axis_3A
        g_along, g_across = mean_moment(np.abs(along_A) + 1e-15, np.linalg.norm(across_3A, axis=0), sigma)
        moment_3A = g_along * along_A * axis_3A + g_across * across_3A
        assert mean_over_axes(np.array([h]), sigma)[0] * h == pytest.approx(moment_3A[2] @ weight / 2, abs=1e-9)


def test_with_axes_of_every_direction_a_matrix_equals_a_plain_fft() -> None:
    chosen = reference.settings(
        "anisotropic", size=(3, 2), particle={"anisotropy_kj_per_m3": 4.0, "easy_axes": "random"}
    )
    scan = Scan(core_diameter_nm=22, fx_khz=25, nd=4)
    time_s = np.arange(512 * 5) / (512 * scan.fx_hz)
    h_2VT = reference.xi_vector(chosen, scan, "high", reference.phases(scan, time_s))
    h_VT = np.hypot(*h_2VT)
    grid = np.linspace(1e-9, np.arcsinh(h_VT.max()), 300)
    ratio = CubicSpline(grid, mean_over_axes(np.sinh(grid), barrier(22e-9, chosen.particle)))(np.arcsinh(h_VT))
    expected = reference.coefficients(chosen, scan, ratio * h_2VT)
    values = simulate(chosen, scan, "high").values_CKN
    assert np.abs(values - expected).max() < 1e-6 * np.abs(expected).max()


def test_equals_a_plain_fft() -> None:
    """4 kJ/m³ in 22 nm: σ = 5.5, the moment by direct quadrature at 512 samples a line."""
    chosen = reference.settings("anisotropic", size=(3, 2), particle={"anisotropy_kj_per_m3": 4.0})
    scan = Scan(core_diameter_nm=22, fx_khz=25, nd=4)
    time_s = np.arange(512 * 5) / (512 * scan.fx_hz)
    h_2VT = reference.xi_vector(chosen, scan, "high", reference.phases(scan, time_s))
    n_V2 = easy_axes(ideal_field(chosen, scan, "high").static_3N)[:, :2]
    along_VT = np.einsum("vc,cvt->vt", n_V2, h_2VT)
    across_2VT = h_2VT - along_VT * n_V2.T[:, :, None]
    sigma = barrier(22e-9, chosen.particle)
    g_along, g_across = mean_moment(np.abs(along_VT) + 1e-12, np.hypot(*across_2VT) + 1e-12, sigma)
    moment_2VT = g_along * along_VT * n_V2.T[:, :, None] + g_across * across_2VT
    expected = reference.coefficients(chosen, scan, moment_2VT)
    values = simulate(chosen, scan, "high").values_CKN
    assert np.abs(values - expected).max() < 1e-7 * np.abs(expected).max()
    langevin = simulate(reference.settings("equilibrium", size=(3, 2)), scan, "high").values_CKN
    assert np.abs(values - langevin).max() > 0.01 * np.abs(langevin).max()


def test_easy_axes_follow_the_selection_field() -> None:
    axes = easy_axes(np.array([[3.0, 0.0, 0.0], [4.0, 0.0, -2.0], [0.0, 0.0, 0.0]]))
    assert axes.tolist() == [[0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
    assert cells_for(60.0) > np.arcsinh(60.0) / 0.4
