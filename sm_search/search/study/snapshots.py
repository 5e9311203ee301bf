"""Which of Ray Tune's snapshots an experiment goes on from: the one that knows most, wherever the experiment lies now.

Every process that drives an experiment writes a snapshot of its own, of several files, named by the local time at which
the process began. Tune takes the last name, which is the oldest state where a clock or a time zone was changed: in a
container, on another machine, at the end of summer time.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import pyarrow.fs

from sm_search.compute.ray_internals import moved_suggestions, snapshot_progress

TRIALS = "experiment_state"
SUGGESTIONS = ("search_gen_state", "basic-variant-state")
"""Of a searcher, and of a grid."""
SNAPSHOT_FILE = re.compile(
    rf"(?P<kind>{TRIALS}|{'|'.join(SUGGESTIONS)}|searcher-state|callback-states)-(?P<session>.+)\.(?:json|pkl)"
)


def settle_snapshots(experiment: str, files: pyarrow.fs.FileSystem | None) -> bool:
    """Leave the newest whole snapshot of an experiment alone in its folder, with the paths of where it lies now.

    Args:
        experiment: its folder or URI.
        files: the file system for it; None for that of a URI.

    Returns:
        Whether there is one to go on from.
    """
    system, folder = (files, experiment) if files else pyarrow.fs.FileSystem.from_uri(experiment)
    sessions: dict[str, dict[str, str]] = {}
    for info in system.get_file_info(pyarrow.fs.FileSelector(folder)):
        if found := SNAPSHOT_FILE.fullmatch(info.base_name):
            sessions.setdefault(found["session"], {})[found["kind"]] = f"{folder}/{info.base_name}"
    newest = _newest(sessions, system)
    if newest is None:
        return False
    parts = sessions.pop(newest)
    for path in (path for others in sessions.values() for path in others.values()):
        system.delete_file(path)
    for kind in SUGGESTIONS:
        if path := parts.get(kind, ""):
            moved = moved_suggestions(_read(system, path), system, str(PurePosixPath(folder).parent))
            if moved is not None:
                with system.open_output_stream(path) as stream:
                    stream.write(moved)
    return True


def _newest(sessions: Mapping[str, Mapping[str, str]], system: pyarrow.fs.FileSystem) -> str | None:
    """The session that had come farthest; of those that are whole, if there is one.

    A process goes on from the snapshot of another, so a later one never knows less. One that was killed before all
    parts of its first snapshot were there had come no farther.
    """
    kinds = {kind for parts in sessions.values() for kind in parts}
    known = {}
    for session, parts in sessions.items():
        if TRIALS in parts:
            try:
                progress = snapshot_progress(_read(system, parts[TRIALS]))
            except ValueError:
                continue  # a disk that was full, long ago
            known[session] = (kinds <= set(parts), progress)
    return max(known, key=lambda session: known[session], default=None)


def _read(system: pyarrow.fs.FileSystem, path: str) -> bytes:
    with system.open_input_stream(path) as stream:
        return bytes(stream.readall())
