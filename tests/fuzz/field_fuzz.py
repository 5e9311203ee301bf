"""Files with wrong fields for the readers, a million of them: `python field_fuzz.py INPUTS SEED`.

A file is a mapping of fields in memory. Each one is the same truth written in some allowed ways, in which up to three
fields are then changed: value, type, shape, or gone. A reader may refuse it with an InputError, or read it: then every
value has to be what `expected` makes of the same fields by the standard's own words, in loops, with nothing of the
reader's code. One file in 50 is put into real HDF5 bytes, some of which are changed too.

Anything else ends the process: another exception, a signal, 20 processor seconds for one file, or more than 3 GiB.

Shapes: C receive channels, K frequencies, F frames, N foreground frames.
"""

import json
import math
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np

from sm_search.config.errors import InputError
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.data import mdf_provenance, mdf_reading, mdf_validation, measurement
from sm_search.data.hdf5 import Hdf5File, Layout, Node
from sm_search.data.mdf import write_mdf
from sm_search.physics.system_matrix import SystemMatrix

Fields = dict[str, Any]
MEMORY, SECONDS, MAX_MESSAGE = 3 << 30, 20, 3000
SIZE, ND, ORDERS = (3, 2), 4, ((0, 1), (1, 0), (1, 1), (2, 1))
VOXELS, BACKGROUND = SIZE[0] * SIZE[1], 3
DRIVE, RECEIVER, DATA = "/acquisition/drivefield", "/acquisition/receiver", "/measurement/data"
BYTES_EVERY, RULES_EVERY = 50, 10


class InMemory(Hdf5File):
    """Fields as `Hdf5File` gives those of a file; that itself of a path."""

    def __new__(cls, source: Any) -> Any:
        return super().__new__(cls) if isinstance(source, dict) else Hdf5File(source)

    def __init__(self, fields: Fields) -> None:
        super().__init__("memory")
        self.fields = fields

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def find(self, field: str) -> Any:
        return self.fields.get(field)

    def read(self, field: str) -> Any:
        values = self.require(field)
        if values.dtype.kind not in "biufcO":
            raise self.fault(field, "must hold numbers or text")
        return values

    def read_large(self, field: str) -> Any:
        values = self.require(field)
        if values.dtype.kind not in "iufc" or 0 in values.shape or not values.shape:
            raise self.fault(field, "must be a non-empty array of numbers")
        return values

    def layout(self, field: str) -> Layout:
        values = self.require(field)
        return Layout(values.dtype, values.dtype.kind == "O", values.shape, False)

    def walk(self, begin: str = "") -> Iterator[Node]:
        paths = [path for path in self.fields if path.startswith(begin)]
        groups = {path[:at] for path in paths for at in range(1, len(path)) if path[at] == "/"}
        yield from (Node(path, "group", 0) for path in sorted(groups))
        yield from (Node(path, "dataset", 0) for path in paths)


def original(folder: Path) -> Fields:
    """A good file: two channels, four components, six voxels and three background frames."""
    random = np.random.default_rng(7)

    def values(*shape: int) -> Any:
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    field = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    grid = Grid(size=SIZE, fov_mm=(30.0, 20.0))
    frames = values(2, len(ORDERS), VOXELS), values(2, len(ORDERS), BACKGROUND)
    sm = SystemMatrix(frames[0], ORDERS, grid, field, 25e3, ND, unit="V", background_CKE=0.1 * frames[1])
    path = folder / "original.mdf"
    write_mdf(path, sm, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    fields: Fields = {}

    def keep(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            text = h5py.check_string_dtype(node.dtype)
            fields[f"/{name}"] = np.asarray(node.asstr()[()], dtype=object) if text else np.asarray(node[()])

    with h5py.File(path) as h5:
        h5.visititems(keep)
    del fields["/calibration/_mixingOrders"]
    fields["/calibration/snr"] = np.ones((1, 2, len(ORDERS)))  # computing one takes longer than all else
    return fields


# Ways in which the standard lets the same be written ---------------------------------------------------------------


def sorted_frequencies(fields: Fields, random: np.random.Generator) -> None:
    order = random.permutation(len(ORDERS))
    fields["/measurement/frequencySelection"] = fields["/measurement/frequencySelection"][order]
    fields[DATA] = fields[DATA][:, :, order]


def slow_frames(fields: Fields, random: np.random.Generator) -> None:
    fields[DATA] = np.moveaxis(fields[DATA], -1, 0)
    del fields["/measurement/isFastFrameAxis"]
    fields[f"/measurement/{random.choice(['isFastFrameAxis', 'isTransposed'])}"] = np.array(0, np.int8)


def mixed_background(fields: Fields, random: np.random.Generator) -> None:
    """Background among the foreground frames, which keep their order."""
    is_background = fields["/measurement/isBackgroundFrame"]
    place = np.sort(random.permutation(len(is_background))[:BACKGROUND])
    order = np.insert(np.arange(VOXELS), place - np.arange(BACKGROUND), np.arange(VOXELS, VOXELS + BACKGROUND))
    fields[DATA] = fields[DATA][..., order]
    fields["/measurement/isBackgroundFrame"] = is_background[order]


def faster_y(fields: Fields, random: np.random.Generator) -> None:
    """The higher drive frequency along y, other gradients and drives along x than along y, and common factors."""
    common = int(random.integers(1, 7))
    fields[f"{DRIVE}/divider"] = common * np.array([[ND + 1], [ND]])
    fields[f"{DRIVE}/baseFrequency"] = common * fields[f"{DRIVE}/baseFrequency"]
    fields["/acquisition/gradient"] = np.diag([-0.1, -0.15, 0.25])[None, None]
    fields[f"{DRIVE}/strength"] = np.array([[[0.002], [0.003]]])


def planes(fields: Fields, random: np.random.Generator) -> None:
    """The same voxels as a volume of two planes of a row each."""
    fields["/calibration/size"] = np.array([SIZE[0], 1, SIZE[1]])
    fields["/calibration/fieldOfView"] = np.array([0.03, 0.01, 0.02])


def shifted(fields: Fields, random: np.random.Generator) -> None:
    """An offset field, and the grid in x and y around the field-free point where it moves that."""
    point = 0.01 * random.normal(size=3)
    fields["/acquisition/offsetField"] = -np.diag(fields["/acquisition/gradient"].reshape(3, 3)) * point
    fields["/calibration/fieldOfViewCenter"] = point + np.array([0, 0, 0.01 * random.normal()])


def positions(fields: Fields, random: np.random.Generator) -> None:
    order = random.permutation(VOXELS)
    frames = np.concatenate((order, np.arange(VOXELS, VOXELS + BACKGROUND)))
    fields[DATA] = fields[DATA][..., frames]
    n_x, n_y, n_z = size = fields["/calibration/size"]
    at = np.stack([order % n_x, order // n_x % n_y, order // n_x // n_y], axis=1) - (size - 1) / 2
    step = [0.01, 0.01, 0.01 if n_z > 1 else 0.0]
    centre = fields["/calibration/fieldOfViewCenter"]
    fields["/calibration/positions"] = at * step + centre + 1e-4 * random.normal(size=(VOXELS, 3))


def meander(fields: Fields, random: np.random.Generator) -> None:
    way = [*walk(*fields["/calibration/size"].tolist()), *range(VOXELS, VOXELS + BACKGROUND)]
    fields[DATA] = fields[DATA][..., way]
    fields["/calibration/isMeanderingGrid"] = np.array(1, np.int8)


def walk(size_x: int, size_y: int, size_z: int) -> Iterator[int]:
    """The voxels as a robot meets them that goes back and forth along x, y and z."""
    for z in range(size_z):
        for row in range(size_y):
            y = row if z % 2 == 0 else size_y - 1 - row
            for step in range(size_x):
                yield (z * size_y + y) * size_x + (step if (row + z) % 2 == 0 else size_x - 1 - step)


def conversion(fields: Fields, random: np.random.Generator) -> None:
    a = random.uniform(0.5, 500, (2, 1))
    fields[DATA] = fields[DATA] / a.reshape(1, 2, 1, 1)
    fields[f"{RECEIVER}/dataConversionFactor"] = np.concatenate((a, random.normal(size=(2, 1))), axis=1)


def transfer_function(fields: Fields, random: np.random.Generator) -> None:
    a_CK = random.uniform(1, 2, (2, len(ORDERS))) * np.exp(1j * random.uniform(0, 6, (2, len(ORDERS))))
    fields[DATA] = fields[DATA] * a_CK[None, :, :, None]
    fields[f"{RECEIVER}/transferFunction"] = a_CK


def corrected(fields: Fields, random: np.random.Generator) -> None:
    fields[f"{RECEIVER}/transferFunction"] = random.uniform(1, 2, (2, len(ORDERS))) + 0j
    fields["/measurement/isTransferFunctionCorrected"] = np.array(1, np.int8)
    fields["/measurement/isBackgroundCorrected"] = np.array(int(random.integers(2)), np.int8)


def single_precision(fields: Fields, random: np.random.Generator) -> None:
    fields[DATA] = fields[DATA].astype(np.complex64)
    for name in ("/calibration/fieldOfView", "/acquisition/gradient", f"{DRIVE}/strength", f"{DRIVE}/phase"):
        fields[name] = fields[name].astype(np.float32)


def three_drives(fields: Fields, random: np.random.Generator) -> None:
    fields[f"{DRIVE}/divider"] = np.append(fields[f"{DRIVE}/divider"], [[int(random.integers(1, 9))]], axis=0)
    fields[f"{DRIVE}/strength"] = np.append(fields[f"{DRIVE}/strength"].ravel(), 0.0).reshape(1, 3, 1)
    fields[f"{DRIVE}/phase"] = np.full((1, 3, 1), math.pi / 2)


def grouped_periods(fields: Fields, random: np.random.Generator) -> None:
    """Twice the period: every other component lies between the drive's harmonics."""
    data = fields[DATA]
    stored = np.full((1, 2, 2 * len(ORDERS), data.shape[3]), 99.0 + 0j)
    stored[:, :, ::2] = data
    index = 2 * (fields["/measurement/frequencySelection"] - 1)
    fields[DATA], fields["/measurement/frequencySelection"] = stored, np.stack([index, index + 1], axis=1).ravel() + 1
    fields[f"{DRIVE}/cycle"] = 2 * fields[f"{DRIVE}/cycle"]
    fields[f"{RECEIVER}/numSamplingPoints"] = 2 * fields[f"{RECEIVER}/numSamplingPoints"]


def named_channels(fields: Fields, random: np.random.Generator) -> None:
    fields[DATA] = fields[DATA][:, ::-1]
    fields[f"{RECEIVER}/_channels"] = np.array(["y", "x"], dtype=object)


# Of one group, one alone is possible; they come in this order.
WAYS: tuple[tuple[Callable[[Fields, np.random.Generator], None], ...], ...] = (
    (faster_y,),
    (planes, shifted),
    (conversion, transfer_function, corrected),
    (named_channels, grouped_periods, sorted_frequencies),
    (positions, meander, mixed_background),
    (three_drives,),
    (single_precision, slow_frames),
)

# Damage ------------------------------------------------------------------------------------------------------------

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    1e-300,
    1e308,
    -0.0,
    0.001,
    1e-9,
    25e3,
    2**31,
    2**62,
    -(2**63),
    math.nan,
    math.inf,
    -math.inf,
)
TYPES = ("i1", "u1", "i4", "i8", "u8", "f4", "f8", ">f8", "c8", "c16", "?")
TEXTS = (
    "",
    "sine",
    "triangle",
    "V",
    "a.u.",
    "xyz",
    "zyx",
    "FFP",
    "FFL",
    "2.0",
    "1.0.4",
    "2.1.0",
    "yesterday",
    "x",
    "ü",
)
EXTRA = (
    "/acquisition/offsetField",
    "/calibration/offsetFields",
    "/calibration/positions",
    "/calibration/isMeanderingGrid",
    "/calibration/snr",
    "/calibration/_mixingOrders",
    f"{RECEIVER}/dataConversionFactor",
    f"{RECEIVER}/inductionFactor",
    f"{RECEIVER}/transferFunction",
    f"{RECEIVER}/_channels",
    "/measurement/framePermutation",
    "/measurement/isTransposed",
    "/measurement/_x",
)


def damage(fields: Fields, random: np.random.Generator) -> None:
    """One field changed."""
    how = random.choice(["delete", "number", "element", "scale", "type", "shape", "text", "flag", "of another", "new"])
    names = list(EXTRA) if how == "new" else [name for name in fields if not name.startswith(("/study", "/scanner/_"))]
    if how == "flag":
        names = [name for name in names if "/is" in name] or names
    name = names[int(random.integers(len(names)))]
    values = fields.get(name, np.array(0.0))
    with np.errstate(all="ignore"):
        fields[name] = changed(values, how, fields, random)
    if how == "delete":
        del fields[name]


def changed(values: Any, how: str, fields: Fields, random: np.random.Generator) -> Any:
    number = NUMBERS[int(random.integers(len(NUMBERS)))]
    if how == "text" or (how == "element" and values.dtype.kind == "O"):
        return np.full(values.shape, TEXTS[int(random.integers(len(TEXTS)))], dtype=object)
    if how == "of another":
        return fields[list(fields)[int(random.integers(len(fields)))]]
    if how == "new":
        shape = [(), (2,), (VOXELS,), (2, 2), (VOXELS, 3), (1, 1, 3), (2, len(ORDERS)), (0,)][int(random.integers(8))]
        return np.full(shape, number) if random.random() < 0.5 else random.normal(size=shape)
    if how == "flag":
        return np.array(int(random.integers(3)), np.int8)
    if how == "shape":
        flat = values.ravel()
        return (
            [flat, flat[:-1], np.append(flat, flat[:1]), values.T, values[None], values[..., :0]][
                int(random.integers(6))
            ]
            if values.shape
            else values[None]
        )
    if values.dtype.kind == "O":
        return values
    if how == "type":
        return values.astype(TYPES[int(random.integers(len(TYPES)))])
    if how == "scale":
        return values * np.asarray([2, 0.5, -1, 1.0005, 1.01, 1e-3, 1e3][int(random.integers(7))])
    if how == "number":
        return np.full(values.shape, number)
    if how == "element" and values.size:
        copy = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
        copy.reshape(-1)[int(random.integers(copy.size))] = number
        integral = values.dtype.kind in "iub" and np.isfinite(copy).all() and np.abs(copy).max() < 2**62
        return copy.astype(np.int64) if integral else copy
    return values


# What the file says, by the standard's words -----------------------------------------------------------------------


def expected(fields: Fields) -> dict[tuple[int, int, int], tuple[complex, float]]:
    """Each value by receive channel, harmonic and voxel, with the size of what it is the difference of; channel and
    voxel where they are if x is the axis of the faster drive."""

    def one(name: str, default: Any = None) -> Any:
        return fields[name].ravel()[0] if name in fields and fields[name].size else default

    fast = one("/measurement/isFastFrameAxis", one("/measurement/isTransposed", 0))
    data = fields[DATA] if fast else np.moveaxis(fields[DATA], 0, -1)
    _, channels, components, frames = data.shape
    background = [bool(flag) for flag in fields["/measurement/isBackgroundFrame"].ravel()]
    fourier, selected = one("/measurement/isFourierTransformed"), one("/measurement/isFrequencySelection")
    if not fourier:
        data = np.fft.rfft(data.astype(float), axis=2)
        components = data.shape[2]
    index = (
        [int(k) - 1 for k in fields["/measurement/frequencySelection"].ravel()] if selected else [*range(components)]
    )
    samples = one(f"{RECEIVER}/numSamplingPoints", 0)
    factor = fields.get(f"{RECEIVER}/dataConversionFactor")
    a_C, b_C = factor.reshape(-1, 2).T if factor is not None else (np.ones(channels), np.zeros(channels))
    transfer = fields.get(f"{RECEIVER}/transferFunction", fields.get(f"{RECEIVER}/transferfunction"))
    divide = transfer is not None and not one("/measurement/isTransferFunctionCorrected", 0)
    subtract = any(background) and not one("/measurement/isBackgroundCorrected", 0)
    voxel = voxels_of(fields, [place for place in range(frames) if not background[place]])
    if y_is_faster(fields):
        n_x, n_y = (int(n) for n in fields["/calibration/size"].ravel()[:2])
        voxel = [n // (n_x * n_y) * n_x * n_y + n % n_x * n_y + n // n_x % n_y for n in voxel]
    names = [*"xyz"]
    if f"{RECEIVER}/_channels" in fields:
        names = [str(name) for name in fields[f"{RECEIVER}/_channels"].ravel()]
    periods = 1
    if f"{DRIVE}/cycle" in fields:
        dividers = [int(value) for value in fields[f"{DRIVE}/divider"].ravel()[:2]]
        periods = round(float(one(f"{DRIVE}/cycle")) * float(one(f"{DRIVE}/baseFrequency")) / math.lcm(*dividers))
    found: dict[tuple[int, int, int], tuple[complex, float]] = {}
    for channel in range(channels):
        row = ("yxz" if y_is_faster(fields) else "xyz").index(names[channel])
        for at, k in enumerate(index):
            if k % periods:
                continue
            line = [
                float(a_C[channel]) * complex(value) + (float(b_C[channel]) * samples if k == 0 else 0)
                for value in data[0, channel, at]
            ]
            if divide:
                a = complex(transfer.reshape(channels, components)[channel, at])
                line = [value / a if a or k else value for value in line]
            empty = [line[place] for place in range(frames) if background[place]]
            mean = sum(empty) / len(empty) if subtract else 0
            signals = [line[place] - mean for place in range(frames) if not background[place]]
            size = max(abs(value) for value in line)
            found |= {(row, k // periods, voxel[n]): (value, size) for n, value in enumerate(signals)}
    return found


def y_is_faster(fields: Fields) -> bool:
    """A divider divides the base frequency."""
    of_x, of_y = (int(value) for value in fields[f"{DRIVE}/divider"].ravel()[:2])
    return of_y < of_x


def voxels_of(fields: Fields, foreground: list[int]) -> list[int]:
    """The voxel of each foreground frame in the order stored."""
    count = len(foreground)
    size = [int(n) for n in fields["/calibration/size"].ravel()]
    permuted = "/measurement/isFramePermutation" in fields and fields["/measurement/isFramePermutation"].ravel()[0]
    if "/calibration/positions" in fields:
        fov = [float(value) for value in fields["/calibration/fieldOfView"].ravel()]
        centre = fields.get("/calibration/fieldOfViewCenter", np.zeros(3)).ravel().tolist()
        found = []
        for position in fields["/calibration/positions"].reshape(-1, 3).tolist():
            index = [
                round((position[axis] - centre[axis] + fov[axis] / 2) / (fov[axis] / size[axis]) - 0.5)
                if size[axis] > 1
                else 0
                for axis in range(3)
            ]
            found.append((index[2] * size[1] + index[1]) * size[0] + index[0])
        place = fields.get("/measurement/framePermutation")
        if permuted:
            when = [int(p) for p in (place.ravel() if place is not None else range(max(foreground) + 1))]
            times = sorted(when[frame] for frame in foreground)
            if [found[times.index(when[frame])] for frame in foreground] == [*range(count)]:
                return [*range(count)]
        return found
    meandering = fields.get("/calibration/isMeanderingGrid")
    if meandering is not None and meandering.ravel()[0] == 1 and not permuted:
        return [*walk(*size)]
    return [*range(count)]


def places_of(fields: Fields) -> tuple[list[float], list[float], float]:
    """The heights of the planes, the field-free point, and how far each may be off."""
    size, fov = fields["/calibration/size"].ravel(), fields["/calibration/fieldOfView"].ravel().astype(float)
    gradient = fields["/acquisition/gradient"].astype(float)
    g = np.diag(gradient.reshape(3, 3)) if gradient.size == 9 else gradient.ravel()
    b = fields.get("/acquisition/offsetField", np.zeros(3)).ravel().astype(float)
    strength = float(np.abs(fields[f"{DRIVE}/strength"]).max())
    point = [-b[axis] / g[axis] for axis in range(3)] if b.size == 3 else [0.0] * 3
    centre = fields.get("/calibration/fieldOfViewCenter", np.zeros(3)).ravel().astype(float)
    count, step = int(size[2]), fov[2] / int(size[2])
    heights = [float(centre[2] - point[2] + (at - (count - 1) / 2) * step) for at in range(count)]
    return heights, point, 1e-3 * (2 * float(np.abs(fov[:2]).max()) + strength / float(np.abs(g).min()))


def require_equal(sm: SystemMatrix, fields: Fields) -> None:
    """The matrix is what the fields say."""
    found = expected(fields)
    nd = sm.nd
    for channel, values_KN in enumerate(sm.values_CKN):
        for (m_x, m_y), values_N in zip(sm.mixing_orders, values_KN, strict=True):
            k = m_x * (nd + 1) + m_y * nd
            for n, value in enumerate(values_N.tolist()):
                wanted, size = found[channel, k, n]
                if not abs(value - wanted) <= 1e-9 * size:
                    raise RuntimeError(f"channel {channel}, ({m_x}, {m_y}), voxel {n}: read {value}, is {wanted}")
    base, y_first = float(fields[f"{DRIVE}/baseFrequency"].ravel()[0]), y_is_faster(fields)
    divider_x, divider_y = (int(value) for value in fields[f"{DRIVE}/divider"].ravel()[:2])
    if sm.axes != ("yxz" if y_first else "xyz"):
        raise RuntimeError(f"axes: read {sm.axes}, dividers {divider_x}, {divider_y}")
    gradient = fields["/acquisition/gradient"].astype(float)
    x, y = (gradient.reshape(3, 3)[i, i] for i in (0, 1)) if gradient.size == 9 else gradient.ravel()[:2]
    for name, read, says in (
        ("frequencies", (sm.fx_hz, sm.fx_hz * nd / (nd + 1)), (base / divider_x, base / divider_y)),
        ("gradient", sm.field.gradients_t_per_m, (-x, -y)),
        ("drive", sm.field.drives_t, fields[f"{DRIVE}/strength"].ravel()[:2]),
        ("size", sm.grid.size, fields["/calibration/size"].ravel()[:2]),
        ("field of view", sm.grid.fov_m, fields["/calibration/fieldOfView"].ravel()[:2]),
    ):
        along_x, along_y = says
        if not np.allclose(read, [along_y, along_x] if y_first else [along_x, along_y], rtol=1e-6, atol=0):
            raise RuntimeError(f"{name}: read {read}, is {says}")
    heights, point, slack = places_of(fields)
    point = [point[1], point[0], point[2]] if y_first else point
    for name, read, says in (("heights", sm.heights_m, heights), ("field-free point", sm.origin_m, point)):
        if len(read) != len(says) or not np.allclose(read, says, rtol=1e-6, atol=slack):
            raise RuntimeError(f"{name}: read {read}, is {says}")


# The run -----------------------------------------------------------------------------------------------------------


def refused(read: Callable[[], object]) -> bool:
    """Whether a reader refuses its file, in one line; anything else than that and a result is raised."""
    try:
        read()
    except InputError as error:
        if not str(error).isprintable() or len(str(error)) > MAX_MESSAGE:
            raise RuntimeError(f"not one short line: {str(error)[:500]!r}") from error
        return True
    return False


def as_file(fields: Fields, random: np.random.Generator) -> bytes:
    """The fields as HDF5, with some of its bytes changed in every other file."""
    with h5py.File("image", "w", driver="core", backing_store=False) as h5:
        for name, values in fields.items():
            if values.dtype.kind == "O":
                h5.create_dataset(name, data=values, dtype=h5py.string_dtype())
            else:
                h5.create_dataset(name, data=values)
        h5.flush()
        content = bytearray(h5.id.get_file_image())
    if random.random() < 0.5:
        for _ in range(int(random.integers(1, 5))):
            at = int(random.integers(len(content)))
            content[at : at + 1] = random.bytes(int(random.integers(1, 3)))[: max(1, int(random.integers(3)))]
    return bytes(content)


def one_file(fields: Fields, number: int, random: np.random.Generator, target: Path, outcomes: Counter[str]) -> None:
    for group in WAYS:
        if random.random() < 0.4:
            group[int(random.integers(len(group)))](fields, random)
    for _ in range(int(random.integers(4))):
        damage(fields, random)
    source: Any = fields
    if number % BYTES_EVERY == 0:
        target.write_bytes(as_file(fields, random))
        source = target

    def checked() -> None:
        sm = mdf_reading.read_mdf(source)
        if source is fields:
            require_equal(sm, fields)

    kind = "fields" if source is fields else "HDF5"
    outcomes[f"{kind} {'refused' if refused(checked) else 'read'}"] += 1
    refused(lambda: mdf_provenance.read_provenance(source))
    if number % RULES_EVERY == 1:
        signal_only: Any = {name: values for name, values in fields.items() if not name.startswith("/calibration")}
        refused(lambda: measurement.read_measurement(signal_only))
    if number % RULES_EVERY == 0:
        for fault in mdf_validation.validate_mdf(source):
            if not fault.message.isprintable():
                raise RuntimeError(f"not one line: {fault.message!r}")


def run(inputs: int, seed: int) -> Counter[str]:
    """Read so many files; how many were read and refused.

    Raises:
        RuntimeError: a file was read wrongly, with the number of the file behind it.
    """
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of casts of ours
        first = original(Path(folder))
        for module in (mdf_provenance, mdf_reading, mdf_validation, measurement):
            stack.enter_context(patch.object(module, "Hdf5File", InMemory))
        for number in range(inputs):
            random = np.random.default_rng([seed, number])
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                one_file(dict(first), number, random, Path(folder) / "a.mdf", outcomes)
            except BaseException:
                print(f"seed {seed}, file {number}", file=sys.stderr)
                raise
    signal.setitimer(signal.ITIMER_PROF, 0)
    return outcomes


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
