"""Background: lines at the drive's harmonics that drift slowly, coloured noise, and what a scanner subtracts."""

import math
from typing import Any

import numpy as np
import pytest

from sm_search.config.receive_settings import FeedThrough, ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.physics.background import (
    feed_through,
    frame_times,
    measured_order,
    noise_level,
    slow_drift,
    without_background,
)
from sm_search.physics.receive import angular_frequencies, receive
from sm_search.physics.system_matrix import SystemMatrix

LINES = {"uv_per_mt": 5.0, "decay_db": 20.0, "coupling": 0.1, "drift_percent": 2.0}
ORDERS = MixingOrders(max_x=3, max_y=3).pairs()


def settings(**values: Any) -> ReceiveSettings:
    return ReceiveSettings.model_validate({"signal": "voltage"} | values)


@pytest.fixture(scope="module")
def silent() -> SystemMatrix:
    """No magnetisation anywhere."""
    field, values_CKN = FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0), np.zeros((2, 15, 60), dtype=complex)
    return SystemMatrix(values_CKN, ORDERS, Grid(size=(10, 6)), field, 25e3, 29)


def test_background_frames_are_measured_in_between() -> None:
    time_F = frame_times(6, 3)
    np.testing.assert_allclose(time_F * 6, [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 0, 3, 6])
    assert measured_order(time_F).tolist() == [2, 3, 4, 6, 7, 8, 1, 5, 9]
    assert measured_order(frame_times(4, 0)).tolist() == [1, 2, 3, 4]


def test_the_lines_stand_at_the_harmonics_of_the_drive_alone() -> None:
    lines_CKF = feed_through(FeedThrough(**LINES), ORDERS, (0.02, 0.01), frame_times(60, 5), 2, 0, "3", "a")
    for k, (m_x, m_y) in enumerate(ORDERS):
        if m_x and m_y:
            assert not lines_CKF[:, k].any()
            continue
        drive, m = (0, m_x) if m_x else (1, m_y)
        for channel in (0, 1):
            share = 1.0 if channel == drive else 0.1
            expected_v = share * 5e-6 * (20.0, 10.0)[drive] * 10.0 ** (1 - m)
            modulus_F = np.abs(lines_CKF[channel, k])
            assert modulus_F.mean() == pytest.approx(expected_v, rel=0.1)
            assert 0 < np.ptp(modulus_F) < 0.3 * expected_v, "it drifts"


def test_phases_are_the_scanners_and_the_drift_is_the_measurements() -> None:
    def lines(scanner: str, measurement: str, drift_percent: float = 0.0) -> np.ndarray:
        values = FeedThrough(**LINES | {"drift_percent": drift_percent})
        return feed_through(values, ORDERS, (0.02, 0.02), frame_times(8, 2), 2, 1, scanner, measurement)

    np.testing.assert_array_equal(lines("3", "a"), lines("3", "b"))
    assert np.abs(lines("3", "a") - lines("4", "a")).max() > 1e-6
    assert np.abs(lines("3", "a", 5.0) - lines("3", "b", 5.0)).max() > 1e-7


def test_a_drift_is_slow_and_of_unit_size() -> None:
    time_F = np.linspace(0, 1, 401)
    drifts = np.stack([slow_drift(time_F, 0, n) for n in range(600)])
    assert np.mean(np.abs(drifts) ** 2) == pytest.approx(1, rel=0.1)
    # Four half waves of amplitude 1/n at most: no step from frame to frame is large.
    assert np.abs(np.diff(drifts, axis=1)).max() < 0.1


def test_noise_may_depend_on_frequency() -> None:
    omega_K = 2e3 * np.pi * np.array([10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(noise_level(settings(), omega_K), 1.0)
    coloured = settings(noise_corner_khz=100.0, noise_rise_khz=500.0)
    expected = np.sqrt([1 + 10 + 0.02**2, 1 + 1 + 0.2**2, 1 + 0.1 + 4])
    np.testing.assert_allclose(noise_level(coloured, omega_K), expected, rtol=1e-12)


def test_the_frames_have_the_noise_of_their_frequency(silent: SystemMatrix) -> None:
    chain = settings(noise_nv=3.0, noise_corner_khz=50.0, background_frames=4000)
    received = receive(silent, chain, "a")
    assert received.background_CKE is not None
    level_K = noise_level(chain, angular_frequencies(silent))
    deviation_CK = np.sqrt((np.abs(received.background_CKE) ** 2).mean(axis=-1))
    np.testing.assert_allclose(deviation_CK, np.tile(3e-9 * level_K, (2, 1)), rtol=5 / math.sqrt(4000))
    assert level_K.max() > 1.2 * level_K.min()


def test_background_frames_hold_the_lines_and_the_file_does_not_say_corrected(silent: SystemMatrix) -> None:
    received = receive(silent, settings(feed_through=LINES, background_frames=7), "a", scanner=2)
    assert received.background_CKE is not None
    line = ORDERS.index((1, 0))
    assert np.abs(received.background_CKE[0, line]).min() > 5e-5
    assert np.abs(received.values_CKN[0, line]).min() > 5e-5
    assert received.corrections == frozenset()
    assert received.measured_order_F is not None
    assert sorted(received.measured_order_F) == list(range(1, 68))


def test_the_scanners_own_subtraction(silent: SystemMatrix) -> None:
    """The mean leaves the drift, interpolation hardly any of it; both are told."""
    left = {}
    for how in ("none", "mean", "interpolated"):
        chain = settings(feed_through=LINES, background_frames=13, background_correction=how)
        received = receive(silent, chain, "a", scanner=2)
        left[how] = np.abs(received.values_CKN).max()
        assert ("isBackgroundCorrected" in received.corrections) == (how != "none")
        if how == "mean":
            np.testing.assert_allclose(received.background_CKE.mean(axis=-1), 0, atol=1e-18)  # type: ignore[union-attr]
    assert left["interpolated"] < 0.15 * left["mean"]
    assert left["mean"] < 0.15 * left["none"]


def test_interpolation_removes_what_is_linear_in_time() -> None:
    time_F = frame_times(50, 4)
    ramp_F = (2 + 3j) + (1 - 4j) * time_F
    signal_CKN = np.random.default_rng(0).normal(size=(1, 2, 50)) + 0j
    values_CKN = signal_CKN + ramp_F[:50]
    background_CKE = np.tile(ramp_F[50:], (1, 2, 1))
    times = time_F[:50], time_F[50:]
    cleaned, left_CKE = without_background(values_CKN, background_CKE, *times, "interpolated")
    np.testing.assert_allclose(cleaned, signal_CKN, atol=1e-13)
    np.testing.assert_allclose(left_CKE[..., 1:-1], 0, atol=1e-13)
    mean_only, left_CKE = without_background(values_CKN, background_CKE, *times, "mean")
    np.testing.assert_allclose(mean_only, values_CKN - ramp_F[50:].mean(), atol=1e-13)
    np.testing.assert_allclose(left_CKE, background_CKE - ramp_F[50:].mean(), atol=1e-13)


@pytest.mark.parametrize(("drift_percent", "most"), [(0.0, 1.3), (3.0, 6.0)])
def test_what_is_left_of_the_background_tells_the_error_of_the_values(
    silent: SystemMatrix, drift_percent: float, most: float
) -> None:
    """Interpolated: a drift that is gone from the values is gone from their noise. A frame's neighbours are twice as
    far apart as the two that a value lies between, and a bend between them shows up to 5.5 times as much."""
    lines = FeedThrough(uv_per_mt=0.4, drift_percent=drift_percent)
    chain = settings(feed_through=lines, noise_nv=1.0, background_frames=40, background_correction="interpolated")
    received = receive(silent, chain, "a", scanner=2)
    error_CK, noise_CK = received.values_CKN.std(axis=-1), received.background_CKE.std(axis=-1)  # type: ignore[union-attr]
    ratio_CK = noise_CK / error_CK
    assert ratio_CK.min() > 0.6
    assert ratio_CK.max() < most


def test_the_snr_is_the_same_whether_the_background_was_subtracted(silent: SystemMatrix) -> None:
    values_CKN = 1e5 * np.random.default_rng(1).normal(size=(2, 15, 60)) + 0j
    loud = SystemMatrix(values_CKN, ORDERS, silent.grid, silent.field, 25e3, 29)
    common = {"feed_through": LINES, "background_frames": 30, "noise_nv": 1.0}
    kept, subtracted = (
        receive(loud, settings(**common, background_correction=how), "a").snr_CK for how in ("none", "mean")
    )
    assert kept is not None
    assert subtracted is not None
    mixed = [k for k, (m_x, m_y) in enumerate(ORDERS) if m_x and m_y]
    np.testing.assert_allclose(kept[:, mixed], subtracted[:, mixed], rtol=0.2)


def test_a_corrected_transfer_function_leaves_the_values_and_an_unknown_one_is_not_told(silent: SystemMatrix) -> None:
    values_CKN = 1e5 * np.random.default_rng(1).normal(size=(2, 15, 60)) + 0j
    loud = SystemMatrix(values_CKN, ORDERS, silent.grid, silent.field, 25e3, 29)
    plain = receive(loud, settings(noise_nv=1.0), "a")
    stored, corrected, unknown = (
        receive(loud, settings(noise_nv=1.0, low_pass_khz=60.0, transfer_function=how), "a")
        for how in ("stored", "corrected", "unknown")
    )
    a_CK = stored.transfer_function_CK
    assert a_CK is not None
    np.testing.assert_allclose(stored.values_CKN / a_CK[..., None], plain.values_CKN, rtol=1e-12)
    np.testing.assert_array_equal(corrected.values_CKN, plain.values_CKN)
    np.testing.assert_array_equal(corrected.transfer_function_CK, a_CK)
    assert corrected.corrections == {"isTransferFunctionCorrected"}
    np.testing.assert_array_equal(unknown.values_CKN, stored.values_CKN)
    assert unknown.transfer_function_CK is None
    assert stored.corrections == unknown.corrections == frozenset()
