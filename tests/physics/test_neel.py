"""Brown's rate against an independent matrix and its limits, and `neel-brown` against steps in time."""

import dataclasses
import math

import numpy as np
import physics_reference as reference
import pytest
from numpy.polynomial import Legendre, legendre

from sm_search.config.simulation_settings import Particle, Scan
from sm_search.physics import linear_relaxation
from sm_search.physics.magnetisation.neel_brown import kinetics as neel_brown_kinetics
from sm_search.physics.neel import barrier, eigenvalue, free_neel_time, log_rates
from sm_search.physics.system_matrix import TOLERANCE, simulate


def neel_rate(diameter_m: float, particle: Particle, xi_T: np.ndarray) -> np.ndarray:
    """λ_1 in 1/s as the compiled code has it: the rate of a particle that does not turn as a whole."""
    return rates(neel_brown_kinetics(diameter_m, particle, 3.0, float(xi_T.max())), xi_T)


def rates(kinetics: linear_relaxation.Kinetics, xi_T: np.ndarray) -> np.ndarray:
    """Of particles that do not turn as a whole."""
    fixed = dataclasses.replace(kinetics, tau_s=math.inf)
    return np.array([fixed.rate(xi) for xi in xi_T.ravel()]).reshape(xi_T.shape)


def from_moments(sigma: float, xi: float, degrees: int = 120) -> float:
    """λ_1 τ_0 from the moments ⟨P_l⟩ of Brown's equation as it stands, not made symmetric."""
    x, weights = legendre.leggauss(400)
    values = legendre.legvander(x, degrees)
    slopes = np.stack([Legendre.basis(n).deriv()(x) if n else 0 * x for n in range(degrees + 1)], axis=1)
    flux = (slopes + values * (-2 * sigma * x - xi)[:, None]) * (2 * np.arange(degrees + 1) + 1) / 2
    matrix = (slopes * ((1 - x * x) * weights)[:, None]).T @ flux
    return float(np.linalg.eigvals(matrix[1:, 1:]).real.min() / 2)


@pytest.mark.parametrize(("sigma", "xi"), [(1e-6, 2), (1, 0), (3, 1.5), (5, 3), (10, 5), (10, 15), (10, 30), (20, 25)])
def test_rate_is_the_smallest_eigenvalue(sigma: float, xi: float) -> None:
    assert eigenvalue(sigma, xi) == pytest.approx(from_moments(sigma, xi), rel=1e-8)


def test_without_anisotropy_and_field_the_moment_turns_freely() -> None:
    """m(1 + α²)/(2αγ·k_B T) for 30 nm: 6.70e-18·1.01/(2·0.1·1.761e11·4.045e-21) = 4.75e-8 s."""
    particle = Particle(anisotropy_kj_per_m3=1e-6)
    assert free_neel_time(30e-9, particle) == pytest.approx(4.75e-8, rel=2e-3)
    rate = neel_rate(30e-9, particle, np.zeros(1)).item()
    assert rate == pytest.approx(1 / free_neel_time(30e-9, particle), rel=1e-5)


@pytest.mark.parametrize(
    ("sigma", "h", "within"), [(20, 0.0, 0.08), (40, 0.0, 0.04), (100, 0.3, 0.03), (400, 0.6, 0.03)]
)
def test_high_barriers_are_crossed_at_browns_rate(sigma: float, h: float, within: float) -> None:
    ways = math.log((1 + h) * math.exp(-4 * sigma * h) + 1 - h) - sigma * (1 - h) ** 2
    brown = 1.5 * math.log(sigma) + math.log((1 - h * h) / math.sqrt(math.pi)) + ways
    xi = np.linspace(0, 2.4 * sigma, 241)
    ours = np.interp(2 * sigma * h, xi, log_rates(sigma, xi))
    assert ours == pytest.approx(brown, abs=within)


@pytest.mark.parametrize("diameter", [10, 20, 30, 50, 70, 82])
def test_rate_grows_with_the_field_from_nothing_to_fast(diameter: float) -> None:
    """No noise where e^(−σ) underflows, no jump where Brown's formula ends; (ξ − 2σ)/τ_0 in strong fields."""
    particle = Particle()
    sigma = barrier(diameter * 1e-9, particle)
    xi = np.linspace(0, 4 * sigma + 20, 4001)
    rate = neel_rate(diameter * 1e-9, particle, xi)
    assert np.isfinite(rate).all()
    assert (np.diff(rate) >= 0).all()
    assert (rate[1:] > 0).any()
    growth = np.diff(np.log(rate[rate > 1]))
    assert growth.max() < 3 * (xi[1] - xi[0])  # d ln λ/dξ ≤ 1 + …: no jump
    last = rate[-1] * free_neel_time(diameter * 1e-9, particle)
    assert last == pytest.approx(xi[-1] - 2 * sigma, rel=0.1)


def test_both_rates_add() -> None:
    particle = Particle()
    kinetics = neel_brown_kinetics(25e-9, particle, 3.0, 40.0)
    xi = np.linspace(0, 40, 50)
    tau_s = reference.tau_brown(reference.settings(), Scan(core_diameter_nm=25, fx_khz=25, nd=6))
    brownian = np.sqrt(1 + 0.126 * xi**1.72) / tau_s
    neel = neel_rate(25e-9, particle, xi)
    assert np.array([kinetics.rate(x) for x in xi]) == pytest.approx(brownian + neel, rel=1e-9)
    assert (neel > brownian).any()
    assert (neel < brownian).any()


@pytest.mark.parametrize(("diameter", "which"), [(20, "low"), (20, "high"), (30, "high")])
def test_neel_brown_equals_a_runge_kutta(diameter: float, which: str) -> None:
    """With rates up to 1000 times the highest frequency's, at the corners of the field of view."""
    chosen = reference.settings("neel-brown", size=(2, 2), orders=(1, 1))
    scan = Scan(core_diameter_nm=diameter, fx_khz=25, nd=2)
    tau_s = reference.tau_brown(chosen, scan)
    kinetics = neel_brown_kinetics(diameter * 1e-9, chosen.particle, 3.0, 5000.0)

    def rate(xi_V: np.ndarray) -> np.ndarray:
        return np.sqrt(1 + 0.126 * xi_V**1.72) / tau_s + rates(kinetics, xi_V)

    values = simulate(chosen, scan, which).values_CKN
    expected = reference.stiff_matrix(chosen, scan, which, rate, 3 * 2048)
    assert reference.worst(values, expected) < 2 * TOLERANCE
    brownian = simulate(reference.settings("brownian", size=(2, 2), orders=(1, 1)), scan, which).values_CKN
    assert reference.worst(values, brownian) > 1e-3


@pytest.mark.parametrize("diameter", [20, 30, 50, 70])
def test_finer_panels_do_not_show_in_any_of_168_components(monkeypatch: pytest.MonkeyPatch, diameter: float) -> None:
    chosen = reference.settings("neel-brown", size=(4, 3), orders=(12, 12))
    scan = Scan(core_diameter_nm=diameter, fx_khz=25, nd=24)
    values = simulate(chosen, scan, "high").values_CKN
    monkeypatch.setattr(linear_relaxation, "GROWTH", 1.5)
    finer = simulate(chosen, scan, "high", samples=16 * 40).values_CKN
    assert reference.worst(values, finer) < TOLERANCE
    monkeypatch.setattr(linear_relaxation, "GROWTH", math.inf)
    assert reference.worst(simulate(chosen, scan, "high").values_CKN, finer) > TOLERANCE
