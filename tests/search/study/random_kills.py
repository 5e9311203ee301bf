"""Random kills: any process of a study, at any moment from its first second to its last, resumed until it ends.

A long campaign by hand, some seconds a kill:

    python -m tests.search.study.random_kills --data data/small --kills 200 --seed 1
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sm_search.search.study.folder import STUDY_FILE, study_folder
from sm_search.tracking.store import open_store
from tests.processes import below, runs
from tests.search.study.test_faults import Sweep, check_whole, values

GRACE_S = 60.0
"""In which the processes below a killed driver end by themselves."""
LAST_LINE_S = 5.0
MOST_STARTS = 50


@dataclass
class Campaign:
    """Studies that are killed and resumed, each until it ends whole.

    Attributes:
        reference: the result of the same study undisturbed.
        span_s: how long that takes: the shortest time that was seen, since the first had to load everything.
        killed: how often which kind of process was.
    """

    data: Path
    folder: Path
    reference: dict[str, Any]
    rng: random.Random
    span_s: float
    killed: Counter[str] = field(default_factory=Counter)
    studies: int = 0

    def study(self, kills: int, tell: Callable[[str], None] = lambda line: None) -> None:
        """One study with at most so many kills; a driver that survives its kill goes on."""
        self.studies += 1
        folder = self.folder / f"study-{self.studies}"
        home = folder / "home"
        folder.mkdir(parents=True)
        for _ in range(MOST_STARTS):
            more = ["--resume"] if (study_folder(home, "faulty") / STUDY_FILE).exists() else []
            begin, before = time.monotonic(), kills
            sweep = Sweep(home, folder / "user", self.data, *more)
            while kills and self._kill_one(sweep):
                kills -= 1
                tell(f"study {self.studies}: {sum(self.killed.values())} kills, {dict(self.killed)}")
            status, told = sweep.end()
            assert "Traceback" not in sweep.said, sweep.said
            if status == 0:
                if not more and kills == before:
                    self.span_s = min(self.span_s, time.monotonic() - begin)
                check_whole(open_store(home), told)
                assert values(told) == values(self.reference), f"{home}: {values(told)}, not {values(self.reference)}"
                return
            if status > 0:
                assert _last_line(sweep).startswith("error: "), f"{home}: {sweep.said}"
                assert "fault of sm-search" not in sweep.said, sweep.said
        raise AssertionError(f"{home}: does not come to its end")

    def _kill_one(self, sweep: Sweep) -> bool:
        """Kill one process of a sweep after a while, if it has not ended by then."""
        deadline = time.monotonic() + self.rng.uniform(0.0, self.span_s)
        while time.monotonic() < deadline:
            if sweep.process.poll() is not None:
                return False
            time.sleep(0.02)
        family = below(sweep.process.pid)
        driver = sweep.process.pid
        victim = driver if not family or self.rng.random() < 0.5 else self.rng.choice(sorted(family))
        try:
            name = "driver" if victim == driver else _kind(victim)
            os.kill(victim, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            return True
        self.killed[name] += 1
        if victim == driver:
            sweep.process.wait()
            _wait_for_end_of(family)
        return True


def _last_line(sweep: Sweep) -> str:
    """Where Ray has ended the command, another process says it, just after."""
    deadline = time.monotonic() + LAST_LINE_S
    while True:
        last = (sweep.said.splitlines() or [""])[-1]
        if last.startswith("error: ") or time.monotonic() > deadline:
            return last
        time.sleep(0.05)


def _kind(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    return next((Path(word).name for word in words if "python" not in Path(word).name and word[0] != "-"), "unknown")


def _wait_for_end_of(family: list[int]) -> None:
    """Ray's processes end with their driver; those of a half-started session are ended here, as a reboot would."""
    deadline = time.monotonic() + GRACE_S
    while any(runs(pid) for pid in family):
        if time.monotonic() > deadline:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def undisturbed(data: Path, folder: Path) -> tuple[dict[str, Any], float]:
    """The result of the study, and how long it takes."""
    begin = time.monotonic()
    status, told = (sweep := Sweep(folder / "home", folder, data)).end()
    assert status == 0, sweep.said
    return told, time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a small dataset")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--most", type=int, default=5, help="kills of one study")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp())
    reference, span_s = undisturbed(options.data.absolute(), folder / "undisturbed")
    campaign = Campaign(options.data.absolute(), folder, reference, rng, span_s)
    while (left := options.kills - sum(campaign.killed.values())) > 0:
        campaign.study(min(left, rng.randint(1, options.most)), lambda line: print(line, file=sys.stderr))
    shutil.rmtree(folder)  # after a failure it stays, to be looked at
    print(f"{sum(campaign.killed.values())} kills in {campaign.studies} studies, nothing lost: {dict(campaign.killed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
