"""What keeps a file from being used here, though the standard may allow it."""

from pathlib import Path

from sm_search.config.errors import DataError
from sm_search.data.hdf5 import FieldError
from sm_search.data.mdf_provenance import read_provenance
from sm_search.data.mdf_reading import read_mdf
from sm_search.data.mdf_validation import Fault, file_kind
from sm_search.data.measurement import read_measurement


def unserved(path: str | Path) -> list[Fault]:
    """One fault for each field for which the commands that read calibration or measurement files refuse this one."""
    found: dict[tuple[str, str], None] = {}
    for read in (read_measurement if file_kind(path) == "measurement" else read_mdf, read_provenance):
        try:
            read(path)
        except FieldError as error:
            found |= dict.fromkeys(error.reasons)
        except DataError as error:
            found[("/", str(error).removeprefix(f"{path}: "))] = None
    return [Fault("not served", field, rule) for field, rule in found]
