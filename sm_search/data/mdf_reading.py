"""Reading MDF calibration files, leniently: ours and those of other programs.

Shapes: C receive channels, K frequencies, N frames (voxels, x fastest), J periods, F frequencies per drive channel.
"""

import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sm_search.config.base import Settings
from sm_search.config.errors import DataError
from sm_search.config.simulation import FieldSettings, Grid
from sm_search.data.hdf5 import FieldError, Hdf5File
from sm_search.physics.system_matrix import SystemMatrix

MAX_ND = 100_000
_MAX_INDEX = 1 << 40
_BLOCK_BYTES = 1 << 24

_SettingsT = TypeVar("_SettingsT", bound=Settings)


def read_mdf(path: str | Path, *, check_values: bool = True) -> SystemMatrix:
    """Read a calibration file: ours, or another's with one period per frame and a 2-D Lissajous drive (N_d, N_d+1).

    Values are taken as stored (no transfer function, conversion factor or background is applied); background frames
    are dropped. `framePermutation` documents how frames were reordered, it is not undone: stored frames are in grid
    order. The values of a plain file are a read-only memory map: copy what is to be changed.

    Args:
        check_values: read all values once to see that they are finite. Without, a plain file of any size opens at once,
            and `values_CKN[c, k]` reads that component alone.

    Raises:
        DataError: one line naming the file, the field, the value and the rule.
    """
    # Absurd numbers overflow to inf, which the rules then refuse.
    with np.errstate(all="ignore"), Hdf5File(path) as file:
        grid = _grid(file)
        nd, fx_hz = _lissajous(file)
        values_CKN = _values(file, grid.voxels)
        if check_values:
            require_finite(file.path, values_CKN)
        orders = _mixing_orders(file, nd, values_CKN.shape[1])
        return SystemMatrix(values_CKN, orders, grid, _field(file), fx_hz, nd, _tracer(file))


def read_field(path: str | Path, field: str) -> Any:
    """One field such as "/experiment/_seed": a str, int, float or complex if it is scalar, else an array.

    Raises:
        DataError: no such file or field, or one too large (128 MiB) or too strange to read.
    """
    with Hdf5File(path) as file:
        value = file.read(field)
        return value.item() if value.ndim == 0 else value


def _grid(file: Hdf5File) -> Grid:
    size = _numbers(file, "/calibration/size", "i", 3)
    fov_m = _numbers(file, "/calibration/fieldOfView", "f", 3)
    if size[2] != 1:
        raise file.fault("/calibration/size", f"{size.tolist()}: must be one slice, n_z = 1")
    _require_if_present(file, "/calibration/order", "xyz")
    if file.find("/calibration/fieldOfViewCenter") is not None:
        centre = _numbers(file, "/calibration/fieldOfViewCenter", "f", 3)
        if np.any(centre != 0):
            raise file.fault("/calibration/fieldOfViewCenter", f"{centre.tolist()}: must be the origin")
    fov_mm = (_undo(fov_m[0], 1e-3), _undo(fov_m[1], 1e-3))
    return _build(file, "/calibration/size, fieldOfView", Grid, size=(int(size[0]), int(size[1])), fov_mm=fov_mm)


def _lissajous(file: Hdf5File) -> tuple[int, float]:
    """N_d and f_x in Hz; both drive channels must be cosines."""
    group = "/acquisition/drivefield"
    base_hz = float(_numbers(file, f"{group}/baseFrequency", "f", 1)[0])
    divider_x, divider_y = (int(value) for value in _numbers(file, f"{group}/divider", "i", 2))
    common = math.gcd(divider_x, divider_y)
    if not (0 < common == divider_y - divider_x and 0 < divider_x <= common * MAX_ND):
        raise file.fault(f"{group}/divider", f"{divider_x}, {divider_y}: must be as N_d : N_d+1, N_d at most {MAX_ND}")
    if not 0 < base_hz < math.inf:
        raise file.fault(f"{group}/baseFrequency", f"{base_hz!r}: must be positive")
    phase = _numbers(file, f"{group}/phase", "f", 2)
    if np.any(np.abs(np.exp(1j * phase) - 1j) > 1e-6):
        raise file.fault(f"{group}/phase", f"{phase.tolist()}: must be π/2, a cosine, on both channels")
    _require_if_present(file, f"{group}/waveform", "sine")
    return divider_x // common, _undo(base_hz, 1e3, divider_x) * 1e3


def _field(file: Hdf5File) -> FieldSettings:
    strength = _numbers(file, "/acquisition/drivefield/strength", "f", 2)
    stored = _numbers(file, "/acquisition/gradient", "f", 9, 3)
    gradient = stored.reshape(3, 3) if stored.size == 9 else np.diag(stored)
    x, y, _ = np.diag(gradient)
    if not np.allclose(gradient, np.diag([x, y, -x - y]), rtol=1e-6, atol=1e-9):
        raise file.fault("/acquisition/gradient", f"{gradient.tolist()}: must be diag(−G_x, −G_y, G_x + G_y)")
    values = {
        "gradient_t_per_m": _one_if_equal(-float(x), -float(y)),
        "drive_mt": _one_if_equal(_undo(strength[0], 1e-3), _undo(strength[1], 1e-3)),
    }
    return _build(file, "/acquisition/gradient, drivefield/strength", FieldSettings, **values)


def _one_if_equal(x: float, y: float) -> float | tuple[float, float]:
    return x if math.isclose(x, y, rel_tol=1e-9) else (x, y)


def _values(file: Hdf5File, voxels: int) -> NDArray[np.complex128]:
    """Foreground values of shape (C, K, N), a view of the file where its layout allows."""
    if not _flag(file, "isFourierTransformed") or _flag(file, "isSparsityTransformed", default=False):
        raise file.fault("/measurement", "data must be Fourier transformed and not sparsity transformed")
    field = "/measurement/data"
    data = file.read_large(field)
    if data.ndim != 4 or data.dtype.kind != "c":
        raise file.fault(field, f"{data.dtype} of shape {data.shape}: must be complex with four axes")
    data_JCKN = data if _flag(file, "isFastFrameAxis") else np.moveaxis(data, 0, -1)
    periods, frames = data_JCKN.shape[0], data_JCKN.shape[3]
    background_N = _numbers(file, "/measurement/isBackgroundFrame", "i", frames)
    if periods != 1:
        raise file.fault(field, f"shape {data.shape}: must hold one period per frame")
    foreground = np.flatnonzero(background_N == 0)
    if len(foreground) != voxels:
        rule = f"{len(foreground)} foreground frames: must be one per voxel, {voxels}"
        raise file.fault("/measurement/isBackgroundFrame", rule)
    values_CKN = data_JCKN[0]
    leading = foreground[-1] == voxels - 1
    values_CKN = values_CKN[..., :voxels] if leading else values_CKN[..., foreground]
    return values_CKN.astype(np.complex128, copy=False)


def _mixing_orders(file: Hdf5File, nd: int, components: int) -> tuple[tuple[int, int], ...]:
    """Our `_mixingOrders`, else the simplest orders of each frequency index."""
    if _flag(file, "isFrequencySelection"):
        index_K = _numbers(file, "/measurement/frequencySelection", "i", components).astype(np.int64) - 1
    else:
        index_K = np.arange(components)
    if index_K.min() < 0 or index_K.max() >= _MAX_INDEX:
        raise file.fault("/measurement/frequencySelection", f"{index_K.min() + 1}…{index_K.max() + 1}: must be 1-based")
    field = "/calibration/_mixingOrders"
    if file.find(field) is None:
        orders_K2 = mixing_orders(index_K, nd)
    else:
        orders_K2 = _numbers(file, field, "i", 2 * components).astype(np.int64).reshape(components, 2)
        if np.abs(orders_K2).max() > _MAX_INDEX or np.any(orders_K2 @ np.array([nd + 1, nd]) != index_K):
            raise file.fault(field, f"must give frequencySelection − 1 = m_x(N_d+1) + m_y·N_d, N_d = {nd}")
    return tuple((int(m_x), int(m_y)) for m_x, m_y in orders_K2)


def mixing_orders(index_K: NDArray[np.int64], nd: int) -> NDArray[np.int64]:
    """The (m_x, m_y) of smallest |m_x| + |m_y| with k = m_x(N_d+1) + m_y·N_d, shape (K, 2).

    All solutions are (k − j·N_d, −k + j(N_d+1)); the sum is convex in j with kinks at k/N_d and k/(N_d+1).
    Of equal sums, a pair without negative order is preferred.
    """
    j_K4 = np.stack([index_K // n + step for n in (nd, nd + 1) for step in (0, 1)], axis=1)
    m_x, m_y = index_K[:, None] - j_K4 * nd, j_K4 * (nd + 1) - index_K[:, None]
    cost_K4 = 2 * (np.abs(m_x) + np.abs(m_y)) + ((m_x < 0) | (m_y < 0))
    best = np.argmin(cost_K4, axis=1)[:, None]
    return np.concatenate([np.take_along_axis(m, best, axis=1) for m in (m_x, m_y)], axis=1)


def _tracer(file: Hdf5File) -> dict[str, float | str]:
    """The scalar user fields of /tracer; a file from elsewhere may keep other things there, which are passed over."""
    found: dict[str, float | str] = {}
    for node in file.walk():
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


def _numbers(file: Hdf5File, field: str, kind: str, *counts: int) -> NDArray[Any]:
    """A field flattened; kind "i" wants integers, "f" finite reals; its size must be one of `counts`."""
    values = file.read(field)
    if values.dtype.kind not in {"i": "iub", "f": "iuf"}[kind]:
        raise file.fault(field, f"type {values.dtype}: must be {'integer' if kind == 'i' else 'real'}")
    if values.size not in counts:
        allowed = " or ".join(str(count) for count in counts)
        raise file.fault(field, f"shape {values.shape}: must hold {allowed} values")
    if not np.all(np.isfinite(values)):
        raise file.fault(field, f"{values.ravel().tolist()}: must be finite")
    return values.ravel() if kind == "i" else values.ravel().astype(np.float64)


def _flag(file: Hdf5File, name: str, *, default: bool | None = None) -> bool:
    field = f"/measurement/{name}"
    if default is not None and file.find(field) is None:
        return default
    value = int(_numbers(file, field, "i", 1)[0])
    if value not in (0, 1):
        raise file.fault(field, f"{value}: must be 0 or 1")
    return value == 1


def _require_if_present(file: Hdf5File, field: str, expected: str) -> None:
    if file.find(field) is not None:
        for value in file.read(field).ravel():
            if value != expected:
                raise file.fault(field, f"{value!r}: must be {expected!r}")


def require_finite(path: Path, values_CKN: NDArray[Any]) -> None:
    """In blocks: the values may be a memory map larger than the memory."""
    step = max(1, _BLOCK_BYTES // (values_CKN.shape[2] * values_CKN.itemsize))
    for channel, values_KN in enumerate(values_CKN):
        for begin in range(0, len(values_KN), step):
            bad = np.argwhere(~np.isfinite(values_KN[begin : begin + step]))
            if len(bad):
                component, voxel = bad[0] + (begin, 0)
                value = values_KN[component, voxel]
                where = f"channel {channel}, component {component}, frame {voxel}"
                raise DataError(f"{path}: /measurement/data: {value} at {where}: must be finite")


def _build(file: Hdf5File, field: str, cls: type[_SettingsT], **values: Any) -> _SettingsT:
    try:
        return cls(**values)
    except ValidationError as error:
        detail = error.errors()[0]
        raise file.fault(field, f"{detail['loc'][0]} {detail['input']!r}: {detail['msg']}") from None


def _undo(scaled: float, *factors: float) -> float:
    """The shortest decimal x whose product with `factors` is `scaled`: 0.002 T is the 2 mT that a person typed.

    Multiplied in the order given, like the settings do; what no person types comes back to within rounding.
    """
    scaled, quotient = float(scaled), float(scaled) / math.prod(factors)
    for digits in range(1, 18):
        candidate = float(f"{quotient:.{digits}g}")
        if math.prod(factors, start=candidate) == scaled:
            return candidate
    return quotient
