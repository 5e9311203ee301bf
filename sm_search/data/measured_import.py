"""Measured calibration files → a dataset: pairs of a low and a high gradient, all in the terms of one manifest.

Files are read by `read_mdf`, cut to the mixing orders that all of them have, and written anew; the originals are not
touched. What was done to each file, and why one was refused, is a page of the dataset.
"""

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from sm_search.config.dataset_settings import DatasetSettings, MeasuredDesign
from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldName, MixingOrders, Scan
from sm_search.data.atomic import atomic_path, sha256
from sm_search.data.dataset import FIELDS, Dataset, FileHashes, content_digest, file_name
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_reading import read_mdf
from sm_search.data.measured_pair import Imported, MeasuredPair, read_pairs, unlike
from sm_search.data.pair_sources import paired
from sm_search.physics.background import Subtraction
from sm_search.physics.system_matrix import SystemMatrix, with_orders

PAGE = "import.md"
_SPACE = uuid.UUID("3d7f7a52-5c64-4a0b-9c7b-3f3f0f3f2a6e")


@dataclass(frozen=True)
class ImportPlan:
    """What an import does: every pair, and the settings of the dataset that those without a fault make.

    Attributes:
        settings: None where too few pairs are without a fault.
        background: how it is subtracted.
    """

    pairs: list[MeasuredPair]
    settings: DatasetSettings | None
    background: Subtraction
    problem: str = ""

    @property
    def refused(self) -> list[MeasuredPair]:
        return [pair for pair in self.pairs if pair.reasons]

    def page(self) -> str:
        """What was done to each file and what was refused and why, as Markdown."""
        lines = ["# Imported files", ""]
        if self.settings is not None:
            box, grid = self.settings.orders, self.settings.grid
            lines += [
                f"{len(self.pairs) - len(self.refused)} pairs; mixing orders to ({box.max_x}, {box.max_y}), "
                f"{grid.size[0]} × {grid.size[1]} voxels over {grid.fov_mm[0]:g} × {grid.fov_mm[1]:g} mm, "
                f"values in {self.settings.receive.unit}.",
                "",
            ]
        if self.problem:
            lines += [self.problem, ""]
        for pair in self.pairs:
            split = "" if self.settings is None else next(iter(_splits_of(self.settings, pair.name)), "")
            lines += [f"## {pair.name}{f' ({split})' if split else ''}", ""]
            for role, file in zip(FIELDS, (pair.low, pair.high), strict=True):
                what = f"refused: {file.refused}" if file.refused else "; ".join(file.done)
                lines.append(f"- {role}: `{file.path}`: {what}")
            lines += ([f"- refused: {pair.refused}"] if pair.refused else []) + [""]
        return "\n".join(lines)


def plan_import(
    sources: Sequence[str | Path],
    *,
    name: str = "measured",
    orders: tuple[int, int] | None = None,
    background: Subtraction = "mean",
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> ImportPlan:
    """Read all files and see what dataset they make; nothing is written.

    Args:
        sources: LOW HIGH LOW HIGH … files, lists of such (.txt, .csv: a pair a line), or folders, in which files that
            lie alone in pairs or whose names differ by low and high belong together.
        orders: largest mixing orders; by default as many as all files have, equal in x and y.
        validation, test: names of pairs, or of volumes for all of their planes; by default the last but one, and the
            last.

    Raises:
        DataError: a source does not exist or does not hold pairs, or `validation` and `test` name no pair.
    """
    pairs: list[MeasuredPair] = []
    for label, low, high in paired(sources):
        taken = {name for pair in pairs for name in (pair.name, pair.source)}
        labels = (n for n in (label, *(f"{label}-{i}" for i in range(2, 10_000))) if n not in taken)
        read = (read_pairs(unique, low, high, background) for unique in labels)
        pairs += next(found for found in read if not taken & {pair.name for pair in found})
    for pair in (good := [pair for pair in pairs if not pair.reasons])[1:]:
        pair.refused = unlike(pair, good[0])
    good = [pair for pair in good if not pair.reasons]
    names = {pair.name for pair in pairs} | {pair.source for pair in pairs}
    unknown = sorted({*validation, *test} - names)
    if unknown:
        raise DataError(f"{unknown[0]!r}: is no pair; there are {', '.join(pair.name for pair in pairs)}")
    sources_left = {pair.source for pair in good}
    if len(sources_left) < 3 and not (test and validation and len(good) > 2):
        problem = (
            f"{len(sources_left)} pairs without a fault: must be three at least, for training, validation and test"
        )
        if len(good) > len(sources_left):
            problem += "; planes of one calibration are no independent test, and become one by --validation and --test"
        return ImportPlan(pairs, None, background, problem)
    try:
        return ImportPlan(pairs, _settings(name, good, orders, validation, test), background)
    except (ValueError, DataError) as error:
        return ImportPlan(pairs, None, background, " ".join(str(error).split()))


def import_measured(plan: ImportPlan, out: str | Path) -> Dataset:
    """Write the pairs without a fault as a dataset, and the page that tells of all.

    Raises:
        DataError: the plan makes no dataset, or `out` holds one.
    """
    if plan.settings is None:
        raise DataError(plan.problem)
    if (Path(out) / "manifest.json").exists():
        raise DataError(f"{out}: holds a dataset; choose another folder")
    settings, dataset = plan.settings, Dataset.create(out, plan.settings)
    scans = {scan.id: scan for split in settings.splits for scan in settings.scans(split)}
    hashes, reading = {}, lru_cache(maxsize=len(FIELDS))(partial(read_mdf, background=plan.background))
    for pair in plan.pairs:
        if not pair.reasons:
            for which, file in zip(FIELDS, (pair.low, pair.high), strict=True):
                scan = scans[pair.name]
                hashes[file_name(scan, which)] = _written(Path(out), settings, scan, which, file, reading)
    dataset.record(hashes)
    with atomic_path(Path(out) / PAGE) as temporary:
        temporary.write_text(plan.page(), encoding="utf-8")
    return dataset


def _written(
    folder: Path,
    settings: DatasetSettings,
    scan: Scan,
    which: FieldName,
    file: Imported,
    reading: Callable[[Path], SystemMatrix],
) -> FileHashes:
    assert file.provenance is not None
    volume = reading(file.path)
    matrix = with_orders(volume.planes()[file.plane], settings.orders.pairs())
    terms = {
        "grid": settings.grid,
        "field": settings.field(which),
        "fx_hz": scan.fx_hz,
        "heights_m": (scan.height_m,),
    }
    path, original = folder / file_name(scan, which), sha256(file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = [original, settings.content_hash(), path.name, *([file.plane] if len(volume.heights_m) > 1 else [])]
    write_mdf(
        path,
        dataclasses.replace(matrix, **terms),  # type: ignore[arg-type]
        uuid=str(uuid.uuid5(_SPACE, "/".join(map(str, origin)))),
        time=file.provenance.time,
        averages=file.provenance.averages,
        provenance=file.provenance.fields,
        extra={"/experiment/_importedFile": file.path.name, "/experiment/_importedSha256": original},
    )
    return FileHashes(sha256(path), content_digest(path, file.provenance.time))


def _settings(
    name: str,
    pairs: Sequence[MeasuredPair],
    orders: tuple[int, int] | None,
    validation: Sequence[str],
    test: Sequence[str],
) -> DatasetSettings:
    low, high = pairs[0].low.matrix, pairs[0].high.matrix
    assert low is not None
    assert high is not None
    matrices = [sm for pair in pairs for sm in (pair.low.matrix, pair.high.matrix) if sm is not None]
    box = MixingOrders(max_x=orders[0], max_y=orders[1]) if orders else _common_box(matrices)
    for sm in matrices:
        with_orders(sm, box.pairs())  # says what it lacks
    names = [pair.name for pair in pairs]
    test, validation = (_named(pairs, chosen) for chosen in (test, validation))
    test = test or _last(pairs, validation)
    validation = validation or _last(pairs, test)
    scans = {pair.name: _scan(pair) for pair in pairs}
    groups = {
        "train": [n for n in names if n not in test and n not in validation],
        "validation": [n for n in names if n in validation],
        "test": [n for n in names if n in test],
    }
    return DatasetSettings(
        name=name,
        grid=low.grid,
        orders=box,
        low=low.field,
        high=high.field,
        receive=ReceiveSettings(signal="voltage" if low.unit == "V" else "magnetisation"),
        splits={
            split: (MeasuredDesign(design="measured", measured=tuple(scans[n] for n in members)),)
            for split, members in groups.items()
            if members
        },
    )


def _common_box(matrices: Sequence[SystemMatrix]) -> MixingOrders:
    """The largest box of equal orders in x and y of which no file lacks a component."""
    most = 0
    while most < min(sm.nd // 2 for sm in matrices):
        wanted = MixingOrders(max_x=most + 1, max_y=most + 1).pairs()
        if any(not set(wanted) <= set(sm.mixing_orders) for sm in matrices):
            break
        most += 1
    if not most:
        raise DataError("the files have no common box of mixing orders: (0, 1), (1, 0) and (1, 1) at least")
    return MixingOrders(max_x=most, max_y=most)


def _named(pairs: Sequence[MeasuredPair], chosen: Sequence[str]) -> list[str]:
    return [pair.name for pair in pairs if pair.name in chosen or pair.source in chosen]


def _last(pairs: Sequence[MeasuredPair], taken: Sequence[str]) -> list[str]:
    """The pairs of the last source that has none of `taken`."""
    used = {pair.source for pair in pairs if pair.name in taken}
    free = [pair.source for pair in pairs if pair.source not in used]
    return [pair.name for pair in pairs if free and pair.source == free[-1]]


def _scan(pair: MeasuredPair) -> Scan:
    low = pair.low.matrix
    assert low is not None
    diameter_m = low.tracer.get("coreDiameter")
    diameter_nm = float(f"{diameter_m * 1e9:.10g}") if isinstance(diameter_m, float) else None
    height_mm = float(f"{1e3 * low.heights_m[0]:.4g}")
    return Scan(
        core_diameter_nm=diameter_nm, fx_khz=low.fx_hz / 1e3, nd=low.nd, measured=pair.name, height_mm=height_mm
    )


def _splits_of(settings: DatasetSettings, name: str) -> list[str]:
    return [split for split in settings.splits if any(scan.id == name for scan in settings.scans(split))]
