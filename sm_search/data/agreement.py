"""What a dataset's files say of themselves, against the manifest: nothing of it is assumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldName, FieldSettings, Scan, agree
from sm_search.data.mdf_reading import read_field
from sm_search.physics.system_matrix import SystemMatrix


def require_agreement(place: str, sm: SystemMatrix, settings: DatasetSettings, scan: Scan, which: FieldName) -> None:
    """Refuse a file that is not the scan, the field, the grid, the unit or the components that the manifest says.

    Raises:
        DataError: with the first that differs, and both values.
    """
    other: FieldName = "high" if which == "low" else "low"
    found = _numbers(sm.field)
    if not agree(found, _numbers(settings.field(which))) and agree(found, _numbers(settings.field(other))):
        raise DataError(f"{place}: is a matrix of the {other} field; the manifest says {which}: are the two exchanged?")
    for name, given, expected in _compared(sm, settings, scan, which):
        if not (agree(given, expected) if isinstance(given, tuple) else given == expected):
            shown = ", ".join(f"{value:.6g}" for value in given) if isinstance(given, tuple) else given
            wanted = ", ".join(f"{value:.6g}" for value in expected) if isinstance(expected, tuple) else expected
            raise DataError(f"{place}: its {name} is {shown}; the manifest says {wanted}")
    orders = settings.orders.pairs()
    if sm.mixing_orders != orders:
        different = sorted(set(sm.mixing_orders) ^ set(orders))
        what = f"; first that only one has: {different[0]}" if different else ", in another order"
        raise DataError(f"{place}: has {len(sm.mixing_orders)} mixing orders; the manifest says {len(orders)}{what}")


def is_measured(path: Path) -> bool:
    """Whether this is an MDF file that does not say that it was simulated; what cannot be read is none."""
    try:
        read_field(path, "/measurement/isBackgroundFrame")
    except DataError:
        return False
    try:
        return not read_field(path, "/experiment/isSimulation")
    except DataError:
        return True


def _compared(
    sm: SystemMatrix, settings: DatasetSettings, scan: Scan, which: FieldName
) -> Iterator[tuple[str, Any, Any]]:
    """Names with what the file and what the manifest says; tuples are numbers that may differ a little."""
    yield "number of voxels along x and y", sm.grid.size, settings.grid.size
    yield "field of view in mm", sm.grid.fov_mm, settings.grid.fov_mm
    yield "number of planes", len(sm.heights_m), 1
    yield "height of the plane in m", sm.heights_m, (scan.height_m,)
    yield "unit", sm.unit, settings.receive.unit
    yield "gradient in T/m and drive in T", _numbers(sm.field), _numbers(settings.field(which))
    yield "f_x in Hz", (sm.fx_hz,), (scan.fx_hz,)
    yield "N_d", sm.nd, scan.nd
    if "coreDiameter" in sm.tracer and scan.core_diameter_nm is not None:
        yield "core diameter in m", (float(sm.tracer["coreDiameter"]),), (scan.core_diameter_m,)


def _numbers(field: FieldSettings) -> tuple[float, ...]:
    return (*field.gradients_t_per_m, *field.drives_t)
