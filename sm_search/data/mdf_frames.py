"""The frames of a file in its unit: spectra, converted, receiver divided out, background subtracted.

Shapes: J periods, C receive channels, V samples, K frequencies, N foreground and E background frames, F = N + E.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_parts import flag, numbers, scanner_axes
from sm_search.physics import background
from sm_search.physics.background import Subtraction

BACKGROUND, TRANSFER = "isBackgroundCorrected", "isTransferFunctionCorrected"
CHANNELS = "/acquisition/receiver/_channels"
"""User field with the names of the receive channels, out of x, y and z; without it they are x, y, z in this order."""
DATA = "/measurement/data"
_RECEIVER = "/acquisition/receiver"


@dataclass(frozen=True)
class Frames:
    """The frames of a file, views of it where its layout allows.

    Attributes:
        values_CKN, background_CKE: foreground, in the order stored, and background.
        place_N, place_E: when they were measured, counted in frames.
        corrections: what was done to the values, by this reading or before, by the names of the MDF's flags.
        rows_C: the rows of the file that the channels are, that of the faster drive first; channels: how many rows it
            has.
    """

    values_CKN: NDArray[np.complex128]
    background_CKE: NDArray[np.complex128] | None
    place_N: NDArray[np.int64]
    place_E: NDArray[np.int64]
    corrections: frozenset[str]
    rows_C: list[int]
    channels: int


def frames(file: Hdf5File) -> Frames:
    """Foreground and background frames, the conversion factor applied and the transfer function divided out unless the
    file says that it was; the background not subtracted yet.

    Raises:
        FieldError: sparse coefficients, several periods, no foreground frame, or factors that cannot be applied.
    """
    if flag(file, "isSparsityTransformed", default=False):
        raise file.fault("/measurement/isSparsityTransformed", "1: must be 0, compressed frames are not served")
    data_CKF = _spectra(file)
    channels, components, count = data_CKF.shape
    is_background_F = numbers(file, "/measurement/isBackgroundFrame", "i", count) != 0
    if is_background_F.all():
        raise file.fault("/measurement/isBackgroundFrame", "0 foreground frames: must be at least one")
    place_F = _places(file, count)
    rows = receive_channels(file, channels)
    values_CKN, background_CKE = _at(data_CKF, ~is_background_F), None
    if is_background_F.any():
        background_CKE = _at(data_CKF, is_background_F)
    corrections = {name for name in (BACKGROUND, TRANSFER) if flag(file, name, default=False)}
    a_CK = _transfer_function(file, (channels, components))
    if a_CK is not None:
        corrections.add(TRANSFER)
        values_CKN = values_CKN / a_CK[..., None]
        background_CKE = None if background_CKE is None else background_CKE / a_CK[..., None]
    if rows != list(range(channels)):
        values_CKN = values_CKN[rows]
        background_CKE = None if background_CKE is None else background_CKE[rows]
    places = place_F[~is_background_F], place_F[is_background_F]
    return Frames(values_CKN, background_CKE, *places, frozenset(corrections), rows, channels)


def without_background(file: Hdf5File, found: Frames, how: Subtraction) -> Frames:
    """The frames less their background, unless the file says that it was subtracted or holds none; see
    `physics.background`."""
    background_CKE = found.background_CKE
    if background_CKE is None or BACKGROUND in found.corrections:
        return found
    permuted = how == "interpolated" and flag(file, "isFramePermutation", default=False)
    if permuted and file.find("/measurement/framePermutation") is None:
        raise file.fault("/measurement/framePermutation", "is missing: nothing tells when frames were measured")
    order_E = np.argsort(found.place_E)
    blocks = np.split(order_E, np.flatnonzero(np.diff(found.place_E[order_E]) > 1) + 1)
    values_CKN, left_CKE = background.without_background(
        found.values_CKN, background_CKE, found.place_N, found.place_E, how, blocks
    )
    corrections = found.corrections | {BACKGROUND}
    return dataclasses.replace(found, values_CKN=values_CKN, background_CKE=left_CKE, corrections=corrections)


def _spectra(file: Hdf5File) -> NDArray[Any]:
    """The data as (C, K, F), complex, in the file's unit; of a time signal the real Fourier transform, not normalised,
    as MPIFiles.jl has it."""
    data = file.read_large(DATA)
    fourier = flag(file, "isFourierTransformed")
    kinds, must = ("c", "complex") if fourier else ("iuf", "real, as isFourierTransformed is 0")
    if data.ndim != 4 or data.dtype.kind not in kinds:
        raise file.fault(DATA, f"{data.dtype} of shape {data.shape}: must be {must}, with four axes")
    data_JCKF = data if flag(file, "isFastFrameAxis", default=False) else np.moveaxis(data, 0, -1)
    if data_JCKF.shape[0] != 1:
        raise file.fault(DATA, f"shape {data.shape}: must hold one period per frame")
    data_CKF: NDArray[Any] = data_JCKF[0]
    samples = _samples(file)
    if not fourier:
        if flag(file, "isFrequencySelection", default=False):
            raise file.fault("/measurement/isFrequencySelection", "1: must be 0, as isFourierTransformed is 0")
        if samples is not None and samples != data_CKF.shape[1]:
            raise file.fault(f"{_RECEIVER}/numSamplingPoints", f"{samples}: must be {data_CKF.shape[1]}, as in data")
        samples = data_CKF.shape[1]
        data_CKF = np.fft.rfft(data_CKF.astype(np.float64), axis=1)
    elif samples is not None and not flag(file, "isFrequencySelection") and samples // 2 + 1 != data_CKF.shape[1]:
        rule = f"{samples}: must give V/2+1 = {data_CKF.shape[1]}, the frequencies in data"
        raise file.fault(f"{_RECEIVER}/numSamplingPoints", rule)
    return _converted(file, data_CKF, samples)


def _samples(file: Hdf5File) -> int | None:
    field = f"{_RECEIVER}/numSamplingPoints"
    return None if file.find(field) is None else int(numbers(file, field, "i", 1)[0])


def _converted(file: Hdf5File, data_CKF: NDArray[Any], samples: int | None) -> NDArray[Any]:
    """a·x + b of the receiver's numbers x; in a spectrum b is in the constant part alone."""
    field = f"{_RECEIVER}/dataConversionFactor"
    if file.find(field) is None:
        return data_CKF
    factor_C2 = numbers(file, field, "f", 2 * len(data_CKF)).reshape(-1, 2)
    if not factor_C2[:, 0].all():
        raise file.fault(field, f"{factor_C2.tolist()}: must not scale by 0")
    if (factor_C2 == [1.0, 0.0]).all():
        return data_CKF
    constant_K = np.zeros(data_CKF.shape[1])
    if flag(file, "isFourierTransformed") and flag(file, "isFrequencySelection"):
        constant_K[numbers(file, "/measurement/frequencySelection", "i", len(constant_K)) == 1] = 1.0
    else:
        constant_K[0] = 1.0
    if factor_C2[:, 1].any() and constant_K.any() and samples is None:
        raise file.fault(f"{_RECEIVER}/numSamplingPoints", "is missing: the conversion's offset needs it")
    offset_CK = factor_C2[:, 1:] * constant_K * (samples or 0)
    return factor_C2[:, :1, None] * data_CKF + offset_CK[..., None]


def _places(file: Hdf5File, count: int) -> NDArray[np.int64]:
    """When each stored frame was measured: framePermutation tells, where frames were permuted."""
    field = "/measurement/framePermutation"
    if not flag(file, "isFramePermutation", default=False) or file.find(field) is None:
        return np.arange(count)
    place_F = numbers(file, field, "i", count).astype(np.int64) - 1
    if not np.array_equal(np.sort(place_F), np.arange(count)):
        raise file.fault(field, f"must be a permutation of 1…{count}")
    return place_F


def receive_channels(file: Hdf5File, count: int) -> list[int]:
    """The rows of the channels in our order, as many as follow each other from that of the faster drive, by their
    names; without names they are x, y, z and others."""
    axes, names = scanner_axes(file), list("xyz"[:count])
    if file.find(CHANNELS) is not None:
        names = [str(name) for name in file.read(CHANNELS).ravel()]
        if len(names) != count or len(set(names)) < count or not set(names) <= set("xyz"):
            raise file.fault(CHANNELS, f"{names}: must name {count} channels, each x, y or z")
    if axes[0] not in names:
        rule = f"must have {axes[0]}, of the faster drive; models of it serve {axes[1]} beside it, not alone"
        raise file.fault(CHANNELS, f"{names}: {rule}")
    served = axes[: next((i for i, name in enumerate(axes) if name not in names), 3)]
    return [*(names.index(name) for name in served), *range(len(names), count)]


def _at(data_CKF: NDArray[Any], wanted_F: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """Some frames: a view where they lie together, else a copy."""
    index = np.flatnonzero(wanted_F)
    together = index[-1] - index[0] + 1 == len(index)
    chosen = data_CKF[..., index[0] : index[-1] + 1] if together else data_CKF[..., index]
    return chosen.astype(np.complex128, copy=False)


def _transfer_function(file: Hdf5File, shape: tuple[int, int]) -> NDArray[np.complex128] | None:
    """The transfer function that the data still contain, of `shape` (C, K)."""
    names = [f"{_RECEIVER}/{name}" for name in ("transferFunction", "transferfunction")]
    found = [name for name in names if file.find(name) is not None]
    if not found or flag(file, TRANSFER, default=False):
        return None
    a_CK = file.read(found[0])
    if a_CK.dtype.kind not in "fc" or a_CK.size != math.prod(shape):
        raise file.fault(found[0], f"{a_CK.dtype} of shape {a_CK.shape}: must be complex, {shape[0]} × {shape[1]}")
    a_CK = a_CK.reshape(shape).astype(np.complex128)
    if not flag(file, "isFrequencySelection", default=False):
        a_CK[a_CK[:, 0] == 0, 0] = 1  # a receiver may block the constant part: the field leaves it as it is
    if not (np.isfinite(a_CK).all() and np.all(a_CK != 0)):
        raise file.fault(found[0], "must be finite and not 0: the data are to be divided by it")
    return a_CK
