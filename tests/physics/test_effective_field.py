"""The effective-field model against independent integrations, its limits, and the full dynamics."""

import math

import mpmath
import numpy as np
import physics_reference as reference
import pytest
from fokker_planck import FokkerPlanck, effective_field, langevin_ratio_and_slope
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldName, FieldSettings, Scan
from sm_search.physics import effective_field_spectrum as model
from sm_search.physics.effective_field_kernel import ACROSS, DIFFERENCE, SATURATED_E2, SERIES_E2, _far, _saturated
from sm_search.physics.system_matrix import TOLERANCE, simulate


def coefficients(e: float) -> list[float]:
    """a_⊥, (a_∥ − a_⊥)/e², ρ and (L' − ρ)/e²."""
    with mpmath.workdps(40):
        x = mpmath.mpf(e)
        rho, slope = (mpmath.coth(x) - 1 / x) / x, 1 / x**2 - mpmath.csch(x) ** 2
        across, along = (1 / rho - 1) / 2, rho / slope
        return [float(value) for value in (across, (along - across) / x**2, rho, (slope - rho) / x**2)]


@pytest.mark.parametrize("e", [1e-6, 0.01, 0.5, 1.0, 2.0, 2.999])
def test_series_are_accurate(e: float) -> None:
    exact = coefficients(e)
    powers = (2 * e**2 / SERIES_E2 - 1) ** np.arange(len(ACROSS))
    found_across, found_difference = np.array([ACROSS, DIFFERENCE]) @ powers
    assert [found_across, found_difference, 1 / (1 + 2 * found_across)] == pytest.approx(exact[:3], rel=1e-13)
    found_along = found_across + found_difference * e**2
    assert exact[2] * (1 - found_along) / found_along == pytest.approx(exact[3] * e**2, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("e2", [SERIES_E2, 30.0, SATURATED_E2, 1e4, 1e6])
def test_closed_forms_are_accurate(e2: float) -> None:
    exact = coefficients(math.sqrt(e2))[:2]
    assert _far(e2) == pytest.approx(exact, rel=3e-14)
    if e2 >= SATURATED_E2:
        assert _saturated(e2) == pytest.approx(exact, rel=3e-14)


def by_scipy(scan: Scan, which: FieldName, size: tuple[int, int], samples: int, warm_up: int) -> NDArray[np.complex128]:
    """The equation as it stands, adaptive steps, some periods of warm-up."""
    chosen = reference.settings("effective-field", size=size)
    tau_s = reference.tau_brown(chosen, scan)

    def slope(time_s: float, flat: NDArray) -> NDArray:
        b_2V = reference.xi_vector(chosen, scan, which, reference.phases(scan, np.asarray([time_s])))[..., 0]
        return effective_field(flat.reshape(2, -1), b_2V, tau_s).ravel()

    wanted = (warm_up + np.arange(samples) / samples) * scan.period_s
    start = np.full(2 * chosen.grid.voxels, 1e-3)
    solution = solve_ivp(
        slope, (0, wanted[-1]), start, method="DOP853", t_eval=wanted, rtol=1e-10, atol=1e-11,
        max_step=1 / (50 * scan.fx_hz),
    )  # fmt: skip
    e_2VT = solution.y.reshape(2, -1, samples)
    return reference.coefficients(chosen, scan, e_2VT * langevin_ratio_and_slope(np.hypot(*e_2VT))[0])


@pytest.mark.parametrize(("which", "samples", "warm_up"), [("low", 3 * 128, 7), ("high", 3 * 512, 2)])
def test_equals_an_adaptive_runge_kutta(which: FieldName, samples: int, warm_up: int) -> None:
    """Seven periods of three lines are 34 Brownian times; at the high field the memory is shorter."""
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=2)
    matrix = simulate(reference.settings("effective-field", size=(3, 2)), scan, which)
    assert reference.worst(matrix.values_CKN, by_scipy(scan, which, (3, 2), samples, warm_up)) < TOLERANCE
    assert matrix.tracer["magnetisation"] == "effective-field"
    assert matrix.tracer["tolerance"] == TOLERANCE


@pytest.mark.parametrize(("diameter", "fx_khz"), [(30, 30), (70, 10)])
def test_more_steps_do_not_show_in_any_of_168_components(diameter: float, fx_khz: float) -> None:
    chosen = reference.settings("effective-field", size=(4, 3), orders=(12, 12))
    scan = Scan(core_diameter_nm=diameter, fx_khz=fx_khz, nd=24)
    matrix = simulate(chosen, scan, "high")
    steps = int(float(matrix.tracer["samplesPerPeriod"]))
    finer = simulate(chosen, scan, "high", samples=2 * steps).values_CKN
    assert reference.worst(matrix.values_CKN, finer) < TOLERANCE
    coarser = simulate(chosen, scan, "high", samples=6 * steps // 10).values_CKN
    assert reference.worst(coarser, finer) > TOLERANCE


def test_weak_fields_give_debye() -> None:
    """The fundamental, for ξ → 0; the next term is smaller by ξ²."""
    fields = {"low": FieldSettings(gradient_t_per_m=1e-5, drive_mt=2e-4)}
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=6)
    closed, debye = (
        simulate(reference.settings(name, orders=(1, 1), **fields), scan, "low").values_CKN[0, 1]
        for name in ("effective-field", "debye")
    )
    assert closed == pytest.approx(debye, rel=1e-6)


def test_closer_to_the_full_dynamics_than_brownian() -> None:
    """nRMSE at two voxels of a short trajectory at the low gradient; the table of docs/physics.md has the long ones."""
    chosen, scan = reference.settings("effective-field", size=(2, 1)), Scan(core_diameter_nm=30, fx_khz=25, nd=2)
    solver, steps, warm_up = FokkerPlanck(16, reference.tau_brown(chosen, scan)), 48, 12

    def field(time_s: float) -> NDArray[np.float64]:
        phases = reference.phases(scan, np.asarray([time_s]))
        return reference.xi_vector(chosen, scan, "low", phases)[..., 0]

    times_s = np.arange(-warm_up * steps, 3 * steps + 1) / (steps * scan.fx_hz)
    moment_2VT = solver.drive(solver.uniform(2), field, times_s)[1][..., warm_up * steps :]
    full = reference.coefficients(chosen, scan, moment_2VT)

    def distance(magnetisation: str) -> float:
        values = simulate(reference.settings(magnetisation, size=(2, 1)), scan, "low").values_CKN
        return float(np.linalg.norm(values - full) / np.linalg.norm(full))

    assert distance("effective-field") < 0.03
    assert distance("brownian") > 0.1


def test_a_particle_too_slow_for_a_steady_state_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "ROUNDS", 3)
    slow = reference.settings("effective-field", size=(2, 1), orders=(1, 1), particle={"viscosity_mpa_s": 1e3})
    with pytest.raises(DataError, match="no steady state in 3 Lissajous periods"):
        simulate(slow, Scan(core_diameter_nm=30, fx_khz=25, nd=2), "low")
    assert math.isfinite(reference.tau_brown(slow, Scan(core_diameter_nm=30, fx_khz=25, nd=2)))
