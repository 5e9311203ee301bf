"""The receive chain: Faraday's law exactly, noise of the stated size, and the SNR of MPIFiles.jl by hand."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy.constants import mu_0

from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.physics.receive import (
    angular_frequencies,
    noise_deviation_v,
    receive,
    signal_to_noise,
    volts_per_magnetisation,
)
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.physics.transfer import transfer_function

FX_HZ, ND = 25e3, 29
FILTERS = {"low_pass_khz": 200.0, "high_pass_khz": 20.0}


@pytest.fixture(scope="module")
def sm() -> SystemMatrix:
    """Random components of 100 kA/m."""
    orders, grid = MixingOrders(max_x=4, max_y=4).pairs(), Grid(size=(30, 40))
    random = np.random.default_rng(3)
    values_CKN = 1e5 * (random.normal(size=(2, len(orders), 1200, 2)) @ np.array([1, 1j]))
    return SystemMatrix(values_CKN, orders, grid, FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0), FX_HZ, ND)


def settings(**values: Any) -> ReceiveSettings:
    return ReceiveSettings.model_validate(values)


def test_without_noise_the_magnetisation_passes_untouched(sm: SystemMatrix) -> None:
    received = receive(sm, settings(averages=7), "scan")
    assert received.values_CKN is sm.values_CKN
    assert received == sm


def test_the_voltage_is_faradays_law(sm: SystemMatrix) -> None:
    chain = settings(signal="voltage", coil_sensitivity_per_m=80.0, core_volume_nl=2.5)
    received = receive(sm, chain)
    assert received.unit == "V"
    assert received.transfer_function_CK is received.background_CKE is received.snr_CK is None
    for k, (m_x, m_y) in enumerate(sm.mixing_orders):
        omega = 2 * math.pi * (m_x * FX_HZ + m_y * FX_HZ * ND / (ND + 1))
        expected_CN = -1j * omega * mu_0 * 80.0 * 2.5e-12 * sm.values_CKN[:, k]
        np.testing.assert_allclose(received.values_CKN[:, k], expected_CN, rtol=1e-14)


def test_the_voltage_is_the_derivative_of_the_moment(sm: SystemMatrix) -> None:
    """u(t) = −μ0·p·V·dM/dt for one voxel in the time domain, by finite differences."""
    chain = settings(signal="voltage")
    t = np.linspace(0, (ND + 1) / FX_HZ, 200_001)[:2001]
    wave_KT = np.exp(1j * angular_frequencies(sm)[:, None] * t)
    moment_T, voltage_T = ((s.values_CKN[0, :, 5] @ wave_KT).real for s in (sm, receive(sm, chain)))
    expected_T = -mu_0 * chain.coil_sensitivity_per_m * chain.core_volume_nl * 1e-12 * np.gradient(moment_T, t)
    np.testing.assert_allclose(voltage_T[1:-1], expected_T[1:-1], atol=1e-4 * np.abs(voltage_T).max())


def test_filters_have_their_corner_and_their_limits() -> None:
    omega = 2e3 * np.pi * np.array([0.02, 20.0, 2000.0, 200.0, 2e5])
    low, high = settings(signal="voltage", low_pass_khz=200.0), settings(signal="voltage", high_pass_khz=20.0)
    found = transfer_function(low, omega, 1), transfer_function(high, omega, 2)
    assert found[0] is not None
    assert found[1] is not None
    (a_low,), (a_high, same) = found
    np.testing.assert_array_equal(a_high, same)
    assert a_low[3] == pytest.approx(1 / (1 + 1j))
    assert a_high[1] == pytest.approx(1 / (1 - 1j))
    assert abs(a_low[0] - 1) < 1e-3 > abs(a_high[4] - 1)
    assert abs(a_low[4]) == pytest.approx(1e-3, rel=1e-3)
    assert abs(a_high[0]) == pytest.approx(1e-3, rel=1e-3)
    both = transfer_function(settings(signal="voltage", **FILTERS), omega, 1)
    np.testing.assert_allclose(both, [a_low * a_high], rtol=1e-14)
    assert transfer_function(settings(signal="voltage"), omega, 2) is None


def test_the_filter_acts_on_signal_and_noise_alike(sm: SystemMatrix) -> None:
    """Noise is white before the filter: dividing the transfer function out gives the unfiltered file."""
    common = {"signal": "voltage", "noise_nv": 3.0, "background_frames": 5}
    plain, filtered = receive(sm, settings(**common), "a"), receive(sm, settings(**common, **FILTERS), "a")
    a_CK = filtered.transfer_function_CK
    assert a_CK is not None
    assert a_CK.shape == (2, 24)
    assert len(np.unique(a_CK[0].round(6))) == 24
    np.testing.assert_array_equal(a_CK[0], a_CK[1])
    np.testing.assert_allclose(filtered.values_CKN / a_CK[..., None], plain.values_CKN, rtol=1e-13)
    np.testing.assert_allclose(filtered.background_CKE / a_CK[..., None], plain.background_CKE, rtol=1e-13)
    np.testing.assert_allclose(filtered.snr_CK, plain.snr_CK, rtol=1e-9)


@pytest.mark.parametrize("averages", [1, 16])
def test_the_noise_is_white_circular_and_of_the_stated_size(sm: SystemMatrix, averages: int) -> None:
    chain = settings(signal="voltage", noise_nv=4.0, averages=averages, background_frames=500)
    clean, noisy = (receive(sm, c, "scan") for c in (settings(signal="voltage"), chain))
    assert noisy.background_CKE is not None
    sigma = 4e-9 / math.sqrt(averages)
    assert noise_deviation_v(chain) == pytest.approx(sigma)
    for noise_CKF in (noisy.values_CKN - clean.values_CKN, noisy.background_CKE):
        # The variance of |n|² is σ⁴ for circular complex normal numbers; five standard errors of its mean.
        power_CK = (np.abs(noise_CKF) ** 2).mean(axis=-1) / sigma**2
        frames = noise_CKF.shape[-1]
        assert abs(power_CK.mean() - 1) < 5 / math.sqrt(power_CK.size * frames)
        np.testing.assert_allclose(power_CK, 1, atol=5 / math.sqrt(frames))
        assert abs((noise_CKF**2).mean()) / sigma**2 < 5 / math.sqrt(noise_CKF.size)
        assert abs(noise_CKF.mean()) / sigma < 5 / math.sqrt(noise_CKF.size)


def test_averages_divide_the_same_noise_by_their_root(sm: SystemMatrix) -> None:
    one, many = (
        receive(sm, settings(noise_nv=4.0, averages=n, background_frames=3), "a").background_CKE for n in (1, 25)
    )
    assert one is not None
    np.testing.assert_allclose(many, one / 5, rtol=1e-14)


def test_the_noise_of_a_magnetisation_is_that_of_its_voltage(sm: SystemMatrix) -> None:
    common = {"noise_nv": 4.0, "averages": 3, "background_frames": 40}
    magnetisation = receive(sm, settings(**common), "scan", "low")
    voltage = receive(sm, settings(signal="voltage", **common), "scan", "low")
    assert magnetisation.unit == "A/m"
    factor_K = volts_per_magnetisation(settings(), angular_frequencies(sm))[:, None]
    assert voltage.background_CKE is not None
    np.testing.assert_allclose(magnetisation.background_CKE * factor_K, voltage.background_CKE, rtol=1e-12)
    deviation_K = np.sqrt((np.abs(magnetisation.values_CKN - sm.values_CKN) ** 2).mean(axis=(0, 2)))
    np.testing.assert_allclose(deviation_K * np.abs(factor_K[:, 0]), 4e-9 / math.sqrt(3), rtol=5 / math.sqrt(2400))


def test_the_noise_depends_on_seed_and_names_only(sm: SystemMatrix) -> None:
    chain = settings(noise_nv=4.0, background_frames=3)
    first, again = receive(sm, chain, "a", "low"), receive(sm, chain, "a", "low")
    np.testing.assert_array_equal(first.values_CKN, again.values_CKN)
    np.testing.assert_array_equal(first.background_CKE, again.background_CKE)
    longer = receive(sm, chain.model_copy(update={"background_frames": 9}), "a", "low")
    np.testing.assert_array_equal(first.values_CKN, longer.values_CKN)
    for other in (
        receive(sm, chain, "a", "high"),
        receive(sm, chain, "b", "low"),
        receive(sm, chain.model_copy(update={"seed": 1}), "a", "low"),
    ):
        assert not np.any(first.values_CKN == other.values_CKN)
        assert not np.any(first.background_CKE == other.background_CKE)


def test_the_chain_is_gone_through_once(sm: SystemMatrix) -> None:
    received = receive(sm, settings(signal="voltage"))
    with pytest.raises(ValueError, match="bare magnetisation in A/m, this is in V"):
        receive(received, settings(signal="voltage"))


def test_snr_by_hand() -> None:
    """Noise 1 and 2 around a background of 0 and 3i; the region is where one of the two exceeds 0.9 of its maximum."""
    background_KE = np.array([[1, -1, 1j, -1j], [2 + 3j, -2 + 3j, 5j, 1j]])
    values_KN = np.array([[10, 9.5j, -2, 1], [3j + 1, 3j - 2, 3j, 3j - 4j]])
    # Component 0: |S| = 10, 9.5, 2, 1, above 9 in frames 0 and 1. Component 1: |S| = √10, √13, 3, 1, above 3.24 in 1.
    # Component 0 in the region: median (10, 9.5) = 9.75 > 3.5, so the median above 9: 9.75; over noise 1.
    # Component 1 in the region: |S − 3i| = 1, 2, median 1.5 < 7; over noise 2.
    snr_CK = signal_to_noise(values_KN[None], background_KE[None])
    assert snr_CK is not None
    np.testing.assert_allclose(snr_CK, [[9.75, 0.75]], rtol=1e-14)
    # A strong component counts by its own peak: frames 2 and 3 of |S − 3i| = 1, 2, 40, 41 are above 36.9.
    values_KN[1] = 3j + np.array([1, 2, 40, 41j])
    snr_CK = signal_to_noise(values_KN[None], background_KE[None])
    assert snr_CK is not None
    # The region is now 0, 1, 2, 3: component 0 has the median of (10, 9.5, 2, 1), 5.75 > 3.5, then 9.75 again.
    np.testing.assert_allclose(snr_CK, [[9.75, 40.5 / 2]], rtol=1e-14)


def test_pure_noise_has_an_snr_near_one_and_a_strong_signal_its_own(sm: SystemMatrix) -> None:
    """The median of a Rayleigh modulus is σ√ln 2, its mean σ√π/2."""
    chain = settings(signal="voltage", noise_nv=1.0, background_frames=2000)
    nothing = receive(dataclasses.replace(sm, values_CKN=0 * sm.values_CKN), chain)
    assert nothing.snr_CK is not None
    rayleigh = math.sqrt(math.log(2)) / (math.sqrt(math.pi) / 2)
    assert nothing.snr_CK.mean() == pytest.approx(rayleigh, rel=0.1)
    assert nothing.snr_CK.max() < 1.5 * rayleigh
    something = receive(sm, chain)
    clean_CK = np.abs(receive(sm, settings(signal="voltage")).values_CKN).max(axis=-1)
    assert something.snr_CK is not None
    # The median above 0.9 of the maximum.
    share_CK = something.snr_CK * 1e-9 * math.sqrt(math.pi) / 2 / clean_CK
    assert 0.85 < share_CK.min() <= share_CK.max() < 1.06


def test_snr_is_not_defined_without_a_deviation(sm: SystemMatrix) -> None:
    silent = receive(sm, settings(background_frames=4))
    assert silent.background_CKE is not None
    assert not silent.background_CKE.any()
    assert silent.snr_CK is None
    assert signal_to_noise(sm.values_CKN, sm.values_CKN[..., :1]) is None
