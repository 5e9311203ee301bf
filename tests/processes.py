"""The processes below a command."""

from contextlib import suppress
from pathlib import Path


def below(driver: int) -> list[int]:
    """All processes below `driver`."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = []
    for pid in parents:
        above = parents[pid]
        while above > 1 and above != driver:
            above = parents.get(above, 0)
        if above == driver:
            found.append(pid)
    return found


def workers(driver: int, name: bytes = b"ray::ImplicitFunc") -> list[int]:
    """Ray's processes below `driver` that run a trial."""
    found = []
    for pid in below(driver):
        with suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def runs(pid: int) -> bool:
    """Not so a process that has ended, and whose end nobody asks for, as in some containers."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False
