"""Files as a lab has them become a dataset: equal to the truth, with their origin, and the originals untouched."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldName, Scan
from sm_search.data.atomic import sha256
from sm_search.data.dataset import FIELDS, Dataset
from sm_search.data.mdf import read_field, read_mdf, write_mdf
from sm_search.data.mdf_validation import validate_mdf
from sm_search.data.measured_import import import_measured, plan_import
from sm_search.evaluation.baselines import KernelRidgeOverScans
from sm_search.physics.system_matrix import SystemMatrix, simulate
from tests.lab_files import LAB, as_measured

DIAMETERS_NM = (20.0, 25.0, 30.0, 35.0)


@pytest.fixture(scope="module")
def truths(tiny_settings: DatasetSettings) -> list[dict[FieldName, SystemMatrix]]:
    """Low and high of four tracers, in V."""
    settings = tiny_settings.model_copy(update={"magnetisation": "equilibrium"})

    def matrix(diameter_nm: float, which: FieldName) -> SystemMatrix:
        sm = simulate(settings, Scan(core_diameter_nm=diameter_nm, fx_khz=25.0, nd=9), which)
        return dataclasses.replace(sm, unit="V", tracer={}, values_CKN=1e-9j * sm.values_CKN)

    return [{which: matrix(diameter, which) for which in FIELDS} for diameter in DIAMETERS_NM]


@pytest.fixture(scope="module")
def lab(truths: list[dict[FieldName, SystemMatrix]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    for number, pair in enumerate(truths, 1):
        for which, sm in pair.items():
            as_measured(folder / f"perimag {number}-{which}.mdf", sm)
    return folder


def test_a_folder_of_pairs_becomes_a_dataset(
    lab: Path, truths: list[dict[FieldName, SystemMatrix]], tmp_path: Path
) -> None:
    before = {path: sha256(path) for path in lab.iterdir()}
    plan = plan_import([lab])
    assert [pair.reasons for pair in plan.pairs] == [[]] * 4
    import_measured(plan, tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    assert {split: [s.id for s in dataset.settings.scans(split)] for split in ("train", "validation", "test")} == {
        "train": ["perimag-1", "perimag-2"],
        "validation": ["perimag-3"],
        "test": ["perimag-4"],
    }
    assert dataset.settings.orders.pairs() == truths[0]["low"].mixing_orders
    pairs = [pair for split in ("train", "validation", "test") for pair in dataset.pairs(split)]
    for pair, truth in zip(pairs, truths, strict=True):
        for found, wanted in ((pair.low, truth["low"]), (pair.high, truth["high"])):
            assert (found.mixing_orders, found.unit) == (wanted.mixing_orders, "V")
            error = np.abs(found.values_CKN - wanted.values_CKN).max()
            assert error < 1e-12 * 1e-3, "to the rounding of the feed-through"
            assert found.snr_CK is not None
    path = dataset.file(dataset.settings.scans("test")[0], "high")
    assert [fault for fault in validate_mdf(path) if fault.severity == "error"] == []
    for field, value in LAB.items():
        np.testing.assert_array_equal(read_field(path, field), value)
    assert read_field(path, "/acquisition/numAverages") == 1000
    assert read_field(path, "/experiment/_importedFile") == "perimag 4-high.mdf"
    page = (tmp_path / "data" / "import.md").read_text()
    for words in ("background subtracted, mean of 6 frames", "numbers converted", "order of the positions", "(test)"):
        assert words in page
    assert {path: sha256(path) for path in lab.iterdir()} == before
    model = KernelRidgeOverScans(dataset.pairs("train"), dataset.settings.channels)
    assert model.predict(pairs[-1].low).values_CKN.shape == pairs[-1].high.values_CKN.shape
    with pytest.raises(DataError, match="holds a dataset"):
        import_measured(plan, tmp_path / "data")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="import the measured pair again to repair it"):
        list(Dataset.open(tmp_path / "data").pairs("test"))


def test_lists_and_names_of_splits(lab: Path) -> None:
    (lab / "pairs.csv").write_text(
        "# low, high\n" + "".join(f"perimag {n}-low.mdf, perimag {n}-high.mdf\n" for n in (1, 2, 3))
    )
    # Exchanged: the gradients tell.
    plan = plan_import(
        [lab / "pairs.csv", lab / "perimag 4-high.mdf", lab / "perimag 4-low.mdf"],
        test=["perimag-1"],
        validation=["perimag-2"],
        orders=(1, 2),
    )
    assert plan.settings is not None
    assert [scan.id for scan in plan.settings.scans("train")] == ["perimag-3", "perimag-4"]
    assert [scan.id for scan in plan.settings.scans("test")] == ["perimag-1"]
    assert (plan.settings.orders.max_x, plan.settings.orders.max_y) == (1, 2)
    assert "given as high" in " ".join(plan.pairs[-1].low.done)
    (lab / "pairs.csv").write_text("perimag 1-low.mdf\n")
    with pytest.raises(DataError, match=r"pairs.csv:1: 'perimag 1-low.mdf': must be LOW, HIGH"):
        plan_import([lab / "pairs.csv"])
    with pytest.raises(DataError, match="has no partner"):
        plan_import([lab / "perimag 1-low.mdf"])
    with pytest.raises(DataError, match="'x': is no pair; there are perimag-1"):
        plan_import([lab], test=["x"])


def test_the_verb_tells_every_refusal_and_writes_only_what_is_asked(
    run: Callable[..., Any], lab: Path, tmp_path: Path, truths: list[dict[FieldName, SystemMatrix]]
) -> None:
    sources = [lab / f"perimag {n}-{which}.mdf" for n in (1, 2, 3) for which in FIELDS]
    broken, other = tmp_path / "broken.mdf", tmp_path / "other.mdf"
    slower = dataclasses.replace(truths[0]["high"], fx_hz=20e3)
    write_mdf(other, slower, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    broken.write_bytes(other.read_bytes())
    with h5py.File(broken, "r+") as h5:
        h5["/acquisition/offsetField"] = np.full((1, 1, 3), 1e-3)
    coil = tmp_path / "coil.mdf"
    coil.write_bytes(sources[1].read_bytes())
    with h5py.File(coil, "r+") as h5:
        h5["/acquisition/receiver/inductionFactor"] = np.array([1.0, 3.0])
    sources += [sources[0], other, sources[2], broken, sources[0], coil]
    out = tmp_path / "data"
    told = run("import", *sources, "--out", out, "--json")
    assert told.status == 2
    assert "low and high differ: f_x, N_d 25000 Hz, 9 and 20000 Hz, 9" in told.stderr
    assert "induction factor: [1.0, 1.0] and [1.0, 3.0]" in told.stderr
    assert (
        "/acquisition/offsetField: moves the field-free point to [0.001, 0.001, -0.0005] m: must be in x and y the"
        in told.stderr
    )
    assert not out.exists()
    planned = run("import", *sources, "--out", out, "--skip-refused", "--dry-run")
    assert planned.status == 0
    assert "refused: low and high differ" in planned.stdout
    assert not out.exists()
    done = run("import", *sources, "--out", out, "--skip-refused", "--json")
    assert done.status == 0
    assert done.object["pairs"] == ["perimag-1", "perimag-2", "perimag-3"]
    assert len(done.object["refused"]) == 3
    assert read_mdf(out / "perimag-1" / "low.mdf").unit == "V"
    few = run("import", *sources[:4], "--out", tmp_path / "few")
    assert few.status == 2
    assert "2 pairs without a fault: must be three at least" in few.stderr


def volume(truth: SystemMatrix, planes: int) -> SystemMatrix:
    """Planes 5 mm apart, the lowest 5 mm below the field-free point, with values of their own."""
    values_CKN = np.concatenate([(1 + at) * truth.values_CKN for at in range(planes)], axis=-1)
    heights_m = tuple(5e-3 * (at - 1) for at in range(planes))
    return dataclasses.replace(truth, values_CKN=values_CKN, heights_m=heights_m, origin_m=(0.0, 0.0, 0.002))


def test_volumes_become_a_scan_for_each_plane_and_no_calibration_is_in_two_splits(
    truths: list[dict[FieldName, SystemMatrix]], tmp_path: Path
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    for number, pair in enumerate(truths[:3], 1):
        for which, sm in pair.items():
            as_measured(lab / f"robot {number} {which}.mdf", volume(sm, 3 if number > 1 else 1))
    plan = plan_import([lab])
    assert [pair.reasons for pair in plan.pairs] == [[]] * 7
    import_measured(plan, tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    scans = {split: dataset.settings.scans(split) for split in ("train", "validation", "test")}
    assert [scan.id for scan in scans["train"]] == ["robot-1"]
    assert [scan.id for scan in scans["validation"]] == ["robot-2-z-5mm", "robot-2-z0mm", "robot-2-z5mm"]
    assert [(scan.id, scan.height_mm) for scan in scans["test"]] == [
        ("robot-3-z-5mm", -5.0),
        ("robot-3-z0mm", 0.0),
        ("robot-3-z5mm", 5.0),
    ]
    for at, pair in enumerate(dataset.pairs("test")):
        for found, wanted in ((pair.low, truths[2]["low"]), (pair.high, truths[2]["high"])):
            assert np.abs(found.values_CKN - (1 + at) * wanted.values_CKN).max() < 1e-12 * 1e-3
            np.testing.assert_allclose(found.origin_m, (0, 0, 0.002))
            np.testing.assert_allclose(found.heights_m, 5e-3 * (at - 1))
    assert "plane 3 of 3, z = 5 mm" in (tmp_path / "data" / "import.md").read_text()
    one = [lab / f"robot 2 {which}.mdf" for which in FIELDS]
    assert "planes of one calibration are no independent test" in plan_import(one).problem
    chosen = plan_import(one, validation=["robot-2-z0mm"], test=["robot-2-z5mm"])
    assert chosen.settings is not None
    whole = plan_import([lab], test=["robot-2"])
    assert whole.settings is not None, whole.problem
    assert [scan.height_mm for scan in whole.settings.scans("test")] == [-5.0, 0.0, 5.0]
    as_measured(lab / "robot 3 high.mdf", volume(truths[2]["high"], 2))
    assert "planes 3 from z = -5 to 5 mm" in plan_import([lab]).pairs[-1].refused
