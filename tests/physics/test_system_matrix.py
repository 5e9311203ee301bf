"""The oracles of the design page, and `simulate` against independent references."""

import math

import numpy as np
import physics_reference as reference
import pytest

from sm_search.config.simulation_settings import Scan
from sm_search.physics import system_matrix, voxel_mean
from sm_search.physics.linear_relaxation import Kinetics
from sm_search.physics.magnetisation import MODELS
from sm_search.physics.magnetisation.model import MagnetisationModel, relaxing
from sm_search.physics.panel_kernel import BROWNIAN
from sm_search.physics.system_matrix import SystemMatrix, simulate

SCAN = reference.SCAN


def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute every voxel, fill none."""
    monkeypatch.setattr(system_matrix, "computed_half", lambda nd, grid: np.arange(grid.voxels))
    monkeypatch.setattr(system_matrix, "fill_by_symmetry", lambda *arguments: None)


def images(matrix: SystemMatrix) -> np.ndarray:
    size_x, size_y = matrix.grid.size
    return matrix.values_CKN.reshape(2, -1, size_y, size_x)


@pytest.mark.parametrize("which", ["low", "high"])
@pytest.mark.parametrize(("size", "nd"), [((4, 4), 7), ((5, 3), 6), ((3, 4), 7), ((1, 5), 6), ((6, 1), 7)])
def test_equilibrium_equals_a_plain_fft(size: tuple[int, int], nd: int, which: str) -> None:
    chosen = reference.settings(size=size)
    scan = Scan(core_diameter_nm=20, fx_khz=25, nd=nd)
    matrix = simulate(chosen, scan, which)
    expected = reference.equilibrium_matrix(chosen, scan, which, 400 * (nd + 1))
    assert matrix.values_CKN.dtype == np.complex128
    assert matrix.values_CKN.shape == (2, 15, size[0] * size[1])
    # On a grid one voxel wide some components vanish by symmetry: compare with the largest value of the channel.
    error = np.abs(matrix.values_CKN - expected).max() / np.abs(expected).max()
    assert error < 1e-10


@pytest.mark.parametrize("orders", [(3, 3), (2, 0), (0, 1), (1, 3)])
@pytest.mark.parametrize("nd", [6, 7])
def test_brownian_equals_a_runge_kutta(nd: int, orders: tuple[int, int]) -> None:
    chosen = reference.settings("brownian", size=(3, 2), orders=orders)
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    matrix = simulate(chosen, scan, "low")
    moment = reference.brownian_moment(nd, "low", 256 * (nd + 1), (3, 2))
    expected = reference.coefficients(chosen, scan, moment)
    assert matrix.mixing_orders == chosen.orders.pairs()
    assert matrix.frequency_index().tolist() == [x * (nd + 1) + y * nd for x, y in chosen.orders.pairs()]
    error = np.abs(matrix.values_CKN - expected).max() / np.abs(expected).max()
    assert error < 5e-9


def test_brownian_at_the_high_gradient_equals_a_runge_kutta() -> None:
    chosen = reference.settings("brownian", size=(3, 2))
    matrix = simulate(chosen, SCAN, "high")
    expected = reference.coefficients(chosen, SCAN, reference.brownian_moment(6, "high", 1024 * 7, (3, 2)))
    assert reference.worst(matrix.values_CKN, expected) < 1e-6


def test_scale_identity() -> None:
    """Oracle 1: (2 mT, 0.1 T/m, d) ≡ (20 mT, 1 T/m, d·10^(−1/3)) under the equilibrium model."""
    chosen = reference.settings(size=(5, 4))
    low = simulate(chosen, SCAN, "low")
    smaller = Scan(core_diameter_nm=30 * 10 ** (-1 / 3), fx_khz=25, nd=6)
    high = simulate(chosen, smaller, "high")
    assert np.abs(low.values_CKN - high.values_CKN).max() < 1e-12 * np.abs(low.values_CKN).max()


@pytest.mark.parametrize("nd", [6, 7])
def test_torus_aliasing(nd: int) -> None:
    """Oracle 2: SM_k = Σ_j c[m_x + jN_d, m_y − j(N_d+1)], c the 2-D spectrum over independent drive phases."""
    chosen = reference.settings(size=(4, 3))
    scan = Scan(core_diameter_nm=20, fx_khz=25, nd=nd)
    points = 512
    phase = 2 * math.pi * np.arange(points) / points
    torus = np.meshgrid(phase, phase, indexing="ij")
    moment = reference.unit_equilibrium(reference.xi_vector(chosen, scan, "high", (torus[0], torus[1])))
    c_CVab = np.fft.fft2(moment) / points**2
    shifts = range(-20, 21)
    expected_CKV = np.stack(
        [sum(c_CVab[..., m_x + j * nd, m_y - j * (nd + 1)] for j in shifts) for m_x, m_y in chosen.orders.pairs()],
        axis=1,
    )
    actual = simulate(chosen, scan, "high").values_CKN / 474e3
    assert np.abs(actual - expected_CKV).max() < 1e-11
    without_aliases = np.stack([c_CVab[..., m_x, m_y] for m_x, m_y in chosen.orders.pairs()], axis=1)
    assert np.abs(actual - without_aliases).max() > 1e-6


@pytest.mark.parametrize("magnetisation", ["brownian", "effective-field"])
@pytest.mark.parametrize("nd", [6, 7])
def test_parity(monkeypatch: pytest.MonkeyPatch, nd: int, magnetisation: str) -> None:
    """Oracle 3, on the x-channel: x→−x gives −(−1)^(m_x) (N_d even), y→−y gives (−1)^(m_y) (N_d odd).

    The equilibrium is always computed from its symmetry: there the plain FFT is the judge, on all voxels.
    """
    everywhere(monkeypatch)
    chosen = reference.settings(magnetisation, size=(4, 3))
    image_KYX = images(simulate(chosen, Scan(core_diameter_nm=30, fx_khz=25, nd=nd), "low"))[0]
    m_x, m_y = np.array(chosen.orders.pairs()).T[:, :, None, None]
    expected = (-1.0) ** m_y * image_KYX[:, ::-1] if nd % 2 else -((-1.0) ** m_x) * image_KYX[:, :, ::-1]
    within = 1e-13 if magnetisation == "brownian" else 1e-12  # where its second round has met the first
    assert np.abs(image_KYX - expected).max() < within * np.abs(image_KYX).max()


@pytest.mark.parametrize("voxel", ["point", "mean"])
@pytest.mark.parametrize("nd", [6, 7])
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 4), (3, 1), (1, 1)])
def test_symmetry_fills_what_would_have_been_computed(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], nd: int, voxel: str
) -> None:
    monkeypatch.setattr(voxel_mean, "LEAST_POINTS", 2)
    monkeypatch.setattr(voxel_mean, "MOST_POINTS", 2)
    chosen = reference.settings("brownian", size=size, voxel=voxel)
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    filled = simulate(chosen, scan, "low").values_CKN
    everywhere(monkeypatch)
    full = simulate(chosen, scan, "low").values_CKN
    assert np.abs(filled - full).max() < 1e-13 * np.abs(full).max()


@pytest.mark.parametrize("which", ["low", "high"])
@pytest.mark.parametrize("nd", [6, 7])
def test_constant_relaxation_time_is_a_low_pass(monkeypatch: pytest.MonkeyPatch, nd: int, which: str) -> None:
    """Oracle 4: a constant rate, integrated along the trajectory, multiplies component k by 1/(1 + iω_kτ) and changes
    nothing else; the equilibrium comes from the torus, and so does `debye`."""
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=nd)
    still = simulate(reference.settings(size=(4, 3)), scan, which)
    tau_s = reference.tau_brown(reference.settings(), scan)
    omega_K = 2 * math.pi * still.frequency_index() * scan.fx_hz / (nd + 1)
    expected = still.values_CKN / (1 + 1j * omega_K * tau_s)[:, None]
    constant = Kinetics(BROWNIAN, tau_s, slope=0.0, smallest_xi=1e9)
    monkeypatch.setitem(MODELS, "brownian", MagnetisationModel(relaxing(lambda *arguments: constant)))
    integrated = simulate(reference.settings("brownian", size=(4, 3)), scan, which).values_CKN
    assert np.abs(integrated - expected).max() < 1e-10 * np.abs(expected).max()
    debye = simulate(reference.settings("debye", size=(4, 3)), scan, which).values_CKN
    assert np.abs(debye - integrated).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("magnetisation", ["brownian", "effective-field"])
@pytest.mark.parametrize("diameter", [20.0, 30.0])
def test_vanishing_relaxation_time_recovers_equilibrium(diameter: float, magnetisation: str) -> None:
    """Oracle 6: the distance to equilibrium shrinks in proportion to the viscosity."""
    scan = Scan(core_diameter_nm=diameter, fx_khz=10, nd=6)
    still = simulate(reference.settings(size=(2, 2)), scan, "low").values_CKN
    distance = []
    for viscosity in (3e-2, 3e-3):
        chosen = reference.settings(magnetisation, size=(2, 2), particle={"viscosity_mpa_s": viscosity})
        moving = simulate(chosen, scan, "low").values_CKN
        distance.append(np.abs(moving - still).max() / np.abs(still).max())
    assert distance[0] < 0.05
    assert distance[1] == pytest.approx(distance[0] / 10, rel=0.05)


def test_converges_with_samples() -> None:
    """Oracle 6: the default is converged, and fewer samples are worse."""
    chosen = reference.settings("brownian", size=(3, 3))
    default = simulate(chosen, SCAN, "high")
    samples = default.tracer["samplesPerPeriod"]
    assert isinstance(samples, float)
    finer = simulate(chosen, SCAN, "high", samples=3 * int(samples)).values_CKN
    coarser = simulate(chosen, SCAN, "high", samples=16).values_CKN
    error = np.abs(default.values_CKN - finer).max() / np.abs(finer).max()
    assert error < 2e-6
    assert np.abs(coarser - finer).max() / np.abs(finer).max() > 3 * error


def test_blocks_of_lines_do_not_show() -> None:
    """31 lines of 12 panels: two blocks, the second shorter; with 2 panels a line they are one."""
    chosen = reference.settings("brownian", size=(2, 2), orders=(1, 1))
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=30)
    several = simulate(chosen, scan, "low", samples=12 * 16).values_CKN
    one = simulate(chosen, scan, "low", samples=6 * 16).values_CKN
    assert np.abs(several - one).max() < 1e-9 * np.abs(one).max()


def test_equilibrium_is_real_and_independent_of_frequency() -> None:
    chosen = reference.settings(size=(4, 4))
    slow, fast = (simulate(chosen, Scan(core_diameter_nm=30, fx_khz=f, nd=6), "low").values_CKN for f in (10, 30))
    assert np.abs(slow - fast).max() < 1e-13 * np.abs(slow).max()
    assert np.abs(slow.imag).max() < 1e-13 * np.abs(slow).max()


def test_relaxation_delays() -> None:
    """The response lags the drive: at the centre the fundamental's phase lies between −90° and 0°."""
    chosen = reference.settings("brownian", size=(1, 1))
    matrix = simulate(chosen, SCAN, "low")
    fundamental = matrix.values_CKN[0, matrix.mixing_orders.index((1, 0)), 0]
    assert -math.pi / 2 < np.angle(fundamental) < -0.3


def test_tracer_tells_the_model() -> None:
    chosen = reference.settings("brownian")
    tracer = simulate(chosen, SCAN, "low").tracer
    assert tracer["magnetisation"] == "brownian"
    assert tracer["coreDiameter"] == pytest.approx(30e-9)
    assert tracer["viscosity"] == pytest.approx(1e-3)
    assert tracer["anisotropy"] == pytest.approx(11e3)
    assert (tracer["damping"], tracer["sizeSpread"], tracer["sizes"]) == (0.1, 0.0, 1.0)
    assert (tracer["voxel"], tracer["pointsPerVoxel"]) == ("point", 1.0)
    paper = reference.settings("brownian", orders=(12, 12))
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=49)
    assert simulate(paper, scan, "low").tracer["tolerance"] == system_matrix.TOLERANCE
    drowned = reference.settings("equilibrium", orders=(12, 12))
    tiny = Scan(core_diameter_nm=10, fx_khz=25, nd=49)
    assert simulate(drowned, tiny, "low").tracer["tolerance"] == 1.0
    coarse = simulate(chosen, SCAN, "low", samples=33).tracer
    assert coarse["samplesPerPeriod"] == 4 * 16
    assert "tolerance" not in coarse


def test_the_equilibrium_takes_no_time_steps() -> None:
    with pytest.raises(ValueError, match="samples is 33, but equilibrium"):
        simulate(reference.settings("equilibrium"), SCAN, "low", samples=33)
