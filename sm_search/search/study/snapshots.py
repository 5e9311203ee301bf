"""Which of Ray Tune's snapshots an experiment goes on from: the one that knows most, wherever the experiment lies now.

Every process that drives an experiment writes a snapshot of its own, of several files, named by the local time at which
the process began. Tune takes the last name, which is the oldest state where a clock or a time zone was changed: in a
container, on another machine, at the end of summer time.

The files of a snapshot reach their folder one after another. A driver that is killed between them, or a disk that is
full for some of them, leaves trials of one moment beside suggestions of another, and a trial would be lost that the one
file knows and the other does not. So the searcher's file has the trials of its own moment in it, and the others follow.
"""

import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs

from sm_search.compute.ray_internals import mended_suggestions, snapshot_progress

TRIALS, SUGGESTIONS, SEARCHER, GRID = "experiment_state", "search_gen_state", "searcher-state", "basic-variant-state"
PARTS = ({TRIALS, SUGGESTIONS, SEARCHER}, {TRIALS, GRID})
"""Of a search, and of a grid, whose trials are all there from the beginning."""
SNAPSHOT_FILE = re.compile(
    rf"(?P<kind>{'|'.join(sorted(PARTS[0] | PARTS[1]))}|callback-states)-(?P<session>.+)\.(?:json|pkl)"
)
TRIALS_KEY = "tune_trials"
"""Of a searcher's state: the file of the trials, as it was at that moment."""


def settle_snapshots(experiment: str, files: pyarrow.fs.FileSystem | None) -> bool:
    """Leave the newest whole snapshot of an experiment alone in its folder, of one moment, with the paths of its place.

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
    whole = {}
    for name, parts in sessions.items():
        if any(map(parts.keys().__ge__, PARTS)):
            with suppress(ValueError, pickle.UnpicklingError, EOFError):  # a disk that was full, long ago
                trials = _trials(parts, system)
                whole[name] = snapshot_progress(trials), trials
    if not whole:
        return False
    # A process goes on from the snapshot of another, so a later one never knows less. One that was killed before all
    # parts of its first snapshot were there had come no farther.
    newest = max(whole, key=lambda name: whole[name][0])
    (_, handed_out, *_), trials = whole[newest]
    parts = sessions.pop(newest)
    for path in (path for others in sessions.values() for path in others.values()):
        system.delete_file(path)
    _replace(parts[TRIALS], _read(parts[TRIALS], system), trials, system)
    for kind in {SUGGESTIONS, GRID} & parts.keys():
        state = _read(parts[kind], system)
        mended = mended_suggestions(state, system, str(PurePosixPath(folder).parent), handed_out)
        _replace(parts[kind], state, mended, system)
    return True


def _trials(parts: Mapping[str, str], system: pyarrow.fs.FileSystem) -> bytes:
    """Those of a snapshot, of the moment of its searcher.

    Raises:
        pickle.UnpicklingError, EOFError: the searcher's file is not whole.
    """
    searcher: Mapping[str, Any] = pickle.loads(_read(parts[SEARCHER], system)) if SEARCHER in parts else {}
    return searcher.get(TRIALS_KEY) or _read(parts[TRIALS], system)  # of an earlier version: the searcher alone


def _read(path: str, system: pyarrow.fs.FileSystem) -> bytes:
    with system.open_input_stream(path) as stream:
        return bytes(stream.readall())


def _replace(path: str, before: bytes, contents: bytes, system: pyarrow.fs.FileSystem) -> None:
    if contents != before:
        with system.open_output_stream(path) as stream:
            stream.write(contents)
