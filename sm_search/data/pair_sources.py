"""Which files belong together: pairs of a low and a high gradient, given as files, in lists or in folders."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sm_search.config.errors import DataError

SUFFIXES = (".mdf", ".h5", ".hdf5")
LISTS = (".txt", ".csv", ".tsv")
_ROLE = re.compile(r"(^|[-_. ])(low|high|lo|hi)(?=$|[-_. ])", re.IGNORECASE)


def paired(sources: Sequence[str | Path]) -> Iterable[tuple[str, Path, Path]]:
    """Name, low and high of each pair, in the order given."""
    alone: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            yield from _in_folder(source)
        elif source.suffix.lower() in LISTS:
            yield from _listed(source)
        else:
            alone.append(source)
    if len(alone) % 2:
        raise DataError(f"{alone[-1]}: has no partner: files are given as LOW HIGH LOW HIGH …")
    yield from ((_label(low), low, high) for low, high in zip(alone[::2], alone[1::2], strict=True))


def _in_folder(folder: Path) -> Iterable[tuple[str, Path, Path]]:
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        groups.setdefault((path.parent, _ROLE.sub("", path.stem)), []).append(path)
    if not groups:
        raise DataError(f"{folder}: has no file that ends in {', '.join(SUFFIXES)}")
    for (parent, stem), paths in groups.items():
        if len(paths) != 2:
            raise DataError(f"{paths[0]}: must have one partner in its folder, named alike but for low and high")
        low, high = sorted(paths, key=lambda path: "hi" in (_ROLE.search(path.stem) or [""])[0].lower())
        yield _clean(stem or parent.name), low, high


def _listed(source: Path) -> Iterable[tuple[str, Path, Path]]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot be read: {' '.join(str(error).split())}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        files = [part.strip() for part in re.split(r"[,;\t]", line) if part.strip()]
        if len(files) != 2:
            raise DataError(f"{source}:{number}: {line[:60]!r}: must be LOW, HIGH")
        low, high = (source.parent / file for file in files)
        yield _label(low), low, high


def _label(path: Path) -> str:
    """The file's name without low or high; where that is all, its folder's."""
    return _clean(_ROLE.sub("", path.stem) or path.absolute().parent.name)


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "scan"
