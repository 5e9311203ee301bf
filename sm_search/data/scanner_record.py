"""What a simulated file says of the scanner behind it: user fields, SI.

The standard's own fields hold what a real scanner's would: the nominal gradient and drive.
"""

import numpy as np
from numpy.typing import NDArray

from sm_search.config.scanner_settings import ScannerSettings, Term
from sm_search.config.simulation_settings import FieldSettings
from sm_search.data.mdf_fields import Value
from sm_search.physics.scanner_fields import actual


def scanner_record(scanner: ScannerSettings, field: FieldSettings, number: int | None) -> dict[str, Value]:
    """User fields by path; none for the ideal scanner.

    Harmonics are rows of degree, order and coefficient, as `sm_search.physics.harmonics` normalises them: in T for the
    fields at the file's gradient and drive, in shares of the coil's sensitivity for the receive coils.

    Args:
        number: of the scanner, where it has one.
    """
    fields: dict[str, Value] = {} if number is None else {"/scanner/_number": number}
    if scanner.ideal:
        return fields
    real = actual(scanner, field)
    drive_x_t, drive_y_t = real.drives_t
    selection_t = 1e-3 * sum(real.gradients_t_per_m) / 2
    fields["/scanner/_referenceRadius"] = scanner.reference_radius_mm * 1e-3
    fields["/acquisition/_gradientError"] = scanner.gradient_error
    fields["/acquisition/drivefield/_error"] = np.array(scanner.drive_error)
    fields["/acquisition/receiver/_crossTalk"] = np.array(scanner.cross_talk)
    for path, terms, scale in (
        ("/acquisition/_selectionHarmonics", scanner.selection_mm, selection_t),
        ("/acquisition/drivefield/_harmonicsX", scanner.drive_x_percent, 0.01 * drive_x_t),
        ("/acquisition/drivefield/_harmonicsY", scanner.drive_y_percent, 0.01 * drive_y_t),
        ("/acquisition/receiver/_harmonicsX", scanner.receive_x_percent, 0.01),
        ("/acquisition/receiver/_harmonicsY", scanner.receive_y_percent, 0.01),
    ):
        if terms:
            fields[path] = _rows(terms, scale)
    return fields


def _rows(terms: tuple[Term, ...], scale: float) -> NDArray[np.float64]:
    return np.array([(degree, order, coefficient * scale) for degree, order, coefficient in terms], dtype=np.float64)
