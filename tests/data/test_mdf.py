"""MDF files: exact round trips, plain HDF5, equal bytes, lenient reading, and refusal of all that is broken."""

import dataclasses
import shutil
import subprocess
import sys
import textwrap
import time
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
from sm_search.data.atomic import sha256
from sm_search.data.mdf import read_field, read_mdf, write_mdf
from sm_search.data.mdf_parts import simplest_orders
from sm_search.data.mdf_validation import validate_mdf
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix

UUID = "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8"
TIME = "2025-01-31T12:00:00.000"
ND = 9


def small_sm(**changes: Any) -> SystemMatrix:
    """2 channels, 11 components, 4 × 3 voxels of random values."""
    orders = MixingOrders(max_x=3, max_y=2).pairs()
    random = np.random.default_rng(7)
    values_CKN = random.normal(size=(2, len(orders), 12)) + 1j * random.normal(size=(2, len(orders), 12))
    sm = SystemMatrix(
        values_CKN,
        orders,
        Grid(size=(4, 3), fov_mm=(40.0, 30.0)),
        FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0),
        25e3,
        ND,
        {"coreDiameter": 30e-9, "magnetisation": "brownian", "note": "η = 1 mPa·s"},
    )
    return dataclasses.replace(sm, **changes)


def write(path: Path, sm: SystemMatrix, **extra: Any) -> Path:
    write_mdf(path, sm, uuid=UUID, time=TIME, **extra)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.mdf", small_sm())


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Replace (or, for None, delete) fields of a file."""
    with h5py.File(path, "r+") as h5:
        for field, value in changes.items():
            if field in h5:
                del h5[field]
            if value is not None:
                h5[field] = value


def received_sm(**changes: Any) -> SystemMatrix:
    """A voltage with noise, five background frames and, unless changed, a transfer function."""
    chain: dict[str, Any] = {"signal": "voltage", "noise_nv": 2.0, "background_frames": 5, "low_pass_khz": 60.0}
    return receive(small_sm(), ReceiveSettings.model_validate(chain | changes), "scan")


def assert_equal(left: SystemMatrix, right: SystemMatrix) -> None:
    np.testing.assert_array_equal(left.values_CKN, right.values_CKN)
    for field in ("mixing_orders", "grid", "field", "fx_hz", "nd", "tracer", "unit"):
        assert getattr(left, field) == getattr(right, field), field


def test_round_trip_is_exact_and_memory_mapped(file: Path) -> None:
    sm = read_mdf(file)
    assert_equal(sm, small_sm())
    assert isinstance(sm.values_CKN, np.memmap)
    assert sm.values_CKN.dtype == np.complex128


def test_a_voltage_with_background_frames_comes_back_exactly_and_memory_mapped(tmp_path: Path) -> None:
    sm = received_sm(low_pass_khz=None)
    path = write(tmp_path / "a.mdf", sm, averages=10)
    assert validate_mdf(path) == []
    edit(path, {"/measurement/isBackgroundCorrected": np.int8(1)})
    again = read_mdf(path)
    assert_equal(again, sm)
    assert isinstance(again.values_CKN, np.memmap)
    np.testing.assert_array_equal(again.background_CKE, sm.background_CKE)
    np.testing.assert_array_equal(again.snr_CK, sm.snr_CK)
    assert again.transfer_function_CK is None
    with h5py.File(path) as h5:
        assert h5["/acquisition/receiver/unit"].asstr()[()] == "V"
        assert (h5["/acquisition/numFrames"][()], h5["/acquisition/numAverages"][()]) == (17, 10)
        assert h5["/measurement/isBackgroundFrame"][()].tolist() == 12 * [0] + 5 * [1]
        assert h5["/measurement/data"].shape == (1, 2, 11, 17)
        assert h5["/calibration/snr"].shape == (1, 2, 11)
        assert h5["/measurement/isTransferFunctionCorrected"][()] == 0
        assert "transferFunction" not in h5["/acquisition/receiver"]


def test_a_stored_transfer_function_is_divided_out_once(tmp_path: Path) -> None:
    sm, plain = received_sm(), received_sm(low_pass_khz=None)
    path = write(tmp_path / "a.mdf", sm)
    assert validate_mdf(path) == []
    with h5py.File(path) as h5:
        np.testing.assert_array_equal(h5["/acquisition/receiver/transferFunction"][()], sm.transfer_function_CK)
        np.testing.assert_array_equal(h5["/measurement/data"][0, ..., :12], sm.values_CKN)
    edit(path, {"/measurement/isBackgroundCorrected": np.int8(1)})
    again = read_mdf(path)
    for found, wanted in ((again.values_CKN, plain.values_CKN), (again.background_CKE, plain.background_CKE)):
        assert found is not None
        assert wanted is not None
        assert np.abs(found / wanted - 1).max() < 1e-15
    assert again.transfer_function_CK is None
    np.testing.assert_array_equal(again.snr_CK, sm.snr_CK)
    edit(path, {"/measurement/isTransferFunctionCorrected": np.int8(1)})
    np.testing.assert_array_equal(read_mdf(path).values_CKN, sm.values_CKN)
    assert validate_mdf(path) == []


def test_an_snr_that_is_not_stored_is_that_of_the_background(tmp_path: Path) -> None:
    sm = received_sm()
    path = write(tmp_path / "a.mdf", dataclasses.replace(sm, snr_CK=None))
    np.testing.assert_allclose(read_mdf(path).snr_CK, sm.snr_CK, rtol=1e-12)
    assert read_mdf(path, check_values=False).snr_CK is None
    one = dataclasses.replace(sm, snr_CK=None, background_CKE=sm.background_CKE[..., :1])
    assert read_mdf(write(tmp_path / "b.mdf", one)).snr_CK is None
    assert read_mdf(write(tmp_path / "c.mdf", small_sm())).snr_CK is None


def test_a_full_spectrum_keeps_a_constant_part_that_the_receiver_blocks(file: Path) -> None:
    a_CK = np.full((2, 11), 2j)
    a_CK[:, 0] = 0
    selection = {"/measurement/isFrequencySelection": np.int8(0), "/measurement/frequencySelection": None}
    selection |= {"/acquisition/receiver/numSamplingPoints": 20, "/acquisition/receiver/bandwidth": None}
    edit(file, {"/acquisition/receiver/transferFunction": a_CK, "/calibration/_mixingOrders": None, **selection})
    values_CKN = read_mdf(file).values_CKN
    np.testing.assert_array_equal(values_CKN[:, 0], small_sm().values_CKN[:, 0])
    np.testing.assert_allclose(values_CKN[:, 1:], small_sm().values_CKN[:, 1:] / 2j, rtol=1e-15)


def test_a_file_without_unit_has_arbitrary_units(file: Path) -> None:
    edit(file, {"/acquisition/receiver/unit": None})
    assert read_mdf(file).unit == "a.u."


typed = st.decimals(min_value="0.001", max_value="1000", places=3).map(float)


@settings(max_examples=25, deadline=None)
@given(typed, typed, typed, typed, typed, st.integers(6, 5000))
def test_settings_that_a_person_types_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    fov_x: float,
    fov_y: float,
    gradient: float,
    drive: float,
    fx: float,
    nd: int,
) -> None:
    sm = small_sm(
        grid=Grid(size=(4, 3), fov_mm=(fov_x, fov_y)),
        field=FieldSettings(gradient_t_per_m=gradient, drive_mt=drive),
        fx_hz=fx * 1e3,
        nd=nd,
    )
    path = write(tmp_path_factory.getbasetemp() / "typed.mdf", sm)
    assert_equal(read_mdf(path), sm)


def test_plain_h5py_sees_the_types_and_shapes_of_the_standard(file: Path) -> None:
    expected = {
        "/acquisition/gradient": ("float64", (1, 1, 3, 3)),
        "/acquisition/numFrames": ("int64", ()),
        "/acquisition/drivefield/divider": ("int64", (2, 1)),
        "/acquisition/drivefield/phase": ("float64", (1, 2, 1)),
        "/acquisition/drivefield/strength": ("float64", (1, 2, 1)),
        "/calibration/size": ("int64", (3,)),
        "/experiment/isSimulation": ("int8", ()),
        "/measurement/data": ("complex128", (1, 2, 11, 12)),
        "/measurement/isBackgroundFrame": ("int8", (12,)),
        "/tracer/concentration": ("float64", (1,)),
    }
    with h5py.File(file) as h5:
        assert {field: (str(h5[field].dtype), h5[field].shape) for field in expected} == expected
        assert h5["/version"].asstr()[()] == "2.1.0"
        assert h5["/acquisition/drivefield/waveform"].asstr()[()].tolist() == [["sine"], ["sine"]]
        data = h5["/measurement/data"]
        native = data.id.get_type()
        assert [native.get_member_name(i) for i in range(native.get_nmembers())] == [b"r", b"i"]
        assert native.get_member_type(0).equal(h5py.h5t.IEEE_F64LE)
        assert (data.chunks, data.compression) == (None, None)
        raw = np.fromfile(file, "<c16", count=data.size, offset=data.id.get_offset())
    np.testing.assert_array_equal(raw, small_sm().values_CKN.ravel())


def test_numbers_follow_from_the_scan(file: Path) -> None:
    with h5py.File(file) as h5:
        base, cycle = h5["/acquisition/drivefield/baseFrequency"][()], h5["/acquisition/drivefield/cycle"][()]
        points, bandwidth = (h5[f"/acquisition/receiver/{name}"][()] for name in ("numSamplingPoints", "bandwidth"))
        index_K = h5["/measurement/frequencySelection"][()] - 1
        gradient = h5["/acquisition/gradient"][0, 0]
    assert (base / ND, base / (ND + 1)) == (25e3, 22.5e3)
    assert cycle == (ND + 1) / 25e3
    np.testing.assert_array_equal(index_K, small_sm().frequency_index())
    assert points % 2 == 0
    assert points // 2 + 1 > index_K.max()
    assert bandwidth == pytest.approx(points / cycle / 2)
    np.testing.assert_array_equal(gradient, np.diag([-0.1, -0.1, 0.2]))


def test_equal_input_gives_equal_bytes_anywhere_and_any_time(tmp_path: Path, file: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    time.sleep(1.1)  # HDF5 time stamps count in seconds
    again = write(tmp_path / "elsewhere" / "b.mdf", small_sm())
    assert sha256(again) == sha256(file)
    other = write(tmp_path / "c.mdf", small_sm(fx_hz=26e3))
    assert sha256(other) != sha256(file)


def test_user_fields(tmp_path: Path) -> None:
    extra = {"/experiment/_seed": 7, "/_room/_name": "Übungsraum", "/scanner/_on": True, "/_room/_t": np.arange(3.0)}
    path = write(tmp_path / "a.mdf", small_sm(), extra=extra)
    assert read_field(path, "/experiment/_seed") == 7
    assert read_field(path, "/_room/_name") == "Übungsraum"
    assert read_field(path, "/scanner/_on") == 1
    np.testing.assert_array_equal(read_field(path, "/_room/_t"), np.arange(3.0))
    assert validate_mdf(path) == []
    with pytest.raises(DataError, match="/experiment/_none: is missing"):
        read_field(path, "/experiment/_none")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"values_CKN": np.full((2, 11, 12), np.nan + 0j)}, {}, "/measurement/data: .* must be finite"),
        ({"values_CKN": np.zeros((2, 11, 11), complex)}, {}, r"/measurement/data: .* must be \(C, 11, 12\)"),
        ({"nd": 1}, {}, "distinct k"),
        ({"background_CKE": np.zeros((2, 10, 3), complex)}, {}, r"/measurement/data: .* must be \(2, 11, 3\)"),
        ({"background_CKE": np.full((2, 11, 3), np.inf + 0j)}, {}, "/measurement/data: .* finite"),
        ({"snr_CK": np.ones((1, 11))}, {}, r"/calibration/snr: .* must be \(1, 2, 11\)"),
        ({"transfer_function_CK": np.full((2, 11), np.nan + 0j)}, {}, "transferFunction: .* finite"),
        ({"tracer": {"coreDiameter": np.inf}}, {}, "/tracer/_coreDiameter: inf: must be finite"),
        ({"tracer": {"a/b": 1.0}}, {}, "/tracer/_a/b"),
        ({}, {"uuid": "no"}, "/uuid: 'no'"),
        ({}, {"time": "now"}, "/time: 'now'"),
        ({}, {"extra": {"/experiment/seed": 7}}, "/experiment/seed: a user field"),
        ({}, {"extra": {"/tracer/_seed": 7}}, "/tracer/_seed: a user field"),
        ({}, {"extra": {"/experiment/_seed": "a\0b"}}, "/experiment/_seed: cannot be stored"),
        ({}, {"extra": {"/experiment/_seed": 2**70}}, "/experiment/_seed: cannot be stored"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        write_mdf(tmp_path / "a.mdf", small_sm(**changes), **{"uuid": UUID, "time": TIME, **arguments})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_gives_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        sys.path.insert(0, sys.argv[2])
        from test_mdf import small_sm, write
        from pathlib import Path
        from sm_search.config.errors import DataError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            write(Path(sys.argv[1]), small_sm())
        except DataError as error:
            print(error)
    """
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder / "a.mdf"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder / 'a.mdf'}: cannot be written: File too large\n"
    assert done.stderr == ""
    assert list(folder.iterdir()) == []


def as_slow_frame_axis(h5: h5py.File) -> dict[str, Any]:
    return {
        "/measurement/data": np.moveaxis(h5["/measurement/data"][()], -1, 0),
        "/measurement/isFastFrameAxis": np.int8(0),
    }


def with_background(h5: h5py.File) -> dict[str, Any]:
    data = h5["/measurement/data"][()]
    background = np.zeros(14, np.int8)
    background[[5, 13]] = 1
    stored = np.full((*data.shape[:3], 14), 99 + 0j)
    stored[..., background == 0] = data
    return {
        "/measurement/data": stored,
        "/measurement/isBackgroundFrame": background,
        "/measurement/isBackgroundCorrected": np.int8(1),
        "/measurement/isFramePermutation": np.int8(1),
        "/measurement/framePermutation": np.arange(14)[::-1] + 1,
        "/acquisition/numFrames": 14,
    }


def from_elsewhere(h5: h5py.File) -> dict[str, Any]:
    return {
        "/calibration/_mixingOrders": None,
        "/acquisition/numPeriodsPerFrame": None,
        "/acquisition/numPeriods": 1,
        "/acquisition/drivefield/divider": 3 * h5["/acquisition/drivefield/divider"][()],
        "/acquisition/drivefield/baseFrequency": 3 * h5["/acquisition/drivefield/baseFrequency"][()],
        "/acquisition/gradient": np.array([-0.1, -0.1, 0.2]),
        "/measurement/isSparsityTransformed": None,
        "/acquisition/receiver/transferfunction": np.ones((2, 11), complex),
    }


@pytest.mark.parametrize("variant", [as_slow_frame_axis, with_background, from_elsewhere])
def test_files_that_others_write_read_the_same(file: Path, variant: Any) -> None:
    with h5py.File(file) as h5:
        changes = variant(h5)
    edit(file, changes)
    assert_equal(read_mdf(file), small_sm())


@pytest.mark.parametrize(
    "options", [{"dtype": "complex64"}, {"chunks": True, "compression": "gzip"}, {"dtype": ">c16"}]
)
def test_other_storage_is_read_too(file: Path, options: dict[str, Any]) -> None:
    values = small_sm().values_CKN[None]
    with h5py.File(file, "r+") as h5:
        del h5["/measurement/data"]
        h5.create_dataset("/measurement/data", data=values, **options)
    result = read_mdf(file).values_CKN
    assert result.dtype == np.complex128
    expected = values[0].astype(np.complex64) if options.get("dtype") == "complex64" else values[0]
    np.testing.assert_array_equal(result, expected)


def test_a_file_with_a_user_block_reads_the_same(tmp_path: Path, file: Path) -> None:
    shifted = tmp_path / "shifted.mdf"
    with h5py.File(file) as h5, h5py.File(shifted, "w", userblock_size=1024) as copy:
        for name in h5:
            h5.copy(name, copy)
        assert_equal(read_mdf(file), small_sm())  # a file that is open elsewhere can be read
    assert_equal(read_mdf(shifted), small_sm())


@given(st.integers(2, 300), st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_derived_mixing_orders_are_the_simplest(nd: int, index: list[int]) -> None:
    orders_K2 = simplest_orders(np.array(index), nd)
    np.testing.assert_array_equal(orders_K2 @ np.array([nd + 1, nd]), index)
    for k, order in zip(index, orders_K2, strict=True):
        j = np.arange(-3, k // nd + 4)
        assert np.abs(order).sum() == (np.abs(k - j * nd) + np.abs(-k + j * (nd + 1))).min()


@pytest.mark.parametrize("kept", [0, 7, 100, 0.3, 0.7, 0.95, -1])
def test_a_truncated_file_is_refused(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(DataError, match="not a readable HDF5 file") as caught:
        read_mdf(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert [fault.severity for fault in validate_mdf(file)] == ["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("/measurement/data", None),
        ("/measurement/data", np.zeros((1, 2, 11, 12))),
        ("/measurement/data", np.zeros((2, 11, 12), complex)),
        ("/measurement/data", np.full((1, 2, 11, 12), np.inf + 0j)),
        ("/measurement/data", "text"),
        ("/measurement/frequencySelection", np.arange(10)),
        ("/measurement/frequencySelection", np.arange(11) + 5),
        ("/measurement/isFourierTransformed", np.int8(0)),
        ("/measurement/isFastFrameAxis", np.int8(2)),
        ("/measurement/isBackgroundFrame", np.ones(12, np.int8)),
        ("/calibration/size", np.array([4, 3, 2])),
        ("/calibration/size", np.array([-4, -3, 1])),
        ("/calibration/fieldOfView", np.array([1e308, 0.03, 0.01])),
        ("/calibration/fieldOfViewCenter", np.array([0.0, 0.1, 0.0])),
        ("/calibration/order", "zyx"),
        ("/acquisition/gradient", None),
        ("/acquisition/gradient", np.eye(3)),
        ("/acquisition/drivefield/divider", np.array([[9], [11]])),
        ("/acquisition/drivefield/divider", np.array([[9.0], [10.0]])),
        ("/acquisition/drivefield/baseFrequency", np.nan),
        ("/acquisition/drivefield/phase", np.zeros((1, 2, 1))),
        ("/acquisition/drivefield/strength", np.array([1e-3, -2e-3])),
        ("/acquisition/drivefield/strength", np.zeros(2)),
        ("/acquisition/receiver/transferFunction", np.zeros((2, 11), complex)),
        ("/acquisition/receiver/transferFunction", np.ones((2, 12), complex)),
        ("/acquisition/receiver/transferFunction", "text"),
        ("/calibration/snr", np.ones((1, 2, 10))),
        ("/calibration/snr", np.full((1, 2, 11), np.nan)),
    ],
)
def test_a_broken_field_is_named(file: Path, field: str, value: Any) -> None:
    edit(file, {field: value})
    with pytest.raises(DataError) as caught:
        read_mdf(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: /")
    assert field.rsplit("/", 1)[1] in message or field == "/measurement/isFourierTransformed"
    assert "\n" not in message


def test_nothing_outside_the_file_is_read(tmp_path: Path, file: Path) -> None:
    shutil.copy(file, tmp_path / "other.mdf")
    (tmp_path / "raw").write_bytes(b"\0" * 4224)
    layout = h5py.VirtualLayout((1, 2, 11, 12), "complex128")
    layout[:] = h5py.VirtualSource(tmp_path / "other.mdf", "/measurement/data", (1, 2, 11, 12), "complex128")
    field = "/measurement/data"
    for lead in (
        lambda h5: h5.__setitem__(field, h5py.ExternalLink("other.mdf", field)),
        lambda h5: h5.__setitem__(field, h5py.SoftLink("/time")),
        lambda h5: h5.create_virtual_dataset(field, layout),
        lambda h5: h5.create_dataset(field, (1, 2, 11, 12), "complex128", external=[(str(tmp_path / "raw"), 0, 4224)]),
    ):
        with h5py.File(file, "r+") as h5:
            if h5.get(field, getlink=True) is not None:
                del h5[field]
            lead(h5)
        with pytest.raises(DataError, match=r"/measurement/data: must (lie|hold its values) in this file"):
            read_mdf(file)
        assert "error" in {fault.severity for fault in validate_mdf(file) if fault.field == field}


def test_claimed_sizes_are_not_believed(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        for field, kind in (("/measurement/data", "c16"), ("/measurement/isBackgroundFrame", "i1"), ("/_x", "f8")):
            if field in h5:
                del h5[field]
            h5.create_dataset(field, shape=(1, 1, 1 << 20, 1 << 20), dtype=kind, chunks=(1, 1, 64, 64))
    for read in (read_mdf, lambda path: read_field(path, "/_x")):
        with pytest.raises(DataError, match=r"larger than allowed|claims"):
            read(file)
    assert {"/measurement/data", "/measurement/isBackgroundFrame"} <= {fault.field for fault in validate_mdf(file)}
    with h5py.File(file, "r+") as h5:
        del h5["/measurement/data"]
        h5.create_dataset("/measurement/data", shape=(1, 2, 11, 1 << 40), dtype="c16")
    with pytest.raises(DataError, match=r"claims \d+ bytes"):
        read_mdf(file)


def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mdf").write_text("not HDF5")
    for path, rule in (
        (tmp_path / "no.mdf", "does not exist"),
        (tmp_path, "not a regular file"),
        (tmp_path / "text.mdf", "HDF5"),
    ):
        with pytest.raises(DataError, match=rule):
            read_mdf(path)
