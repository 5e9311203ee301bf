"""HDF5 read with suspicion: nothing outside the file is opened, and no claimed size is believed.

Links that are not hard, virtual datasets and external storage are refused, since each may lead to another file.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError

MAX_BYTES = 1 << 27
"""Largest field that is read whole; only the measurement data may be larger."""
MAX_STRINGS = 1000
MAX_HEAP_OBJECTS = 1 << 16
MAX_EXPANSION = 100
"""Largest ratio of a compressed array to its file; receiver signals compress by less than 3."""
MAX_DEPTH = 8
MAX_NODES = 10_000

_COMPLEX_NAMES = (("r", "i"), ("re", "im"), ("real", "imag"), ("real", "imaginary"))

_LIBRARY_ERRORS = (
    struct.error,
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    MemoryError,
)


class FieldError(DataError):
    """One field breaks a rule, or several do.

    Attributes:
        field: its path in the file.
        rule: the message without file and field.
        reasons: field and rule of all, this one first.
    """

    def __init__(self, path: Path, field: str, rule: str, others: Sequence[tuple[str, str]] = ()) -> None:
        self.field, self.rule = field, rule
        self.reasons = ((field, rule), *others)
        super().__init__(f"{path}: {'; '.join(f'{name}: {broken}' for name, broken in self.reasons)}")


@dataclass(frozen=True)
class Node:
    """An object in a file; `refused` stands for a link that leads elsewhere or nowhere."""

    path: str
    kind: Literal["group", "dataset", "refused"]
    attributes: int


@dataclass(frozen=True)
class Layout:
    """How a dataset is stored.

    Attributes:
        parts: names of real and imaginary part, where they are not r and i.
    """

    dtype: np.dtype[Any]
    is_text: bool
    shape: tuple[int, ...]
    chunked: bool
    parts: tuple[str, ...] = ()


class Hdf5File:
    """An open file of unknown origin, used as a context manager; any failure to read it is a DataError."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.size = 0
        self._nodes: dict[str, Any] = {}

    def __enter__(self) -> "Hdf5File":
        try:
            if not self.path.is_file():
                problem = "is not a regular file" if self.path.exists() else "does not exist"
                raise DataError(f"{self.path}: {problem}")
            self.size = self.path.stat().st_size
            self._file = h5py.File(self.path, "r")
        except _LIBRARY_ERRORS as error:
            raise DataError(f"{self.path}: is not a readable HDF5 file ({_one_line(error)})") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._nodes.clear()
        self._file.close()

    def fault(self, field: str, rule: str) -> FieldError:
        return FieldError(self.path, field, rule)

    def find(self, field: str) -> h5py.Dataset | None:
        """The dataset at `field`, or None where there is none.

        Raises:
            FieldError: what is there is not a dataset whose values lie in this file.
        """
        with self._guard(field):
            node = self._node(field.strip("/"), field)
            if node is None:
                return None
            if not isinstance(node, h5py.Dataset):
                raise self.fault(field, "must be a dataset, is a group or a type")
            if node.is_virtual or node.external:
                raise self.fault(field, "must hold its values in this file, refers to another one")
            return node

    def _node(self, path: str, field: str) -> Any:
        """The object at `path`, on the way to `field` or there; opening one costs more than reading a small one."""
        if not path:
            return self._file
        if path not in self._nodes:
            above, _, name = path.rpartition("/")
            parent = self._node(above, field)
            if parent is None:
                return None
            if not isinstance(parent, h5py.Group):
                raise self.fault(field, "must not lie below a dataset")
            if not parent.id.links.exists(name.encode()):
                return None
            self._nodes[path] = self._child(parent, name, field)
        return self._nodes[path]

    def require(self, field: str) -> h5py.Dataset:
        dataset = self.find(field)
        if dataset is None:
            raise self.fault(field, "is missing")
        return dataset

    def read(self, field: str) -> NDArray[Any]:
        """A small field as an array; text has dtype object and holds `str`.

        Raises:
            FieldError: missing, neither number nor text, or larger than MAX_BYTES.
        """
        dataset = self.require(field)
        with self._guard(field):
            dtype, shape = numeric(dataset.dtype), dataset.shape
            is_text = h5py.check_string_dtype(dtype) is not None
            if shape is None or not (is_text or dtype.kind in "biufc"):
                raise self.fault(field, f"must hold numbers or text, has type {'empty' if shape is None else dtype}")
            if self._claimed(dataset, field) > MAX_BYTES or (is_text and math.prod(shape) > MAX_STRINGS):
                raise self.fault(field, f"shape {shape} of {dtype} is larger than allowed here ({MAX_BYTES} bytes)")
            if is_text:
                return self._texts(dataset, field)
            return np.asarray(dataset[()]).view(dtype)

    def read_large(self, field: str) -> NDArray[Any]:
        """A number array of any size: memory-mapped (read-only) if it lies contiguous and plain in the file, else read.

        Raises:
            FieldError: missing, no numbers, or more than the file can hold.
        """
        dataset = self.require(field)
        with self._guard(field):
            dtype, shape = numeric(dataset.dtype), dataset.shape
            if not shape or 0 in shape or dtype.kind not in "iufc":
                raise self.fault(field, f"must be a non-empty array of numbers, is {dtype} of shape {shape}")
            nbytes = self._claimed(dataset, field)
            if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
                return np.asarray(dataset[()]).view(dtype)
            offset = dataset.id.get_offset()
            if offset is None or offset + nbytes > self.size:
                raise self.fault(field, f"needs {nbytes} bytes at offset {offset}, the file has {self.size}")
            if not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype.newbyteorder("="))):
                return np.asarray(dataset[()]).view(dtype)
            return np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=shape)

    def _claimed(self, dataset: h5py.Dataset, field: str) -> int:
        """The bytes that reading takes, once they are known to be in proportion to the file."""
        chunks = dataset.chunks or ()
        nbytes = max(math.prod(dataset.shape), math.prod(chunks)) * dataset.dtype.itemsize
        if nbytes > self.size * (MAX_EXPANSION if chunks else 1):
            raise self.fault(field, f"shape {dataset.shape} claims {nbytes} bytes, the file has {self.size}")
        return nbytes

    def _texts(self, dataset: h5py.Dataset, field: str) -> NDArray[Any]:
        if h5py.check_string_dtype(dataset.dtype).length is not None:
            return np.asarray(dataset.asstr()[()], dtype=object)
        return np.array(self._heap_texts(dataset, field), dtype=object).reshape(dataset.shape)

    def _heap_texts(self, dataset: h5py.Dataset, field: str) -> list[str]:
        """Text of variable length, read past the library, which hangs or allocates 4 GiB on a damaged heap.

        Each element is stored as its length, and the address of a global heap with the index of an object there.
        """
        count, offset = math.prod(dataset.shape), dataset.id.get_offset()
        if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
            raise self.fault(field, "must be contiguous, being text of variable length")
        if offset is None:
            return [""] * count
        if dataset.id.get_storage_size() != 16 * count:
            raise self.fault(field, "must have references of 16 bytes, being text of variable length")
        with self.path.open("rb") as raw:
            raw.seek(offset)
            references = [struct.unpack("<IQI", raw.read(16)) for _ in range(count)]
            base = self._file.userblock_size
            return [_heap_text(raw, base + address, index, length) for length, address, index in references]

    def layout(self, field: str) -> "Layout":
        """Type, shape and storage of a dataset; nothing of its values is read."""
        dataset = self.require(field)
        with self._guard(field):
            is_text = h5py.check_string_dtype(dataset.dtype) is not None
            dtype = numeric(dataset.dtype)
            parts = (dataset.dtype.names or ()) if dtype.kind == "c" else ()
            return Layout(dtype, is_text, dataset.shape or (), dataset.chunks is not None, parts)

    def walk(self, begin: str = "") -> Iterator["Node"]:
        """The object at `begin`, by default the root, and everything below it, depth first; nothing where none is.

        Raises:
            FieldError: more or deeper objects than any MDF file has.
        """
        try:
            with self._guard(begin):
                first = self._node(begin.strip("/"), begin)
        except FieldError:
            yield Node(begin, "refused", 0)
            return
        pending = [] if first is None else [(begin, first)]
        seen = 0
        while pending:
            prefix, node = pending.pop()
            path = prefix or "/"
            if node is None:
                yield Node(path, "refused", 0)
                continue
            is_group = isinstance(node, h5py.Group)
            with self._guard(path):
                attributes, names = len(node.attrs), list(node) if is_group else []
            yield Node(path, "group" if is_group else "dataset", attributes)
            seen += len(names)
            if seen > MAX_NODES or path.count("/") > MAX_DEPTH:
                raise self.fault(path, f"nested deeper than {MAX_DEPTH} levels or beyond {MAX_NODES} objects")
            for name in reversed(names):
                child = f"{prefix}/{name if _is_legible(name) else ascii(name)}"
                pending.append((child, self._child_or_none(node, name, child)))

    def _child_or_none(self, group: h5py.Group, name: str | bytes, field: str) -> Any:
        if isinstance(name, bytes) or not _is_legible(name):
            return None
        try:
            with self._guard(field):
                node = self._nodes[field.strip("/")] = self._child(group, name, field)
                return node
        except FieldError:
            return None

    def _child(self, group: h5py.Group, name: str, field: str) -> Any:
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise self.fault(field, f"must lie in this file, but {name!r} is a soft or external link")
        return group[name]

    @contextmanager
    def _guard(self, field: str) -> Iterator[None]:
        try:
            yield
        except _LIBRARY_ERRORS as error:
            raise FieldError(self.path, field, f"cannot be read ({_one_line(error)})") from error


def numeric(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The complex type that a pair of floats under another name than (r, i) stands for; any other type as it is."""
    if tuple(name.lower() for name in dtype.names or ()) not in _COMPLEX_NAMES or dtype.fields is None:
        return dtype
    (real, first), (imaginary, second) = (dtype.fields[name][:2] for name in dtype.names or ())
    plain = real.kind == "f" and real == imaginary and real.itemsize in (4, 8)
    if not plain or (first, second, dtype.itemsize) != (0, real.itemsize, 2 * real.itemsize):
        return dtype
    return np.dtype(f"c{dtype.itemsize}").newbyteorder(real.byteorder)


def _heap_text(raw: BinaryIO, address: int, index: int, length: int) -> str:
    """Object `index` of the global heap at `address` (HDF5 file format, III.E)."""
    if length == 0:
        return ""
    raw.seek(address)
    signature, size = struct.unpack("<4s4xQ", raw.read(16))
    if signature != b"GCOL":
        raise ValueError("its text does not lie in a heap")
    position, end = address + 16, address + size
    for _ in range(MAX_HEAP_OBJECTS):
        if position + 16 + length > end:
            break
        raw.seek(position)
        found, stored = struct.unpack("<H6xQ", raw.read(16))
        if found == index and length <= stored:
            return raw.read(min(length, MAX_BYTES)).split(b"\0")[0].decode()
        position += 16 + (stored + 7) // 8 * 8
    raise ValueError("its text is not in the heap where it should be")


def _is_legible(name: str | bytes) -> bool:
    """A damaged name may be no UTF-8, or hold line breaks."""
    return isinstance(name, str) and name.isprintable()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
