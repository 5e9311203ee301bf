"""Measured calibration files → a dataset: pairs of a low and a high gradient, all in the terms of one manifest.

Files are read by `read_mdf`, cut to the mixing orders that all of them have, and written anew; the originals are not
touched. What was done to each file, and why one was refused, is a page of the dataset.
"""

import dataclasses
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sm_search.config.dataset_settings import DatasetSettings, MeasuredDesign
from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldName, MixingOrders, Scan, agree
from sm_search.data.atomic import atomic_path, sha256
from sm_search.data.dataset import FIELDS, Dataset, FileHashes, content_digest, file_name
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_frames import Background
from sm_search.data.mdf_parts import flag
from sm_search.data.mdf_provenance import Provenance, read_provenance
from sm_search.data.mdf_reading import read_mdf
from sm_search.physics.system_matrix import SystemMatrix, with_orders

PAGE = "import.md"
SUFFIXES = (".mdf", ".h5", ".hdf5")
LISTS = (".txt", ".csv", ".tsv")
INDUCTION = "/acquisition/receiver/inductionFactor"
_SPACE = uuid.UUID("3d7f7a52-5c64-4a0b-9c7b-3f3f0f3f2a6e")
_ROLE = re.compile(r"(^|[-_. ])(low|high|lo|hi)(?=$|[-_. ])", re.IGNORECASE)


@dataclass
class Imported:
    """One file: what was done to it, or why it was refused.

    Attributes:
        matrix: as read; None if it was refused.
    """

    path: Path
    matrix: SystemMatrix | None = None
    provenance: Provenance | None = None
    done: list[str] = field(default_factory=list)
    refused: str = ""


@dataclass
class MeasuredPair:
    """Two files of one scan; `refused` says why they are none."""

    name: str
    low: Imported
    high: Imported
    refused: str = ""

    @property
    def reasons(self) -> list[str]:
        return [reason for reason in (self.low.refused, self.high.refused, self.refused) if reason]


@dataclass(frozen=True)
class ImportPlan:
    """What an import does: every pair, and the settings of the dataset that those without a fault make.

    Attributes:
        settings: None where too few pairs are without a fault.
    """

    pairs: list[MeasuredPair]
    settings: DatasetSettings | None
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
    background: Background = "mean",
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> ImportPlan:
    """Read all files and see what dataset they make; nothing is written.

    Args:
        sources: LOW HIGH LOW HIGH … files, lists of such (.txt, .csv: a pair a line), or folders, in which files that
            lie alone in pairs or whose names differ by low and high belong together.
        orders: largest mixing orders; by default as many as all files have, equal in x and y.
        validation, test: names of pairs; by default the last but one, and the last.

    Raises:
        DataError: a source does not exist or does not hold pairs, or `validation` and `test` name no pair.
    """
    pairs: list[MeasuredPair] = []
    for label, low, high in _paired(sources):
        taken = {pair.name for pair in pairs}
        unique = next(n for n in (label, *(f"{label}-{i}" for i in range(2, 10_000))) if n not in taken)
        pairs.append(_checked(MeasuredPair(unique, _read(low, background), _read(high, background))))
    for pair in (good := [pair for pair in pairs if not pair.reasons])[1:]:
        pair.refused = _unlike(pair, good[0])
    good = [pair for pair in good if not pair.reasons]
    unknown = sorted({*validation, *test} - {pair.name for pair in pairs})
    if unknown:
        raise DataError(f"{unknown[0]!r}: is no pair; there are {', '.join(pair.name for pair in pairs)}")
    if len(good) < 3:
        problem = f"{len(good)} pairs without a fault: must be three at least, for training, validation and test"
        return ImportPlan(pairs, None, problem)
    try:
        return ImportPlan(pairs, _settings(name, good, orders, validation, test))
    except (ValueError, DataError) as error:
        return ImportPlan(pairs, None, " ".join(str(error).split()))


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
    hashes = {}
    for pair in plan.pairs:
        if not pair.reasons:
            for which, file in zip(FIELDS, (pair.low, pair.high), strict=True):
                scan = scans[pair.name]
                hashes[file_name(scan, which)] = _written(Path(out), settings, scan, which, file)
    dataset.record(hashes)
    with atomic_path(Path(out) / PAGE) as temporary:
        temporary.write_text(plan.page(), encoding="utf-8")
    return dataset


def _written(folder: Path, settings: DatasetSettings, scan: Scan, which: FieldName, file: Imported) -> FileHashes:
    assert file.matrix is not None
    assert file.provenance is not None
    matrix = with_orders(file.matrix, settings.orders.pairs())
    terms = {"grid": settings.grid, "field": settings.field(which), "fx_hz": scan.fx_hz}
    path, original = folder / file_name(scan, which), sha256(file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mdf(
        path,
        dataclasses.replace(matrix, **terms),  # type: ignore[arg-type]
        uuid=str(uuid.uuid5(_SPACE, f"{original}/{settings.content_hash()}/{path.name}")),
        time=file.provenance.time,
        averages=file.provenance.averages,
        provenance=file.provenance.fields,
        extra={"/experiment/_importedFile": file.path.name, "/experiment/_importedSha256": original},
    )
    return FileHashes(sha256(path), content_digest(path, file.provenance.time))


def _paired(sources: Sequence[str | Path]) -> Iterable[tuple[str, Path, Path]]:
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


def _read(path: Path, background: Background) -> Imported:
    found = Imported(path)
    try:
        found.matrix, found.provenance = read_mdf(path, background=background), read_provenance(path)
        found.done = _done(path, found.matrix, found.provenance, background)
    except DataError as error:
        found.matrix, found.refused = None, str(error).removeprefix(f"{path}: ")
    return found


def _done(path: Path, sm: SystemMatrix, provenance: Provenance, background: Background) -> list[str]:
    """What the reading did to a file, in words."""
    with Hdf5File(path) as file:
        present = {name for name in ("positions", "isMeanderingGrid", "snr") if file.find(f"/calibration/{name}")}
        receiver = "/acquisition/receiver"
        converted = file.find(f"{receiver}/dataConversionFactor") is not None
        transfer = any(file.find(f"{receiver}/{n}") is not None for n in ("transferFunction", "transferfunction"))
        flags = {n: flag(file, f"is{n}Corrected", default=False) for n in ("Background", "TransferFunction")}
        spectra, permuted = flag(file, "isFourierTransformed"), flag(file, "isFramePermutation", default=False)
    gradient = " × ".join(f"{value:g}" for value in dict.fromkeys(sm.field.gradients_t_per_m))
    done = [f"{gradient} T/m, f_x {sm.fx_hz / 1e3:g} kHz, N_d {sm.nd}, {len(sm.values_CKN)} receive channels"]
    if not spectra:
        done.append("time signals Fourier transformed")
    if converted:
        done.append("receiver's numbers converted")
    if flags["TransferFunction"] or transfer:
        done.append(
            "transfer function was divided out" if flags["TransferFunction"] else "transfer function divided out"
        )
    frames = 0 if sm.background_CKE is None else sm.background_CKE.shape[-1]
    if flags["Background"]:
        done.append("background was subtracted")
    elif frames:
        done.append(f"background subtracted, {background} of {frames} frames")
    else:
        done.append("no background to subtract")
    if "positions" in present:
        done.append("voxels in the order of the positions")
    elif "isMeanderingGrid" in present and not permuted:
        done.append("meandering grid permuted back")
    snr = "stored" if "snr" in present else "of the background frames" if sm.snr_CK is not None else "none"
    done.append(f"SNR {snr}, {provenance.averages} averages")
    return done


def _checked(pair: MeasuredPair) -> MeasuredPair:
    """The pair, refused where its files do not belong together; exchanged where the first has the higher gradient."""
    low, high = pair.low.matrix, pair.high.matrix
    if low is None or high is None:
        return pair
    if low.field.gradients_t_per_m > high.field.gradients_t_per_m:
        pair = dataclasses.replace(pair, low=pair.high, high=pair.low)
        pair.low.done.append("given as high, has the lower gradient")
        low, high = high, low
    problems = []
    if not low.grid.agrees(high.grid):
        problems.append(f"grids {low.grid.size} over {low.grid.fov_mm} mm and {high.grid.size} over {high.grid.fov_mm}")
    if not agree((low.fx_hz, low.nd), (high.fx_hz, high.nd)) or low.nd != high.nd:
        problems.append(f"f_x, N_d {low.fx_hz:g} Hz, {low.nd} and {high.fx_hz:g} Hz, {high.nd}")
    if not agree(low.field.reach_mm, high.field.reach_mm) or agree(
        low.field.gradients_t_per_m, high.field.gradients_t_per_m
    ):
        problems.append(
            f"gradients {low.field.gradients_t_per_m} and {high.field.gradients_t_per_m} T/m with drives "
            f"{low.field.drives_t} and {high.field.drives_t} T: must differ, by one factor"
        )
    for what, values in (
        ("unit", (low.unit, high.unit)),
        ("receive channels", (len(low.values_CKN), len(high.values_CKN))),
        ("transfer function divided out", tuple("isTransferFunctionCorrected" in sm.corrections for sm in (low, high))),
        ("induction factor", tuple(_induction(file) for file in (pair.low, pair.high))),
    ):
        if values[0] != values[1]:
            problems.append(f"{what}: {values[0]} and {values[1]}")
    if low.unit not in ("V", "A/m"):
        problems.append(f"unit {low.unit!r}: must be V or A/m")
    pair.refused = f"low and high differ: {'; '.join(problems)}" if problems else ""
    return pair


def _induction(file: Imported) -> str:
    fields: Mapping[str, object] = {} if file.provenance is None else file.provenance.fields
    return np.array2string(np.asarray(fields.get(INDUCTION, 1.0)), precision=6)


def _unlike(pair: MeasuredPair, first: MeasuredPair) -> str:
    """What a pair has otherwise than the first, whose dataset it is to join; "" for nothing."""
    problems = []
    for role, mine, other in (
        ("low", pair.low.matrix, first.low.matrix),
        ("high", pair.high.matrix, first.high.matrix),
    ):
        assert mine is not None
        assert other is not None
        if not mine.field.agrees(other.field):
            problems.append(f"{role}: field {mine.field} and {other.field}")
        if not mine.grid.agrees(other.grid):
            problems.append(f"{role}: grid {mine.grid} and {other.grid}")
        if (mine.unit, len(mine.values_CKN)) != (other.unit, len(other.values_CKN)):
            problems.append(
                f"{role}: unit and channels {mine.unit}, {len(mine.values_CKN)} and {other.unit}, "
                f"{len(other.values_CKN)}"
            )
    return f"differs from pair {first.name}: {'; '.join(problems)}" if problems else ""


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
    test = list(test) or [n for n in names if n not in validation][-1:]
    validation = list(validation) or [n for n in names if n not in test][-1:]
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


def _scan(pair: MeasuredPair) -> Scan:
    low = pair.low.matrix
    assert low is not None
    diameter_m = low.tracer.get("coreDiameter")
    diameter_nm = float(f"{diameter_m * 1e9:.10g}") if isinstance(diameter_m, float) else None
    return Scan(core_diameter_nm=diameter_nm, fx_khz=low.fx_hz / 1e3, nd=low.nd, measured=pair.name)


def _splits_of(settings: DatasetSettings, name: str) -> list[str]:
    return [split for split in settings.splits if any(scan.id == name for scan in settings.scans(split))]
