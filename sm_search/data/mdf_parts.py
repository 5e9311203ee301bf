"""The parts that calibration and measurement files share, read leniently: ours and those of other programs.

What a file says and what is not served is refused, not passed over; docs/measured.md says which is which.

Shapes: K frequencies, D drive channels.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sm_search.config.base import Settings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import AGREEMENT, FieldSettings
from sm_search.data.hdf5 import FieldError, Hdf5File

MAX_ND = 100_000
BANDWIDTH_TOLERANCE = 0.01
"""The receiver's bandwidth is often rounded; what follows from it and from the cycle may differ by this share."""
_MAX_INDEX = 1 << 40
_BLOCK_BYTES = 1 << 24
_DRIVE, _RECEIVER = "/acquisition/drivefield", "/acquisition/receiver"

_SettingsT = TypeVar("_SettingsT", bound=Settings)


@dataclass(frozen=True)
class Trajectory:
    """A 2-D Lissajous drive.

    Attributes:
        fx_hz: the higher drive frequency.
        periods: Lissajous periods in a `cycle` of the file, whose frequency index counts 1/cycle.
        axes: along which the faster and the slower drive are, as in `SystemMatrix`.
    """

    nd: int
    fx_hz: float
    periods: int
    axes: str


def all_reasons(file: Hdf5File, first: FieldError, checks: Iterable[Callable[[Hdf5File], object]]) -> FieldError:
    """One error that names `first` and whatever else the checks find in the file."""
    found = dict.fromkeys(first.reasons)
    for check in checks:
        try:
            check(file)
        except FieldError as error:
            found |= dict.fromkeys(error.reasons)
    return FieldError(file.path, first.field, first.rule, list(found)[1:])


def require_version(file: Hdf5File) -> None:
    """MDF 2.x; a file without version is taken at its fields' word."""
    if file.find("/version") is None:
        return
    version = text(file, "/version")
    if not version.startswith("2."):
        raise file.fault("/version", f"{version!r}: must be 2.x; MPIFiles.jl converts older files (saveasMDF)")


def lissajous(file: Hdf5File) -> Trajectory:
    """N_d, f_x and the periods in a cycle; both drive channels must be cosines, a third one silent."""
    base_hz = float(numbers(file, f"{_DRIVE}/baseFrequency", "f", 1)[0])
    divider_x, divider_y = (int(value) for value in _in_plane(file, "divider", "i"))
    faster, slower = sorted((divider_x, divider_y))
    common = math.gcd(faster, slower)
    if not (0 < common == slower - faster and 0 < faster <= common * MAX_ND):
        rule = f"{divider_x}, {divider_y}: must be as N_d : N_d+1 or N_d+1 : N_d, N_d at most {MAX_ND}"
        raise file.fault(f"{_DRIVE}/divider", rule)
    if not 0 < base_hz < math.inf:
        raise file.fault(f"{_DRIVE}/baseFrequency", f"{base_hz!r}: must be positive")
    phase = _in_plane(file, "phase", "f")
    if np.any(np.abs(np.exp(1j * phase) - 1j) > AGREEMENT):
        raise file.fault(f"{_DRIVE}/phase", f"{phase.tolist()}: must be π/2, a cosine, on both channels")
    require_if_present(file, f"{_DRIVE}/waveform", "sine")
    periods = _periods(file, math.lcm(faster, slower) / base_hz)
    return Trajectory(faster // common, undo(base_hz, 1e3, faster) * 1e3, periods, scanner_axes(file))


def scanner_axes(file: Hdf5File) -> str:
    """The scanner's axes in our order, with that of the faster drive first: "xyz" or "yxz"."""
    field = f"{_DRIVE}/divider"
    if file.find(field) is None:
        return "xyz"
    faster_first = np.argsort(numbers(file, field, "i")[:2], kind="stable")
    return "yxz" if faster_first.tolist() == [1, 0] else "xyz"


def _in_plane(file: Hdf5File, name: str, kind: str) -> NDArray[Any]:
    """The numbers of the x- and the y-drive; a third channel must not drive."""
    field, strength = f"{_DRIVE}/{name}", f"{_DRIVE}/strength"
    count = numbers(file, f"{_DRIVE}/divider", "i").size
    if count not in (2, 3):
        raise file.fault(f"{_DRIVE}/divider", f"{count} drive frequencies: must be two, of channels x and y")
    if count == 3:
        strength_t = numbers(file, strength, "f", 3)
        if abs(strength_t[2]) > AGREEMENT * np.abs(strength_t).max():
            raise file.fault(strength, f"{strength_t.tolist()}: must be 0 on a third channel, trajectories are 2-D")
    return numbers(file, field, kind, count)[:2]


def _periods(file: Hdf5File, period_s: float) -> int:
    """How many Lissajous periods a cycle has: several where they were grouped, or a silent drive has a share in it."""
    field, bandwidth = f"{_DRIVE}/cycle", f"{_RECEIVER}/bandwidth"
    if file.find(field) is None:
        return 1
    cycle_s = float(numbers(file, field, "f", 1)[0])
    ratio = cycle_s / period_s if period_s > 0 else math.inf
    periods = round(ratio) if 0 < ratio < _MAX_INDEX else 0
    if periods < 1 or not math.isclose(cycle_s, periods * period_s, rel_tol=AGREEMENT):
        rule = f"{cycle_s:g} s: must be lcm(divider)/baseFrequency = {period_s:g} s, or a multiple of it"
        raise file.fault(field, rule)
    samples = f"{_RECEIVER}/numSamplingPoints"
    if file.find(bandwidth) is not None and file.find(samples) is not None:
        half_hz = float(numbers(file, samples, "i", 1)[0]) / (2 * cycle_s)
        stated_hz = float(numbers(file, bandwidth, "f", 1)[0])
        if not math.isclose(half_hz, stated_hz, rel_tol=BANDWIDTH_TOLERANCE):
            rule = f"{stated_hz:g} Hz: must be numSamplingPoints/(2·cycle) = {half_hz:g} Hz"
            raise file.fault(bandwidth, rule)
    return periods


def field_settings(file: Hdf5File) -> FieldSettings:
    """Gradient and drive amplitudes, of a field-free point in the middle that both drives move in the plane."""
    field = "/acquisition/gradient"
    drives_t = _in_plane(file, "strength", "f")
    if not (drives_t > 0).all():
        rule = f"{drives_t.tolist()} T: must be positive on x and y; a reversed drive has a phase of −π/2"
        raise file.fault(f"{_DRIVE}/strength", rule)
    stored = numbers(file, field, "f", 9, 3)
    gradient = stored.reshape(3, 3) if stored.size == 9 else np.diag(stored)
    x, y, z = (float(value) for value in np.diag(gradient))
    shown = f"diag({x:g}, {y:g}, {z:g}) T/m"
    scale = float(np.abs(gradient).max())
    if np.abs(gradient - np.diag([x, y, z])).max() > AGREEMENT * scale:
        raise file.fault(field, f"{gradient.tolist()}: must be diagonal, diag(−G_x, −G_y, G_x + G_y)")
    if abs(x + y + z) > AGREEMENT * scale:
        raise file.fault(field, f"{shown}: must be diag(−G_x, −G_y, G_x + G_y), without trace (Maxwell)")
    if min(abs(x), abs(y)) <= AGREEMENT * scale:
        what = "no selection field" if scale == 0 else "a field-free line"
        raise file.fault(field, f"{shown}: is {what}; must be a field-free point, diag(−G_x, −G_y, G_x + G_y)")
    if x > 0 or y > 0:
        raise file.fault(field, f"{shown}: must be diag(−G_x, −G_y, G_x + G_y), negative along x and y")
    topology = "/scanner/topology"
    if file.find(topology) is not None and text(file, topology).strip().upper() == "FFL":
        raise file.fault(topology, "'FFL': a field-free line; must be a field-free point, FFP")
    field_free_point_m(file)
    values = {
        "gradient_t_per_m": _one_if_equal(-x, -y),
        "drive_mt": _one_if_equal(undo(drives_t[0], 1e-3), undo(drives_t[1], 1e-3)),
    }
    return build(file, "/acquisition/gradient, drivefield/strength", FieldSettings, **values)


def field_free_point_m(file: Hdf5File) -> NDArray[np.float64]:
    """Where an offset field b puts the field-free point in the coordinates of the scanner: −b/g along each axis of the
    gradient diag(g), (3,); the middle where b is less than a thousandth of the drive."""
    emulated, offset = "/calibration/offsetFields", "/acquisition/offsetField"
    emulated_t, offset_t = (
        np.zeros(3) if file.find(name) is None else numbers(file, name, "f").astype(np.float64)
        for name in (emulated, offset)
    )
    if not (emulated_t.any() or offset_t.any()):
        return np.zeros(3)  # whatever the drives are, which may be refused for reasons of their own
    drive_t = np.abs(_in_plane(file, "strength", "f")).max()
    if np.abs(emulated_t).max(initial=0) > AGREEMENT * drive_t:
        raise file.fault(emulated, f"{emulated_t[:6].tolist()} T: must be 0, emulated positions are not served")
    if np.abs(offset_t).max(initial=0) <= AGREEMENT * drive_t:
        return np.zeros(3)
    if offset_t.size != 3:
        raise file.fault(offset, f"{offset_t.size // 3} offset fields: must be one, several patches are not served")
    stored = numbers(file, "/acquisition/gradient", "f", 9, 3)
    gradient_3 = np.diag(stored.reshape(3, 3)) if stored.size == 9 else stored
    point_m = -offset_t / gradient_3.astype(np.float64)
    if not np.isfinite(point_m).all():
        raise file.fault(offset, f"{offset_t.tolist()} T: must be finite, with a gradient along each axis")
    point_m[np.abs(offset_t) <= AGREEMENT * drive_t] = 0.0
    return point_m


def _one_if_equal(x: float, y: float) -> float | tuple[float, float]:
    return x if math.isclose(x, y, rel_tol=1e-9) else (x, y)


Orders = tuple[tuple[int, int], ...]


def mixing_orders(
    file: Hdf5File, trajectory: Trajectory, components: int, field: str
) -> tuple[Orders, NDArray[np.int64] | None]:
    """Our own orders at `field`, else the simplest of each frequency index; and where they stand, unless everywhere.
    They are those of the scanner's own axes x and y. In a cycle of several periods the components between the drive's
    harmonics hold no signal: they are left out.
    """
    place_2 = np.array([trajectory.axes.index(name) for name in "xy"])
    step_2 = trajectory.nd + 1 - place_2
    if flag(file, "isFrequencySelection"):
        index_K = numbers(file, "/measurement/frequencySelection", "i", components).astype(np.int64) - 1
    else:
        index_K = np.arange(components)
    if index_K.min() < 0 or index_K.max() >= _MAX_INDEX or len(np.unique(index_K)) < components:
        rule = f"{index_K.min() + 1}…{index_K.max() + 1}: must be 1-based, none twice"
        raise file.fault("/measurement/frequencySelection", rule)
    chosen_K = None
    if trajectory.periods > 1:
        chosen_K = np.flatnonzero(index_K % trajectory.periods == 0)
        if not chosen_K.size:
            raise file.fault("/measurement/frequencySelection", "must have a harmonic of the drive")
        index_K = index_K[chosen_K] // trajectory.periods
    if file.find(field) is None:
        orders_K2 = simplest_orders(index_K, trajectory.nd)[:, place_2]
    else:
        orders_K2 = numbers(file, field, "i", 2 * components).astype(np.int64).reshape(components, 2)
        orders_K2 = orders_K2 if chosen_K is None else orders_K2[chosen_K]
        if np.abs(orders_K2).max() > _MAX_INDEX or np.any(orders_K2 @ step_2 != index_K):
            raise file.fault(field, f"must give frequencySelection − 1 = {step_2[0]}·m_x + {step_2[1]}·m_y")
    return tuple((int(m_x), int(m_y)) for m_x, m_y in orders_K2), chosen_K


def simplest_orders(index_K: NDArray[np.int64], nd: int) -> NDArray[np.int64]:
    """The (m_x, m_y) of smallest |m_x| + |m_y| with k = m_x(N_d+1) + m_y·N_d, shape (K, 2).

    All solutions are (k − j·N_d, −k + j(N_d+1)); the sum is convex in j with kinks at k/N_d and k/(N_d+1).
    Of equal sums, a pair without negative order is preferred.
    """
    j_K4 = np.stack([index_K // n + step for n in (nd, nd + 1) for step in (0, 1)], axis=1)
    m_x, m_y = index_K[:, None] - j_K4 * nd, j_K4 * (nd + 1) - index_K[:, None]
    cost_K4 = 2 * (np.abs(m_x) + np.abs(m_y)) + ((m_x < 0) | (m_y < 0))
    best = np.argmin(cost_K4, axis=1)[:, None]
    return np.concatenate([np.take_along_axis(m, best, axis=1) for m in (m_x, m_y)], axis=1)


def tracer(file: Hdf5File) -> dict[str, float | str]:
    """The scalar user fields of /tracer; a file from elsewhere may keep other things there, which are passed over."""
    found: dict[str, float | str] = {}
    for node in file.walk("/tracer"):
        if not node.path.startswith("/tracer/_") or node.path.count("/") != 2:
            continue
        try:
            value = file.read(node.path)
        except FieldError:
            continue
        if value.ndim == 0 and value.dtype.kind in "Obiuf":
            name, content = node.path.removeprefix("/tracer/_"), value.item()
            found[name] = content if isinstance(content, str) else float(content)
    return found


def text(file: Hdf5File, field: str) -> str:
    """A field that holds text, the first of several."""
    values = file.read(field).ravel()
    if values.dtype.kind != "O" or not values.size:
        raise file.fault(field, f"type {values.dtype} of {values.size} values: must be text")
    return str(values[0])


def numbers(file: Hdf5File, field: str, kind: str, *counts: int) -> NDArray[Any]:
    """A field flattened; kind "i" wants integers, "f" finite reals; its size must be one of `counts`, if there are."""
    values = file.read(field)
    if values.dtype.kind not in {"i": "iub", "f": "iuf"}[kind]:
        raise file.fault(field, f"type {values.dtype}: must be {'integer' if kind == 'i' else 'real'}")
    if counts and values.size not in counts:
        allowed = " or ".join(str(count) for count in counts)
        raise file.fault(field, f"shape {values.shape}: must hold {allowed} values")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise file.fault(field, f"{values.ravel()[:9].tolist()}: must be finite")
    return values.ravel() if kind == "i" else values.ravel().astype(np.float64)


_OLDER_FLAGS = {"isFastFrameAxis": "isTransposed"}


def flag(file: Hdf5File, name: str, *, default: bool | None = None) -> bool:
    """A flag of /measurement, under its name or its older one."""
    field = f"/measurement/{name}"
    older = f"/measurement/{_OLDER_FLAGS.get(name, name)}"
    if file.find(field) is None and file.find(older) is not None:
        field = older
    if default is not None and file.find(field) is None:
        return default
    value = int(numbers(file, field, "i", 1)[0])
    if value not in (0, 1):
        raise file.fault(field, f"{value}: must be 0 or 1")
    return value == 1


def require_if_present(file: Hdf5File, field: str, expected: str) -> None:
    if file.find(field) is not None:
        for value in file.read(field).ravel():
            if value != expected:
                raise file.fault(field, f"{value!r}: must be {expected!r}")


def require_finite(path: Path, values_CKN: NDArray[Any], frame: str = "frame") -> None:
    """In blocks: the values may be a memory map larger than the memory."""
    step = max(1, _BLOCK_BYTES // (values_CKN.shape[2] * values_CKN.itemsize))
    for channel, values_KN in enumerate(values_CKN):
        for begin in range(0, len(values_KN), step):
            bad = np.argwhere(~np.isfinite(values_KN[begin : begin + step]))
            if len(bad):
                component, voxel = bad[0] + (begin, 0)
                value = values_KN[component, voxel]
                where = f"channel {channel}, component {component}, {frame} {voxel}"
                raise DataError(f"{path}: /measurement/data: {value} at {where}: must be finite")


def build(file: Hdf5File, field: str, cls: type[_SettingsT], **values: Any) -> _SettingsT:
    try:
        return cls(**values)
    except ValidationError as error:
        detail = error.errors()[0]
        raise file.fault(field, f"{detail['loc'][0]} {detail['input']!r}: {detail['msg']}") from None


def undo(scaled: float, *factors: float) -> float:
    """The shortest decimal x whose product with `factors` is `scaled`: 0.002 T is the 2 mT that a person typed.

    Multiplied in the order given, like the settings do; what no person types comes back to within rounding.
    """
    scaled, quotient = float(scaled), float(scaled) / math.prod(factors)
    for digits in range(1, 18):
        candidate = float(f"{quotient:.{digits}g}")
        if math.prod(factors, start=candidate) == scaled:
            return candidate
    return quotient


def unit(file: Hdf5File) -> str:
    """The unit of the values; "a.u." where the file does not say."""
    field = "/acquisition/receiver/unit"
    value = file.read(field).ravel() if file.find(field) is not None else np.empty(0)
    return value[0] if value.size == 1 and isinstance(value[0], str) else "a.u."
