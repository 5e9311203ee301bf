"""What a process imports before it does anything: seconds, which every worker and every command pays."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "mlflow", "optuna", "scipy.stats", "matplotlib", "plotly", "skimage", "diffusers")


@pytest.mark.parametrize(
    ("module", "needed"),
    [("sm_search.cli.main", set()), ("sm_search.search.study.trial", {"torch", "ray", "optuna"})],
)
def test_only_what_is_needed_is_imported(module: str, needed: set[str]) -> None:
    told = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    assert set(found.split()) == needed
