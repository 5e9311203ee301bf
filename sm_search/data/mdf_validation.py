"""Does a file keep the rules of MDF v2.1.0 for a calibration or a measurement file?

A file with a group /calibration is a calibration file, any other a measurement.

No file says which of two contradicting fields is wrong. So the size of each axis (letters as in `mdf_table`) is put to
the vote of all fields that show it, and the minority is named; on a tie, all are. The same goes for other rules
between fields: everyone involved is named.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.data import mdf_table as table
from sm_search.data.hdf5 import FieldError, Hdf5File, Layout
from sm_search.data.mdf_table import CROSS, DATA, TABLE, Row, Severity

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fault:
    """A broken rule.

    Attributes:
        severity: "error" where readers will fail or misread, "warning" where they may, "not served" where the standard
            allows what no command here takes (`unserved`).
        field: path in the file, "/" for the file itself.
        message: the value and the rule.
    """

    severity: Severity
    field: str
    message: str


def validate_mdf(path: str | Path) -> list[Fault]:
    """All faults of a file, in the order of the standard's field table; empty if it has none.

    Never raises for a bad file: one that cannot be opened has one error fault.
    """
    try:
        with np.errstate(all="ignore"), Hdf5File(path) as file:
            return list(dict.fromkeys(_Validation(file).faults()))
    except DataError as error:
        return [Fault("error", error.field if isinstance(error, FieldError) else "/", str(error))]


def file_kind(path: str | Path) -> Literal["calibration", "measurement", "unreadable"]:
    """By the rules of what a file is checked, if it can be opened."""
    try:
        with Hdf5File(path) as file:
            return "calibration" if _is_calibration(file) else "measurement"
    except DataError:
        return "unreadable"


def _is_calibration(file: Hdf5File) -> bool:
    return any(node.path == table.CALIBRATION for node in file.walk())


class _Validation:
    """One pass over one file: what was found so far, by standard name."""

    def __init__(self, file: Hdf5File) -> None:
        self.file = file
        self.is_calibration = _is_calibration(file)
        self.names: dict[str, str] = {}
        self.layouts: dict[str, Layout] = {}
        self.values: dict[str, NDArray[Any]] = {}

    def faults(self) -> Iterator[Fault]:
        yield from self._survey()
        for row in TABLE:
            if row.field in self.names:
                yield from self._field(row)
            elif row.field in table.SINCE_2_1 and self._version().startswith("2.0"):
                continue
            elif row.need == table.M and (self.is_calibration or not row.field.startswith(f"{table.CALIBRATION}/")):
                yield Fault("error", row.field, "is missing, and mandatory")
        yield from self._conditions()
        yield from self._data()
        yield from self._votes()
        yield from self._cross()

    def _survey(self) -> Iterator[Fault]:
        """What is in the file, under which name; strangers, links and attributes."""
        standard = {row.field for row in TABLE}
        for node in self.file.walk():
            if node.attributes:
                yield Fault("warning", node.path, f"has {node.attributes} attribute(s): MDF uses datasets only")
            if node.kind == "refused":
                yield Fault("error", node.path, "is a link or an unreadable object: MDF uses datasets only")
            elif node.kind == "group":
                if node.path in standard:
                    yield Fault("error", node.path, "is a group: must be a dataset")
            elif node.path in standard:
                self.names[node.path] = node.path
            elif meant := table.ALIASES.get(node.path.lower()):
                yield Fault("warning", node.path, f"is not a name of the standard; taken for {meant}")
                self.names.setdefault(meant, node.path)
            elif "/_" not in node.path and not node.path.startswith("/reconstruction/"):
                yield Fault("warning", node.path, "is unknown: a user field must have a name that starts with '_'")

    def _field(self, row: Row) -> Iterator[Fault]:
        """Type, shape, storage and values of one field; what is fit for use goes into `values` and `layouts`."""
        name = self.names[row.field]
        try:
            layout = self.file.layout(name)
        except FieldError as error:
            yield Fault("error", row.field, error.rule)
            return
        if layout.chunked:
            severity: Severity = "error" if row.field == DATA else "warning"
            yield Fault(severity, row.field, "is chunked or compressed: must be contiguous, for memory-mapping readers")
        if layout.parts:
            yield Fault("warning", row.field, f"has complex numbers named {', '.join(layout.parts)}: must be r, i")
        yield from _type_faults(row, layout)
        if layout.shape == (1,) and row.shape == "":
            yield Fault("warning", row.field, "has shape (1,): must be a scalar")
        elif not _matches(row.shape, layout.shape):
            wanted = " × ".join(row.shape) if row.shape else "a scalar"
            yield Fault("error", row.field, f"has shape {layout.shape}: must be {wanted}")
            return
        if not _fits(row, layout):
            return
        self.layouts[row.field] = layout
        if row.field == DATA:
            return
        try:
            values = self.file.read(name)
        except FieldError as error:
            yield Fault("error", row.field, error.rule)
            return
        broken = list(_value_faults(row, values))
        yield from broken
        if not any(fault.severity == "error" for fault in broken):
            self.values[row.field] = values.reshape(()) if row.shape == "" else values

    def _conditions(self) -> Iterator[Fault]:
        """Conditional fields are there exactly if their flag is 1."""
        for row in TABLE:
            flag = self._flag(row.need)
            if flag is not None and flag != (row.field in self.names):
                message = f"must agree: {row.need} is {flag:d}, {row.field} is {'missing' if flag else 'present'}"
                yield Fault("error", row.field, message)
                yield Fault("error", row.need, message)
        if self._flag(table.CORRECTED) and table.TRANSFER not in self.names:
            message = f"is 1, but there is no {table.TRANSFER} that tells by what was divided"
            yield Fault("warning", table.CORRECTED, message)

    def _data(self) -> Iterator[Fault]:
        """The measurement data against their flags, and finite."""
        if DATA not in self.layouts:
            return
        layout, fourier = self.layouts[DATA], self._flag(table.FOURIER)
        if fourier is not None and fourier != (layout.dtype.kind == "c"):
            message = f"must agree: isFourierTransformed is {fourier:d}, data are {layout.dtype}; spectra are complex"
            yield Fault("error", table.FOURIER, message)
            yield Fault("error", DATA, message)
        if self._axes_are_swapped():
            yield Fault("error", table.FAST_AXIS, f"contradicts the N frames in data of shape {layout.shape}")
        try:
            flat = self.file.read_large(self.names[DATA]).reshape(-1)
        except FieldError as error:
            yield Fault("error", DATA, error.rule)
            return
        for begin in range(0, flat.size, _BLOCK):
            finite = np.isfinite(flat[begin : begin + _BLOCK])
            if not finite.all():
                where = np.unravel_index(begin + int(np.argmin(finite)), layout.shape)
                yield Fault("error", DATA, f"not a finite number at {tuple(map(int, where))}: must be finite")
                return

    def _votes(self) -> Iterator[Fault]:
        """Every axis has one size, whichever field shows it."""
        votes: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for row in TABLE:
            letters = self._data_axes() if row.field == DATA else row.shape
            if row.field in self.layouts:
                for letter, size in zip(letters, self.layouts[row.field].shape, strict=False):
                    votes[letter].append((row.field, size))
            if row.counts and row.field in self.values:
                votes[row.counts].append((row.field, _count(row, self.values[row.field])))
        samples = "/acquisition/receiver/numSamplingPoints"
        if self._flag(table.SELECTION) is False and samples in self.values:
            votes["K"].append((samples, int(self.values[samples]) // 2 + 1))
        for letter in sorted(set(votes) - set("?B0123456789")):
            yield from _dissent(letter, votes[letter])

    def _cross(self) -> Iterator[Fault]:
        for cross in CROSS:
            if all(field in self.values for field in cross.fields):
                values = [self.values[field] for field in cross.fields]
                if not cross.holds(*(value.item() if value.ndim == 0 else value for value in values)):
                    for field in cross.fields:
                        yield Fault(cross.severity, field, f"{_shown(self.values[field])}: {cross.text}")

    def _version(self) -> str:
        return str(self.values["/version"]) if "/version" in self.values else ""

    def _flag(self, field: str) -> bool | None:
        return bool(self.values[field]) if field in self.values else None

    def _axes_are_swapped(self) -> bool:
        """The flag points at an axis that does not have the N frames, and the other end has."""
        background, fast = "/measurement/isBackgroundFrame", self._flag(table.FAST_AXIS)
        if fast is None or background not in self.layouts or self._flag(table.SPARSE):
            return False
        frames, shape = self.layouts[background].shape[0], self.layouts[DATA].shape
        claimed, other = (shape[-1], shape[0]) if fast else (shape[0], shape[-1])
        return claimed != frames == other

    def _data_axes(self) -> str:
        """The letters of the data's axes; "?" where the standard lets the size be."""
        if DATA not in self.layouts or self._flag(table.FAST_AXIS) is None:
            return ""
        frames = "?" if self._flag(table.SPARSE) else "N"
        spectrum = "V" if self._flag(table.FOURIER) is False else "K"
        fast = self._flag(table.FAST_AXIS) != self._axes_are_swapped()
        return f"JC{spectrum}{frames}" if fast else f"{frames}JC{spectrum}"


def _fits(row: Row, layout: Layout) -> bool:
    """Of the right kind, if perhaps of another width: good enough to look at the values."""
    return layout.is_text if row.type == "Str" else layout.dtype.kind in table.NUMPY_KINDS[row.type]


def _type_faults(row: Row, layout: Layout) -> Iterator[Fault]:
    wanted = table.NUMPY_TYPES.get(row.type)
    if not _fits(row, layout) or (wanted and layout.dtype.newbyteorder("=") != np.dtype(wanted)):
        yield Fault("error", row.field, f"has type {'text' if layout.is_text else layout.dtype}: must be {row.type}")
    elif not layout.is_text and layout.dtype.byteorder == ">":
        yield Fault("warning", row.field, "is big-endian: must be little-endian")


def _matches(letters: str, shape: tuple[int, ...]) -> bool:
    """Equal rank, and the axes that the standard fixes have their size."""
    return len(letters) == len(shape) and all(
        size == int(letter) if letter.isdigit() else size > 0 for letter, size in zip(letters, shape, strict=True)
    )


def _value_faults(row: Row, values: NDArray[Any]) -> Iterator[Fault]:
    if row.field == table.SNR and np.isinf(values).any() and not np.isnan(values).any():
        yield Fault("warning", row.field, f"{_shown(values)}: is infinite, where there is no noise")
        return
    if values.dtype.kind in "fc" and not np.all(np.isfinite(values)):
        yield Fault("error", row.field, f"{_shown(values)}: must be finite")
        return
    for rule in row.rules:
        if not rule.holds(values):
            yield Fault(rule.severity, row.field, f"{_shown(values)}: {rule.text}")
            return


def _count(row: Row, values: NDArray[Any]) -> int:
    """How many of `row.counts` there are: foreground frames, voxels, or what a counter says."""
    if row.type == "Int8":
        return int(np.sum(values == 0))
    return math.prod(int(value) for value in values.flat)


def _dissent(letter: str, votes: list[tuple[str, int]]) -> Iterator[Fault]:
    ranking = Counter(size for _, size in votes).most_common(2)
    if len(ranking) < 2:
        return
    tie = ranking[0][1] == ranking[1][1]
    for field, size in votes:
        if tie or size != ranking[0][0]:
            others = ", ".join(f"{size_} in {field_}" for field_, size_ in votes if size_ != size)
            yield Fault("error", field, f"{letter} = {size} here must agree with {others}")


def _shown(values: NDArray[Any]) -> str:
    """The value, or the first few of many, on one line."""
    first = [value if isinstance(value, str) else value.item() for value in values.ravel()[:6]]
    if values.ndim == 0:
        return repr(first[0])
    return f"{first}" if values.size <= len(first) else f"{first}… ({values.size} values)"
