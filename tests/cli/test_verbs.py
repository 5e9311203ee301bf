"""Every verb of the contract: its help, its one JSON object, and what it writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sm_search.config.dataset_settings import DatasetSettings, preset_names
from sm_search.config.loading import load_settings
from sm_search.config.simulation_settings import FieldName
from sm_search.data.dataset import Dataset, file_name, write_scan
from sm_search.data.mdf_reading import read_mdf
from sm_search.data.mdf_validation import validate_mdf
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.physics.system_matrix import simulate
from sm_search.tracking.champion import model_aliases
from sm_search.tracking.records import best_trials, get_run
from sm_search.tracking.store import open_store

VERBS = (
    "simulate",
    "import",
    "train",
    "sweep",
    "tune-schedule",
    "report",
    "promote",
    "gc",
    "synthesize",
    "evaluate",
    "reconstruct",
    "validate",
    "demo",
)
RUN = """
training:
  steps: {steps}
  batch_size: 8
  backbone: {{backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}}
schedule: {{steps: 2}}
"""


def scan_file(dataset: Dataset, split: str, which: Any) -> Path:
    return dataset.folder / file_name(dataset.settings.scans(split)[0], which)


def test_every_verb_explains_itself(run: Any) -> None:
    listed = run("--help")
    assert listed.status == 0
    for verb in VERBS:
        assert f"\n    {verb}" in listed.stdout
        told = run(verb, "--help")
        assert told.status == 0
        assert told.stdout.startswith(f"usage: sm-search {verb} ")
        assert "--json" in told.stdout


def test_the_help_names_every_preset(run: Any) -> None:
    told = run("simulate", "--help").stdout.split()
    assert {name for name in preset_names() if name not in " ".join(told)} == set()


def test_the_installed_command_answers(command: Any) -> None:
    told = command("--version")
    assert (told.status, told.stdout) == (0, "sm-search 0.1.0\n")


def test_sweep_dry_run_tells_the_plan_and_writes_nothing(run: Any, study: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    told = run("sweep", "--space", study.space, "--data", study.data, "--home", home, "--dry-run", "--json")
    assert told.status == 0
    assert told.object["study"] == "tiny-study"
    assert told.object["rungs"] == [20, 40]
    assert told.object["parameters"] == ["learning_rate", "p_uncond"]
    assert told.object["most_training_steps"] == 5 * 40
    assert not home.exists()
    plain = run("sweep", "--space", study.space, "--data", study.data, "--home", home, "--dry-run")
    assert "most_training_steps" in plain.stdout


def test_validate(run: Any, tiny_dataset: Dataset, tmp_path: Path) -> None:
    good = run("validate", scan_file(tiny_dataset, "test", "low"), "--json")
    assert good.status == 0
    assert good.object["errors"] == 0
    part = tmp_path / "part.mdf"
    part.write_bytes(scan_file(tiny_dataset, "test", "low").read_bytes()[:3000])
    bad = run("validate", part, "--json")
    assert bad.status == 2
    assert bad.object["errors"] >= 1
    assert bad.object["faults"][0]["severity"] == "error"
    plain = run("validate", part)
    assert plain.status == 2
    assert plain.stdout.startswith("error: ")


def test_promote_compares_and_rollback_restores(run: Any, study: Any, champion: str) -> None:
    arguments = ("promote", "--home", study.home, "--name", "another")
    first = run(*arguments, "--study", study.name, "--data", study.data, "--seeds", 2, "--json")
    assert first.status == 0, first.stderr
    store = open_store(study.home)
    best = best_trials(store, study.name, "val_psnr_db")[0]
    assert (first.object["version"], first.object["compared_with"], first.object["passed"]) == (1, None, True)
    assert first.object["trial_id"] == best.trial_id
    stored = first.object["scores"]["validation"]["model"]
    rated = ("evaluate", "--model", f"runs:/{best.run_id}/checkpoint", "--data", study.data, "--home", study.home)
    rows = run(*rated, "--split", "validation", "--json").object["rows"]
    (alone,) = [row["psnr_db_mean"] for row in rows if row["method"] == "model"]
    assert stored["psnr_db"] == pytest.approx(alone, abs=0.1)
    assert list(first.object["scores"]["test"]) == ["model", "copy", "nearest", "kernel-ridge", "physicist"]
    again = run(*arguments, "--study", study.name, "--data", study.data)
    assert (again.status, again.stdout.startswith("models:/another@champion is already version 1 (trial ")) == (0, True)

    # A second version, of another trial, that asks for more than it has.
    second = best_trials(store, study.name, "val_psnr_db", n=2)[1]
    store.client.set_tag(best.run_id, "state", "pruned")
    try:
        asked = (*arguments, "--study", study.name, "--data", study.data)
        refused = run(*asked, "--min-gain-db", 500)
        assert refused.status == 2
        assert "stays challenger: validation: PSNR " in refused.stderr
        assert "must be at least +500 dB" in refused.stderr
        taken = run(*asked, "--min-gain-db", -500, "--json")
        assert taken.status == 0, taken.stderr
        assert (taken.object["version"], taken.object["compared_with"]) == (2, 1)
        assert taken.object["run_id"] == second.run_id
    finally:
        store.client.set_tag(best.run_id, "state", "complete")
    assert run(*arguments, "--rollback", "--json").object == {"model": "another", "version": 1, "previous": 2}
    assert model_aliases(store, "another") == {"champion": 1, "previous": 2}


def test_synthesize_writes_a_valid_file_and_the_same_bytes_twice(
    run: Any, study: Any, champion: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    low = scan_file(tiny_dataset, "test", "low")

    def synthesize(name: str, *more: Any) -> Any:
        arguments = ("--model", champion, "--input", low, "--output", tmp_path / name, "--home", study.home)
        return run("synthesize", *arguments, "--json", *more)

    told = synthesize("a.mdf")
    assert told.status == 0, told.stderr
    assert told.object["shape"] == [2, 8, 144]
    assert told.object["model"] == "models:/sm-search/1"
    assert [fault for fault in validate_mdf(tmp_path / "a.mdf") if fault.severity == "error"] == []
    high = read_mdf(tmp_path / "a.mdf")
    truth = read_mdf(scan_file(tiny_dataset, "test", "high"))
    assert high.field == truth.field
    ratio = np.abs(high.values_CKN).max() / np.abs(truth.values_CKN).max()
    assert 0.1 < ratio < 10
    synthesize("b.mdf")
    synthesize("c.mdf", "--seed", 7)
    first, again, other = ((tmp_path / name).read_bytes() for name in ("a.mdf", "b.mdf", "c.mdf"))
    assert first == again
    assert first != other
    assert synthesize("a.mdf", "--force").status == 0
    assert (tmp_path / "a.mdf").read_bytes() == first


def test_evaluate_compares_with_all_baselines_and_logs_to_the_run(
    run: Any, study: Any, champion: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    figure = tmp_path / "figure.png"
    arguments = ("--model", champion, "--data", study.data, "--home", study.home)
    told = run("evaluate", *arguments, "--figure", figure, "--regression", "--phantom", "shape", "--json")
    assert told.status == 0, told.stderr
    rows = {row["method"]: row for row in told.object["rows"]}
    methods = ["copy", "nearest", "kernel-ridge", "physicist", "regression", "model"]
    assert list(rows) == methods
    (trust,) = told.object["calibration"]
    assert trust["scan"] == tiny_dataset.settings.scans("test")[0].id
    assert trust["ratio"] > 0
    assert [row["method"] for row in told.object["images"]] == ["true high gradient", *methods, "low gradient"]
    scan = tiny_dataset.settings.scans("test")[0].id
    assert {row["scan"] for row in rows.values()} == {scan}
    assert len({round(row["psnr_db_mean"], 6) for row in rows.values()}) == len(methods)
    stored = get_run(open_store(study.home), told.object["logged_to_run"])
    assert stored.metrics[f"test_{scan}_psnr_db_mean"] == pytest.approx(rows["model"]["psnr_db_mean"])
    assert np.asarray(Image.open(figure)).std() > 10
    plain = run("evaluate", *arguments, "--split", "validation", "test")
    assert plain.status == 0
    assert plain.stdout.index("Split validation") < plain.stdout.index("Split test")
    assert "nearest" in plain.stdout
    assert "10·log10(4/MSE)" in plain.stdout


def test_report_writes_the_page_with_the_figure(run: Any, study: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    told = run("report", "--study", study.name, "--home", study.home, "--out", page, "--json")
    assert (told.status, told.object) == (0, {"report": str(page)})
    text = page.read_text()
    assert text.count('<img alt="Components of tiny-study') == 1
    for method in ("copy", "nearest", "kernel-ridge", "physicist", "regression", "model"):
        assert f"<td>{method}</td>" in text
    assert text.endswith("</html>")


def test_reconstruct(run: Any, tiny_dataset: Dataset, tmp_path: Path) -> None:
    high, figure = scan_file(tiny_dataset, "test", "high"), tmp_path / "image.png"
    told = run("reconstruct", "--sm", high, "--phantom", "shape", "--figure", figure, "--json")
    assert told.status == 0, told.stderr
    assert 0 < told.object["psnr_db"] < 100
    assert -1 < told.object["ssim"] < 1
    assert np.asarray(Image.open(figure)).std() > 10
    with_truth = run("reconstruct", "--sm", high, "--truth", high, "--phantom", "shape", "--json")
    assert with_truth.object == told.object


NOISY = """
name: noisy
grid: {size: [12, 12]}
orders: {max_x: 3, max_y: 3}
receive: {signal: voltage, noise_nv: 2.0, averages: 10, background_frames: 8, low_pass_khz: 500}
splits:
  train: [{core_diameter_nm: [20, 30], fx_khz: [10, 20], nd: [9]}]
  validation: [{core_diameter_nm: [25], fx_khz: [20], nd: [9]}]
  test: [{core_diameter_nm: [25], fx_khz: [25], nd: [9]}]
"""


@pytest.fixture
def noisy(tmp_path: Path) -> dict[str, Any]:
    """Settings of a noisy dataset, and the high-field file of its test scan."""
    config = tmp_path / "noisy.yaml"
    config.write_text(NOISY)
    settings = load_settings(config, DatasetSettings)
    scan = settings.scans("test")[0]
    write_scan(tmp_path / "data", settings, "2025-01-31T12:00:00.000", scan, "high", simulate(settings, scan, "high"))
    return {"config": config, "scan": scan.id, "sm": tmp_path / "data" / file_name(scan, "high")}


def test_a_phantom_is_measured_and_reconstructed_from_files(run: Any, noisy: Any, tmp_path: Path) -> None:
    out, figure = tmp_path / "measurement.mdf", tmp_path / "image.png"
    arguments = ("simulate", "--config", noisy["config"], "--phantom", "shape", "--scan", noisy["scan"], "--out", out)
    made = run(*arguments, "--finer", 3, "--seed", 5, "--json")
    assert made.status == 0, made.stderr
    expected = {"phantom": "shape", "scan": noisy["scan"], "field": "high", "finer": 3, "seed": 5}
    assert made.object == {"measurement": str(out), **expected}
    assert run(*arguments).status == 2
    assert run("validate", out, "--json").object == {
        "file": str(out),
        "kind": "measurement",
        "errors": 0,
        "faults": [],
        "exit_status": 0,
    }
    assert run("validate", noisy["sm"]).stdout == f"{noisy['sm']}: calibration file, 0 errors, 0 warnings\n"
    arguments = ("reconstruct", "--sm", noisy["sm"], "--measurement", out)
    told = run(*arguments, "--snr-threshold", 1000, "--figure", figure, "--json")
    assert told.status == 0, told.stderr
    assert told.object["phantom"] == "shape"
    assert told.object["psnr_db"] > 8
    assert np.asarray(Image.open(figure)).std() > 10
    everything = run(*arguments, "--json").object
    assert everything["psnr_db"] != told.object["psnr_db"]
    assert run("reconstruct", "--sm", noisy["sm"], "--phantom", "shape", "--snr-threshold", 3).status == 0


def test_tune_schedule_is_stored_with_the_run(run: Any, study: Any, tmp_path: Path) -> None:
    store = open_store(study.home)
    best = best_trials(store, study.name, "val_psnr_db")[0]
    out = tmp_path / "tuned"
    arguments = ("--run", best.run_id, "--data", study.data, "--home", study.home, "--out", out)
    told = run("tune-schedule", *arguments, "--trials", 3, "--json")
    assert told.status == 0, told.stderr
    assert told.object["tried"] in (4, 5)  # the base, three of the sampler's, perhaps the best one unperturbed
    assert told.object["front"]
    checkpoint = load_checkpoint(out)
    assert checkpoint.info.schedule.model_dump(mode="json") == told.object["schedule"]
    assert checkpoint.info.metrics == told.object["metrics"]
    stored = get_run(store, best.run_id)
    assert stored.metrics["tuned_val_psnr_db"] == pytest.approx(told.object["metrics"]["val_psnr_db"])
    refused = run("tune-schedule", *arguments)
    assert refused.status == 2
    assert "--force" in refused.stderr
    folder = tmp_path / "tuned again"
    line = ("tune-schedule", "--model", out, "--space", study.space, "--data", study.data, "--out", folder)
    again = run(*line, "--trials", 3, "--json")
    assert again.status == 0, again.stderr
    assert "schedules 3/3 best" in again.stderr
    assert again.object["schedule"] == told.object["schedule"]
    assert load_checkpoint(folder).info == checkpoint.info


def test_a_killed_training_continues_to_the_same_weights(
    run: Any, command: Any, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(RUN.format(steps=1000))
    # One thread there as here: a sum over two threads rounds differently.
    command.environment["OMP_NUM_THREADS"] = "1"
    arguments = ("train", "--config", settings, "--data", tiny_dataset.folder, "--out")
    log = command.killed_when(
        lambda text: text.count("\n") >= 2, *arguments, tmp_path / "killed", log=tmp_path / "stderr"
    )
    assert "step 1000:" not in log
    assert not (tmp_path / "killed" / "checkpoint.json").exists()

    settings.write_text(RUN.format(steps=1001))
    other = run(*arguments, tmp_path / "killed")
    assert other.status == 2
    assert "other settings or data" in other.stderr

    settings.write_text(RUN.format(steps=1000))
    resumed = run(*arguments, tmp_path / "killed", "--json")
    assert resumed.status == 0, resumed.stderr
    assert resumed.stderr.startswith("resumed at step ")
    whole = run(*arguments, tmp_path / "whole", "--json")
    assert whole.object["metrics"] == resumed.object["metrics"]
    for file in ("model.safetensors", "checkpoint.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    hidden = [name for name in left if name.startswith(".")]  # what was being written when it was killed
    assert [name for name in left if name not in hidden] == ["checkpoint.json", "model.safetensors"]
    assert len(hidden) <= 1
    refused = run(*arguments, tmp_path / "whole")
    assert refused.status == 2
    assert "--force" in refused.stderr


@pytest.mark.slow
def test_a_killed_simulation_continues_to_the_same_bytes(command: Any, tmp_path: Path) -> None:
    """A noisy one: what a worker draws does not depend on what was drawn before."""
    config, data = tmp_path / "noisy.yaml", tmp_path / "data"
    config.write_text(NOISY)
    arguments = ("simulate", "--config", config, "--out", data)
    log = command.killed_when(lambda text: "simulated 1/12" in text, *arguments, log=tmp_path / "stderr")
    assert "simulated 12/12" not in log
    before = dict(Dataset.open(data, complete=False).manifest.files)
    assert 1 <= len(before) < 12

    resumed = command(*arguments, "--json")
    assert resumed.status == 0, resumed.stderr
    assert resumed.object["files"] == 12
    kept = Dataset.open(data)
    assert {name: kept.manifest.files[name] for name in before} == before
    assert resumed.object["dataset_hash"] == kept.content_hash()
    assert kept.unfinished() == []

    # Here, in another process and without Ray, each file has the same bytes.
    for scan, name in kept.expected():
        which: FieldName = "low" if name.endswith("low.mdf") else "high"
        sm = simulate(kept.settings, scan, which)
        again = write_scan(tmp_path / "again", kept.settings, kept.manifest.created, scan, which, sm)
        assert again.file == kept.manifest.files[name]
