"""The validator finds nothing in our files, names the very field that was spoilt, and never raises."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.data.mdf import read_mdf, write_mdf
from sm_search.data.mdf_fields import receive_fields
from sm_search.data.mdf_table import CORRECTED, TABLE, TRANSFER, M
from sm_search.data.mdf_validation import Fault, file_kind, validate_mdf
from sm_search.data.measurement import Truth, read_measurement, write_measurement
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix

MANDATORY = [row for row in TABLE if row.need == M]
FLAGS = [row.field for row in TABLE if row.type == "Int8"]
# Nothing else in a file tells whether these are true; the last one is told by the transfer function if there is none.
UNCHECKABLE = {"isBackgroundCorrected", "isSpectralLeakageCorrected", "isTransferFunctionCorrected"}
IDENTITY = {"uuid": "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", "time": "2025-01-31T12:00:00.000"}
RECEIVE = {"signal": "voltage", "noise_nv": 2.0, "background_frames": 5, "low_pass_khz": 60.0}


def random_sm(frames: int) -> SystemMatrix:
    orders = MixingOrders(max_x=3, max_y=2).pairs()
    values_CKN = np.random.default_rng(7).normal(size=(2, len(orders), frames, 2)) @ np.array([1, 1j])
    field = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    return SystemMatrix(values_CKN, orders, Grid(size=(4, 3)), field, 25e3, 9, {"coreDiameter": 30e-9})


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("valid") / "a.mdf"
    write_mdf(path, random_sm(12), **IDENTITY)
    return path


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voltage with a transfer function, five background frames and an SNR."""
    path, chain = tmp_path_factory.mktemp("received") / "a.mdf", ReceiveSettings.model_validate(RECEIVE)
    write_mdf(path, receive(random_sm(12), chain), **IDENTITY, averages=10, extra=receive_fields(chain))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frame of a phantom, and five background frames."""
    path, chain = tmp_path_factory.mktemp("measured") / "a.mdf", ReceiveSettings.model_validate(RECEIVE)
    truth = Truth("dots", np.ones((6, 8)), Grid(size=(8, 6)), 2)
    write_measurement(path, receive(random_sm(1), chain), truth, **IDENTITY, averages=10, extra=receive_fields(chain))
    return path


@pytest.fixture(scope="module", params=["valid", "received", "measured"])
def any_valid(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def mandatory_in(path: Path) -> list[Any]:
    calibration = file_kind(path) == "calibration"
    return [row for row in MANDATORY if calibration or not row.field.startswith("/calibration")]


def spoilt(valid: Path, change: Callable[[h5py.File], object]) -> tuple[Path, list[Fault]]:
    copy = valid.with_name("spoilt.mdf")
    shutil.copy(valid, copy)
    with h5py.File(copy, "r+") as h5:
        change(h5)
    return copy, validate_mdf(copy)


def replace(field: str, value: Any, **options: Any) -> Callable[[h5py.File], object]:
    def change(h5: h5py.File) -> None:
        if field in h5:
            del h5[field]
        h5.create_dataset(field, data=value, **options)

    return change


def named(faults: list[Fault], severity: str = "error") -> set[str]:
    return {fault.field for fault in faults if fault.severity == severity}


def test_our_files_have_no_faults(any_valid: Path) -> None:
    assert validate_mdf(any_valid) == []
    with h5py.File(any_valid) as h5:
        missing = [row.field for row in mandatory_in(any_valid) if row.field not in h5]
    assert missing == []


def test_a_file_is_of_the_kind_that_it_was_written_as(valid: Path, received: Path, measured: Path) -> None:
    assert [file_kind(path) for path in (valid, received, measured)] == ["calibration", "calibration", "measurement"]
    assert file_kind(valid.with_name("none.mdf")) == "unreadable"


@pytest.mark.parametrize("row", MANDATORY, ids=lambda row: row.field)
def test_a_missing_mandatory_field_is_the_only_one_blamed(any_valid: Path, row: Any) -> None:
    if row in mandatory_in(any_valid):
        _, faults = spoilt(any_valid, lambda h5: h5.__delitem__(row.field))
        assert faults == [Fault("error", row.field, "is missing, and mandatory")]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(TABLE), st.sampled_from(["float32", "int32", "uint8", "complex64", "S5", "bool"]))
def test_a_wrong_type_is_named(any_valid: Path, row: Any, dtype: str) -> None:
    with h5py.File(any_valid) as h5:
        shape = h5[row.field].shape if row.field in h5 else (1,) * len(row.shape)
    if (row.type == "Str") == (dtype == "S5") or row.type in ("Number", "Integer"):
        dtype = "bool" if row.type in ("Number", "Integer") else "float32" if row.type == "Str" else "S5"
    _, faults = spoilt(any_valid, replace(row.field, np.ones(shape, dtype)))
    assert any(fault.field == row.field and "has type" in fault.message for fault in faults)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([row for row in MANDATORY if row.type != "Str"]), st.integers(0, 3), st.booleans())
def test_a_wrong_shape_is_named(any_valid: Path, row: Any, axis: int, longer: bool) -> None:
    if row not in mandatory_in(any_valid):
        return
    with h5py.File(any_valid) as h5:
        value = h5[row.field][()]
    if row.shape == "":
        wrong = np.full((2,) if longer else (1, 1), value)
    elif longer:
        wrong = np.repeat(value, 2, axis=axis % value.ndim)
    else:
        wrong = value[None]
    _, faults = spoilt(any_valid, replace(row.field, wrong))
    assert row.field in named(faults)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(FLAGS), st.integers(-128, 127))
def test_a_wrong_flag_is_named(any_valid: Path, field: str, value: int) -> None:
    def change(h5: h5py.File) -> None:
        h5[field][...] = value

    with h5py.File(any_valid) as h5:
        old = h5[field][()]
    _, faults = spoilt(any_valid, change)
    with h5py.File(any_valid) as h5:
        has_transfer_function = TRANSFER in h5
        # Without voxels to count, any number of frames may be background, if not all.
        more = set() if "calibration" in h5 else {"isSimulation"} | ({"isBackgroundFrame"} if value == 0 else set())
    unchecked = UNCHECKABLE | more
    if field == CORRECTED and value == 1 and not has_transfer_function:
        assert named(faults, "warning") == {field}
    elif np.all(old == value) or (value in (0, 1) and field.rsplit("/")[-1] in unchecked):
        assert faults == []
    elif field == "/experiment/isSimulation" and value == 0:
        assert named(faults, "warning") == {field, "/calibration/method"}
    else:
        assert field in named(faults)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("/time", "31.1.2025"),
        ("/uuid", "a"),
        ("/version", "1.0.5"),
        ("/tracer/volume", np.array([-1.0])),
        ("/tracer/name", ["a", "b"]),
        ("/acquisition/numFrames", 13),
        ("/acquisition/numPeriodsPerFrame", 2),
        ("/acquisition/numAverages", 0),
        ("/acquisition/drivefield/baseFrequency", -1.0),
        ("/acquisition/drivefield/baseFrequency", np.inf),
        ("/acquisition/drivefield/cycle", 1.0),
        ("/acquisition/drivefield/divider", np.array([[9], [0]])),
        ("/acquisition/drivefield/divider", np.array([[9], [11]])),
        ("/acquisition/drivefield/numChannels", 3),
        ("/acquisition/drivefield/phase", np.full((1, 2, 1), np.pi)),
        ("/acquisition/drivefield/waveform", [["sine"], ["square"]]),
        ("/acquisition/receiver/numChannels", 3),
        ("/acquisition/receiver/numSamplingPoints", 50),
        ("/acquisition/receiver/transferFunction", np.ones((2, 12), complex)),
        ("/calibration/order", "xyy"),
        ("/calibration/size", np.array([4, 4, 1])),
        ("/calibration/snr", np.ones((1, 2, 10))),
        ("/calibration/positions", np.ones((11, 3))),
        ("/measurement/data", np.full((1, 2, 11, 12), np.nan + 0j)),
        ("/measurement/data", np.zeros((1, 2, 11, 12))),
        ("/measurement/frequencySelection", np.arange(11)),
        ("/measurement/frequencySelection", np.ones(11, int)),
        ("/measurement/frequencySelection", np.arange(11) + 90),
        ("/measurement/isBackgroundFrame", np.arange(12, dtype=np.int8) // 11),
        ("/measurement/framePermutation", np.arange(12) + 1),
    ],
)
def test_a_wrong_value_is_named(valid: Path, field: str, value: Any) -> None:
    assert field in named(spoilt(valid, replace(field, value))[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (TRANSFER, np.ones((2, 10), complex)),
        (TRANSFER, np.ones((1, 11), complex)),
        (TRANSFER, np.ones((2, 11))),
        (TRANSFER, np.full((2, 11), np.nan + 0j)),
        ("/acquisition/receiver/unit", 1.0),
        ("/acquisition/numFrames", 12),
        ("/acquisition/numAverages", -10),
        ("/acquisition/receiver/bandwidth", 1.0),
        ("/calibration/snr", np.ones((2, 11))),
        ("/calibration/snr", np.ones((1, 2, 12))),
        ("/calibration/snr", np.ones((1, 3, 11))),
        ("/calibration/snr", -np.ones((1, 2, 11))),
        ("/calibration/snr", np.full((1, 2, 11), np.nan)),
        ("/measurement/isBackgroundFrame", np.zeros(17, np.int8)),
        ("/measurement/isBackgroundFrame", np.ones(17, np.int8)),
        ("/measurement/isBackgroundFrame", np.ones(12, np.int8)),
        ("/measurement/isBackgroundFrame", np.full(17, 2, np.int8)),
        ("/measurement/data", np.ones((1, 2, 11, 12), complex)),
    ],
)
def test_a_wrong_value_of_the_receive_chain_is_named(received: Path, field: str, value: Any) -> None:
    assert field in named(spoilt(received, replace(field, value))[1])


@pytest.mark.parametrize("value", [np.arange(17) < 5, np.arange(17) % 4 == 0], ids=["first", "between"])
def test_background_frames_may_lie_anywhere(received: Path, value: np.ndarray) -> None:
    path, faults = spoilt(received, replace("/measurement/isBackgroundFrame", value.astype(np.int8)))
    assert faults == []
    background_CKE = read_mdf(path).background_CKE
    assert background_CKE is not None
    assert background_CKE.shape == (2, 11, 5)


def test_a_transfer_function_that_cannot_be_divided_by_is_a_warning(received: Path) -> None:
    path, faults = spoilt(received, replace(TRANSFER, np.zeros((2, 11), complex)))
    assert [(fault.severity, fault.field) for fault in faults] == [("warning", TRANSFER), ("warning", CORRECTED)][::-1]
    with pytest.raises(DataError, match="transferFunction: must be finite and not 0"):
        read_mdf(path)
    with h5py.File(path, "r+") as h5:
        h5[CORRECTED][...] = 1
    assert validate_mdf(path) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("/acquisition/numFrames", 5),
        ("/acquisition/receiver/numChannels", 3),
        (TRANSFER, np.ones((2, 12), complex)),
        ("/measurement/data", np.ones((7, 1, 2, 11), complex)),
        ("/measurement/data", np.full((6, 1, 2, 11), np.inf + 0j)),
        ("/measurement/frequencySelection", np.arange(12) + 1),
        ("/measurement/isBackgroundFrame", np.ones(6, np.int8)),
        ("/measurement/isFastFrameAxis", np.int8(1)),
    ],
)
def test_a_wrong_value_of_a_measurement_is_named(measured: Path, field: str, value: Any) -> None:
    assert field in named(spoilt(measured, replace(field, value))[1])


def test_a_measurement_in_the_time_domain_has_all_samples(measured: Path) -> None:
    with h5py.File(measured) as h5:
        samples = int(h5["/acquisition/receiver/numSamplingPoints"][()])

    def in_time(count: int) -> Callable[[h5py.File], object]:
        def change(h5: h5py.File) -> None:
            for field in ("data", "frequencySelection", "_mixingOrders"):
                del h5["/measurement"][field]
            del h5[TRANSFER]
            h5["/measurement/data"] = np.ones((6, 1, 2, count))
            for flag in ("isFourierTransformed", "isFrequencySelection"):
                h5["/measurement"][flag][...] = 0

        return change

    path, faults = spoilt(measured, in_time(samples))
    assert faults == []
    assert read_measurement(path).signal_CK.shape == (2, samples // 2 + 1)
    assert "/measurement/data" in named(spoilt(measured, in_time(samples - 1))[1])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("/version", replace("/version", "2.0.1")),
        ("/acquisition/gradient", replace("/acquisition/gradient", np.diag([1.0, 1.0, 1.0])[None, None])),
        ("/acquisition/receiver/bandwidth", replace("/acquisition/receiver/bandwidth", 125.1e3)),
        ("/acquisition/numFrames", replace("/acquisition/numFrames", np.array([12]))),
        ("/acquisition/numPeriods", lambda h5: h5.move("/acquisition/numPeriodsPerFrame", "/acquisition/numPeriods")),
        (
            "/acquisition/receiver/transferfunction",
            replace("/acquisition/receiver/transferfunction", np.ones((2, 11), complex)),
        ),
        ("/calibration/method", replace("/calibration/method", "guess")),
        ("/calibration/size", replace("/calibration/size", np.array([4, 3, 1]), chunks=True)),
        ("/calibration/fieldOfView", replace("/calibration/fieldOfView", np.ones(3), dtype=">f8")),
        ("/experiment/seed", replace("/experiment/seed", 7)),
        ("/measurement", lambda h5: h5["/measurement"].attrs.create("unit", "A/m")),
        ("/", lambda h5: h5.attrs.create("title", "x")),
    ],
)
def test_deviations_that_readers_survive_are_warnings(valid: Path, field: str, change: Any) -> None:
    path, faults = spoilt(valid, change)
    assert named(faults) == set()
    assert field in named(faults, "warning")
    if field != "/acquisition/gradient":
        assert read_mdf(path).nd == 9


def test_compressed_data_is_an_error(valid: Path) -> None:
    data = np.zeros((1, 2, 11, 12), complex)
    _, faults = spoilt(valid, replace("/measurement/data", data, compression="gzip"))
    assert [(fault.severity, fault.field) for fault in faults] == [("error", "/measurement/data")]


def test_links_and_groups_in_the_place_of_fields_are_errors(valid: Path) -> None:
    def change(h5: h5py.File) -> None:
        del h5["/uuid"], h5["/time"]
        h5["/uuid"] = h5py.SoftLink("/version")
        h5.create_group("/time")

    assert named(spoilt(valid, change)[1]) == {"/uuid", "/time"}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_but_data_errors(any_valid: Path, data: st.DataObject) -> None:
    content = bytearray(any_valid.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    copy = any_valid.with_name("damaged.mdf")
    copy.write_bytes(content)
    faults = validate_mdf(copy)
    assert all("\n" not in fault.message for fault in faults)
    calibration = any_valid.parent.name[:8] != "measured"
    try:
        outcome = str(read_mdf(copy).values_CKN.shape if calibration else read_measurement(copy).signal_CK.shape)
    except DataError as error:
        outcome = str(error)
    expected = "(2, 11, 12)" if calibration else "(2, 11)"
    assert outcome == expected or (outcome.startswith(str(copy)) and "\n" not in outcome)
