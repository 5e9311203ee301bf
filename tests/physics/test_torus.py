"""The equilibrium: its Gaussians, its faint components, its symmetries and its means, against exact values."""

import math
from functools import cache

import mpmath
import numpy as np
import physics_reference as reference
import pytest
import torch
from scipy.special import eval_chebyu

from sm_search.config.simulation_settings import Scan
from sm_search.physics import torus
from sm_search.physics.system_matrix import TOLERANCE, simulate
from sm_search.physics.torus import Axis, Mixture, equilibrium_components, langevin_mixture

CPU = torch.device("cpu")
ONE = np.ones(1)


def langevin_over_xi(xi: np.ndarray) -> np.ndarray:
    with mpmath.workdps(40):
        return np.array([float((mpmath.coth(x) - 1 / mpmath.mpf(x)) / x) for x in xi])


@pytest.mark.parametrize("largest_xi", [0.01, 0.3, 1.0, 10.0, 100.0, 3000.0])
def test_gaussians_make_the_langevin_function(largest_xi: float) -> None:
    mixture = langevin_mixture(ONE, ONE, largest_xi / math.sqrt(2))
    xi = np.geomspace(1e-3 * largest_xi, largest_xi, 40)
    gaussians = np.exp(-((mixture.gamma_R * xi[:, None]) ** 2)) @ mixture.weight_R
    assert gaussians == pytest.approx(langevin_over_xi(xi), rel=1e-10)


def test_sizes_mix_by_their_share() -> None:
    beta_S, share_S = np.array([0.02, 1.0, 7.0]), np.array([0.5, 0.3, 0.2])
    mixture = langevin_mixture(beta_S, share_S, 20.0)
    field = np.geomspace(1e-3, 28, 40)
    gaussians = np.exp(-((mixture.gamma_R * field[:, None]) ** 2)) @ mixture.weight_R
    exact = sum(share * beta * langevin_over_xi(beta * field) for beta, share in zip(beta_S, share_S, strict=True))
    assert gaussians == pytest.approx(exact, rel=1e-10)


@cache
def exact_coefficient(xi_drive: float, a: int, b: int, x: float, y: float) -> float:
    """c[a, b] of the x-channel with 50 digits, at a voxel x, y drive amplitudes away, by 40² Chebyshev nodes."""
    nodes = 40
    with mpmath.workdps(50):
        angle = [mpmath.pi * (2 * t + 1) / (2 * nodes) for t in range(nodes)]
        total = mpmath.mpf(0)
        for phi_x in angle:
            b_x = xi_drive * (mpmath.cos(phi_x) + mpmath.mpf(x))
            for phi_y in angle:
                xi = mpmath.hypot(b_x, xi_drive * (mpmath.cos(phi_y) + mpmath.mpf(y)))
                moment = b_x / xi * (mpmath.coth(xi) - 1 / xi)
                total += moment * mpmath.cos(a * phi_x) * mpmath.cos(b * phi_y)
        return float(total / nodes**2)


@pytest.mark.parametrize("order", [(12, 12), (11, 4), (0, 1)])
def test_the_faintest_components_of_30_nm_at_2_mt_have_their_digits(order: tuple[int, int]) -> None:
    """5e-9 of the saturation, where rounding of a sum over samples costs six digits."""
    x, y = Axis(1.0, 0.75, 4, False, 12, 99), Axis(1.0, 0.75, 4, False, 12, -100)
    mixture = langevin_mixture(np.array([3.3]), ONE, x.largest_t)
    images = equilibrium_components(mixture, x, y, CPU)[0, order[0] * 13 + order[1] - 1].reshape(4, 4)
    positions = x.centres_t()
    exact = np.array([[exact_coefficient(3.3, *order, px, py) for px in positions] for py in positions])
    assert np.abs(images[:2, :2] - exact).max() < 1e-9 * np.abs(exact).max()


def test_ideal_particle_on_a_line() -> None:
    """Oracle 5: without y field and for ξ_A → ∞, c_n = (2/πn)·U_{n−1}(ξ)·√(1−ξ²) with ξ = Gx/A."""
    xi_drive = 1e4
    x, y = Axis(1.0, 0.9, 9, False, 12, 99), Axis(1e-9, 0.0, 1, False, 0, -100)
    c_KV = equilibrium_components(langevin_mixture(np.array([xi_drive]), ONE, x.largest_t), x, y, CPU)[0]
    position_V = -np.concatenate((x.centres_t(), -x.centres_t()[-2::-1]))
    expected_KV = [
        2 / (math.pi * n) * eval_chebyu(n - 1, position_V) * np.sqrt(1 - position_V**2) for n in range(1, 13)
    ]
    assert np.abs(c_KV - expected_KV).max() < 3 / xi_drive


@pytest.mark.parametrize(("nd", "diameter"), [(24, 30), (25, 30), (24, 45)])
def test_all_168_components_at_the_high_gradient(nd: int, diameter: float) -> None:
    """Where many aliases count, on a grid with a centre and on one without."""
    scan = Scan(core_diameter_nm=diameter, fx_khz=25, nd=nd)
    chosen = reference.settings(size=(4, 3), orders=(12, 12))
    expected = reference.equilibrium_matrix(chosen, scan, "high", 4000 * (nd + 1))
    assert reference.worst(simulate(chosen, scan, "high").values_CKN, expected) < TOLERANCE / 100


@pytest.mark.slow
@pytest.mark.parametrize("nd", [49, 98])
def test_all_168_components_of_70_nm_at_20_mt(nd: int) -> None:
    scan = Scan(core_diameter_nm=70, fx_khz=25, nd=nd)
    chosen = reference.settings(size=(4, 3), orders=(12, 12))
    expected = reference.equilibrium_matrix(chosen, scan, "high", 16384 * (nd + 1))
    assert reference.worst(simulate(chosen, scan, "high").values_CKN, expected) < TOLERANCE


def test_neither_chunks_nor_finer_sums_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle 6: what is left out does not count, and with fewer Gaussians it would."""
    chosen = reference.settings(size=(4, 3))
    values = simulate(chosen, reference.SCAN, "high").values_CKN
    monkeypatch.setattr(torus, "CHUNK", 1)
    parts = simulate(chosen, reference.SCAN, "high").values_CKN
    assert np.abs(parts - values).max() < 1e-14 * np.abs(values).max()
    monkeypatch.setattr(torus, "NEGLIGIBLE_IF_SHARP", 1e-18)
    monkeypatch.setattr(torus, "NEGLIGIBLE", 1e-18)
    finer = simulate(chosen, reference.SCAN, "high").values_CKN
    assert reference.worst(finer, values) < 1e-9
    monkeypatch.setattr(torus, "NEGLIGIBLE_IF_SHARP", 1e-3)
    coarser = simulate(chosen, reference.SCAN, "high").values_CKN
    assert reference.worst(coarser, values) > TOLERANCE


@pytest.mark.parametrize("width_gamma", [0.3, 0.99, 1.01, 4.0])
def test_mean_of_a_gaussian_over_a_voxel(width_gamma: float) -> None:
    """Both ways of taking it, against 2000 points."""
    gamma, width = 3.0, width_gamma / 3.0
    field = np.linspace(-1.0, 1.0, 9)
    dense = field[:, None] + width * ((np.arange(2000) + 0.5) / 2000 - 0.5)
    values = np.exp(-((gamma * dense) ** 2))
    mean, field_mean = torus._kernels(torch.from_numpy(field)[None], torch.full((1, 1, 1), gamma).double(), width)
    assert mean[0, 0].numpy() == pytest.approx(values.mean(axis=-1), abs=1e-6)
    assert field_mean[0, 0].numpy() == pytest.approx((dense * values).mean(axis=-1), abs=1e-6)


def test_a_mixture_of_one_gaussian_needs_no_particle() -> None:
    """c[a, b] of B_x·exp(−γ²B²) factorises: Bessel functions of γ²A²/2 at the centre."""
    from scipy.special import ive

    x, y = Axis(1.0, 0.0, 1, False, 3, 99), Axis(1.0, 0.0, 1, False, 4, -100)
    c_K = equilibrium_components(Mixture(np.array([1.3]), ONE), x, y, CPU)[0, :, 0]
    z = 1.3**2 / 2
    even = [(-1) ** n * ive(n, z) for n in range(4)]
    assert c_K[1 * 5 + 4 - 1] == pytest.approx((even[0] + even[1]) / 2 * even[2], rel=1e-12)
    assert c_K[2 * 5 + 4 - 1] == pytest.approx(0, abs=1e-16)
