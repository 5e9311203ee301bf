"""`import sm_search`: what the README shows runs, and functions answer as the verbs and the rooms do."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sm_search
from sm_search import api
from sm_search.config.dataset_settings import DatasetSettings, preset
from sm_search.config.errors import DataError, InputError, SettingsError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.data.dataset import FIELDS, Dataset, write_scan
from sm_search.evaluation.comparison import pair_quality
from sm_search.physics.system_matrix import simulate
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model(trainer: Trainer, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Synthesiser:
    """The tiny model with its mean alone as its schedule."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    _, models = training_images(tiny_dataset, "train", (0,), "kernel-ridge")
    make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(steps=0), {}).save(folder)
    return sm_search.load_model(folder)


@pytest.mark.slow
def test_the_notebook_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SM_SEARCH_HOME", raising=False)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert len(names["study"].trials) == 2
    assert names["study"].best.state == "complete"
    made, pair = names["made"].matrix, names["pair"]
    assert made.values_CKN.dtype == np.complex128
    assert made.values_CKN.shape == pair.high.values_CKN.shape
    assert np.isfinite(made.values_CKN).all()
    assert names["row"].method == "model"
    assert names["image"].shape == (16, 16)


def test_importing_costs_a_third_of_a_second_at_most_and_loads_nothing_heavy() -> None:
    told = (
        "import sys, time; before = time.process_time(); import sm_search; "
        "assert time.process_time() - before < 0.3; sm_search.simulate; "
        "print(*({'torch', 'ray', 'mlflow', 'optuna', 'scipy', 'matplotlib', 'h5py', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_name_is_offered_and_explained() -> None:
    assert sm_search.__all__ == api.__all__
    assert set(api.__all__) <= set(dir(sm_search))
    for name in api.__all__:
        offered = getattr(sm_search, name)
        assert inspect.getdoc(offered), name
        assert inspect.isclass(offered) or re.search(rf"\b{name}\b", str(sm_search.__doc__)), name
    with pytest.raises(AttributeError, match="'sm_search' has no attribute 'simulat'"):
        getattr(sm_search, "simulat")  # noqa: B009


def test_settings_come_from_a_preset_a_file_or_a_mapping_and_may_be_changed(tmp_path: Path) -> None:
    dozen = preset("paper-12")
    assert sm_search.dataset_settings("paper-12") == dozen
    small = sm_search.dataset_settings("paper-12", grid={"size": [16, 16]})
    assert small.grid.size == (16, 16)
    assert small.model_copy(update={"grid": dozen.grid}) == dozen
    splits = {
        split: [{"core_diameter_nm": [30], "fx_khz": [25], "nd": [nd]}]
        for split, nd in {"train": 99, "validation": 98, "test": 97}.items()
    }
    given = {"name": "one", "splits": splits}
    (tmp_path / "one.yaml").write_text(json.dumps(given))
    for source in (tmp_path / "one.yaml", str(tmp_path / "one.yaml"), given):
        assert sm_search.dataset_settings(source).scans("train")[0].id == "d30nm-fx25kHz-nd99"
    with pytest.raises(SettingsError, match="unknown key 'gird'; did you mean 'grid'"):
        sm_search.dataset_settings("paper-12", gird={})
    with pytest.raises(SettingsError, match="preset 'dmeo': does not exist"):
        sm_search.dataset_settings("dmeo")


@pytest.mark.parametrize("changes", [{}, {"receive": {"signal": "voltage", "noise_nv": 2.0, "background_frames": 4}}])
def test_a_simulated_matrix_is_what_a_dataset_holds(
    tiny_settings: DatasetSettings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = sm_search.dataset_settings(tiny_settings.model_dump(mode="json"), **changes)
    scan = settings.scans("test")[0]
    for which in FIELDS:
        write_scan(tmp_path, settings, "2025-01-31T00:00:00.000", scan, which, simulate(settings, scan, which))
        file = tmp_path / scan.id / f"{which}.mdf"
        stored, made = sm_search.read_mdf(file), sm_search.simulate(settings, scan, which)
        background = made.background_CKE
        wanted = made.values_CKN if background is None else made.values_CKN - background.mean(axis=-1, keepdims=True)
        assert np.array_equal(wanted, stored.values_CKN)
        assert (made.unit, made.mixing_orders, made.grid) == (stored.unit, stored.mixing_orders, stored.grid)
        assert not [fault for fault in sm_search.validate(file) if fault.severity == "error"]


def test_a_matrix_is_synthesised_where_the_model_was_trained_and_elsewhere_on_demand(
    model: Synthesiser, tiny_dataset: Dataset
) -> None:
    low = next(iter(tiny_dataset.pairs("test"))).low
    made = sm_search.synthesize(model, low)
    assert np.array_equal(made.matrix.values_CKN, model.predict(low).values_CKN)
    elsewhere = dataclasses.replace(low, fx_hz=4 * low.fx_hz)
    with pytest.raises(DataError, match=r"f_x is 80 kHz; .*; extrapolate=True does it anyway"):
        sm_search.synthesize(model, elsewhere)
    assert sm_search.synthesize(model, elsewhere, extrapolate=True).matrix.fx_hz == elsewhere.fx_hz


def test_an_evaluation_has_every_method_on_every_scan(model: Synthesiser, tiny_dataset: Dataset) -> None:
    found = sm_search.evaluate(model, sm_search.open_dataset(tiny_dataset.folder), "test")
    pair = next(iter(tiny_dataset.pairs("test")))
    quality = {row.method: row.quality for row in found.rows}
    assert list(quality) == [*sm_search.evaluation_methods(model, tiny_dataset)]
    assert quality["model"] == pair_quality(model.predict(pair.low), pair, (0, 1))
    assert [each.scan for each in found.calibration] == [pair.scan.id]
    assert found.images == []
    assert found.distribution == []


def test_draws_are_rated_as_a_distribution_against_intervals_of_the_validation_scans(
    model: Synthesiser, tiny_dataset: Dataset
) -> None:
    schedule = ScheduleSettings(sampler="ddpm", steps=2)
    drawing = Synthesiser(model.checkpoint, schedule)
    validation = sm_search.evaluate(drawing, tiny_dataset, "validation", methods={"model": drawing}, draws=4)
    scores = validation.distribution[0].scores
    # The intervals are fitted to most of these very numbers, 128 of 144 voxels.
    assert list(scores.coverages.values()) == pytest.approx([0.5, 0.9], abs=0.01)
    assert 0 < scores.crps < scores.absolute_error
    assert len(scores.ranks) == 5
    for few, alone in ((drawing, 1), (Synthesiser(model.checkpoint, ScheduleSettings(steps=0)), 4)):
        with pytest.raises(InputError, match=f"draws = {alone}: "):
            sm_search.evaluate(few, tiny_dataset, "test", methods={"model": few}, draws=alone)


def test_a_reconstruction_takes_matrices_or_files_and_one_question(tiny_dataset: Dataset) -> None:
    pair = next(iter(tiny_dataset.pairs("test")))
    file = tiny_dataset.file(pair.scan, "high")
    from_file, from_matrix = (sm_search.reconstruct(sm, phantom="dots") for sm in (file, pair.high))
    assert np.array_equal(from_file.image, from_matrix.image)
    wrong: list[dict[str, Any]] = [{}, {"phantom": "dots", "measurement": file}, {"measurement": file, "truth": file}]
    for arguments in wrong:
        with pytest.raises(sm_search.InputError, match="takes a phantom, with or without a truth, or else"):
            sm_search.reconstruct(file, **arguments)
    with pytest.raises(DataError, match=f"^{file}: .*has neither an SNR nor"):
        sm_search.reconstruct(file, phantom="dots", snr_threshold=3.0)


def test_a_model_is_trained_and_its_schedule_tuned(tiny_dataset: Dataset, tmp_path: Path) -> None:
    backbone = {"backbone": "linear-basis", "coefficients": 8, "width": 16, "blocks": 1}
    settings = {"training": {"steps": 2, "batch_size": 4, "backbone": backbone}}
    trained = sm_search.train(settings, tiny_dataset, tmp_path / "model")
    assert trained.checkpoint.info.training.steps == 2
    assert np.isfinite(trained.checkpoint.info.metrics["val_psnr_db"])
    found = sm_search.tune_schedule(str(tmp_path / "model"), tiny_dataset, trials=1, out=tmp_path / "tuned")
    assert sm_search.load_model(tmp_path / "tuned").schedule == found.best
