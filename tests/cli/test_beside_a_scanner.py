"""The README's walk beside a scanner, as a new user goes it: from a folder of measured files to an image."""

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import h5py
import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings, Design
from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldName, Grid, Particle, Scan
from sm_search.data.dataset import FIELDS, Pair
from sm_search.data.mdf_reading import read_field, read_mdf
from sm_search.data.measurement import CONCENTRATION, write_measurement
from sm_search.evaluation.comparison import pair_quality
from sm_search.evaluation.measured import simulate_measurement
from sm_search.physics.receive import received
from sm_search.physics.system_matrix import SystemMatrix, simulate, with_orders
from sm_search.synthesis import load_synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images
from tests.conftest import TINY_TRAINING, Finished
from tests.datasets import simulated
from tests.lab_files import as_measured

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[list[str]]:
    section = README.read_text(encoding="utf-8").split("## Beside a scanner\n")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    sm-search (.*)", section, re.MULTILINE)]


def design(diameters_nm: tuple[float, ...], fx_khz: tuple[float, ...]) -> tuple[Design]:
    return (Design(core_diameter_nm=diameters_nm, fx_khz=fx_khz, nd=(29,)),)


SIMULATED = DatasetSettings(
    name="simulated",
    grid=Grid(size=(12, 12)),
    magnetisation="brownian",  # so smooth in the diameter that a few scans answer for another one
    receive=ReceiveSettings(signal="voltage"),
    splits={
        "train": design((25.0, 30.0, 36.0, 43.0), (20.0, 25.0)),
        "validation": design((40.0,), (22.0,)),
        "test": design((33.0,), (22.0,)),
    },
)
LAB = SIMULATED.model_copy(update={"particle": Particle(viscosity_mpa_s=1.5)})


def scan(diameter_nm: float) -> Scan:
    return Scan(core_diameter_nm=diameter_nm, fx_khz=23.0, nd=29)


def measured(diameter_nm: float, which: FieldName) -> SystemMatrix:
    sm, _ = received(LAB, scan(diameter_nm), which, simulate(LAB, scan(diameter_nm), which))
    return dataclasses.replace(sm, tracer={})


@pytest.mark.slow
def test_the_commands_of_the_readme_lead_from_a_folder_of_files_to_an_image(
    tmp_path: Path, run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = simulated(SIMULATED, tmp_path / "simulated", ("train",))
    images, models = training_images(dataset, "train", (0,), TINY_TRAINING.mean)
    make_checkpoint(Trainer(TINY_TRAINING, images), dataset, models, ScheduleSettings(steps=0), {}).save(Path("base"))
    for diameter_nm in (31.0, 33.0, 36.0, 38.0, 42.0):
        Path("scans", f"{diameter_nm:g} nm").mkdir(parents=True)
        for which in FIELDS:
            as_measured(Path("scans", f"{diameter_nm:g} nm", f"{which}.mdf"), measured(diameter_nm, which))
    as_measured(Path("low.mdf"), measured(34.0, "low"))
    signal, truth = simulate_measurement(LAB, scan(34.0), "high", "shape", finer=1)
    write_measurement(Path("phantom.mdf"), signal, truth, uuid=str(UUID(int=2)), time="2025-01-31T12:00:00.000")
    with h5py.File("phantom.mdf", "r+") as file:
        del file[CONCENTRATION]  # a lab's file does not tell what was measured

    dry, imported, trained, synthesised, reconstructed = (
        run(*[word.replace("models:/sm-search@champion", "base") for word in command], "--json")
        for command in commands()
    )
    for done in (dry, imported, trained, synthesised, reconstructed):
        assert done.status == 0, done.stderr
    assert dry.object["pairs"] == ["31-nm", "33-nm", "36-nm", "38-nm", "42-nm"]
    left_out = {(row["pair"], row["trained_on"]): row for row in trained.object["left_out"]}
    assert sorted(left_out) == [(name, count) for name in dry.object["pairs"][:4] for count in (0, 1, 3)]
    for name in dry.object["pairs"][:4]:
        assert left_out[name, 3]["nrmse_median"] < left_out[name, 0]["nrmse_median"]
    assert synthesised.object["distance"] < 1
    assert read_field("high.mdf", "/tracer/name").tolist() == ["perimag"]
    assert read_field("image.mdf", "/reconstruction/data").shape == (1, 144, 1)
    assert Path("image.png").read_bytes().startswith(b"\x89PNG")

    low, made = read_mdf("low.mdf"), read_mdf("high.mdf")
    truth_high = dataclasses.replace(with_orders(measured(34.0, "high"), made.mixing_orders), grid=made.grid)
    before, after = (
        pair_quality(sm, Pair(scan(34.0), low, truth_high)) for sm in (load_synthesiser("base").predict(low), made)
    )
    assert after.nrmse_median < before.nrmse_median
    assert after.psnr_db_mean > 35
    image = read_field("image.mdf", "/reconstruction/data").ravel()
    assert np.corrcoef(image, truth.concentration_YX.ravel())[0, 1] > 0.8
    reversed_low = measured(34.0, "low")
    as_measured(Path("reversed.mdf"), dataclasses.replace(reversed_low, values_CKN=-reversed_low.values_CKN))
    refused = run("synthesize", "--model", "lab-model", "--input", "reversed.mdf", "--output", "no.mdf")
    assert refused.status == 2
    assert "the receive polarity reversed" in refused.stderr
