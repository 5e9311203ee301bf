"""What a process imports before it does anything: seconds, which every worker and every command pays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sm_search.data.dataset import Dataset
from sm_search.training import Trainer

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "mlflow", "optuna", "scipy.stats", "matplotlib", "plotly", "skimage", "diffusers", "numba")


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("sm_search.cli.main", set()),
        ("sm_search.compute.parallel_simulation", {"ray"}),
        ("sm_search.search.study.trial", {"torch", "ray", "optuna"}),
    ],
)
def test_only_what_is_needed_is_imported(module: str, needed: set[str]) -> None:
    told = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    assert set(found.split()) == needed


ABSENT = (
    "ray",
    "optuna",
    "mlflow",
    "numba",
    "pyarrow",
    "diffusers",
    "plotly",
    "matplotlib",
    "rich",
    "starlette",
    "sqlalchemy",
)
"""What a GPU machine need not have for `make gpu-check`."""
BELOW_THE_SEARCH = ("config", "physics", "data", "regression", "diffusion", "evaluation", "training", "synthesis")
COMPILED = (
    "anisotropic_equilibrium",
    "compiled",
    "effective_field_spectrum",
    "effective_field_kernel",
    "kaczmarz_kernel",
    "linear_relaxation",
    "moment_spectrum",
    "panel_kernel",
    "projection_kernel",
    "real_scanner",
)
"""Parts of the simulation that numba compiles: imported when such a matrix is simulated."""
WITHOUT = f"""
import sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_the_rooms_below_the_search_need_neither_ray_nor_optuna_nor_mlflow() -> None:
    every = f"""
import importlib, pkgutil
for room in {BELOW_THE_SEARCH}:
    module = importlib.import_module("sm_search." + room)
    for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if part.name not in {COMPILED}:
            importlib.import_module(f"sm_search.{{room}}.{{part.name}}")
print(sum(name.startswith("sm_search.") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", WITHOUT + every], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.slow
def test_the_gpu_check_runs_at_tiny_size_without_them(tmp_path: Path) -> None:
    """It simulates, trains, validates schedules and synthesises; what needs a GPU or diffusers says so."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "tests/benchmarks/gpu_check.py", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    for title, section in found["sections"].items():
        assert f"### {title}" in done.stdout
        assert section["rows"] or section["reason"] == "no CUDA device", title
    assert {row["the same again"] for row in found["sections"]["One seed, one result"]["rows"]} == {True}
    assert {row["backbone"] for row in found["sections"]["Training throughput"]["rows"]} == {
        "linear-basis",
        "linear-basis, voxel",
    }


def test_a_model_is_trained_and_loaded_without_the_compiler_of_torch(
    trainer: Trainer, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """torch imports it, for two seconds, in its optimisers and where a function meets a tensor without storage."""
    settings = trainer.settings.model_copy(update={"mean": "kernel-ridge"})
    script = f"""
import sys
from pathlib import Path
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.training import Trainer, make_checkpoint, training_images

dataset = Dataset.open({str(tiny_dataset.folder)!r})
settings = TrainingSettings.model_validate_json({settings.model_dump_json()!r})
images, models = training_images(dataset, "train", (0,), settings.mean)
trainer = Trainer(settings, images)
list(trainer.train(2))
trainer.restore(trainer.state())
make_checkpoint(trainer, dataset, models, ScheduleSettings(), {{}}).save(Path({str(tmp_path)!r}))
print(load_checkpoint({str(tmp_path)!r}).scan_models.mean is not None, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
