"""Measured transfer functions from files: an MDF file's, HDF5 or CSV.

Shapes: C receive channels, F frequencies.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.receive_settings import TransferTable
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_frames import receive_channels
from sm_search.data.mdf_parts import flag, numbers
from sm_search.physics.transfer import interpolated

GROUP = "/acquisition/receiver"
MAX_CSV_BYTES = 10_000_000


def with_tables_read(settings: DatasetSettings, beside: str | Path) -> DatasetSettings:
    """The settings with a transfer function that names a file read from it, relative to the folder `beside`.

    The settings then hold the numbers: the dataset needs the file no more, and its hash knows of them.

    Raises:
        DataError: the file cannot be read, or does not serve all components of a scan; one line says why.
    """
    named = settings.receive.transfer_table
    if named is None:
        return settings
    table = read_transfer_table(Path(beside) / named) if isinstance(named, str) else named
    orders_K2 = np.array(settings.orders.pairs())
    for split in settings.splits:
        for scan in settings.scans(split):
            try:
                interpolated(table, 2 * math.pi * (orders_K2 @ [scan.fx_hz, scan.fy_hz]), 2)
            except DataError as error:
                place = f"{Path(beside) / named}: " if isinstance(named, str) else "receive."
                raise DataError(f"{place}{error} (scan {scan.id})") from None
    if table is named:
        return settings
    return settings.model_copy(update={"receive": settings.receive.model_copy(update={"transfer_table": table})})


def read_transfer_table(path: str | Path) -> TransferTable:
    """The transfer function in a file.

    An MDF file has `/acquisition/receiver/transferFunction`, at its own frequencies; the channel of its faster drive is
    our x. Another HDF5 file has
    `/frequencies`, in Hz, and `/transferFunction`, complex of shape (C, F) or real of shape (C, F, 2). A CSV file has a
    row for each frequency: Hz, then real and imaginary part of every channel; lines that begin with # and a first line
    of words are passed over.

    Raises:
        DataError: one line naming the file, the field, the value and the rule.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".txt"):
        frequency_F, a_CF = _from_csv(path)
    else:
        with np.errstate(all="ignore"), Hdf5File(path) as file:
            is_mdf = file.find(f"{GROUP}/transferFunction") is not None
            frequency_F, a_CF = _from_mdf(file) if is_mdf else _from_hdf5(file)
    order_F = np.argsort(frequency_F, kind="stable")
    frequency_F, a_CF = frequency_F[order_F], a_CF[:, order_F]
    if not (np.isfinite(frequency_F).all() and np.isfinite(a_CF).all()):
        raise DataError(f"{path}: frequencies and values must be finite")
    if len(frequency_F) < 2 or np.any(np.diff(frequency_F) <= 0) or frequency_F[0] < 0:
        raise DataError(f"{path}: {len(frequency_F)} frequencies: must be at least 2, none negative or twice")
    try:
        return TransferTable(
            frequency_khz=tuple((frequency_F * 1e-3).tolist()),
            real=tuple(tuple(row) for row in a_CF.real.tolist()),
            imaginary=tuple(tuple(row) for row in a_CF.imag.tolist()),
        )
    except ValueError as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


Table = tuple[NDArray[np.float64], NDArray[np.complex128]]


def _from_mdf(file: Hdf5File) -> Table:
    a_CK = file.read(f"{GROUP}/transferFunction")
    if a_CK.dtype.kind != "c" or a_CK.ndim != 2:
        raise file.fault(f"{GROUP}/transferFunction", f"{a_CK.dtype} of shape {a_CK.shape}: must be complex, C × K")
    a_CK = a_CK[receive_channels(file, len(a_CK))]
    cycle_s = float(numbers(file, "/acquisition/drivefield/cycle", "f", 1)[0])
    index_K = np.arange(a_CK.shape[1])
    if flag(file, "isFrequencySelection"):
        index_K = numbers(file, "/measurement/frequencySelection", "i", a_CK.shape[1]) - 1
    return index_K / cycle_s, a_CK.astype(np.complex128)


def _from_hdf5(file: Hdf5File) -> Table:
    frequencies, values = file.read("/frequencies"), file.read("/transferFunction")
    frequency_F = numbers(file, "/frequencies", "f", frequencies.size)
    if values.dtype.kind == "f" and values.ndim == 3 and values.shape[2] == 2:
        values = values[..., 0] + 1j * values[..., 1]
    if values.dtype.kind != "c" or values.ndim != 2 or values.shape[1] != len(frequency_F):
        rule = f"{values.dtype} of shape {values.shape}: must be complex, C × {len(frequency_F)}, or real, with 2 parts"
        raise file.fault("/transferFunction", rule)
    return frequency_F, values.astype(np.complex128)


def _from_csv(path: Path) -> Table:
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise DataError(f"{path}: larger than {MAX_CSV_BYTES} bytes, the limit for a table")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text") from None
    rows: list[list[float]] = []
    named = False
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split(",")]
        if not line.strip() or line.startswith("#"):
            continue
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            if rows or named:
                raise DataError(f"{path}:{number}: {line[:60]!r}: must be numbers between commas") from None
            named = True
            continue
        if len(rows[-1]) != len(rows[0]) or len(rows[-1]) < 3 or len(rows[-1]) % 2 == 0:
            raise DataError(
                f"{path}:{number}: {len(rows[-1])} numbers: must be the frequency in Hz, then real and imaginary part "
                "of every channel"
            )
    if not rows:
        raise DataError(f"{path}: has no row of numbers")
    table = np.array(rows)
    return table[:, 0], (table[:, 1::2] + 1j * table[:, 2::2]).T
