"""The package as a stranger gets it: an sdist, from that a wheel, installed elsewhere and run in an empty folder.

The environment sees what the tests have installed, but not our own checkout.
"""

import json
import os
import site
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sm_search import __version__
from sm_search.search.space.space_file import SPACES, space_names
from sm_search.tracking.records import study_runs
from sm_search.tracking.store import open_store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TIMEOUT_S = 240
DATASET = """
name: small
splits:
  train: [{core_diameter_nm: [30, 50], fx_khz: [25], nd: [74]}]
  validation: [{core_diameter_nm: [40], fx_khz: [25], nd: [74]}]
  test: [{core_diameter_nm: [45], fx_khz: [25], nd: [74]}]
"""
BACKBONE = "{backbone: linear-basis, coefficients: 64, width: 32, blocks: 1}"
SPACE = f"""
training: {{steps: 4, batch_size: 8, learning_rate: {{choice: [1.0e-3, 2.0e-3]}}, backbone: {BACKBONE}}}
schedule: {{steps: {{choice: [1, 2]}}}}
budget: {{trials: 1, first_rung: 4, schedules: 2, images: 8}}
"""
TRAINING = f"training: {{steps: 2, batch_size: 8, backbone: {BACKBONE}}}"
SERVED = """
import json, mlflow, numpy, sys
mlflow.set_tracking_uri(sys.argv[1])
example = mlflow.artifacts.load_dict(f"{sys.argv[2]}/serving_input_example.json")["inputs"]
model = mlflow.pyfunc.load_model(sys.argv[2])
answer = model.predict({name: numpy.array(value) for name, value in example.items()})["values"]
print(json.dumps([list(answer.shape), numpy.shape(example["values"]), bool(numpy.isfinite(answer).all())]))
"""
Run = Callable[..., str]


def output_of(*line: object, **options: object) -> str:
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=TIMEOUT_S, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    output_of(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    output_of(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", folder, sdist, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of the environment in an empty folder, and gives its stdout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env")
    python, empty = folder / "env/bin/python", folder / "empty"
    output_of(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files there, of which one names the checkout, are not read.
    (packages / "tests.pth").write_text("\n".join(site.getsitepackages()))
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1"}

    def run(program: str, *arguments: object) -> str:
        return output_of(folder / "env/bin" / program, *arguments, cwd=empty, env=environment)

    return run


def test_the_wheel_holds_the_search_spaces_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"sm_search", f"sm_search-{__version__}.dist-info"}
    for name in space_names():
        text = zipfile.Path(wheel, f"sm_search/search_spaces/{name}.yaml").read_text(encoding="utf-8")
        assert text == (SPACES / f"{name}.yaml").read_text(encoding="utf-8")
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sm_search").rglob("*.py")}
    assert code <= set(names)


def test_the_command_is_the_installed_one(installed: Run) -> None:
    where = installed("python", "-c", "import sm_search; print(sm_search.__file__)")
    assert "/env/lib/" in where
    assert installed("sm-search", "--version") == f"sm-search {__version__}\n"
    for verb in ("demo", "tune-schedule"):
        assert verb in installed("sm-search", verb, "--help")


def test_verbs_find_spaces_by_name_and_by_path_and_a_model_answers(installed: Run, tmp_path: Path) -> None:
    for name, text in {"dataset": DATASET, "space": SPACE, "training": TRAINING}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    home, data, model = tmp_path / "home", tmp_path / "data", tmp_path / "model"

    def told(*arguments: object) -> dict[str, Any]:
        return dict(json.loads(installed("sm-search", *arguments, "--json")))

    assert told("simulate", "--config", tmp_path / "dataset.yaml", "--out", data)["files"] == 8
    assert told("sweep", "--space", "paper", "--data", data, "--dry-run")["study"] == "paper"
    study = told("sweep", "--space", tmp_path / "space.yaml", "--data", data, "--home", home)
    assert study["study"] == "space"

    told("train", "--config", tmp_path / "training.yaml", "--data", data, "--out", model)
    # Neither the model nor the command line names a space: it is the one that ships as `schedule`.
    tuned = told("tune-schedule", "--model", model, "--data", data, "--trials", 2)
    assert set(tuned["schedule"]) >= {"sampler", "steps", "eta_max"}

    (trial,) = study_runs(open_store(home), "space")[1]
    served = installed("python", "-c", SERVED, open_store(home).uri, f"runs:/{trial.run_id}/checkpoint")
    answered, asked, finite = json.loads(served.splitlines()[-1])
    assert answered == asked
    assert finite
