"""Laws of the Fokker–Planck oracle, and how far the Brownian model is from it.

The table of docs/physics.md (some minutes on one core):

    OMP_NUM_THREADS=1 pytest -m benchmark -s tests/physics/test_fokker_planck.py

Shapes as in `fokker_planck`; K = 168 mixing orders, T samples of one Lissajous period.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import physics_reference as reference
import pytest
from fokker_planck import (
    FokkerPlanck,
    effective_field,
    langevin_ratio_and_slope,
    runge_kutta,
    two_times,
)
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.special import lpmv

from sm_search.config.simulation_settings import Grid, Scan
from sm_search.physics.system_matrix import simulate

TAU = 2e-5
L = reference.langevin


def towards(xi: float, *angles: float) -> NDArray[np.float64]:
    """Fields of one strength, shape (2, V)."""
    return xi * np.stack([np.cos(angles), np.sin(angles)])


def settled(solver: FokkerPlanck, field_2V: NDArray[np.float64], duration_s: float) -> NDArray[np.complex128]:
    state_NV = solver.uniform(field_2V.shape[1])
    for _ in range(300):
        state_NV = solver.static(state_NV, field_2V, duration_s / 300)
    return state_NV


@pytest.mark.parametrize(("xi", "l_max"), [(1e-3, 3), (1.0, 16), (10.0, 30), (100.0, 55)])
def test_static_field_ends_in_langevin(xi: float, l_max: int) -> None:
    angles = (0.0, 1.0, 2.5, -2.0)
    solver = FokkerPlanck(l_max, TAU)
    moment_2V = solver.moment(settled(solver, towards(xi, *angles), 40 * TAU / (1 + xi / 10)))
    expected = towards(float(L(np.array(xi))), *angles)
    assert np.abs(moment_2V - expected).max() < 1e-10 * max(1e-3, expected.max())


def test_field_off_decays_with_the_brownian_time() -> None:
    solver = FokkerPlanck(20, TAU)
    state_NV = settled(solver, towards(5.0, 0.4), 30 * TAU)
    start = solver.moment(state_NV)
    for _ in range(400):
        state_NV = solver.static(state_NV, np.zeros((2, 1)), TAU / 200)
    assert solver.moment(state_NV) == pytest.approx(start * math.exp(-2), rel=1e-10)


@pytest.mark.parametrize("omega_tau", [0.2, 1.0, 5.0])
def test_small_alternating_field_is_debye(omega_tau: float) -> None:
    """M = (ξ/3)·Re[exp(iωt)/(1 + iωτ_B)] for ξ → 0; the next term is smaller by ξ²."""
    xi, steps, solver = 1e-3, max(64, round(32 / omega_tau)), FokkerPlanck(4, TAU)
    omega = omega_tau / TAU
    periods = math.ceil(20 * omega_tau / (2 * math.pi)) + 1
    times_s = np.arange(periods * steps + 1) / steps * 2 * math.pi / omega
    solved = solver.drive(solver.uniform(1), lambda time_s: towards(xi * math.cos(omega * time_s), 0.7), times_s)
    moment_T = solved[1][0, 0, -steps:] / math.cos(0.7)
    susceptibility = 2 * (moment_T * np.exp(-1j * omega * times_s[-steps - 1 : -1])).mean() / xi
    assert susceptibility == pytest.approx(1 / 3 / (1 + 1j * omega_tau), rel=1e-6)


@pytest.mark.parametrize("omega_tau", [0.5, 4.0])
def test_third_harmonic_is_filtered_three_times(omega_tau: float) -> None:
    """c_3 = −(ξ³/360)/[(1 + iωτ_B)(1 + 2iωτ_B/3)(1 + 3iωτ_B)] for ξ → 0, by the way l = 1, 2, 1 (Coffey and Paranjape,
    Proc. R. Ir. Acad. A 78, 17 (1978)); the Brownian model has the last factor only."""
    xi, steps, solver = 0.03, max(64, round(64 / omega_tau)), FokkerPlanck(6, TAU)
    omega = omega_tau / TAU
    periods = math.ceil(24 * omega_tau / (2 * math.pi)) + 1
    times_s = np.arange(periods * steps + 1) / steps * 2 * math.pi / omega
    moment_2VT = solver.drive(solver.uniform(1), lambda time_s: towards(xi * math.cos(omega * time_s), 0), times_s)[1]
    third = (moment_2VT[0, 0, -steps:] * np.exp(-3j * omega * times_s[-steps - 1 : -1])).mean()
    filters = (1 + 1j * omega_tau) * (1 + 2j * omega_tau / 3) * (1 + 3j * omega_tau)
    assert third == pytest.approx(-(xi**3) / 360 / filters, rel=2e-3)


def products_with_x_and_y(l_max: int) -> tuple[NDArray[np.float64], list[NDArray[np.complex128]]]:
    """l of all Y_lm, and the matrices of multiplication with u_x, u_y: by quadrature over the sphere."""
    degrees_orders = [(degree, m) for degree in range(l_max + 1) for m in range(-degree, degree + 1)]
    roots, weights = np.polynomial.legendre.leggauss(l_max + 2)
    phi = np.arange(2 * l_max + 4) * math.pi / (l_max + 2)
    rows = []
    for degree, m in degrees_orders:
        size = (2 * degree + 1) / 2 * math.factorial(degree - abs(m)) / math.factorial(degree + abs(m))
        polar = math.sqrt(size) * lpmv(abs(m), degree, roots) * np.sqrt(weights)
        rows.append(np.outer(polar, np.exp(1j * m * phi) / math.sqrt(len(phi))).ravel())
    basis = np.array(rows)
    sine = np.sqrt(1 - roots**2)
    directions = [np.outer(sine, np.cos(phi)).ravel(), np.outer(sine, np.sin(phi)).ravel()]
    return np.array([degree for degree, _ in degrees_orders], dtype=float), [
        basis.conj() @ (direction[:, None] * basis.T) for direction in directions
    ]


def test_lissajous_field_equals_a_dense_system_in_the_laboratory_frame() -> None:
    """2τ_B·L = −l(l+1) + ½[l(l+1) + 2 − l'(l'+1)]·(b·u)_{ll'}, as ∇f·∇Y = ½[∇²(fY) − f∇²Y − Y∇²f]."""
    l_max, field = 12, lissajous(np.array([[-1.0], [2.0]]), 3.0, 25e3, 6)
    degree, products = products_with_x_and_y(l_max)
    loss = degree * (degree + 1)
    couplings = [(loss[:, None] + 2 - loss) / 2 * product for product in products]

    def slope(time_s: float, c: NDArray[np.complex128]) -> NDArray[np.complex128]:
        b = field(time_s)[:, 0]
        return (b[0] * (couplings[0] @ c) + b[1] * (couplings[1] @ c) - loss * c) / (2 * TAU)

    start = (degree == 0).astype(complex)
    times_s = np.arange(257) / 128 / 25e3
    dense = solve_ivp(slope, (0, times_s[-1]), start, method="DOP853", t_eval=times_s[:-1], rtol=1e-10, atol=1e-12)
    expected_2T = np.stack([(product[0] @ dense.y).real for product in products])
    solver = FokkerPlanck(l_max, TAU)
    actual_2T = solver.drive(solver.uniform(1), field, times_s)[1][:, 0]
    assert np.abs(expected_2T).max() > 0.5
    assert np.abs(actual_2T - expected_2T).max() < 1e-8


def relaxation_times(xi: float, angle: float) -> tuple[float, float]:
    """τ/τ_B of a small deviation along and across the field, from how fast it starts to fade."""
    times = []
    for before in (towards(xi * 1.0001, angle), towards(xi, angle + 1e-4)):
        solver = FokkerPlanck(10 + int(6 * math.sqrt(xi)), 1.0)
        state_NV = settled(solver, before, 40 / (1 + xi / 10))
        after, step = towards(xi, angle), 1e-3 / (1 + xi)
        deviations = [np.linalg.norm(solver.moment(state_NV) - towards(float(L(np.array(xi))), angle))]
        for _ in range(2):
            state_NV = solver.static(state_NV, after, step)
            deviations.append(np.linalg.norm(solver.moment(state_NV) - towards(float(L(np.array(xi))), angle)))
        slope = (-3 * deviations[0] + 4 * deviations[1] - deviations[2]) / (2 * step)
        times.append(-deviations[0] / slope)
    return times[0], times[1]


@pytest.mark.parametrize("xi", [0.5, 3.0, 20.0])
def test_small_deviations_fade_with_the_times_of_martsenyuk_raikher_and_shliomis(xi: float) -> None:
    """τ_∥ = τ_B·d ln L/d ln ξ and τ_⊥ = 2L/(ξ − L)·τ_B, exact for the beginning of the decay after a step of the field
    (Raikher and Shliomis, Adv. Chem. Phys. 87, 595 (1994); later other eigenmodes show)."""
    langevin = float(L(np.array(xi)))
    slope = 1 - langevin**2 - 2 * langevin / xi
    along, across = relaxation_times(xi, 0.3)
    assert along == pytest.approx(slope * xi / langevin, rel=1e-3)
    assert across == pytest.approx(2 * langevin / (xi - langevin), rel=1e-3)


def lissajous(xi_2V: NDArray[np.float64], drive: float, fx_hz: float, nd: int):
    def field(time_s: float) -> NDArray[np.float64]:
        omega = 2 * math.pi * fx_hz
        phases = np.array([omega * time_s, omega * nd / (nd + 1) * time_s])
        return xi_2V + drive * np.cos(phases)[:, None]

    return field


def test_norm_is_conserved_and_rotation_changes_nothing_but_the_axes() -> None:
    solver = FokkerPlanck(40, TAU)
    turn = np.array([[math.cos(1.1), -math.sin(1.1)], [math.sin(1.1), math.cos(1.1)]])
    upright = lissajous(np.array([[3.0, -20.0], [1.0, 5.0]]), 20.0, 25e3, 6)
    times_s = np.arange(129) / 64 / 25e3
    state_NV, moment_2VT = solver.drive(solver.uniform(2), upright, times_s)
    turned = solver.drive(solver.uniform(2), lambda time_s: turn @ upright(time_s), times_s)[1]
    assert np.abs(state_NV[0] - 1).max() < 1e-14
    assert np.abs(turned - np.tensordot(turn, moment_2VT, axes=1)).max() < 1e-12
    assert np.hypot(*moment_2VT).max() > 0.9


def test_finer_steps_and_more_harmonics_change_nothing() -> None:
    """Order 4 in time; spectral in l."""
    field = lissajous(np.array([[0.0, 20.0], [0.0, -10.0]]), 20.0, 25e3, 6)

    def run(l_max: int, steps: int) -> NDArray[np.float64]:
        solver = FokkerPlanck(l_max, TAU)
        return solver.drive(solver.uniform(2), field, np.arange(steps // 2 + 1) / steps / 25e3)[1][:, :, :: steps // 32]

    best = run(60, 256)
    assert np.abs(run(harmonics(45.0), 256) - best).max() < 1e-7
    errors = [np.abs(run(60, steps) - best).max() for steps in (32, 64)]
    assert errors[1] < 2e-5
    assert errors[0] > 10 * errors[1]


def test_effective_field_starts_like_the_full_dynamics() -> None:
    """Both closures agree with the Fokker–Planck equation to first order in a field that was switched on."""
    b_2V = towards(2.0, 0.3)
    times_s = np.arange(3) * 1e-4 * TAU
    full = FokkerPlanck(12, TAU).drive(FokkerPlanck(12, TAU).uniform(1), lambda _: b_2V, times_s)[1][:, :, -1]
    e_2V = runge_kutta(effective_field, np.full((2, 1), 1e-9), lambda _: b_2V, times_s, TAU)[:, :, -1]
    assert e_2V * langevin_ratio_and_slope(np.hypot(*e_2V))[0] == pytest.approx(full, rel=1e-4)


# The comparison ------------------------------------------------------------------------------------------------------

ND = 24
STEPS = 128
WARM_UP = {"low": 25, "high": 4}
"""Lines before the period that counts, with a quarter of its steps: at the low field the memory is longest."""

SHOWN = ((1, 0), (3, 0), (5, 0), (2, 1), (4, 3))
PLACES_MM = {"centre": 0.0, "halfway": 10.0, "edge": 20.0, "outside": 25.0}
MODELS = ("equilibrium", "brownian", "two times", "effective field")


def harmonics(xi: float) -> int:
    """l_max: the equilibrium's coefficients fall like exp(−l²/2ξ), and what is lost there has to come down to l = 1."""
    return 8 + math.ceil(3 * math.sqrt(xi))


@dataclass(frozen=True)
class Case:
    """One scan at N_d = 24 where no two of the 168 components share a frequency."""

    diameter_nm: float
    which: str
    fx_khz: float

    @property
    def scan(self) -> Scan:
        return Scan(core_diameter_nm=self.diameter_nm, fx_khz=self.fx_khz, nd=ND)

    @property
    def tau_s(self) -> float:
        return reference.tau_brown(reference.settings(), self.scan)

    @property
    def drive(self) -> float:
        """Amplitude as ξ."""
        chosen = reference.settings()
        return reference.beta(chosen, self.scan) * chosen.field(self.which).drives_t[0]

    def field(self, places_mm_2V: NDArray[np.float64]):
        """A/G is 20 mm at both fields."""
        return lissajous(-self.drive * places_mm_2V / 20, self.drive, self.scan.fx_hz, ND)

    def times_s(self, steps: int, begin: int, end: int) -> NDArray[np.float64]:
        """From one x drive period to another."""
        return np.arange(begin * steps, end * steps + 1) / (steps * self.scan.fx_hz)


def places_mm() -> NDArray[np.float64]:
    """Half of a 4 × 4 grid over the field of view (x → −x is exact for even N_d), then `PLACES_MM`; shape (2, V)."""
    half = [(x, y) for y in (-15.0, -5.0, 5.0, 15.0) for x in (5.0, 15.0)]
    return np.array([*half, *((x, 0.0) for x in PLACES_MM.values())]).T


@cache
def full_matrix(case: Case) -> tuple[NDArray[np.complex128], float]:
    """x-channel of the Fokker–Planck equation, shape (K, V), and how far the end of the period is from its start."""
    places = places_mm()
    solver = FokkerPlanck(harmonics(case.drive * math.hypot(35, 35) / 20), case.tau_s)
    field = case.field(places)
    warm_up_s = case.times_s(STEPS // 4, -WARM_UP[case.which], 0)
    state_NV = solver.drive(solver.uniform(places.shape[1]), field, warm_up_s)[0]
    last_NV, moment_2VT = solver.drive(state_NV, field, case.times_s(STEPS, 0, ND + 1))
    return x_channel(case, moment_2VT), float(np.abs(solver.moment(last_NV) - moment_2VT[..., 0]).max())


def x_channel(case: Case, moment_2VT: NDArray[np.float64]) -> NDArray[np.complex128]:
    chosen = reference.settings(orders=(12, 12))
    return reference.coefficients(chosen, case.scan, moment_2VT)[0] / 474e3


def packaged_matrix(case: Case, magnetisation: str) -> NDArray[np.complex128]:
    """What the package simulates, at the same places, shape (K, V)."""
    square = simulate(reference.settings(magnetisation, orders=(12, 12)), case.scan, case.which).values_CKN[0]
    line = reference.settings(magnetisation, orders=(12, 12)).model_copy(
        update={"grid": Grid(size=(11, 1), fov_mm=(55, 40))}
    )
    row = simulate(line, case.scan, case.which).values_CKN[0]
    columns = [5 + round(x / 5) for x in PLACES_MM.values()]
    half = square.reshape(-1, 4, 4)[:, :, 2:].reshape(-1, 8)
    return np.concatenate([half, row[:, columns]], axis=1) / 474e3


def closed_matrix(case: Case, model: str) -> NDArray[np.complex128]:
    """The two models of Martsenyuk, Raikher and Shliomis, shape (K, V)."""
    places = places_mm()
    rate_hz = 2.5 * case.drive / case.tau_s
    steps = 2 ** max(8, math.ceil(math.log2(4 * rate_hz / case.scan.fx_hz)))
    slope = two_times if model == "two times" else effective_field
    warm_up = WARM_UP[case.which]
    times_s = case.times_s(steps, -warm_up, ND + 1)
    states = runge_kutta(slope, np.full((2, places.shape[1]), 1e-6), case.field(places), times_s, case.tau_s)
    states = states[:, :, warm_up * steps :]
    if model == "effective field":
        states = states * langevin_ratio_and_slope(np.hypot(*states))[0]
    return x_channel(case, states)


def matrix(case: Case, model: str) -> NDArray[np.complex128]:
    return packaged_matrix(case, model) if model in ("equilibrium", "brownian") else closed_matrix(case, model)


AUDIBLE = 1e-3
"""Components count that are at least this strong in the Fokker–Planck matrix, relative to its strongest."""


def strength(values_KV: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Root sum square over the voxels, shape (K,), relative to the strongest component."""
    size_K = np.linalg.norm(values_KV, axis=1)
    return size_K / size_K.max()


def distance(model: NDArray[np.complex128], full: NDArray[np.complex128], axis: int | None = None):
    return np.linalg.norm(model - full, axis=axis) / np.linalg.norm(full, axis=axis)


def gains(model_KV: NDArray[np.complex128], full_KV: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The factor g that brings g·full closest to the model, shape (K,)."""
    return (full_KV.conj() * model_KV).sum(axis=1) / (np.abs(full_KV) ** 2).sum(axis=1)


def pattern_error(model_KV: NDArray[np.complex128], full_KV: NDArray[np.complex128]) -> NDArray[np.float64]:
    """What is left of the distance, relative to the model, once each component has its best complex factor."""
    rest_KV = model_KV - gains(model_KV, full_KV)[:, None] * full_KV
    return np.linalg.norm(rest_KV, axis=1) / np.linalg.norm(model_KV, axis=1)


def refinement_error(case: Case) -> float:
    """Largest change of M/M_s in the first drive line by half the steps' length and twice the harmonics."""
    places = np.array([[0.0, 15.0], [0.0, 15.0]])
    moments = []
    for factor in (1, 2):
        solver = FokkerPlanck(factor * harmonics(case.drive * math.hypot(35, 35) / 20), case.tau_s)
        times_s = case.times_s(factor * STEPS, 0, 1)
        moments.append(solver.drive(solver.uniform(2), case.field(places), times_s)[1][..., ::factor])
    return float(np.abs(moments[0] - moments[1]).max())


@pytest.mark.benchmark
def test_brownian_model_against_the_full_dynamics() -> None:
    """The tables of docs/physics.md; asserts what the oracle itself owes: a periodic, converged state."""
    models, components, closed, nearby = [], [], [], []
    for fx_khz in (25.0, 10.0):
        for diameter in (30.0, 50.0, 70.0):
            for which in ("low", "high"):
                case = Case(diameter, which, fx_khz)
                full, gap = full_matrix(case)
                computed = {model: matrix(case, model) for model in MODELS}
                refined = refinement_error(case)
                name = f"{diameter:4.0f} {fx_khz:4.0f}  {which:4}"
                models.append(name + model_columns(computed, full) + f" {gap:8.0e} {refined:8.0e}")
                components.append(name + component_columns(computed["brownian"][:, :8], full[:, :8]))
                closed.append(name + component_columns(computed["effective field"][:, :8], full[:, :8]))
                nearby.append(name + place_columns(computed["brownian"], full))
                assert gap < 1e-3
                assert refined < 1e-4
    print("\nnRMSE over field of view and 168 components\n  nm  kHz field   " + "  ".join(MODELS) + "     gap  refined")
    print(*models, sep="\n")
    for title, lines in (("Brownian model", components), ("Effective field", closed)):
        print(f"\n{title}: components above {AUDIBLE:g} (full, model), their medians, then nRMSE/|g| of (m_x, m_y)")
        print("  nm  kHz field  full model  nRMSE pattern |g|  lag(1,0)  " + "  ".join(f"{o!s:>9}" for o in SHOWN))
        print(*lines, sep="\n")
    print("\nBrownian model, nRMSE over 168 components at (x, 0)")
    print("  nm  kHz field" + "".join(f"{place:>9}" for place in PLACES_MM), *nearby, sep="\n")


def model_columns(computed: dict[str, NDArray[np.complex128]], full: NDArray[np.complex128]) -> str:
    return "".join(f" {distance(computed[model][:, :8], full[:, :8]):{len(model) + 1}.3f}" for model in MODELS)


def component_columns(model_KV: NDArray[np.complex128], full_KV: NDArray[np.complex128]) -> str:
    audible = strength(full_KV) >= AUDIBLE
    error_K, gain_K = distance(model_KV, full_KV, axis=1), gains(model_KV, full_KV)
    text = f" {audible.sum():5} {(strength(model_KV) >= AUDIBLE).sum():5}"
    for value_K in (error_K, pattern_error(model_KV, full_KV), np.abs(gain_K)):
        text += f" {np.median(value_K[audible]):6.2f}"
    pairs = reference.settings(orders=(12, 12)).orders.pairs()
    text += f" {-np.degrees(np.angle(gain_K[pairs.index((1, 0))])):8.1f}°"
    return text + "".join(f"  {error_K[k]:4.2f}/{abs(gain_K[k]):4.2f}" for k in map(pairs.index, SHOWN))


def place_columns(model_KV: NDArray[np.complex128], full_KV: NDArray[np.complex128]) -> str:
    return "".join(f"{distance(model_KV[:, v], full_KV[:, v]):9.3f}" for v in range(8, 8 + len(PLACES_MM)))
