"""A phantom measured on a finer grid: the same amount, the same scanner, other noise, and a rated image."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError, SettingsError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders, Scan
from sm_search.data.atomic import sha256
from sm_search.data.mdf_validation import validate_mdf
from sm_search.data.measurement import Measurement, Truth, read_measurement
from sm_search.evaluation.measured import (
    reconstruct_measurement,
    simulate_measurement,
    truth_on,
    write_phantom_measurement,
)
from sm_search.evaluation.phantoms import phantom
from sm_search.evaluation.reconstruction import ReconstructionOptions, measure
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix, simulate

TIME = "2025-01-31T12:00:00.000"
NOISY = ReceiveSettings(signal="voltage", noise_nv=5.0, averages=4, background_frames=200, low_pass_khz=500.0)


@pytest.fixture(scope="module")
def scan(tiny_settings: DatasetSettings) -> Scan:
    return tiny_settings.scans("test")[0]


@pytest.fixture(scope="module")
def noisy(tiny_settings: DatasetSettings) -> DatasetSettings:
    return tiny_settings.model_copy(update={"receive": NOISY, "orders": MixingOrders(max_x=4, max_y=4)})


def test_on_the_same_grid_it_is_the_matrix_times_the_phantom(tiny_settings: DatasetSettings, scan: Scan) -> None:
    sm = simulate(tiny_settings, scan, "high")
    signal, truth = simulate_measurement(tiny_settings, scan, "high", "shape", finer=1)
    expected = measure(sm, phantom("shape", sm.grid))
    np.testing.assert_allclose(signal.values_CKN[..., 0], expected, rtol=1e-12)
    np.testing.assert_allclose(truth_on(truth, sm.grid).ravel(), phantom("shape", sm.grid), atol=1e-13)


def test_a_finer_grid_measures_the_same_amount_and_not_the_same_signal(
    tiny_settings: DatasetSettings, scan: Scan
) -> None:
    coarse, fine, finest = (
        simulate_measurement(tiny_settings, scan, "high", "shape", finer=finer)[0].values_CKN[0, :, 0]
        for finer in (1, 2, 4)
    )
    difference, rest = np.linalg.norm(fine - coarse), np.linalg.norm(finest - fine)
    assert 1e-4 < difference / np.linalg.norm(fine) < 0.1
    assert rest < difference / 2


def test_the_noise_has_the_stated_size_and_a_stream_of_its_own(noisy: DatasetSettings, scan: Scan) -> None:
    clean = noisy.model_copy(update={"receive": NOISY.model_copy(update={"noise_nv": 0.0})})
    silent, _ = simulate_measurement(clean, scan, "high", "dots")
    first, again, other = (simulate_measurement(noisy, scan, "high", "dots", seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.values_CKN, again.values_CKN)
    assert not np.any(first.values_CKN == other.values_CKN)
    a_CK = first.transfer_function_CK
    assert a_CK is not None
    noise = np.stack([(s.values_CKN - silent.values_CKN)[..., 0] / a_CK for s in (first, other)])
    sigma = 5e-9 / 2
    assert abs((np.abs(noise) ** 2).mean() / sigma**2 - 1) < 5 / np.sqrt(noise.size)
    sm = receive(simulate(noisy, scan, "high"), NOISY, scan.id, "high")
    assert not np.any(sm.background_CKE == first.background_CKE)


def test_file_and_matrix_pair_and_the_image_is_rated(noisy: DatasetSettings, scan: Scan, tmp_path: Path) -> None:
    """The matrix comes with a wider choice of components, in its own order."""
    path = tmp_path / "a.mdf"
    write_phantom_measurement(path, noisy, scan, "high", "shape", time=TIME)
    assert validate_mdf(path) == []
    measurement = read_measurement(path)
    assert measurement.truth is not None
    assert (measurement.truth.grid.size, measurement.truth.finer) == ((24, 24), 2)
    sm = simulate(noisy, scan, "high")
    ideal = receive(sm, NOISY.model_copy(update={"low_pass_khz": None}), scan.id, "high")
    voltage = dataclasses.replace(ideal, corrections=measurement.corrections)  # nothing is left to divide out
    result = reconstruct_measurement(voltage, measurement, ReconstructionOptions(snr_threshold=3.0))
    assert result.image.shape == result.phantom.shape == (12, 12)
    assert result.psnr_db > 8
    assert result.image.sum() == pytest.approx(result.phantom.sum(), rel=0.2)
    with pytest.raises(DataError, match="does not tell what was measured"):
        reconstruct_measurement(voltage, dataclasses.replace(measurement, truth=None))
    # The matrix may have its components in another order.
    turned = dataclasses.replace(
        voltage, values_CKN=voltage.values_CKN[:, ::-1], mixing_orders=sm.mixing_orders[::-1], snr_CK=None
    )
    plain, reverse = (reconstruct_measurement(matrix, measurement).image for matrix in (voltage, turned))
    np.testing.assert_allclose(plain, reverse, atol=0.1)


def test_equal_arguments_give_equal_bytes(noisy: DatasetSettings, scan: Scan, tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_phantom_measurement(tmp_path / name, noisy, scan, "low", "dots", time=TIME, finer=1, seed=seed)
        hashes.append(sha256(tmp_path / name))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_truth_counts_point_samples_of_the_matrix() -> None:
    """Where one point sample filled a voxel, four fill one of four times the area."""
    truth = Truth("x", np.full((8, 8), 0.5), Grid(size=(8, 8)), 2)
    np.testing.assert_allclose(truth_on(truth, Grid(size=(4, 4))), 0.5)
    np.testing.assert_allclose(truth_on(truth, Grid(size=(2, 2))), 2.0)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"unit": "A/m"}, "unit: V, A/m"),
        ({"nd": 10}, "N_d: 9, 10"),
        ({"fx_hz": 21e3}, "f_x in Hz: 20000, 21000"),
        ({"field": FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)}, "gradient in T/m and drive in mT: 1, 1, 20, 20"),
        ({"values_CKN": np.ones((1, 8, 144), complex)}, "receive channels: 2, 1"),
    ],
)
def test_what_does_not_pair_is_refused(
    tiny_settings: DatasetSettings, scan: Scan, changes: dict[str, object], name: str
) -> None:
    voltage = tiny_settings.model_copy(update={"receive": ReceiveSettings(signal="voltage")})
    signal, truth = simulate_measurement(voltage, scan, "high", "dots", finer=1)
    measurement = Measurement(
        signal.values_CKN[..., 0], signal.mixing_orders, signal.field, signal.fx_hz, signal.nd, signal.unit, truth
    )
    sm: SystemMatrix = receive(simulate(voltage, scan, "high"), voltage.receive)
    with pytest.raises(DataError, match=f"differ in their {name}"):
        reconstruct_measurement(dataclasses.replace(sm, **changes), measurement)  # type: ignore[arg-type]
    fewer = dataclasses.replace(measurement, mixing_orders=tuple((m + 5, n) for m, n in measurement.mixing_orders))
    with pytest.raises(DataError, match=r"lacks 8 of the matrix's mixing orders, first \(0, 1\)"):
        reconstruct_measurement(sm, fewer)


def test_what_cannot_be_measured_is_refused(tiny_settings: DatasetSettings, scan: Scan) -> None:
    for finer in (0, 17):
        with pytest.raises(SettingsError, match=f"finer {finer}: must be 1 to 16"):
            simulate_measurement(tiny_settings, scan, "high", "dots", finer=finer)
    large = tiny_settings.model_copy(update={"grid": Grid(size=(600, 600))})
    with pytest.raises(SettingsError, match="finer 2: makes a grid of 1200 × 1200"):
        simulate_measurement(large, scan, "high", "dots")
    with pytest.raises(SettingsError, match="seed -1: must not be negative"):
        simulate_measurement(tiny_settings, scan, "high", "dots", seed=-1)
    with pytest.raises(SettingsError, match="phantom 'cat'"):
        simulate_measurement(tiny_settings, scan, "high", "cat")
