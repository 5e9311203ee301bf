"""The field table of calibration and measurement files in MDF v2.1.0 (arXiv 1602.06072), as data.

Letters: A tracers, N = O + E frames (O foreground, E background), B sparse coefficients, J periods per frame,
Y partitions, C receive channels, D drive channels, F frequencies per drive channel, V samples, K frequencies.
"""

import math
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sm_search.data.mdf_fields import TIMESTAMP, VERSION
from sm_search.data.mdf_parts import BANDWIDTH_TOLERANCE

Severity = Literal["error", "warning", "not served"]
Type = Literal["Str", "Int64", "Int8", "F64", "C128", "Integer", "Number"]
NUMPY_TYPES: dict[Type, str] = {"Int64": "int64", "Int8": "int8", "F64": "float64", "C128": "complex128"}
NUMPY_KINDS: dict[Type, str] = {
    "Int64": "iu",
    "Int8": "iub",
    "F64": "iuf",
    "C128": "c",
    "Integer": "i",
    "Number": "iufc",
}

MAX_DIVIDERS = 1000
"""A scanner has a handful; the rest of a hostile file's millions is not worth the time."""
M, o = "mandatory", "optional"
DATA = "/measurement/data"
FAST_AXIS = "/measurement/isFastFrameAxis"
FOURIER = "/measurement/isFourierTransformed"
PERMUTATION = "/measurement/isFramePermutation"
SELECTION = "/measurement/isFrequencySelection"
SPARSE = "/measurement/isSparsityTransformed"
CORRECTED = "/measurement/isTransferFunctionCorrected"
TRANSFER = "/acquisition/receiver/transferFunction"
CALIBRATION = "/calibration"
SNR = "/calibration/snr"
SINCE_2_1 = (SPARSE,)
"""What version 2.1.0 made mandatory."""


@dataclass(frozen=True)
class Rule:
    """What the values of one field must fulfil."""

    holds: Callable[[NDArray[Any]], bool]
    text: str
    severity: Severity = "error"


@dataclass(frozen=True)
class Row:
    """One field.

    Attributes:
        shape: a letter or digit for each axis, slowest first; "" is a scalar.
        need: mandatory, optional, or the flag that makes it mandatory when 1 and forbids it when 0.
        counts: the letter that the value of this field counts, if it does.
    """

    field: str
    type: Type
    shape: str
    need: str
    rules: tuple[Rule, ...] = ()
    counts: str = ""


@dataclass(frozen=True)
class Cross:
    """A rule between several scalar or array fields; where it breaks, each of them is named."""

    fields: tuple[str, ...]
    holds: Callable[..., bool]
    text: str
    severity: Severity = "error"


def _is_uuid(text: str) -> bool:
    try:
        return str(uuids.UUID(text)) == text.lower()
    except ValueError:
        return False


def _texts(holds: Callable[[str], bool], text: str, severity: Severity = "error") -> tuple[Rule, ...]:
    return (Rule(lambda values: all(holds(value) for value in values.flat), text, severity),)


def _numbers(holds: Callable[[NDArray[Any]], Any], text: str, severity: Severity = "error") -> tuple[Rule, ...]:
    return (Rule(lambda values: bool(np.all(holds(values))), text, severity),)


def _one_of(*words: str, severity: Severity = "error") -> tuple[Rule, ...]:
    return _texts(lambda value: value in words, f"must be one of {', '.join(words)}", severity)


def _permutes(values: NDArray[Any]) -> bool:
    return np.array_equal(np.sort(values), np.arange(1, len(values) + 1))


def _trace_free(gradient_JY33: NDArray[Any]) -> bool:
    trace_JY = np.trace(gradient_JY33, axis1=-2, axis2=-1)
    return bool(np.all(np.abs(trace_JY) <= 1e-6 * np.abs(gradient_JY33).max(axis=(-2, -1))))


def _lcm_cycle(base_hz: Any, cycle_s: Any, divider_DF: NDArray[Any]) -> bool:
    common = math.lcm(*(int(value) for value in divider_DF.ravel()[:MAX_DIVIDERS]))
    return common < 1 << 1000 and math.isclose(cycle_s, common / base_hz, rel_tol=1e-6)


TIME = _texts(lambda value: TIMESTAMP.fullmatch(value) is not None, "must be yyyy-mm-ddThh:mm:ss.ms")
UUID = _texts(_is_uuid, "must be a UUID, 8-4-4-4-12 hexadecimal digits")
FLAG = _numbers(lambda x: (x == 0) | (x == 1), "must be 0 or 1")
POSITIVE = _numbers(lambda x: x > 0, "must be positive")
NOT_NEGATIVE = _numbers(lambda x: x >= 0, "must not be negative")
VERSIONS = (
    *_texts(lambda value: value.startswith("2."), "must be 2.x"),
    *_texts(lambda value: value == VERSION, f"must be {VERSION}", "warning"),
)
PHASE = _numbers(lambda x: (x >= -math.pi) & (x < math.pi), "must lie in [−π, π)")
ORDER = _texts(lambda value: sorted(value) == ["x", "y", "z"], "must be a permutation of xyz")
INDICES = (*POSITIVE, Rule(lambda x: len(np.unique(x)) == x.size, "must not repeat an index"))
PERMUTED = (Rule(_permutes, "must be a permutation of 1…N"),)
FOREGROUND = (*FLAG, Rule(lambda x: bool(np.any(x == 0)), "must leave a foreground frame"))
TRACE = (Rule(_trace_free, "must be trace-free (Maxwell)", "warning"),)

TABLE = (
    Row("/time", "Str", "", M, TIME),
    Row("/uuid", "Str", "", M, UUID),
    Row("/version", "Str", "", M, VERSIONS),
    Row("/study/description", "Str", "", M),
    Row("/study/name", "Str", "", M),
    Row("/study/number", "Int64", "", M),
    Row("/study/time", "Str", "", o, TIME),
    Row("/study/uuid", "Str", "", M, UUID),
    Row("/experiment/description", "Str", "", M),
    Row("/experiment/isSimulation", "Int8", "", M, FLAG),
    Row("/experiment/name", "Str", "", M),
    Row("/experiment/number", "Int64", "", M),
    Row("/experiment/subject", "Str", "", M),
    Row("/experiment/uuid", "Str", "", M, UUID),
    Row("/tracer/batch", "Str", "A", M),
    Row("/tracer/concentration", "F64", "A", M, NOT_NEGATIVE),
    Row("/tracer/injectionTime", "Str", "A", o, TIME),
    Row("/tracer/name", "Str", "A", M),
    Row("/tracer/solute", "Str", "A", M),
    Row("/tracer/vendor", "Str", "A", M),
    Row("/tracer/volume", "F64", "A", M, NOT_NEGATIVE),
    Row("/scanner/boreSize", "F64", "", o, POSITIVE),
    Row("/scanner/facility", "Str", "", M),
    Row("/scanner/manufacturer", "Str", "", M),
    Row("/scanner/name", "Str", "", M),
    Row("/scanner/operator", "Str", "", M),
    Row("/scanner/topology", "Str", "", M),
    Row("/acquisition/gradient", "F64", "JY33", o, TRACE),
    Row("/acquisition/numAverages", "Int64", "", M, POSITIVE),
    Row("/acquisition/numFrames", "Int64", "", M, POSITIVE, counts="N"),
    Row("/acquisition/numPeriodsPerFrame", "Int64", "", M, POSITIVE, counts="J"),
    Row("/acquisition/offsetField", "F64", "JY3", o),
    Row("/acquisition/startTime", "Str", "", M, TIME),
    Row("/acquisition/drivefield/baseFrequency", "F64", "", M, POSITIVE),
    Row("/acquisition/drivefield/cycle", "F64", "", M, POSITIVE),
    Row("/acquisition/drivefield/divider", "Int64", "DF", M, POSITIVE),
    Row("/acquisition/drivefield/numChannels", "Int64", "", M, POSITIVE, counts="D"),
    Row("/acquisition/drivefield/phase", "F64", "JDF", M, PHASE),
    Row("/acquisition/drivefield/strength", "F64", "JDF", M, NOT_NEGATIVE),
    Row("/acquisition/drivefield/waveform", "Str", "DF", M, _one_of("sine", "triangle", "custom")),
    Row("/acquisition/receiver/bandwidth", "F64", "", M, POSITIVE),
    Row("/acquisition/receiver/dataConversionFactor", "F64", "C2", o),
    Row("/acquisition/receiver/inductionFactor", "F64", "C", o),
    Row("/acquisition/receiver/numChannels", "Int64", "", M, POSITIVE, counts="C"),
    Row("/acquisition/receiver/numSamplingPoints", "Int64", "", M, POSITIVE, counts="V"),
    Row(TRANSFER, "C128", "CK", o),
    Row("/acquisition/receiver/unit", "Str", "", M),
    Row("/calibration/deltaSampleSize", "F64", "3", o, NOT_NEGATIVE),
    Row("/calibration/fieldOfView", "F64", "3", o, POSITIVE),
    Row("/calibration/fieldOfViewCenter", "F64", "3", o),
    Row("/calibration/method", "Str", "", M, _one_of("robot", "hybrid", "simulation", severity="warning")),
    Row("/calibration/offsetFields", "F64", "O3", o),
    Row("/calibration/order", "Str", "", o, ORDER),
    Row("/calibration/positions", "F64", "O3", o),
    Row("/calibration/size", "Int64", "3", o, POSITIVE, counts="O"),
    Row("/calibration/snr", "F64", "JCK", o, NOT_NEGATIVE),
    Row("/measurement/framePermutation", "Int64", "N", PERMUTATION, PERMUTED),
    Row("/measurement/frequencySelection", "Int64", "K", SELECTION, INDICES),
    Row("/measurement/isBackgroundCorrected", "Int8", "", M, FLAG),
    Row("/measurement/isBackgroundFrame", "Int8", "N", M, FOREGROUND, counts="O"),
    Row(FAST_AXIS, "Int8", "", M, FLAG),
    Row(FOURIER, "Int8", "", M, FLAG),
    Row(PERMUTATION, "Int8", "", M, FLAG),
    Row(SELECTION, "Int8", "", M, FLAG),
    Row(SPARSE, "Int8", "", M, FLAG),
    Row("/measurement/isSpectralLeakageCorrected", "Int8", "", M, FLAG),
    Row(CORRECTED, "Int8", "", M, FLAG),
    Row("/measurement/sparsityTransformation", "Str", "", SPARSE),
    Row("/measurement/subsamplingIndices", "Integer", "JCKB", SPARSE, NOT_NEGATIVE),
    Row(DATA, "Number", "JCKN", M),
)

_DRIVE, _RECEIVER = "/acquisition/drivefield", "/acquisition/receiver"

CROSS = (
    Cross(
        (f"{_DRIVE}/baseFrequency", f"{_DRIVE}/cycle", f"{_DRIVE}/divider"),
        _lcm_cycle,
        "must agree: cycle = lcm(divider)/baseFrequency",
    ),
    Cross(
        (f"{_RECEIVER}/bandwidth", f"{_RECEIVER}/numSamplingPoints", f"{_DRIVE}/cycle"),
        lambda bandwidth_hz, V, cycle_s: math.isclose(bandwidth_hz, V / (2 * cycle_s), rel_tol=BANDWIDTH_TOLERANCE),
        "must agree: bandwidth = numSamplingPoints/(2·cycle), half the sampling rate; it is not that rounded",
    ),
    Cross(
        (f"{_RECEIVER}/bandwidth", f"{_RECEIVER}/numSamplingPoints", f"{_DRIVE}/cycle"),
        lambda bandwidth_hz, V, cycle_s: math.isclose(bandwidth_hz, V / (2 * cycle_s), rel_tol=1e-6),
        "must agree: bandwidth = numSamplingPoints/(2·cycle), half the sampling rate",
        "warning",
    ),
    Cross(
        ("/measurement/frequencySelection", f"{_RECEIVER}/numSamplingPoints"),
        lambda index_K, V: index_K.max() <= V // 2 + 1,
        "must agree: indices within 1…V/2+1",
    ),
    Cross(
        ("/experiment/isSimulation", "/calibration/method"),
        lambda flag, method: bool(flag) == (method == "simulation"),
        "must agree: a simulation has the method 'simulation'",
        "warning",
    ),
    Cross(
        (CORRECTED, TRANSFER),
        lambda corrected, a_CK: corrected or bool(np.all(a_CK != 0)),
        "readers divide data that are not corrected by the transfer function: it must not be 0",
        "warning",
    ),
    Cross((SELECTION, FOURIER), lambda selected, fourier: fourier >= selected, "selected frequencies need a spectrum"),
    Cross(
        (SPARSE, FOURIER, FAST_AXIS),
        lambda sparse, fourier, fast: min(fourier, fast) >= sparse,
        "a sparsity transform needs spectra and the fast frame axis",
    ),
)

ALIASES = {
    "/acquisition/numperiods": "/acquisition/numPeriodsPerFrame",
    "/measurement/istransposed": FAST_AXIS,
} | {row.field.lower(): row.field for row in TABLE}
"""Names met in files from elsewhere, in lower case, and the names they stand for."""
