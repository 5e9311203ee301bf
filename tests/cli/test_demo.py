"""`sm-search demo`, the README's first command, small: all of it, and again, also verb by verb."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sm_search.data.mdf_validation import validate_mdf
from sm_search.tracking.champion import model_aliases
from sm_search.tracking.records import RunRecord, study_runs
from sm_search.tracking.store import Store, open_store

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = shutil.which("chromium")
TIMEOUT_S = 600
SPACE = """
study: small
training:
  steps: 4
  batch_size: 8
  diffuse: {choice: [component, voxel]}
  mean: {choice: [kernel-ridge, none]}
  backbone: {backbone: linear-basis, coefficients: 64, width: 32, blocks: 1}
  learning_rate: {choice: [1.0e-3, 2.0e-3]}
  p_uncond: {choice: [0.0, 0.1]}
schedule: {steps: {choice: [0, 1]}}
initial_points:
  - {diffuse: component, mean: kernel-ridge, learning_rate: 1.0e-3, p_uncond: 0.1}
  - {diffuse: component, mean: kernel-ridge, learning_rate: 2.0e-3, p_uncond: 0.1}
budget: {trials: 2, first_rung: 2, reduction: 2, schedules: 2, images: 8}
"""


@dataclass(frozen=True)
class Demo:
    """A finished demo: its folder, its space, what it printed, and the trials that it left."""

    home: Path
    space: Path
    told: dict[str, Any]

    @property
    def store(self) -> Store:
        return open_store(self.home)

    def trials(self) -> list[RunRecord]:
        return study_runs(self.store, "small")[1]


@pytest.fixture(scope="module")
def demo(command: Any, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    space, home = folder / "small.yaml", folder / "outputs"
    space.write_text(SPACE)
    done = command("demo", "--preset", "paper-12", "--space", space, "--home", home, "--json")
    assert done.status == 0, done.stderr
    return Demo(home, space, done.object)


def test_the_demo_makes_all_that_it_names_and_finds_it_made_when_run_again(command: Any, demo: Demo) -> None:
    made = {path.name for path in demo.home.iterdir()}
    assert made >= {"comparison.png", "small.html", "d30nm-fx25kHz-nd99-synthesised.mdf", "mlflow.db", "data"}
    psnr = {row["method"]: row["psnr_db_mean"] for row in demo.told["rows"]}
    assert psnr["model"] > psnr["nearest"] > psnr["copy"]
    aliases, trials = model_aliases(demo.store, "sm-search-demo"), demo.trials()
    assert "champion" in aliases

    again = command("demo", "--preset", "paper-12", "--space", demo.space, "--home", demo.home, "--json")
    assert again.status == 0, again.stderr
    assert again.object["rows"] == demo.told["rows"]
    assert model_aliases(demo.store, "sm-search-demo") == aliases
    assert demo.trials() == trials


def test_the_pipeline_in_shell_is_the_demo_and_goes_on_to_an_image(command: Any, demo: Demo) -> None:
    # The same data under the script's name for it: nothing is simulated or trained twice.
    (demo.home / "data" / "small").symlink_to(demo.home / "data" / "demo")
    trials = demo.trials()
    environment = {
        **command.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SM_SEARCH_HOME": str(demo.home),
        "SPACE": str(demo.space),
        "DATASET": "--preset paper-12",
        "SCAN": "d30nm-fx25kHz-nd99",
    }
    done = subprocess.run(
        ["sh", str(DOCS / "pipeline.sh")],
        cwd=demo.home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert demo.trials() == trials
    assert "champion" in model_aliases(demo.store, "sm-search")
    (scores,) = [row for row in demo.told["rows"] if row["method"] == "model"]
    (shown,) = [
        line.split() for line in done.stdout.splitlines() if line.split()[1:2] == ["model"] and len(line.split()) > 9
    ]
    assert shown[2] == f"{scores['psnr_db_mean']:.1f}"
    assert not [
        fault for fault in validate_mdf(demo.home / "d30nm-fx25kHz-nd99-synthesised.mdf") if fault.severity == "error"
    ]
    assert (demo.home / "vessel.png").stat().st_size > 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_the_pictures_of_the_pages_are_made_again(demo: Demo, tmp_path: Path) -> None:
    command = [sys.executable, str(DOCS / "pictures.py"), str(demo.home), str(tmp_path), "small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"figure-1.png", "mlflow-runs.png", "report.png"}
    assert made <= {path.name for path in (DOCS / "images").iterdir()}
