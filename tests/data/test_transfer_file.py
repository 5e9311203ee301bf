"""Transfer functions from files: HDF5, MDF and CSV, measured ones too, and clear refusals."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings, TransferTable
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.data.mdf import write_mdf
from sm_search.data.transfer_file import read_transfer_table, with_tables_read
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import SystemMatrix
from sm_search.physics.transfer import interpolated

MEASURED = os.environ.get("SM_SEARCH_MEASURED")
needs_measured = pytest.mark.skipif(not MEASURED, reason="SM_SEARCH_MEASURED does not name the measured files")
TABLE = TransferTable(
    frequency_khz=(10.0, 20.0, 40.0),
    real=((1.0, 2.0, 4.0), (0.5, 0.5, 0.5)),
    imaginary=((0.0, 1.0, -1.0), (1.0, 2.0, 3.0)),
)


def test_csv_and_hdf5_give_the_same_table(tmp_path: Path) -> None:
    csv = tmp_path / "a.csv"
    csv.write_text("# ours\nf, re, im, re, im\n20000,2,1,0.5,2\n10000,1,0,.5,1\n\n4e4,4,-1,0.5,3\n")
    assert read_transfer_table(csv) == TABLE
    values = np.array(TABLE.real) + 1j * np.array(TABLE.imaginary)
    for name, stored in (("c", values), ("r", np.stack([values.real, values.imag], axis=-1))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["frequencies"], file["transferFunction"] = np.array([10e3, 20e3, 40e3]), stored
        assert read_transfer_table(tmp_path / f"{name}.h5") == TABLE


def test_an_mdf_file_gives_its_own_back(tmp_path: Path) -> None:
    orders, grid = MixingOrders(max_x=3, max_y=3).pairs(), Grid(size=(3, 2))
    values_CKN = np.random.default_rng(0).normal(size=(2, 15, 6)) + 0j
    field = FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0)
    chain = ReceiveSettings(signal="voltage", low_pass_khz=60.0, delay_us=1.0)
    received = receive(SystemMatrix(values_CKN, orders, grid, field, 25e3, 29), chain)
    write_mdf(tmp_path / "a.mdf", received, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    table = read_transfer_table(tmp_path / "a.mdf")
    omega_K = 2 * np.pi * received.frequency_index() * 25e3 / 30
    np.testing.assert_allclose(interpolated(table, omega_K, 2), received.transfer_function_CK, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1,2\n", "1: 2 numbers: must be the frequency in Hz"),
        ("1,2,3\n4,5\n", "2: 2 numbers"),
        ("1,2,3\n4,x,5\n", "2: '4,x,5': must be numbers"),
        ("1,2,3\n1,2,3\n", "2 frequencies: must be at least 2, none negative or twice"),
        ("a,b,c\n", "has no row of numbers"),
        ("1,nan,3\n2,2,3\n", "must be finite"),
    ],
)
def test_a_bad_csv_is_refused_in_one_line(tmp_path: Path, text: str, rule: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=rule) as caught:
        read_transfer_table(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_bad_hdf5_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frequencies"], file["transferFunction"] = np.arange(5.0), np.ones((2, 4), dtype=complex)
    with pytest.raises(DataError, match=r"/transferFunction: .*must be complex, C × 5"):
        read_transfer_table(tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"gone\.h5"):
        read_transfer_table(tmp_path / "gone.h5")


def test_settings_take_in_the_table_that_they_name(tmp_path: Path, tiny_settings: DatasetSettings) -> None:
    (tmp_path / "a.csv").write_text("5000,1,0\n200000,2,1\n")
    receive = ReceiveSettings(signal="voltage", transfer_table="a.csv")
    named = tiny_settings.model_copy(update={"receive": receive})
    taken = with_tables_read(named, tmp_path)
    assert taken.receive.transfer_table == read_transfer_table(tmp_path / "a.csv")
    assert taken.content_hash() != named.content_hash()
    assert DatasetSettings.model_validate_json(taken.model_dump_json()) == taken
    assert with_tables_read(taken, tmp_path) is taken


@needs_measured
@pytest.mark.parametrize(("name", "channels", "first_khz", "last_khz"), [("MG", 3, 1, 1250), ("UH", 3, 10, 1500)])
def test_measured_chains_are_read(name: str, channels: int, first_khz: float, last_khz: float) -> None:
    table = read_transfer_table(Path(str(MEASURED), f"transfer-function-{name}.h5"))
    assert len(table.real) == channels
    assert table.frequency_khz[0] == pytest.approx(first_khz)
    assert table.frequency_khz[-1] == pytest.approx(last_khz, rel=0.01)


@needs_measured
def test_the_measured_resonance_is_what_a_resonance_is_for() -> None:
    """Between 600 and 675 kHz a measured chain gains by a factor and turns by over 100°."""
    table = read_transfer_table(Path(str(MEASURED), "transfer-function-UH.h5"))
    frequency_F = np.array(table.frequency_khz)
    for real, imaginary in zip(table.real, table.imaginary, strict=True):
        a_F = np.array(real) + 1j * np.array(imaginary)
        band = (frequency_F > 600) & (frequency_F < 675)
        below = (frequency_F > 200) & (frequency_F < 300)
        assert np.abs(a_F[band]).max() > 8 * np.median(np.abs(a_F[below])), "it resonates"
        phase = np.unwrap(np.angle(a_F[(frequency_F > 550) & (frequency_F < 750)]))
        assert np.degrees(np.ptp(phase)) > 100
