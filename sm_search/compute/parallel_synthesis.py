"""Synthesis of many files: one Ray task a file, bounded in flight; a second call makes only what is missing."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from sm_search.compute.tasks import bounded, tasks_at_once
from sm_search.config.errors import DataError, InputError, SmSearchError
from sm_search.data.mdf_reading import read_field
from sm_search.synthesis import Synthesiser, load_synthesiser, origin_fields, synthesise_file

SUFFIX, LIST_SUFFIX = ".mdf", ".txt"
MAX_LIST_BYTES = 10_000_000

Progress = Callable[[int, int, str], None]
"""Called with files done, files in all, and the file that was finished."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        reason: why it was refused, or why it is unlike the training scans.
        trust: how far to trust what was made.
    """

    source: str
    target: str
    state: Literal["made", "kept", "refused"]
    reason: str = ""
    trust: dict[str, Any] = field(default_factory=dict)


def is_many(place: Path) -> bool:
    """Whether `--input` means several files: a folder or a list."""
    return place.is_dir() or place.suffix == LIST_SUFFIX


def plan_files(place: Path, out: Path) -> dict[Path, Path]:
    """The files below a folder, or those that a list names line by line, and where each one's result goes.

    Args:
        place: a folder, searched for `*.mdf` at any depth, or a text file; relative paths in it start at its folder.
        out: the folder of the results; the structure of an input folder is kept.

    Raises:
        InputError: no files, a list that cannot be read, two files with one target, or `out` inside the input folder.
    """
    if place.is_dir():
        if out.resolve().is_relative_to(place.resolve()):
            raise InputError(f"--output {out}: lies in the input folder {place}, so results would become inputs")
        plan = {path: out / path.relative_to(place) for path in sorted(place.rglob(f"*{SUFFIX}")) if path.is_file()}
    else:
        plan = {path: out / path.name for path in _listed(place)}
    if not plan:
        raise InputError(f"{place}: names no {SUFFIX} file")
    owner: dict[Path, Path] = {}
    for source, target in plan.items():
        if target in owner:
            raise InputError(f"{place}: {owner[target]} and {source} would both become {target}")
        owner[target] = source
    return plan


def _listed(place: Path) -> Iterator[Path]:
    try:
        if place.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"{place}: larger than {MAX_LIST_BYTES} bytes, the limit for a list of files")
        lines = place.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{place}: is not UTF-8 text") from None
    # A file that is listed twice is one file.
    yield from dict.fromkeys(place.parent / line.strip() for line in lines if line.strip() and line[0] != "#")


def synthesise_files(
    checkpoint: Path,
    plan: dict[Path, Path],
    model: str,
    seed: int,
    overwrite: bool,
    progress: Progress,
    extrapolate: bool = False,
) -> list[Outcome]:
    """Synthesise every file of a plan on the running Ray session, in the order of the plan.

    A result that exists is kept if it was made from the same bytes by the same model, schedule and seed. A file that
    cannot be used is refused by itself; the others are made. Workers get the model from here, and find the files by
    their absolute paths.

    Raises:
        DataError: a folder for the results cannot be created.
    """
    content = ray.put({path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())})
    for target in plan.values():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{target.parent}: cannot be created: {error.strerror}") from None
    calls = [
        partial(
            _synthesise_one.remote,
            [content],
            model,
            seed,
            str(source.absolute()),
            str(target.absolute()),
            overwrite,
            extrapolate,
        )
        for source, target in plan.items()
    ]
    outcomes: dict[int, Outcome] = {}
    with bounded(calls, tasks_at_once()) as results:
        for index, outcome in results:
            outcomes[index] = outcome
            progress(len(outcomes), len(plan), f"{outcome.source} {outcome.state}")
    return [outcomes[index] for index in sorted(outcomes)]


@ray.remote(max_retries=3, retry_exceptions=[OSError])
def _synthesise_one(
    content: list[ray.ObjectRef],
    model: str,
    seed: int,
    source: str,
    target: str,
    overwrite: bool,
    extrapolate: bool,
) -> Outcome:
    # In a list, so that Ray does not fetch the model for every file: a worker that has it needs it no second time.
    synthesiser = _loaded(content[0], seed)
    try:
        if Path(target).exists() and is_result(synthesiser, model, Path(source), Path(target)):
            return Outcome(source, target, "kept")
        made = synthesise_file(synthesiser, source, target, model=model, overwrite=overwrite, extrapolate=extrapolate)
    except SmSearchError as error:
        return Outcome(source, target, "refused", str(error))
    return Outcome(source, target, "made", f"{source}: {made.outside}" if made.outside else "", made.trust())


@lru_cache(maxsize=1)
def _loaded(content: ray.ObjectRef, seed: int) -> Synthesiser:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in ray.get(content).items():
            Path(folder, name).write_bytes(data)
        return load_synthesiser(folder, seed=seed)


def is_result(synthesiser: Synthesiser, model: str, source: Path, target: Path) -> bool:
    """Whether `target` is what this model makes of `source`, by what the file says of itself."""
    if not source.is_file():
        return False
    expected = origin_fields(synthesiser, source, model)
    try:
        found = {name: read_field(target, name) for name in expected}
        return all(np.array_equal(found[name], value) for name, value in expected.items())
    except DataError:
        return False
