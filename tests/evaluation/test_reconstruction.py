"""Regularised Kaczmarz against the exact Tikhonov solution, and the check built on it."""

import dataclasses

import numpy as np
import pytest

from sm_search.config.errors import DataError, SettingsError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import Grid
from sm_search.data.dataset import Dataset
from sm_search.evaluation.metrics import MAX_PSNR_DB
from sm_search.evaluation.phantoms import phantom
from sm_search.evaluation.reconstruction import image_quality, kaczmarz, measure, reconstruct, reconstruction_check
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix


def problem(components: int, voxels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random complex matrix and a non-negative concentration."""
    random = np.random.default_rng(seed)
    sm_KN = random.normal(size=(components, voxels)) + 1j * random.normal(size=(components, voxels))
    return sm_KN, np.maximum(random.normal(size=voxels), 0)


def tikhonov(sm_KN: np.ndarray, u_K: np.ndarray, regularisation: float) -> np.ndarray:
    """argmin over real c of ‖S c − u‖² + λ‖c‖² by the normal equations."""
    voxels = sm_KN.shape[1]
    lam = regularisation * np.linalg.norm(sm_KN) ** 2 / voxels
    gram_NN = (sm_KN.conj().T @ sm_KN).real + lam * np.eye(voxels)
    return np.linalg.solve(gram_NN, (sm_KN.conj().T @ u_K).real)


@pytest.mark.parametrize("regularisation", [1.0, 0.1, 0.01])
@pytest.mark.parametrize(("components", "voxels"), [(30, 20), (6, 20)])
def test_unconstrained_sweeps_converge_to_the_tikhonov_solution(
    components: int, voxels: int, regularisation: float
) -> None:
    """Also for data that no concentration explains."""
    sm_KN, _ = problem(components, voxels)
    random = np.random.default_rng(1)
    u_K = random.normal(size=components) + 1j * random.normal(size=components)
    found = kaczmarz(sm_KN, u_K, regularisation=regularisation, sweeps=3000, non_negative=False)
    exact = tikhonov(sm_KN, u_K, regularisation)
    assert (exact < 0).any()
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())


def test_one_sweep_solves_orthogonal_equations() -> None:
    sm_KN = np.diag([1.0, 2.0, 5.0])
    u_K = np.array([1.0, -4.0, 10.0])
    found = kaczmarz(sm_KN, u_K, regularisation=0.3, sweeps=1, non_negative=False)
    # λ = 0.3·(1 + 4 + 25)/3 = 3
    np.testing.assert_allclose(found, [1 / (1 + 3), -8 / (4 + 3), 50 / (25 + 3)], rtol=1e-12)
    assert kaczmarz(sm_KN, u_K, regularisation=0.3, sweeps=1)[1] == 0


def test_the_unregularised_limit_is_the_consistent_solution_or_the_one_of_least_norm() -> None:
    sm_KN, c_N = problem(30, 20)
    found = kaczmarz(sm_KN, sm_KN @ c_N, regularisation=0.0, sweeps=300, non_negative=False)
    np.testing.assert_allclose(found, c_N, atol=1e-9)
    sm_KN, c_N = problem(6, 20)
    found = kaczmarz(sm_KN, sm_KN @ c_N, regularisation=0.0, sweeps=500, non_negative=False)
    rows = np.concatenate((sm_KN.real, sm_KN.imag))
    np.testing.assert_allclose(found, np.linalg.pinv(rows) @ rows @ c_N, atol=1e-8)


def test_a_consistent_phantom_is_recovered_under_the_constraint() -> None:
    sm_KN, c_N = problem(30, 20)
    found = kaczmarz(sm_KN, sm_KN @ c_N, regularisation=0.0, sweeps=300)
    np.testing.assert_allclose(found, c_N, atol=1e-9)


def test_the_constraint_holds_for_any_data() -> None:
    sm_KN, c_N = problem(30, 20)
    found = kaczmarz(sm_KN, -(sm_KN @ c_N), regularisation=0.01, sweeps=5)
    assert (found >= 0).all()
    unconstrained = kaczmarz(sm_KN, -(sm_KN @ c_N), regularisation=0.01, sweeps=5, non_negative=False)
    assert (unconstrained < 0).any()


@pytest.mark.parametrize("non_negative", [True, False])
def test_scales_of_measurement_and_matrix_pass_through(non_negative: bool) -> None:
    sm_KN, _ = problem(10, 20)
    u_K = problem(10, 20, seed=2)[0][:, 0]
    options = {"regularisation": 0.03, "sweeps": 7, "non_negative": non_negative}
    reference = kaczmarz(sm_KN, u_K, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(kaczmarz(sm_KN, 1e6 * u_K, **options), 1e6 * reference, rtol=1e-9)  # type: ignore[arg-type]
    # λ is relative to the matrix: its unit does not matter.
    found = kaczmarz(1e-9 * sm_KN, 1e-9 * u_K, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-12)


def test_empty_rows_and_wrong_numbers() -> None:
    sm_KN, c_N = problem(30, 20)
    sm_KN[3] = 0
    assert np.isfinite(kaczmarz(sm_KN, sm_KN @ c_N + 1, regularisation=0.0, sweeps=2)).all()
    for options in ({"regularisation": -1.0, "sweeps": 1}, {"regularisation": np.nan, "sweeps": 1}):
        with pytest.raises(SettingsError, match="must be at least 0"):
            kaczmarz(sm_KN, sm_KN @ c_N, **options)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="sweeps 0: must be"):
        kaczmarz(sm_KN, sm_KN @ c_N, regularisation=0.0, sweeps=0)


@pytest.fixture(scope="module")
def high(tiny_dataset: Dataset) -> SystemMatrix:
    return next(iter(tiny_dataset.pairs("test"))).high


@pytest.fixture(scope="module")
def well_posed(high: SystemMatrix) -> SystemMatrix:
    """As many random components as make the phantom's image unique."""
    orders = tuple((m_x, m_y) for m_x in range(1, 11) for m_y in range(1, 11))
    values_KN, _ = problem(len(orders), high.grid.voxels)
    return dataclasses.replace(high, values_CKN=values_KN[None], mixing_orders=orders, nd=29)


def test_a_well_posed_phantom_comes_back(well_posed: SystemMatrix) -> None:
    result = reconstruction_check(well_posed, "shape", noise_level=0.0, regularisation=0.0, sweeps=1500)
    np.testing.assert_array_equal(result.phantom.ravel(), phantom("shape", well_posed.grid))
    assert result.psnr_db > 60
    assert result.ssim == pytest.approx(1, abs=1e-3)
    assert result.image.shape == (12, 12)


def test_the_drive_frequencies_count_for_nothing(high: SystemMatrix) -> None:
    c_N = phantom("dots", high.grid)
    signal_CK = measure(high, c_N)
    np.testing.assert_allclose(signal_CK, np.einsum("ckn,n->ck", high.values_CKN, c_N), rtol=1e-9)
    drive_K = np.array([sum(order) == 1 for order in high.mixing_orders])
    assert drive_K.sum() == 2
    other = dataclasses.replace(high, values_CKN=np.where(drive_K[:, None], 1e9, high.values_CKN))
    np.testing.assert_array_equal(reconstruct(other, signal_CK + 1e9 * drive_K), reconstruct(high, signal_CK))


def test_measurement_noise_is_white_in_the_voltage(well_posed: SystemMatrix) -> None:
    c_N = phantom("dots", well_posed.grid)
    clean = measure(well_posed, c_N)
    noisy = measure(well_posed, c_N, noise_level=0.1, seed=1)
    voltage_K = ((noisy - clean) * well_posed.frequency_index())[0]
    expected = 0.1 * np.abs(clean * well_posed.frequency_index()).max()
    assert np.sqrt(np.mean(np.abs(voltage_K) ** 2)) == pytest.approx(expected, rel=0.15)
    assert np.abs(voltage_K[:50]).mean() == pytest.approx(np.abs(voltage_K[50:]).mean(), rel=0.3)
    np.testing.assert_array_equal(measure(well_posed, c_N, noise_level=0.1, seed=1), noisy)
    assert not np.allclose(measure(well_posed, c_N, noise_level=0.1, seed=2), noisy)
    with pytest.raises(SettingsError, match="noise_level nan: must be at least 0"):
        measure(well_posed, c_N, noise_level=float("nan"))


def test_the_energy_threshold_leaves_components_out(well_posed: SystemMatrix) -> None:
    signal_CK = measure(well_posed, phantom("dots", well_posed.grid))
    strength_K = np.linalg.norm(well_posed.values_CKN[0], axis=1) * well_posed.frequency_index()
    threshold = float(np.median(strength_K) / strength_K.max())
    kept = np.flatnonzero(strength_K >= threshold * strength_K.max())
    assert len(kept) == 50
    fewer = dataclasses.replace(
        well_posed,
        values_CKN=well_posed.values_CKN[:, kept],
        mixing_orders=tuple(well_posed.mixing_orders[i] for i in kept),
    )
    expected = reconstruct(fewer, signal_CK[:, kept], sweeps=5)
    np.testing.assert_array_equal(reconstruct(well_posed, signal_CK, sweeps=5, energy_threshold=threshold), expected)


def test_a_matrix_of_the_voltage_gives_the_image_of_its_magnetisation(high: SystemMatrix) -> None:
    voltage = receive(high, ReceiveSettings(signal="voltage"))
    c_N = phantom("dots", high.grid)
    # The voltage is ahead by −i, which exchanges the equations of the real and the imaginary part.
    turned = dataclasses.replace(high, values_CKN=-1j * high.values_CKN)
    expected = reconstruct(turned, measure(turned, c_N))
    np.testing.assert_allclose(reconstruct(voltage, measure(voltage, c_N)), expected, rtol=1e-8, atol=1e-10)
    assert expected.max() > 0.2


def test_measurement_noise_is_white_in_a_measured_voltage(well_posed: SystemMatrix) -> None:
    sm = dataclasses.replace(well_posed, unit="V")
    c_N = phantom("dots", sm.grid)
    noise_K = (measure(sm, c_N, noise_level=0.1) - measure(sm, c_N))[0]
    expected = 0.1 * np.abs(measure(sm, c_N)).max()
    for half_K in (noise_K[:50], noise_K[50:]):
        assert np.sqrt(np.mean(np.abs(half_K) ** 2)) == pytest.approx(expected, rel=0.3)


def test_the_snr_threshold_leaves_components_out_of_each_channel(well_posed: SystemMatrix) -> None:
    snr_CK = np.arange(100.0)[None]
    sm = dataclasses.replace(well_posed, snr_CK=snr_CK)
    signal_CK = measure(sm, phantom("dots", sm.grid))
    kept = dataclasses.replace(
        well_posed, values_CKN=well_posed.values_CKN[:, 40:], mixing_orders=sm.mixing_orders[40:]
    )
    expected = reconstruct(kept, signal_CK[:, 40:], sweeps=5)
    np.testing.assert_array_equal(reconstruct(sm, signal_CK, sweeps=5, snr_threshold=40.0), expected)
    everything = reconstruct(well_posed, signal_CK, sweeps=5)
    np.testing.assert_array_equal(reconstruct(sm, signal_CK, sweeps=5, snr_threshold=0.0), everything)
    with pytest.raises(DataError, match="no received component has an SNR of 100; the largest is 99"):
        reconstruct(sm, signal_CK, snr_threshold=100.0)
    with pytest.raises(DataError, match="neither an SNR nor background frames: a threshold of 5 would drop every"):
        reconstruct(well_posed, signal_CK, snr_threshold=5.0)


def test_a_wrong_matrix_costs_quality(well_posed: SystemMatrix) -> None:
    random = np.random.default_rng(5)
    values_CKN = well_posed.values_CKN
    psnr = []
    for error in (0.0, 0.05, 0.5):
        perturbed = values_CKN + error * random.normal(size=values_CKN.shape)
        sm = dataclasses.replace(well_posed, values_CKN=perturbed)
        psnr.append(reconstruction_check(sm, "shape", truth=well_posed, noise_level=0.0, sweeps=20).psnr_db)
    assert psnr[0] > psnr[1] + 1 > psnr[2] + 2
    # Amplitude counts: twice the matrix is half the concentration.
    doubled = dataclasses.replace(well_posed, values_CKN=2 * values_CKN)
    result = reconstruction_check(doubled, "shape", truth=well_posed, noise_level=0.0, sweeps=20)
    reference = reconstruction_check(well_posed, "shape", noise_level=0.0, sweeps=20)
    np.testing.assert_allclose(2 * result.image, reference.image, rtol=1e-9, atol=1e-12)


def test_matrices_that_do_not_fit_are_refused(high: SystemMatrix) -> None:
    cases = {
        "grid": dataclasses.replace(high, grid=Grid(size=(12, 12), fov_mm=(30.0, 30.0))),
        "unit": dataclasses.replace(high, unit="V"),
        "mixing orders": dataclasses.replace(high, mixing_orders=high.mixing_orders[::-1]),
        "receive channels": dataclasses.replace(high, values_CKN=high.values_CKN[:1]),
    }
    for name, truth in cases.items():
        with pytest.raises(DataError, match=f"differ in their {name}"):
            reconstruction_check(high, "dots", truth=truth)
    with pytest.raises(DataError, match=r"shape \(1, 8\); the system matrix wants \(2, 8\)"):
        reconstruct(high, np.zeros((1, 8)))
    with pytest.raises(DataError, match="zero in every received component"):
        reconstruct(dataclasses.replace(high, values_CKN=np.zeros_like(high.values_CKN)), np.zeros((2, 8)))
    with pytest.raises(SettingsError, match="phantom 'x': does not exist"):
        reconstruction_check(high, "x")


def test_image_quality_exact_cases() -> None:
    truth = phantom("dots", Grid(size=(16, 16))).reshape(16, 16) * 5
    assert image_quality(truth, truth) == (MAX_PSNR_DB, pytest.approx(1))
    psnr, similarity = image_quality(truth + 0.1 * truth.max(), truth)
    assert psnr == pytest.approx(20)
    assert similarity < 1
    # A common factor changes nothing.
    assert image_quality(1e-6 * (truth + 0.1), 1e-6 * truth) == pytest.approx(image_quality(truth + 0.1, truth))
    with pytest.raises(DataError, match="zero everywhere"):
        image_quality(truth, np.zeros((16, 16)))
