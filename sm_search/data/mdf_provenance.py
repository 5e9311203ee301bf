"""Where the values of a file come from: what its study, tracer, scanner and calibration were, to be written again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import agree
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_fields import TIMESTAMP, Value
from sm_search.data.mdf_frames import receive_channels
from sm_search.data.mdf_parts import numbers, text

UNKNOWN = "n.a."
_TEXTS = (
    "/study/description",
    "/study/name",
    "/experiment/subject",
    "/scanner/facility",
    "/scanner/manufacturer",
    "/scanner/name",
    "/scanner/operator",
    "/scanner/topology",
    "/calibration/method",
)
_TRACER_TEXTS = ("/tracer/batch", "/tracer/name", "/tracer/solute", "/tracer/vendor")
_TRACER_NUMBERS = ("/tracer/concentration", "/tracer/volume")
INDUCTION = "/acquisition/receiver/inductionFactor"
BASE, DIVIDER = "/acquisition/drivefield/baseFrequency", "/acquisition/drivefield/divider"
_OPTIONAL_NUMBERS = ("/scanner/boreSize", "/calibration/deltaSampleSize", INDUCTION)
_COUNTS = ("/study/number", "/experiment/number")


@dataclass(frozen=True)
class Provenance:
    """What a file that is made of another one says of its origin.

    Attributes:
        time: of the other file, in the form of the standard.
        averages: repetitions behind each of its frames.
        fields: of study, experiment, tracer, scanner, drive and calibration, by path, as the file has them, but for
            the induction factor, which is of our receive channels (`receive_channels`). Text that it lacks is "n.a.", a
            concentration or volume 0.
    """

    time: str
    averages: int
    fields: Mapping[str, Value]


def read_provenance(path: str | Path) -> Provenance:
    """The provenance of a calibration or measurement file.

    Raises:
        DataError: one of its fields is no text, number or time; one line naming file, field and rule.
    """
    with Hdf5File(path) as file:
        fields: dict[str, Value] = {name: _texts(file, name)[0] for name in _TEXTS}
        fields |= {name: _texts(file, name) for name in _TRACER_TEXTS}
        for name in _TRACER_NUMBERS:
            fields[name] = numbers(file, name, "f") if file.find(name) is not None else np.array([0.0])
        for name in _OPTIONAL_NUMBERS:
            if file.find(name) is not None:
                values = numbers(file, name, "f")
                fields[name] = float(values[0]) if name.endswith("boreSize") else values
                if name == INDUCTION:
                    fields[name] = values[receive_channels(file, len(values))]
        if all(file.find(name) is not None for name in (BASE, DIVIDER)):
            fields[BASE] = float(numbers(file, BASE, "f", 1)[0])
            fields[DIVIDER] = numbers(file, DIVIDER, "i")[:2, None].astype(np.int64)
        for name in _COUNTS:
            fields[name] = int(numbers(file, name, "i", 1)[0]) if file.find(name) is not None else 0
        simulated = file.find("/experiment/isSimulation")
        fields["/experiment/isSimulation"] = (
            simulated is not None and int(numbers(file, "/experiment/isSimulation", "i", 1)[0]) == 1
        )
        time = standard_time(file, "/time")
        if file.find("/acquisition/startTime") is not None:
            fields["/acquisition/startTime"] = standard_time(file, "/acquisition/startTime")
        averages, name = 1, "/acquisition/numAverages"
        if file.find(name) is not None:
            averages = int(numbers(file, name, "i", 1)[0])
            if not 1 <= averages <= math.inf:
                raise file.fault(name, f"{averages}: must be positive")
        return Provenance(time, averages, fields)


def require_same_induction(sm: str | Path, measurement: str | Path) -> None:
    """Refuse a matrix and a measurement of receivers with different induction factors: their volts differ.

    Raises:
        DataError: with both factors.
    """
    if told := different_induction(read_provenance(sm), read_provenance(measurement)):
        raise DataError(f"{sm}, {measurement}: {INDUCTION}: {told}: must be the same, values stay voltages")


def different_induction(first: Provenance, second: Provenance) -> str:
    """The induction factors of two files where they differ in a channel that both have; a file without has 1; "" if
    they are the same."""
    given = [np.ravel(each.fields[INDUCTION]) if INDUCTION in each.fields else None for each in (first, second)]
    known = [factor_C for factor_C in given if factor_C is not None]
    count = min((len(factor_C) for factor_C in known), default=0)
    left, right = ([1.0] * count if factor_C is None else factor_C[:count].tolist() for factor_C in given)
    return "" if agree(left, right) else f"{left} and {right}"


def standard_time(file: Hdf5File, field: str) -> str:
    """A time of the file as `yyyy-mm-ddThh:mm:ss.ms`: with or without fractions there, and in UTC if it has a zone."""
    value = text(file, field)
    if TIMESTAMP.fullmatch(value):
        return value
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise file.fault(field, f"{value!r}: must be a time, yyyy-mm-ddThh:mm:ss.ms") from None
    return time.isoformat(timespec="milliseconds")


def _texts(file: Hdf5File, field: str) -> list[str]:
    if file.find(field) is None:
        return [UNKNOWN]
    values = file.read(field).ravel()
    if values.dtype.kind != "O" or not values.size:
        raise file.fault(field, f"type {values.dtype} of shape {values.shape}: must be text")
    return [str(value) for value in values]
