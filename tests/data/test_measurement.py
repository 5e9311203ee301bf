"""Measurement files: plain HDF5 that pairs with a system matrix, exact round trips, and refusal of what is broken."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.data.atomic import sha256
from sm_search.data.mdf_reading import read_mdf
from sm_search.data.mdf_validation import file_kind, validate_mdf
from sm_search.data.measurement import CONCENTRATION, FIELD_OF_VIEW, FINER, Truth, read_measurement, write_measurement
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix

TRUTH = Truth("dots", np.arange(48.0).reshape(6, 8) / 47, Grid(size=(8, 6), fov_mm=(40.0, 30.0)), 2)


def signal(frames: int = 1, **changes: Any) -> SystemMatrix:
    """2 channels and 11 components of random values, with noise, background frames and a transfer function."""
    orders = MixingOrders(max_x=3, max_y=2).pairs()
    values_CKN = np.random.default_rng(7).normal(size=(2, len(orders), frames, 2)) @ np.array([1, 1j])
    field = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    bare = SystemMatrix(values_CKN, orders, TRUTH.grid, field, 25e3, 9, {"coreDiameter": 30e-9})
    chain: dict[str, Any] = {"signal": "voltage", "noise_nv": 2.0, "background_frames": 4, "low_pass_khz": 60.0}
    return receive(bare, ReceiveSettings.model_validate(chain | changes), "scan")


def write(path: Path, received: SystemMatrix, **extra: Any) -> Path:
    identity = {"uuid": "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", "time": "2025-01-31T12:00:00.000"}
    write_measurement(path, received, TRUTH, **identity, **extra)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.mdf", signal(), averages=10, extra={"/experiment/_scan": "scan"})


def test_a_round_trip_divides_the_transfer_function_out(file: Path) -> None:
    found, sent = read_measurement(file), signal()
    assert sent.transfer_function_CK is not None
    assert sent.background_CKE is not None
    signal_CK = sent.values_CKN[..., 0] - sent.background_CKE.mean(axis=-1)
    np.testing.assert_allclose(found.signal_CK * sent.transfer_function_CK, signal_CK, rtol=1e-12)
    assert found.corrections == {"isBackgroundCorrected", "isTransferFunctionCorrected"}
    for name in ("mixing_orders", "field", "fx_hz", "nd", "unit"):
        assert getattr(found, name) == getattr(sent, name)
    assert found.truth is not None
    np.testing.assert_array_equal(found.truth.concentration_YX, TRUTH.concentration_YX)
    assert (found.truth.phantom, found.truth.grid, found.truth.finer) == ("dots", TRUTH.grid, 2)


def test_frames_are_averaged_and_the_background_is_subtracted(tmp_path: Path) -> None:
    sent = signal(frames=3, low_pass_khz=None)
    found = read_measurement(write(tmp_path / "a.mdf", sent))
    assert sent.background_CKE is not None
    wanted = sent.values_CKN.mean(axis=-1) - sent.background_CKE.mean(axis=-1)
    np.testing.assert_allclose(found.signal_CK, wanted, rtol=1e-12)


def test_plain_h5py_sees_a_measurement(file: Path) -> None:
    with h5py.File(file) as h5:
        assert "calibration" not in h5
        assert h5["/measurement/data"].shape == (5, 1, 2, 11)
        assert h5["/measurement/data"].chunks is None
        flags = {name for name in h5["/measurement"] if name.startswith("is")} - {"isBackgroundFrame"}
        assert len(flags) == 8
        raised = {name for name in flags if h5["/measurement"][name][()]}
        assert raised == {"isFourierTransformed", "isFrequencySelection"}
        assert h5["/measurement/isBackgroundFrame"][()].tolist() == [0, 1, 1, 1, 1]
        assert (h5["/acquisition/numFrames"][()], h5["/acquisition/numAverages"][()]) == (5, 10)
        assert h5["/experiment/_scan"].asstr()[()] == "scan"
        np.testing.assert_array_equal(h5["/measurement/frequencySelection"][()], signal().frequency_index() + 1)


def test_equal_input_gives_equal_bytes(file: Path, tmp_path: Path) -> None:
    arguments = {"averages": 10, "extra": {"/experiment/_scan": "scan"}}
    assert sha256(write(tmp_path / "b.mdf", signal(), **arguments)) == sha256(file)
    assert sha256(write(tmp_path / "c.mdf", signal(seed=1), **arguments)) != sha256(file)


def test_it_is_valid_as_a_measurement_and_no_system_matrix(file: Path, tmp_path: Path) -> None:
    assert validate_mdf(file) == []
    assert file_kind(file) == "measurement"
    with pytest.raises(DataError, match="/calibration/size: is missing"):
        read_mdf(file)
    with h5py.File(file, "r+") as h5:
        h5["/calibration/size"] = np.array([1, 1, 1])
    assert file_kind(file) == "calibration"
    assert {fault.field for fault in validate_mdf(file)} == {"/calibration/method"}
    with pytest.raises(DataError, match="this is a system matrix, not a measurement"):
        read_measurement(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("/measurement/data", np.ones((5, 1, 2, 11))),
        ("/measurement/data", np.full((5, 1, 2, 11), np.nan + 0j)),
        ("/measurement/isBackgroundFrame", np.ones(5, np.int8)),
        ("/measurement/isFourierTransformed", np.int8(0)),
        ("/measurement/_mixingOrders", np.zeros((11, 2), int)),
        ("/acquisition/receiver/transferFunction", np.zeros((2, 11), complex)),
        (CONCENTRATION, np.ones(48)),
        (CONCENTRATION, -np.ones((6, 8))),
        (CONCENTRATION, np.zeros((6, 8))),
        (CONCENTRATION, np.full((6, 8), np.nan)),
        (CONCENTRATION, np.ones((1, 2000))),
        (CONCENTRATION, "text"),
        (FIELD_OF_VIEW, np.array([0.04])),
        (FIELD_OF_VIEW, np.array([0.04, -0.04])),
        (FINER, 0),
    ],
)
def test_a_broken_field_is_named(file: Path, field: str, value: Any) -> None:
    with h5py.File(file, "r+") as h5:
        del h5[field]
        h5[field] = value
    with pytest.raises(DataError) as caught:
        read_measurement(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: /")
    assert "\n" not in message
    assert field.rsplit("/", 1)[1].removeprefix("_") in message or field == "/measurement/isFourierTransformed"


def test_without_a_truth_there_is_none(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        del h5[CONCENTRATION], h5["/measurement/_mixingOrders"]
    found = read_measurement(file)
    assert found.truth is None
    assert found.mixing_orders == signal().mixing_orders


def test_frames_of_another_shape_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    wrong = dataclasses.replace(signal(), values_CKN=np.zeros((2, 10, 1), complex))
    with pytest.raises(DataError, match=r"must be \(C, 11, N\)"):
        write(tmp_path / "a.mdf", wrong)
    assert list(tmp_path.iterdir()) == []
