"""The compiled code gives the same numbers in the process that compiles it and in those that load it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
