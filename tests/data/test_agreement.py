"""A dataset's files have to be what its manifest says, and measured ones are never overwritten."""

import dataclasses
import shutil
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.data.atomic import sha256
from sm_search.data.dataset import Dataset, FileHashes, file_name
from sm_search.data.mdf import write_mdf
from sm_search.physics.system_matrix import SystemMatrix

TIME = "2025-01-31T12:00:00.000"


@pytest.fixture
def dataset(tiny_dataset: Dataset, tmp_path: Path) -> Dataset:
    return Dataset.open(shutil.copytree(tiny_dataset.folder, tmp_path / "tiny"))


def replaced(dataset: Dataset, **changes: object) -> None:
    """Write the test scan's low file anew, and note it in the manifest."""
    scan = dataset.settings.scans("test")[0]
    sm: SystemMatrix = dataclasses.replace(dataset.read(scan, "low"), **changes)  # type: ignore[arg-type]
    sm = dataclasses.replace(sm, values_CKN=np.array(sm.values_CKN))
    path = dataset.folder / file_name(scan, "low")
    write_mdf(path, sm, uuid=str(UUID(int=1)), time=TIME)
    dataset.record({file_name(scan, "low"): FileHashes(sha256(path), sha256(path))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grid": Grid(size=(12, 12), fov_mm=(30.0, 40.0))},
            "its field of view in mm is 30, 40; the manifest says 40, 40",
        ),
        ({"unit": "V"}, "its unit is V; the manifest says A/m"),
        (
            {"field": FieldSettings(gradient_t_per_m=0.2, drive_mt=2.0)},
            "T is 0.2, 0.2, 0.002, 0.002; the manifest says 0.1, 0.1",
        ),
        ({"fx_hz": 21e3}, "its f_x in Hz is 21000; the manifest says 20000"),
        ({"nd": 11}, "its N_d is 11; the manifest says 9"),
        ({"tracer": {"coreDiameter": 30e-9}}, "its core diameter in m is 3e-08; the manifest says 2.5e-08"),
    ],
)
def test_a_file_that_is_not_what_the_manifest_says_is_refused(
    dataset: Dataset, changes: dict[str, object], message: str
) -> None:
    replaced(dataset, **changes)
    with pytest.raises(DataError, match=message):
        list(Dataset.open(dataset.folder).pairs("test"))


def test_another_order_of_the_components_is_refused(dataset: Dataset) -> None:
    low = dataset.read(dataset.settings.scans("test")[0], "low")
    replaced(dataset, mixing_orders=low.mixing_orders[::-1], values_CKN=low.values_CKN[:, ::-1])
    with pytest.raises(DataError, match="has 8 mixing orders; the manifest says 8, in another order"):
        list(Dataset.open(dataset.folder).pairs("test"))


def test_exchanged_low_and_high_are_named(dataset: Dataset) -> None:
    scan = dataset.settings.scans("test")[0]
    low, high = (dataset.folder / file_name(scan, which) for which in ("low", "high"))  # type: ignore[arg-type]
    shutil.copy(high, low)
    dataset.record({file_name(scan, "low"): FileHashes(sha256(low), sha256(low))})
    with pytest.raises(DataError, match="is a matrix of the high field; the manifest says low"):
        list(Dataset.open(dataset.folder).pairs("test"))


def test_a_measured_file_is_neither_read_nor_overwritten(dataset: Dataset) -> None:
    """Its stored hash is not the manifest's: `simulate` would make the file anew."""
    import h5py

    path = dataset.folder / file_name(dataset.settings.scans("test")[0], "low")
    with h5py.File(path, "r+") as file:
        file["/experiment/isSimulation"][()] = 0
    opened = Dataset.open(dataset.folder)
    for ask in (opened.unfinished, lambda: list(opened.pairs("test"))):
        with pytest.raises(DataError, match=r"low\.mdf: is a measured file, .* `simulate` does not overwrite it"):
            ask()
    path.write_bytes(path.read_bytes()[:-1000])
    assert len(Dataset.open(dataset.folder).unfinished()) == 1, "a damaged file is made anew, as before"
