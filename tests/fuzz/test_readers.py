"""No hostile file crashes a reader, hangs it, or fills the memory: each is read or refused in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sm_search.cli.main import main
from sm_search.config.model_settings import LinearBasisSettings, ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.training import Trainer, make_checkpoint, training_images

ROOT = Path(__file__).parents[2]
EXAMPLES = {"mdf": 1500, "measurement": 600, "yaml": 2000, "checkpoint": 1000, "weights": 600}
"""Files tried; of some kinds a file is read by several readers."""


@pytest.fixture
def folder(request: pytest.FixtureRequest, tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """Good files of one kind."""
    kind, files = request.param, tmp_path / "files"
    files.mkdir()
    scan = tiny_dataset.settings.scans("test")[0]
    if kind == "measurement":
        target = files / "measurement.mdf"
        arguments = ["--preset", "paper-12", "--phantom", "dots", "--scan", "d30nm-fx25kHz-nd99", "--out", str(target)]
        assert main(["simulate", *arguments]) == 0
    elif kind == "mdf":
        shutil.copy(tiny_dataset.file(scan, "low"), files / "low.mdf")
    elif kind == "yaml":
        for place in ("sm_search/config/presets", "search_spaces"):
            for path in (ROOT / place).glob("*.yaml"):
                shutil.copy(path, files / f"{path.parent.name}-{path.name}")
    else:
        settings = TrainingSettings(
            backbone=LinearBasisSettings(coefficients=8, width=16, blocks=1), steps=1, batch_size=8
        )
        images, models = training_images(tiny_dataset, "train", (0,), settings.mean)
        trainer = Trainer(settings, images)
        make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(), {}).save(files)
    return files


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "kind"), [(kind, kind) for kind in EXAMPLES], indirect=["folder"], ids=EXAMPLES)
def test_a_hostile_file_is_read_or_refused(folder: Path, kind: str) -> None:
    script = Path(__file__).with_name("reader_fuzz.py")
    done = subprocess.run(
        [sys.executable, script, kind, str(EXAMPLES[kind]), folder], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-3000:]}"
    assert int(done.stdout.split()[-1]) >= EXAMPLES[kind] * 0.9
