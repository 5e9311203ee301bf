"""A scanner whose faster drive is along y is the mirror image of one that has it along x, and so are its files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.data.dataset import Dataset
from sm_search.data.mdf import read_mdf, write_mdf
from sm_search.data.mdf_provenance import read_provenance
from sm_search.data.mdf_served import unserved
from sm_search.data.mdf_validation import validate_mdf
from sm_search.data.measured_import import import_measured, plan_import
from sm_search.data.transfer_file import read_transfer_table
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix, chosen_channels
from tests.lab_files import DRIVE, LAB, RECEIVER, as_measured, fields_of, mirrored

IDENTITY = {"uuid": "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", "time": "2025-01-31T12:00:00.000"}
ORDERS, ND = MixingOrders(max_x=3, max_y=2).pairs(), 16
OF_CHANNELS = {f"{RECEIVER}/inductionFactor": np.array([1.5, 2.5])}


def volume() -> SystemMatrix:
    """Two planes of 4 × 3 voxels with noise, background, a transfer function, and nothing alike along x and y."""
    values_CKN = np.random.default_rng(7).normal(size=(2, len(ORDERS), 24, 2)) @ np.array([1, 1j])
    field = FieldSettings(gradient_t_per_m=(0.1, 0.15), drive_mt=(2.0, 2.4))
    bare = SystemMatrix(values_CKN, ORDERS, Grid(size=(4, 3), fov_mm=(40.0, 27.0)), field, 2.5e6 / 96, ND)
    bare = dataclasses.replace(bare, heights_m=(-1e-3, 2e-3), origin_m=(0.01, -0.02, 0.003))
    chain = {"signal": "voltage", "noise_nv": 2.0, "background_frames": 4, "low_pass_khz": 60.0}
    received = receive(bare, ReceiveSettings.model_validate(chain), "scan")
    return dataclasses.replace(received, measured_order_F=1 + np.random.default_rng(8).permutation(28))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and that of the mirrored scanner with dividers 102 and 96."""
    provenance = LAB | OF_CHANNELS | {"/calibration/deltaSampleSize": np.array([1e-3, 2e-3, 3e-3])}
    write_mdf(tmp_path / "a.mdf", volume(), **IDENTITY, provenance=provenance)
    return tmp_path / "a.mdf", mirrored(tmp_path / "a.mdf", tmp_path / "b.mdf", common=6)


def require_same(found: SystemMatrix, wanted: SystemMatrix) -> None:
    for each in dataclasses.fields(SystemMatrix):
        if each.name != "axes":
            np.testing.assert_equal(getattr(found, each.name), getattr(wanted, each.name), err_msg=each.name)


def require_same_fields(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], *but: str) -> None:
    assert found.keys() == wanted.keys()
    for name in found.keys() - {*but}:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_its_file_is_read_as_that_of_the_mirror_image(files: tuple[Path, Path]) -> None:
    with h5py.File(files[1]) as h5:
        assert h5[f"{DRIVE}/divider"][()].tolist() == [[102], [96]]
        assert h5["/calibration/size"][()].tolist() == [3, 4, 2]
    found, wanted = read_mdf(files[1]), read_mdf(files[0])
    assert (found.axes, wanted.axes) == ("yxz", "xyz")
    require_same(found, wanted)
    assert found.snr_CK is not None
    assert [validate_mdf(path) for path in files] == [[], []]
    assert unserved(files[1]) == []


def silent_third_drive(h5: h5py.File) -> None:
    """As Bruker's scanners have it."""
    for name, values in (
        ("divider", np.append(h5[f"{DRIVE}/divider"][()], [[99]], axis=0)),
        ("strength", np.append(h5[f"{DRIVE}/strength"][()], [[[0.0]]], axis=1)),
        ("phase", np.full((1, 3, 1), np.pi / 2)),
    ):
        del h5[f"{DRIVE}/{name}"]
        h5[f"{DRIVE}/{name}"] = values


def no_orders(h5: h5py.File) -> None:
    del h5["/calibration/_mixingOrders"]


def stored_as(h5: h5py.File, order_N: np.ndarray) -> None:
    """The foreground in another order, and no word of when it was measured."""
    data = h5["/measurement/data"][()]
    h5["/measurement/data"][...] = np.concatenate((data[..., order_N], data[..., 24:]), axis=-1)
    h5["/measurement/isFramePermutation"][...] = 0
    del h5["/measurement/framePermutation"]


def positions(h5: h5py.File) -> None:
    """Frames shuffled, with the places where they were measured."""
    size, fov_m, centre_m = (h5[f"/calibration/{name}"][()] for name in ("size", "fieldOfView", "fieldOfViewCenter"))
    voxel_N3 = np.stack(np.unravel_index(np.arange(24), size[::-1])[::-1], axis=1)
    order_N = np.random.default_rng(1).permutation(24)
    h5["/calibration/positions"] = ((voxel_N3 - (size - 1) / 2) * fov_m / size + centre_m)[order_N]
    stored_as(h5, order_N)


def meander(h5: h5py.File) -> None:
    """The way of a robot, along the file's own x first."""
    size_x, size_y, _ = h5["/calibration/size"][()]
    planes = np.arange(24).reshape(2, size_y, size_x)
    rows = [*planes[0], *planes[1][::-1]]
    backward = [(at + z) % 2 == 1 for z in (0, 1) for at in range(size_y)]
    h5["/calibration/isMeanderingGrid"] = np.int8(1)
    stored_as(h5, np.concatenate([row[::-1] if back else row for row, back in zip(rows, backward, strict=True)]))


@pytest.mark.parametrize("variant", [silent_third_drive, no_orders, positions, meander])
def test_it_reads_the_same_however_it_is_written(
    files: tuple[Path, Path], variant: Callable[[h5py.File], None]
) -> None:
    wanted = read_mdf(files[0])
    for path in files:
        with h5py.File(path, "r+") as h5:
            variant(h5)
        require_same(read_mdf(path), wanted)


def test_it_is_written_with_its_own_axes_and_dividers(files: tuple[Path, Path], tmp_path: Path) -> None:
    written = [tmp_path / "written a.mdf", tmp_path / "written b.mdf"]
    for source, target in zip(files, written, strict=True):
        order_F = volume().measured_order_F
        sm = dataclasses.replace(read_mdf(source), measured_order_F=order_F, transfer_function_CK=np.ones((2, 11)) + 1j)
        write_mdf(target, sm, **IDENTITY, provenance=read_provenance(source).fields)
    require_same_fields(fields_of(written[1]), fields_of(mirrored(written[0], tmp_path / "mirrored.mdf", common=6)))
    origin = fields_of(files[1])
    of_reading = {"isBackgroundCorrected", "isTransferFunctionCorrected", "data"}
    changed = {f"/measurement/{name}" for name in of_reading} | {f"{RECEIVER}/transferFunction"}
    require_same_fields(fields_of(written[1]), origin, *changed)
    again = tmp_path / "again.mdf"
    sm = dataclasses.replace(read_mdf(written[1]), measured_order_F=order_F, transfer_function_CK=np.ones((2, 11)) + 1j)
    write_mdf(again, sm, **IDENTITY, provenance=read_provenance(written[1]).fields)
    assert again.read_bytes() == written[1].read_bytes()
    assert validate_mdf(again) == []


def test_the_channel_of_its_faster_drive_is_served_alone_and_the_other_is_not(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    alone = chosen_channels(read_mdf(files[1]), [0])
    write_mdf(tmp_path / "y.mdf", alone, **IDENTITY, provenance=read_provenance(files[1]).fields)
    fields = fields_of(tmp_path / "y.mdf")
    assert fields[f"{RECEIVER}/_channels"].tolist() == [b"y"]
    assert fields[f"{RECEIVER}/inductionFactor"].tolist() == [1.5]
    require_same(read_mdf(tmp_path / "y.mdf"), alone)
    with h5py.File(tmp_path / "y.mdf", "r+") as h5:
        del h5[f"{RECEIVER}/_channels"]
    with pytest.raises(DataError, match=r"_channels: \['x'\]: must have y, of the faster drive; .* serve x beside it"):
        read_mdf(tmp_path / "y.mdf")


def test_channels_by_name_and_the_wrong_channel(files: tuple[Path, Path]) -> None:
    wanted = read_mdf(files[0])
    with h5py.File(files[1], "r+") as h5:
        own = np.array([1e-3 + (m_y == 0) for _, m_y in ORDERS])[:, None]
        data = h5["/measurement/data"][()]
        h5["/measurement/data"][...] = np.stack([data[:, 0] * own, data[:, 1]], axis=1)
    with pytest.raises(
        DataError, match=r"receive channel 1 has .* y-drive's harmonics as at those of x: must be the x-"
    ):
        read_mdf(files[1])
    with h5py.File(files[1], "r+") as h5:
        h5["/measurement/data"][...] = data[:, ::-1]
        h5[f"{RECEIVER}/_channels"] = np.array(["y", "x"], dtype=object)
        for name, axis in ((f"{RECEIVER}/transferFunction", 0), ("/calibration/snr", 1)):
            h5[name][...] = np.flip(h5[name][()], axis)
    require_same(read_mdf(files[1]), wanted)


def test_pairs_become_the_dataset_of_the_mirror_image(tmp_path: Path) -> None:
    """Of files as a lab has them: shuffled positions, numbers to be converted, background to be subtracted."""
    grid = Grid(size=(4, 3), fov_mm=(40.0, 40.0))
    fields = {factor: FieldSettings(gradient_t_per_m=(0.1 * factor, 0.15 * factor), drive_mt=2.0) for factor in (1, 2)}
    fields[2] = fields[2].model_copy(update={"drive_mt": 4.0})
    for lab in ("a", "b"):
        (tmp_path / lab).mkdir()
    for number in (1, 2, 3):
        for factor, which in ((1, "low"), (2, "high")):
            values_CKN = 1e-9 * np.random.default_rng([number, factor]).normal(size=(2, len(ORDERS), 12, 2)) @ [1, 1j]
            sm = SystemMatrix(values_CKN, ORDERS, grid, fields[factor], 2.5e6 / 96, ND, unit="V")
            as_measured(tmp_path / "a" / f"{number} {which}.mdf", sm)
            mirrored(tmp_path / "a" / f"{number} {which}.mdf", tmp_path / "b" / f"{number} {which}.mdf", common=6)
    plans = [plan_import([tmp_path / lab], orders=(2, 1)) for lab in ("a", "b")]
    assert [pair.reasons for plan in plans for pair in plan.pairs] == [[]] * 6
    a, b = (import_measured(plan, tmp_path / f"data {lab}") for plan, lab in zip(plans, ("a", "b"), strict=True))
    assert a.settings == b.settings
    for split in ("train", "validation", "test"):
        for wanted, found in zip(a.pairs(split), Dataset.open(tmp_path / "data b").pairs(split), strict=True):
            for which in ("low", "high"):
                require_same(getattr(found, which), getattr(wanted, which))
                paths = [data.file(wanted.scan, which) for data in (a, b)]
                reflected = fields_of(mirrored(paths[0], tmp_path / "reflected.mdf", common=6))
                of_file = {"/experiment/_importedSha256", "/uuid", "/study/uuid", "/experiment/uuid"}
                require_same_fields(fields_of(paths[1]), reflected, *of_file)
    page = (tmp_path / "data b" / "import.md").read_text(encoding="utf-8")
    assert "0.15 × 0.1 T/m, f_y 26.0417 kHz, N_d 16, 2 receive channels; faster drive along y" in page
    mixed = plan_import([tmp_path / "a" / "1 low.mdf", tmp_path / "b" / "1 high.mdf"])
    assert "faster drive x and y" in mixed.pairs[0].refused


def test_its_transfer_function_is_of_the_mirror_image(files: tuple[Path, Path]) -> None:
    for path in files:
        with h5py.File(path, "r+") as h5:
            faster = np.argmin(h5[f"{DRIVE}/divider"][()])
            h5[f"{RECEIVER}/transferFunction"][faster] = 3 * h5[f"{RECEIVER}/transferFunction"][faster]
    assert read_transfer_table(files[0]) == read_transfer_table(files[1])
