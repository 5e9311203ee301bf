"""One truth, written as other programs write it: every file reads back to it, or is refused with the reason."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.data.mdf import read_mdf, write_mdf
from sm_search.data.mdf_provenance import read_provenance
from sm_search.data.mdf_served import unserved
from sm_search.data.mdf_validation import validate_mdf
from sm_search.data.transfer_file import read_transfer_table
from sm_search.physics.system_matrix import SystemMatrix, with_orders
from tests.conftest import Finished

ND, SIZE = 9, (4, 3)
ORDERS = MixingOrders(max_x=3, max_y=2).pairs()
RECEIVER, DRIVE = "/acquisition/receiver", "/acquisition/drivefield"
Edit = Callable[[h5py.File], None]


def truth() -> SystemMatrix:
    values_CKN = np.random.default_rng(7).normal(size=(2, len(ORDERS), 12, 2)) @ np.array([1, 1j])
    field = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    return SystemMatrix(values_CKN, ORDERS, Grid(size=SIZE, fov_mm=(40.0, 30.0)), field, 25e3, ND, unit="V")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_mdf(tmp_path / "a.mdf", truth(), uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    return tmp_path / "a.mdf"


def put(h5: h5py.File, **fields: Any) -> None:
    """Replace fields of /measurement, or by their names with _ for /, of other groups; None deletes."""
    for name, value in fields.items():
        path = f"/{name.replace('__', '/')}" if "__" in name else f"/measurement/{name}"
        if path in h5:
            del h5[path]
        if value is not None:
            h5[path] = value


def data(h5: h5py.File) -> np.ndarray:
    """(C, K, F)."""
    return h5["/measurement/data"][0]


def with_background(h5: h5py.File, background_F: np.ndarray, offset_CKF: Any) -> None:
    """Background frames where `background_F` is 1, of values `offset_CKF`, which lie under all others too."""
    values = data(h5)
    stored = np.zeros((*values.shape[:2], len(background_F)), complex)
    stored[..., background_F == 0] = values
    put(h5, data=(stored + offset_CKF)[None], isBackgroundFrame=background_F.astype(np.int8))


def background_mean(h5: h5py.File) -> None:
    with_background(h5, np.array([0] * 12 + [1] * 3), 20 - 5j)


def conversion_factor(h5: h5py.File) -> None:
    put(h5, acquisition__receiver__dataConversionFactor=np.array([[500.0, 3.0], [0.25, 0.0]]))
    put(h5, data=(data(h5) / np.array([500, 0.25])[:, None, None])[None])


def positions(h5: h5py.File) -> None:
    order = np.random.default_rng(1).permutation(12)
    x, y = 0.04 / 4 * (order % 4 - 1.5), 0.03 / 3 * (order // 4 - 1.0)
    put(h5, data=data(h5)[None][..., order], calibration__positions=np.stack([x + 2e-4, y, 0 * x], axis=1))


def meander(h5: h5py.File) -> None:
    put(h5, data=data(h5)[None][..., [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]])
    put(h5, calibration__isMeanderingGrid=np.int8(1))


def meander_put_in_order(h5: h5py.File) -> None:
    """As MPIFiles.jl saves it: frames of the grid, the flag and the positions of the measurement still there."""
    place = np.array([0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11])
    x, y = 0.01 * (place % 4 - 1.5), 0.01 * (place // 4 - 1.0)
    put(h5, calibration__isMeanderingGrid=np.int8(1), isFramePermutation=np.int8(1), framePermutation=place + 1)
    put(h5, calibration__positions=np.stack([x, y, 0 * x], axis=1))


def grouped_periods(h5: h5py.File) -> None:
    """Three periods in a cycle: two of three components lie between the drive's harmonics."""
    stored = np.full((2, 33, 12), 99.0 + 0j)
    stored[:, ::3] = data(h5)
    index = h5["/measurement/frequencySelection"][()] - 1
    every = np.stack([3 * index, 3 * index + 1, 3 * index + 2], axis=1).ravel() + 1
    cycle, samples = h5[f"{DRIVE}/cycle"][()], h5[f"{RECEIVER}/numSamplingPoints"][()]
    put(h5, data=stored[None], frequencySelection=every, calibration___mixingOrders=None)
    put(h5, acquisition__drivefield__cycle=3 * cycle, acquisition__receiver__numSamplingPoints=3 * samples)


def sorted_frequencies(h5: h5py.File) -> None:
    index = h5["/measurement/frequencySelection"][()]
    order = np.argsort(index)
    put(h5, data=data(h5)[None][:, :, order], frequencySelection=index[order], calibration___mixingOrders=None)


def time_signal(h5: h5py.File) -> None:
    """Slow frames in time, of version 2.0: no flag of sparsity, the older name of the frame axis."""
    samples = int(h5[f"{RECEIVER}/numSamplingPoints"][()])
    spectrum = np.zeros((2, samples // 2 + 1, 12), complex)
    spectrum[:, h5["/measurement/frequencySelection"][()] - 1] = data(h5)
    signal = np.fft.irfft(spectrum, samples, axis=1)
    put(h5, data=np.moveaxis(signal, -1, 0)[:, None], isFourierTransformed=np.int8(0), isFastFrameAxis=None)
    put(h5, isTransposed=np.int8(0), isFrequencySelection=np.int8(0), frequencySelection=None)
    put(h5, isSparsityTransformed=None, calibration___mixingOrders=None)
    del h5["/version"]
    h5["/version"] = "2.0"


def other_names_and_float32(h5: h5py.File) -> None:
    pair = np.zeros(h5["/measurement/data"].shape, [("re", "<f4"), ("im", "<f4")])
    pair["re"], pair["im"] = h5["/measurement/data"][()].real, h5["/measurement/data"][()].imag
    put(h5, data=pair, calibration__fieldOfView=np.array([0.04, 0.03, 0.01], np.float32))
    put(h5, calibration__fieldOfViewCenter=np.full(3, 1e-18), acquisition__drivefield__phase=np.full((1, 2, 1), 1.5707))
    put(h5, acquisition__drivefield__strength=np.array([[[0.002], [0.002]]], np.float32))
    put(h5, acquisition__gradient=np.diag([-0.1, -0.1, 0.2]).astype(np.float32))


def three_drives(h5: h5py.File) -> None:
    """As a Bruker conversion has it: a third channel that does not drive, with the phase of the others."""
    put(h5, acquisition__drivefield__divider=np.array([[9], [10], [11]]))
    put(h5, acquisition__drivefield__strength=np.array([[[0.002], [0.002], [0.0]]]))
    put(h5, acquisition__drivefield__phase=np.full((1, 3, 1), np.pi / 2), acquisition__drivefield__numChannels=3)
    put(h5, acquisition__drivefield__waveform=np.array([["sine"]], dtype=object))


def named_channels(h5: h5py.File) -> None:
    put(h5, data=data(h5)[None][:, ::-1], acquisition__receiver___channels=np.array(["y", "x"], dtype=object))


def transfer_function(h5: h5py.File) -> None:
    a_CK = np.linspace(1, 2, 22).reshape(2, 11) * (1 + 1j)
    put(h5, data=(data(h5) * a_CK[..., None])[None], acquisition__receiver__transferFunction=a_CK)


def corrected_transfer_function(h5: h5py.File) -> None:
    put(h5, acquisition__receiver__transferFunction=np.full((2, 11), 2j), isTransferFunctionCorrected=np.int8(1))


@pytest.mark.parametrize(
    "variant",
    [
        background_mean,
        conversion_factor,
        positions,
        meander,
        meander_put_in_order,
        grouped_periods,
        sorted_frequencies,
        time_signal,
        other_names_and_float32,
        three_drives,
        named_channels,
        transfer_function,
        corrected_transfer_function,
    ],
)
def test_every_way_of_writing_reads_back_to_the_truth(file: Path, variant: Edit) -> None:
    with h5py.File(file, "r+") as h5:
        variant(h5)
    found, wanted = read_mdf(file), truth()
    assert found.grid.agrees(wanted.grid)
    assert found.field.agrees(wanted.field)
    assert (found.fx_hz, found.nd, found.unit) == (wanted.fx_hz, wanted.nd, "V")
    single = 1e-7 if variant is other_names_and_float32 else 1e-13
    np.testing.assert_allclose(with_orders(found, ORDERS).values_CKN, wanted.values_CKN, rtol=0, atol=20 * single)


def test_a_drifting_background_is_interpolated_by_when_frames_were_measured(file: Path) -> None:
    """Blocks of background before, between and after; frames stored in the order of the grid, background behind."""
    background_F = np.array([1, 1, *[0] * 6, 1, *[0] * 6, 1, 1])
    place_F = np.arange(len(background_F))
    with h5py.File(file, "r+") as h5:
        with_background(h5, background_F, 3 + 0.5j * place_F)
        order = np.argsort(background_F, kind="stable")
        put(h5, data=data(h5)[None][..., order], isBackgroundFrame=background_F[order].astype(np.int8))
        put(h5, isFramePermutation=np.int8(1), framePermutation=place_F[order] + 1)
    found = read_mdf(file, background="interpolated")
    np.testing.assert_allclose(found.values_CKN, truth().values_CKN, rtol=0, atol=1e-12)
    assert "isBackgroundCorrected" in found.corrections
    assert found.background_CKE is not None
    np.testing.assert_allclose(found.background_CKE[..., 2], 0, atol=1e-12)  # the block between tells of no drift
    mean = read_mdf(file).values_CKN - truth().values_CKN
    np.testing.assert_allclose(mean, np.broadcast_to(0.5j * (place_F[background_F == 0] - 8), mean.shape), atol=1e-12)


def test_a_background_that_was_subtracted_is_not_subtracted_again(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        background_mean(h5)
        put(h5, isBackgroundCorrected=np.int8(1))
    np.testing.assert_allclose(read_mdf(file).values_CKN, truth().values_CKN + 20 - 5j, rtol=0, atol=1e-13)


def gradient(x: float, y: float, z: float) -> Edit:
    return lambda h5: put(h5, acquisition__gradient=np.diag([x, y, z]))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (gradient(0.2, -0.1, -0.1), r"/acquisition/gradient: diag\(0.2, -0.1, -0.1\) T/m: must be .* negative along x"),
        (gradient(0.0, -0.1, 0.1), r"/acquisition/gradient: diag\(0, -0.1, 0.1\) T/m: is a field-free line"),
        (
            lambda h5: put(h5, acquisition__drivefield__strength=np.array([0.002, -0.002])),
            "strength: .* reversed drive",
        ),
        (
            lambda h5: put(h5, acquisition__offsetField=np.array([[[1e-3, 0, 0]]])),
            "offsetField: moves the field-free point to .* must be in x and y the grid",
        ),
        (lambda h5: put(h5, calibration__offsetFields=np.ones((12, 3))), "offsetFields: .* T: must be 0"),
        (lambda h5: put(h5, calibration__positions=np.zeros((12, 3))), "positions: .* a centre of the grid"),
        (lambda h5: put(h5, acquisition__drivefield__cycle=4.1e-4), "cycle: 0.00041 s: must be lcm"),
        (lambda h5: put(h5, acquisition__drivefield__baseFrequency=1e308), "cycle: .* must be lcm"),
        (lambda h5: put(h5, scanner__topology=np.zeros(0)), "topology: .* must be text"),
        (lambda h5: put(h5, acquisition__receiver__bandwidth=1.0), "bandwidth: 1 Hz: must be numSamplingPoints"),
        (lambda h5: put(h5, acquisition__receiver__dataConversionFactor=np.zeros((2, 2))), "must not scale by 0"),
        (lambda h5: put(h5, isSparsityTransformed=np.int8(1)), "isSparsityTransformed: 1: must be 0"),
        (lambda h5: put(h5, isFramePermutation=np.int8(1), framePermutation=np.ones(12, int)), "permutation of 1…12"),
        (lambda h5: put(h5, acquisition__receiver___channels=np.array(["y"], dtype=object)), "must name 2 channels"),
        (lambda h5: put(h5, acquisition__receiver___channels=np.array(["y", "z"], dtype=object)), "must have x"),
        (lambda h5: h5["/scanner/topology"].write_direct(np.array(b"FFL", object)), "field-free line"),
    ],
)
def test_what_is_not_served_is_refused_with_its_value(file: Path, edit: Edit, reason: str) -> None:
    with h5py.File(file, "r+") as h5:
        edit(h5)
    with pytest.raises(DataError, match=reason) as caught:
        read_mdf(file)
    assert str(caught.value).startswith(f"{file}: /")


def test_all_reasons_are_told_in_one_line(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        del h5["/version"]
        h5["/version"] = "1.0.5"
        gradient(0.2, -0.1, -0.1)(h5)
        put(h5, acquisition__drivefield__phase=np.zeros((1, 2, 1)), calibration__size=np.array([2, 2, 0]))
    with pytest.raises(DataError) as caught:
        read_mdf(file)
    message = str(caught.value)
    for part in ("/version: '1.0.5': must be 2.x", "/acquisition/gradient:", "phase:", "/calibration/size:"):
        assert message.count(part) == 1
    assert "\n" not in message


def test_a_lone_y_channel_is_not_taken_for_x(file: Path) -> None:
    """The harmonics of the y-drive are strong in the channel along y."""
    y = np.array([1e-3 + 1.0 * (not m_x) for m_x, _ in ORDERS])[:, None] * truth().values_CKN[1]
    alone = dataclasses.replace(truth(), values_CKN=y[None])
    write_mdf(file, alone, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    with pytest.raises(DataError, match=r"receive channel 1 has .* energy at the y-drive's harmonics .* x-channel"):
        read_mdf(file)


def test_a_third_channel_is_read_beside_x_and_y_and_a_lone_z_is_not_taken_for_y(file: Path) -> None:
    three = np.concatenate((truth().values_CKN, 7 * truth().values_CKN[:1]))
    sm = dataclasses.replace(truth(), values_CKN=three)
    write_mdf(file, sm, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    np.testing.assert_array_equal(read_mdf(file).values_CKN, three)
    with h5py.File(file, "r+") as h5:
        put(h5, acquisition__receiver___channels=np.array(["z", "y", "x"], dtype=object))
    np.testing.assert_array_equal(read_mdf(file).values_CKN, three[::-1])
    with h5py.File(file, "r+") as h5:
        put(h5, data=h5["/measurement/data"][()][:, :2])
        put(h5, acquisition__receiver___channels=np.array(["x", "z"], dtype=object))
    np.testing.assert_array_equal(read_mdf(file).values_CKN, three[:1])


def test_what_is_valid_and_not_served_is_told_by_field(file: Path, run: Callable[..., Finished]) -> None:
    assert unserved(file) == []
    with h5py.File(file, "r+") as h5:
        put(h5, acquisition__offsetField=np.array([[[1e-3, 0.0, 0.0]]]))
        put(h5, acquisition__drivefield__phase=np.zeros((1, 2, 1)), calibration__order="zyx")
    told = run("validate", file)
    assert told.status == 0
    lines = told.stdout.splitlines()
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["not served", "/calibration/order"],
        ["not served", "/acquisition/offsetField"],
        ["not served", "/acquisition/drivefield/phase"],
    ]
    assert lines[-1].endswith("calibration file, 0 errors, 0 warnings, 3 fields not served")


def test_an_infinite_snr_is_read_and_warned_of(file: Path) -> None:
    snr_JCK = np.full((1, 2, 11), 5.0)
    snr_JCK[0, 1, 3] = np.inf
    with h5py.File(file, "r+") as h5:
        put(h5, calibration__snr=snr_JCK)
    found = read_mdf(file).snr_CK
    assert found is not None
    assert np.isfinite(found).all()
    assert found[1, 3] > 1e300
    assert [(fault.severity, fault.field) for fault in validate_mdf(file)] == [("warning", "/calibration/snr")]


def test_files_of_version_2_0_need_no_flag_of_2_1(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        put(h5, isSparsityTransformed=None, isTransposed=np.int8(1), isFastFrameAxis=None)
        del h5["/version"]
        h5["/version"] = "2.0.1"
    faults = {(fault.severity, fault.field) for fault in validate_mdf(file)}
    assert faults == {("warning", "/version"), ("warning", "/measurement/isTransposed")}


def test_provenance_is_read_in_the_types_of_the_standard(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        for name, value in (("name", "perimag"), ("concentration", 0.1), ("volume", 1e-6), ("vendor", "micromod")):
            put(h5, **{f"tracer__{name}": value})
        put(h5, acquisition__numAverages=1000, calibration__method="robot", scanner__name="pre-clinical")
        for name in ("/time", "/acquisition/startTime"):
            del h5[name]
        h5["/time"], h5["/acquisition/startTime"] = "2018-04-19T09:49:08", "2018-04-19T11:49:08.8+02:00"
    found = read_provenance(file)
    assert (found.time, found.averages) == ("2018-04-19T09:49:08.000", 1000)
    assert found.fields["/acquisition/startTime"] == "2018-04-19T09:49:08.800"
    assert found.fields["/tracer/name"] == ["perimag"]
    np.testing.assert_array_equal(found.fields["/tracer/concentration"], [0.1])
    assert (found.fields["/calibration/method"], found.fields["/scanner/name"]) == ("robot", "pre-clinical")
    target = file.with_name("b.mdf")
    uuid = "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8"
    write_mdf(target, truth(), uuid=uuid, time=found.time, averages=found.averages, provenance=found.fields)
    written = read_provenance(target)
    assert (written.time, written.averages) == (found.time, found.averages)
    assert written.fields["/tracer/vendor"] == ["micromod"]
    assert {fault.severity for fault in validate_mdf(target)} <= {"warning"}
    with h5py.File(file, "r+") as h5:
        del h5["/time"]
        h5["/time"] = "yesterday"
    with pytest.raises(DataError, match="/time: 'yesterday': must be a time"):
        read_provenance(file)


@pytest.fixture(scope="session")
def measured() -> Path:
    """Measured files of public origin, which are not part of this repository."""
    folder = os.environ.get("SM_SEARCH_MEASURED", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip("SM_SEARCH_MEASURED names no folder of measured files")
    return Path(folder)


def test_a_robot_calibration_in_one_dimension_is_refused_with_all_reasons(measured: Path) -> None:
    path = measured / "robot-calibration-1d.mdf"
    with pytest.raises(DataError) as caught:
        read_mdf(path)
    for reason in ("/calibration/fieldOfViewCenter: [0.156", "divider: 1 drive frequencies: must be two"):
        assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_provenance(path).averages == 1000
    faults = {(fault.severity, fault.field) for fault in validate_mdf(path)}
    assert ("warning", "/measurement/isTransposed") in faults
    assert not any("isSparsityTransformed" in field for _, field in faults)


def test_plain_hdf5_is_no_mdf_file_and_is_refused(measured: Path) -> None:
    with pytest.raises(DataError, match="/calibration/size: is missing"):
        read_mdf(measured / "system-function-1d.h5")


@pytest.mark.parametrize(("name", "count", "last_khz"), [("MG", 1000, 1250.0), ("UH", 1600, 1500.0)])
def test_measured_transfer_functions_are_read(measured: Path, name: str, count: int, last_khz: float) -> None:
    table = read_transfer_table(measured / f"transfer-function-{name}.h5")
    assert (len(table.frequency_khz), len(table.real)) == (count, 3)
    assert table.frequency_khz[-1] == pytest.approx(last_khz, rel=1e-2)


PLANES_MM = (-2.0, 1.0, 4.0)


def volume() -> SystemMatrix:
    """Three planes around an offset field's field-free point, which lies 1 mm below the middle one."""
    values_CKN = np.random.default_rng(8).normal(size=(2, len(ORDERS), 36, 2)) @ np.array([1, 1j])
    heights_m = tuple(1e-3 * z for z in PLANES_MM)
    return dataclasses.replace(truth(), values_CKN=values_CKN, heights_m=heights_m, origin_m=(0.01, -0.02, 0.003))


def meander_in_3d(h5: h5py.File) -> None:
    """The robot's way through 4 × 3 × 3 voxels, as MPIFiles.jl has it, written down by hand."""
    rows = [[0, 1, 2, 3], [7, 6, 5, 4], [8, 9, 10, 11]]
    second = [[23, 22, 21, 20], [16, 17, 18, 19], [15, 14, 13, 12]]
    third = [[24, 25, 26, 27], [31, 30, 29, 28], [32, 33, 34, 35]]
    way = [voxel for row in rows + second + third for voxel in row]
    put(h5, data=h5["/measurement/data"][()][..., way], calibration__isMeanderingGrid=np.int8(1))


def positions_in_3d(h5: h5py.File) -> None:
    """Of the scanner's coordinates, shuffled and as inexact as a robot's."""
    order = np.random.default_rng(2).permutation(36)
    z, y, x = np.unravel_index(order, (3, 3, 4))
    centres_m = np.stack([0.01 * (x - 1.5) + 0.01, 0.01 * (y - 1) - 0.02, 1e-3 * (3 * z - 2) + 0.003], axis=1)
    put(h5, data=h5["/measurement/data"][()][..., order], calibration__positions=centres_m + 1e-4 * np.cos(centres_m))


@pytest.mark.parametrize("variant", [lambda _: None, meander_in_3d, positions_in_3d])
def test_a_volume_around_a_shifted_field_free_point_reads_back_plane_by_plane(file: Path, variant: Edit) -> None:
    sm = volume()
    write_mdf(file, sm, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    with h5py.File(file, "r+") as h5:
        variant(h5)
        # Where the field B = g∘r + b of the file is zero.
        g, b = np.diag(h5["/acquisition/gradient"][0, 0]), h5["/acquisition/offsetField"][0, 0]
        np.testing.assert_allclose(-b / g, sm.origin_m)
        np.testing.assert_allclose(h5["/calibration/fieldOfView"][()], [0.04, 0.03, 0.009])
        np.testing.assert_allclose(h5["/calibration/fieldOfViewCenter"][()], [0.01, -0.02, 0.004])
    assert [fault for fault in validate_mdf(file) if fault.severity == "error"] == []
    assert unserved(file) == []
    found = read_mdf(file)
    np.testing.assert_array_equal(found.values_CKN, sm.values_CKN)
    np.testing.assert_allclose(found.origin_m, sm.origin_m)
    np.testing.assert_allclose(found.heights_m, sm.heights_m)
    middle = found.planes()[1]
    np.testing.assert_array_equal(middle.values_CKN, sm.values_CKN[..., 12:24])
    np.testing.assert_allclose(middle.heights_m, 1e-3)
    with pytest.raises(DataError, match="a volume of 3 planes"):
        found.channel_images(0)


def test_positions_of_another_plane_are_refused(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        positions(h5)
        moved = h5["/calibration/positions"][()] + [0, 0, 0.006]
        put(h5, calibration__positions=moved)
    with pytest.raises(DataError, match=r"positions: .* must be a centre of the grid"):
        read_mdf(file)
    with h5py.File(file, "r+") as h5:
        put(h5, calibration__fieldOfViewCenter=np.array([0, 0, 0.006]))
    assert read_mdf(file).heights_m == (0.006,)
