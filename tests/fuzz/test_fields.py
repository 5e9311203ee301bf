"""Files with wrong fields are refused or read as the standard has them (`field_fuzz`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

INPUTS = int(os.environ.get("SM_SEARCH_FUZZ_INPUTS", "2000"))
"""docs/measured.md tells the last long run."""
SEED = int(os.environ.get("SM_SEARCH_FUZZ_SEED", "1"))


def test_wrong_fields_are_refused_or_read_as_the_standard_has_them() -> None:
    script = Path(__file__).with_name("field_fuzz.py")
    done = subprocess.run([sys.executable, script, str(INPUTS), str(SEED)], capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-3000:]}"
    told = json.loads(done.stdout)
    assert sum(told.values()) == INPUTS
    assert told["fields read"] > 0.1 * INPUTS
    assert told["fields refused"] > 0.1 * INPUTS
