"""Transfer functions: resonances and delays by their definition, tables between their samples, and what files say."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings, Resonance, TransferTable
from sm_search.physics.transfer import interpolated, resonance, transfer_function


def omega(*khz: float) -> np.ndarray:
    return 2e3 * np.pi * np.array(khz)


def settings(**values: Any) -> ReceiveSettings:
    return ReceiveSettings.model_validate({"signal": "voltage"} | values)


def test_a_resonance_has_its_gain_its_width_and_no_say_far_away() -> None:
    peak = Resonance(frequency_khz=640.0, quality=20.0, gain=30.0)
    a_K = resonance(peak, omega(640.0, 6.4, 64_000.0))
    assert a_K[0] == pytest.approx(30.0)
    assert abs(a_K[1:] - 1).max() < 0.02
    # Half the power of what is added lies f_0/Q apart.
    fine = np.linspace(500, 800, 30_001)
    added = np.abs(resonance(peak, omega(*fine)) - 1) ** 2
    wide = fine[added > added.max() / 2]
    assert wide[-1] - wide[0] == pytest.approx(640 / 20, rel=2e-3)
    phase = np.unwrap(np.angle(resonance(peak, omega(*fine))))
    # Two angles of arcsin((g − 1)/(g + 1)) from one flank to the other, as with g real poles and zeros.
    assert np.degrees(phase.max() - phase.min()) == pytest.approx(2 * math.degrees(math.asin(29 / 31)), rel=1e-3)


def test_a_delay_turns_the_phase_in_proportion_to_frequency() -> None:
    found = transfer_function(settings(delay_us=2.0), omega(10.0, 125.0), 1)
    assert found is not None
    np.testing.assert_allclose(found[0], [np.exp(-0.04j * math.pi), -1j], atol=1e-12)


def test_a_response_is_that_of_a_real_receiver() -> None:
    """a(−ω) = conj(a(ω)): a real voltage stays real."""
    chain = settings(
        low_pass_khz=900.0,
        high_pass_khz=10.0,
        delay_us=1.3,
        resonances=({"frequency_khz": 650.0, "quality": 15.0, "gain": 20.0},),
    )
    there, back = (transfer_function(chain, sign * omega(33.0, 640.0, 777.0), 1) for sign in (1, -1))
    assert there is not None
    np.testing.assert_allclose(back, there.conj(), rtol=1e-13)


def test_a_table_is_linear_between_its_samples_and_ends_with_them() -> None:
    table = TransferTable(frequency_khz=(10.0, 20.0, 40.0), real=((1.0, 2.0, 4.0),), imaginary=((0.0, 1.0, -1.0),))
    a_CK = interpolated(table, omega(10.0, 15.0, 30.0, 40.0), 2)
    np.testing.assert_allclose(a_CK, [[1, 1.5 + 0.5j, 3, 4 - 1j]] * 2, atol=1e-12)
    with pytest.raises(DataError, match="reaches from 10 to 40 kHz, and the components from 5 to 30 kHz"):
        interpolated(table, omega(5.0, 30.0), 1)
    three = TransferTable(
        frequency_khz=(10.0, 20.0), real=((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)), imaginary=((0.0, 0.0),) * 3
    )
    np.testing.assert_allclose(interpolated(three, omega(12.0), 2), [[1], [2]])
    two = TransferTable(frequency_khz=(10.0, 20.0), real=((1.0, 1.0),) * 2, imaginary=((0.0, 0.0),) * 2)
    with pytest.raises(DataError, match="has 2 channels for 3 receive channels"):
        interpolated(two, omega(12.0), 3)
    both = transfer_function(settings(transfer_table=table.model_dump(), low_pass_khz=15.0), omega(15.0), 1)
    np.testing.assert_allclose(both, [[(1.5 + 0.5j) / (1 + 1j)]])
    with pytest.raises(DataError, match=r"transfer_table a\.h5: names a file that was not read"):
        transfer_function(settings(transfer_table="a.h5"), omega(15.0), 1)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"signal": "magnetisation", "delay_us": 1.0}, "act on the voltage: set signal: voltage"),
        ({"signal": "magnetisation", "feed_through": {"uv_per_mt": 1.0}}, "act on the voltage"),
        ({"transfer_function": "unknown"}, "transfer_function is unknown, but there is none"),
        ({"background_correction": "mean"}, "it needs background_frames"),
        (
            {"transfer_table": {"frequency_khz": (2.0, 1.0), "real": ((1.0, 1.0),), "imaginary": ((0.0, 0.0),)}},
            "ascend",
        ),
        ({"transfer_table": {"frequency_khz": (1.0, 2.0), "real": ((1.0, 1.0),), "imaginary": ()}}, "at least 1"),
        ({"resonances": ({"frequency_khz": 600.0, "quality": 0.0, "gain": 2.0},)}, "greater than 0"),
    ],
)
def test_a_receive_chain_that_makes_no_sense_is_refused(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        settings(**values)
