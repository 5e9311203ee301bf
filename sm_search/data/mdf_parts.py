"""The parts that calibration and measurement files share, read leniently: ours and those of other programs.

Shapes: J periods, C receive channels, K frequencies, N foreground and E background frames.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sm_search.config.base import Settings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldSettings
from sm_search.data.hdf5 import FieldError, Hdf5File

MAX_ND = 100_000
_MAX_INDEX = 1 << 40
_BLOCK_BYTES = 1 << 24

_SettingsT = TypeVar("_SettingsT", bound=Settings)


@dataclass(frozen=True)
class Frames:
    """The frames of a file in its unit, (C, K, N) and (C, K, E), views of it where its layout allows."""

    values_CKN: NDArray[np.complex128]
    background_CKE: NDArray[np.complex128] | None


def frames(file: Hdf5File) -> Frames:
    """Foreground and background frames, the transfer function divided out unless the file says that it was.

    Raises:
        FieldError: no spectra, several periods, no foreground frame, or a transfer function that cannot be divided by.
    """
    if not flag(file, "isFourierTransformed") or flag(file, "isSparsityTransformed", default=False):
        raise file.fault("/measurement", "data must be Fourier transformed and not sparsity transformed")
    field = "/measurement/data"
    data = file.read_large(field)
    if data.ndim != 4 or data.dtype.kind != "c":
        raise file.fault(field, f"{data.dtype} of shape {data.shape}: must be complex with four axes")
    data_JCKF = data if flag(file, "isFastFrameAxis") else np.moveaxis(data, 0, -1)
    if data_JCKF.shape[0] != 1:
        raise file.fault(field, f"shape {data.shape}: must hold one period per frame")
    data_CKF = data_JCKF[0]
    is_background_F = numbers(file, "/measurement/isBackgroundFrame", "i", data_CKF.shape[-1]) != 0
    if is_background_F.all():
        raise file.fault("/measurement/isBackgroundFrame", "0 foreground frames: must be at least one")
    values_CKN, background_CKE = _at(data_CKF, ~is_background_F), None
    if is_background_F.any():
        background_CKE = _at(data_CKF, is_background_F)
    a_CK = _transfer_function(file, data_CKF.shape[:2])
    if a_CK is not None:
        values_CKN = values_CKN / a_CK[..., None]
        background_CKE = None if background_CKE is None else background_CKE / a_CK[..., None]
    return Frames(values_CKN, background_CKE)


def _at(data_CKF: NDArray[Any], wanted_F: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """Some frames: a view where they lie together, else a copy."""
    index = np.flatnonzero(wanted_F)
    together = index[-1] - index[0] + 1 == len(index)
    chosen = data_CKF[..., index[0] : index[-1] + 1] if together else data_CKF[..., index]
    return chosen.astype(np.complex128, copy=False)


def _transfer_function(file: Hdf5File, shape: tuple[int, ...]) -> NDArray[np.complex128] | None:
    """The transfer function that the data still contain, of `shape` (C, K)."""
    group = "/acquisition/receiver"
    names = [f"{group}/{name}" for name in ("transferFunction", "transferfunction")]
    found = [name for name in names if file.find(name) is not None]
    if not found or flag(file, "isTransferFunctionCorrected", default=False):
        return None
    a_CK = file.read(found[0])
    if a_CK.dtype.kind not in "fc" or a_CK.size != math.prod(shape):
        raise file.fault(found[0], f"{a_CK.dtype} of shape {a_CK.shape}: must be complex, {shape[0]} × {shape[1]}")
    a_CK = a_CK.reshape(shape).astype(np.complex128)
    if not flag(file, "isFrequencySelection"):
        a_CK[a_CK[:, 0] == 0, 0] = 1  # a receiver may block the constant part: the field leaves it as it is
    if not (np.isfinite(a_CK).all() and np.all(a_CK != 0)):
        raise file.fault(found[0], "must be finite and not 0: the data are to be divided by it")
    return a_CK


def unit(file: Hdf5File) -> str:
    """The unit of the values; "a.u." where the file does not say."""
    field = "/acquisition/receiver/unit"
    value = file.read(field).ravel() if file.find(field) is not None else np.empty(0)
    return value[0] if value.size == 1 and isinstance(value[0], str) else "a.u."


def lissajous(file: Hdf5File) -> tuple[int, float]:
    """N_d and f_x in Hz; both drive channels must be cosines."""
    group = "/acquisition/drivefield"
    base_hz = float(numbers(file, f"{group}/baseFrequency", "f", 1)[0])
    divider_x, divider_y = (int(value) for value in numbers(file, f"{group}/divider", "i", 2))
    common = math.gcd(divider_x, divider_y)
    if not (0 < common == divider_y - divider_x and 0 < divider_x <= common * MAX_ND):
        raise file.fault(f"{group}/divider", f"{divider_x}, {divider_y}: must be as N_d : N_d+1, N_d at most {MAX_ND}")
    if not 0 < base_hz < math.inf:
        raise file.fault(f"{group}/baseFrequency", f"{base_hz!r}: must be positive")
    phase = numbers(file, f"{group}/phase", "f", 2)
    if np.any(np.abs(np.exp(1j * phase) - 1j) > 1e-6):
        raise file.fault(f"{group}/phase", f"{phase.tolist()}: must be π/2, a cosine, on both channels")
    require_if_present(file, f"{group}/waveform", "sine")
    return divider_x // common, undo(base_hz, 1e3, divider_x) * 1e3


def field_settings(file: Hdf5File) -> FieldSettings:
    strength = numbers(file, "/acquisition/drivefield/strength", "f", 2)
    stored = numbers(file, "/acquisition/gradient", "f", 9, 3)
    gradient = stored.reshape(3, 3) if stored.size == 9 else np.diag(stored)
    x, y, _ = np.diag(gradient)
    if not np.allclose(gradient, np.diag([x, y, -x - y]), rtol=1e-6, atol=1e-9):
        raise file.fault("/acquisition/gradient", f"{gradient.tolist()}: must be diag(−G_x, −G_y, G_x + G_y)")
    values = {
        "gradient_t_per_m": _one_if_equal(-float(x), -float(y)),
        "drive_mt": _one_if_equal(undo(strength[0], 1e-3), undo(strength[1], 1e-3)),
    }
    return build(file, "/acquisition/gradient, drivefield/strength", FieldSettings, **values)


def _one_if_equal(x: float, y: float) -> float | tuple[float, float]:
    return x if math.isclose(x, y, rel_tol=1e-9) else (x, y)


def mixing_orders(file: Hdf5File, nd: int, components: int, field: str) -> tuple[tuple[int, int], ...]:
    """Our own at `field`, else the simplest orders of each frequency index."""
    if flag(file, "isFrequencySelection"):
        index_K = numbers(file, "/measurement/frequencySelection", "i", components).astype(np.int64) - 1
    else:
        index_K = np.arange(components)
    if index_K.min() < 0 or index_K.max() >= _MAX_INDEX:
        raise file.fault("/measurement/frequencySelection", f"{index_K.min() + 1}…{index_K.max() + 1}: must be 1-based")
    if file.find(field) is None:
        orders_K2 = simplest_orders(index_K, nd)
    else:
        orders_K2 = numbers(file, field, "i", 2 * components).astype(np.int64).reshape(components, 2)
        if np.abs(orders_K2).max() > _MAX_INDEX or np.any(orders_K2 @ np.array([nd + 1, nd]) != index_K):
            raise file.fault(field, f"must give frequencySelection − 1 = m_x(N_d+1) + m_y·N_d, N_d = {nd}")
    return tuple((int(m_x), int(m_y)) for m_x, m_y in orders_K2)


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


def numbers(file: Hdf5File, field: str, kind: str, *counts: int) -> NDArray[Any]:
    """A field flattened; kind "i" wants integers, "f" finite reals; its size must be one of `counts`."""
    values = file.read(field)
    if values.dtype.kind not in {"i": "iub", "f": "iuf"}[kind]:
        raise file.fault(field, f"type {values.dtype}: must be {'integer' if kind == 'i' else 'real'}")
    if values.size not in counts:
        allowed = " or ".join(str(count) for count in counts)
        raise file.fault(field, f"shape {values.shape}: must hold {allowed} values")
    if not np.all(np.isfinite(values)):
        raise file.fault(field, f"{values.ravel()[:9].tolist()}: must be finite")
    return values.ravel() if kind == "i" else values.ravel().astype(np.float64)


def flag(file: Hdf5File, name: str, *, default: bool | None = None) -> bool:
    field = f"/measurement/{name}"
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
