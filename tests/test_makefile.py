"""What `make` says where a target cannot do its work."""

import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / ".venv/bin/python").exists(), reason="not installed by make")
def test_the_pages_on_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = ["make", "ui", f"PORT={port}", "RUNTIME="]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"error: port {port} is taken" in done.stderr
    assert "make ui PORT=5001" in done.stderr
    assert "Traceback" not in done.stderr
