"""The compiled code gives the same numbers in the process that compiles it and in those that load it; none is stale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sm_search.physics.compiled import forget_stale

PRINT_DIGESTS = """
import hashlib
from sm_search.config.dataset_settings import preset
from sm_search.config.simulation_settings import Grid, Scan
from sm_search.physics.system_matrix import simulate

for model in ("brownian", "effective-field"):
    settings = preset(f"paper-54-{model}").model_copy(update={"grid": Grid(size=(4, 4))})
    values_CKN = simulate(settings, Scan(core_diameter_nm=30, fx_khz=25, nd=29), "low").values_CKN
    print(hashlib.sha256(values_CKN.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_whoever_compiles_gets_the_same_bytes(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def digests() -> list[str]:
        command = [sys.executable, "-c", PRINT_DIGESTS]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()

    compiling = digests()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbi")}
    assert kept
    loading = digests()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbi")} == kept
    assert len(compiling) == 2
    assert loading == compiling


def test_code_that_was_compiled_before_a_kernel_changed_is_forgotten(tmp_path: Path) -> None:
    """numba asks only whether the file of the function itself has changed, not that of one that it calls."""
    kept = [tmp_path / "physics/__pycache__/a_kernel.run-3.py311.nbi", tmp_path / "images/__pycache__/b_kernel.r-3.nbi"]
    others = [tmp_path / "physics/__pycache__/a_kernel.cpython-311.pyc", tmp_path / "other/__pycache__/c.run-3.nbi"]
    sources = [tmp_path / name for name in ("physics/compiled.py", "physics/a_kernel.py", "images/b_kernel.py")]
    for age, files in ((20, sources), (10, kept), (30, others)):
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            os.utime(file, (1e9 - age, 1e9 - age))
    forget_stale(tmp_path)
    assert all(file.exists() for file in kept)
    os.utime(sources[1], (1e9, 1e9))  # the kernel that another may call
    forget_stale(tmp_path)
    assert not any(file.exists() for file in kept)
    assert all(file.exists() for file in [*sources, *others])
