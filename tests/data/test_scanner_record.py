"""The file of an imperfect scanner: valid, with the draws and with flags that tell the truth."""

from pathlib import Path

import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings, ScannersDesign
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.scanner_settings import ScannerSpread
from sm_search.config.simulation_settings import Scan
from sm_search.data.dataset import write_scan
from sm_search.data.mdf_reading import read_field, read_mdf
from sm_search.data.mdf_validation import validate_mdf
from sm_search.data.scanner_record import scanner_record
from sm_search.physics.harmonics import harmonic_field
from sm_search.physics.scanner_fields import in_plane, scanner_fields, sensitivities
from sm_search.physics.system_matrix import simulate, voxel_centres

CHAIN = {
    "signal": "voltage",
    "noise_nv": 1.0,
    "background_frames": 6,
    "delay_us": 1.0,
    "resonances": ({"frequency_khz": 60.0, "quality": 5.0, "gain": 8.0},),
    "feed_through": {"uv_per_mt": 2.0},
}


@pytest.fixture(scope="module")
def settings(tiny_settings: DatasetSettings) -> DatasetSettings:
    design = ScannersDesign(
        design="scanners", count=1, core_diameter_nm=(30.0, 40.0), fx_khz=(20.0, 30.0), nd=(9,), noise_db=60.0
    )
    spread = ScannerSpread(gradient_error=0.1, drive_error=0.1, cross_talk=0.02)
    splits = {**tiny_settings.splits, "noisy": (design,)}
    return tiny_settings.model_copy(update={"scanners": spread, "splits": splits})


def written(folder: Path, settings: DatasetSettings, scan: Scan, **chain: object) -> Path:
    settings = settings.model_copy(update={"receive": ReceiveSettings.model_validate(CHAIN | chain)})
    sm = simulate(settings, scan, "low")
    write_scan(folder, settings, "2025-01-31T12:00:00.000", scan, "low", sm)
    return folder / scan.id / "low.mdf"


@pytest.mark.parametrize(
    ("chain", "flags"),
    [
        ({}, (0, 0)),
        ({"background_correction": "mean"}, (1, 0)),
        ({"background_correction": "interpolated", "transfer_function": "corrected"}, (1, 1)),
        ({"transfer_function": "unknown"}, (0, 0)),
    ],
)
def test_the_file_is_valid_and_tells_what_was_done(
    tmp_path: Path, settings: DatasetSettings, chain: dict[str, object], flags: tuple[int, int]
) -> None:
    (scan,) = settings.scans("noisy")
    path = written(tmp_path, settings, scan, **chain)
    assert validate_mdf(path) == []
    names = ("isBackgroundCorrected", "isTransferFunctionCorrected")
    assert tuple(read_field(path, f"/measurement/{name}") for name in names) == flags
    assert read_field(path, "/measurement/isFramePermutation") == 1
    assert read_field(path, "/scanner/_number") == scan.scanner
    assert read_field(path, "/tracer/_easyAxes") == "selection-field"
    if "background_correction" in chain:
        told = read_field(path, "/acquisition/receiver/_backgroundCorrection")
        assert told == chain["background_correction"]
    again = read_mdf(path)
    # Reading subtracts the background and divides by the transfer function, where the file did not and knows it.
    known = chain.get("transfer_function") != "unknown"
    assert again.corrections == ({*names} if known else {names[0]})
    assert again.background_CKE is not None
    line = again.mixing_orders.index((1, 0))
    left = np.abs(again.background_CKE[0, line].mean()) / np.abs(again.values_CKN[0, line]).max()
    assert left < (1e-2 if chain.get("background_correction") == "interpolated" else 1e-9)
    assert again.snr_CK is not None


def test_the_draws_in_the_file_are_the_fields_that_were_simulated(settings: DatasetSettings) -> None:
    (scan,) = settings.scans("noisy")
    scanner = settings.scanner_of(scan)
    fields = scanner_record(scanner, settings.high, scan.scanner)
    position_3N = in_plane(*voxel_centres(settings.grid))
    radius_m = fields["/scanner/_referenceRadius"]

    def of(path: str) -> np.ndarray:
        terms = [(int(degree), int(order), value) for degree, order, value in fields[path]]  # type: ignore[union-attr]
        return harmonic_field(terms, position_3N, radius_m)  # type: ignore[arg-type]

    error = fields["/acquisition/_gradientError"]
    drive_error = fields["/acquisition/drivefield/_error"]
    simulated = scanner_fields(scanner, settings.high, position_3N)
    ideal_3N = -np.array([[1.0], [1.0], [0.0]]) * position_3N * (1 + error)  # type: ignore[operator]
    np.testing.assert_allclose(ideal_3N + of("/acquisition/_selectionHarmonics"), simulated.selection_3N, atol=1e-15)
    axis_31 = np.array([[0.0], [1.0], [0.0]]) * 0.02 * (1 + drive_error[1])  # type: ignore[index]
    drive_3N = axis_31 + of("/acquisition/drivefield/_harmonicsY")
    np.testing.assert_allclose(drive_3N, simulated.drive_y_3N, atol=1e-15)
    share_3N = np.array([[1.0], [0.0], [0.0]]) + of("/acquisition/receiver/_harmonicsX")
    np.testing.assert_allclose(share_3N, sensitivities(scanner, position_3N)[0], atol=1e-15)


def test_equal_names_give_equal_bytes(tmp_path: Path, settings: DatasetSettings) -> None:
    (scan,) = settings.scans("noisy")
    first, second = (written(tmp_path / name, settings, scan).read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_file_of_the_ideal_scanner_says_nothing_of_it(settings: DatasetSettings) -> None:
    (scan,) = settings.scans("test")
    assert scanner_record(settings.scanner_of(scan), settings.low, scan.scanner) == {}
