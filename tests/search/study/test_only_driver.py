"""One process at a time drives a study, and a dead one does not bar it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sm_search.config.errors import InputError
from sm_search.search.study.folder import only_driver

HOLDER = """
import sys, time
from pathlib import Path
from sm_search.search.study.folder import only_driver
with only_driver(Path(sys.argv[1]), "s"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_driver_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(InputError, match="study 's': is being run by another process"),
                only_driver(tmp_path, "s"),
            ):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with only_driver(tmp_path, "s"):
        pass  # the lock went with its process
