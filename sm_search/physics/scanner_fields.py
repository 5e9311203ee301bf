"""The real fields of a scanner at positions: selection field, drive fields and receive sensitivities.

B(r, t) = B_0(r) + A_x(r)·cos(2πf_x t) + A_y(r)·cos(2πf_y t) with

    B_0(r) = (1 + e_G)·[diag(−G_x, −G_y, G_x + G_y)·r + Ḡ·h_selection(r)],   Ḡ = (G_x + G_y)/2
    A_x(r) = (1 + e_x)·A_x·[x̂ + h_drive,x(r)],   p_x(r) = p·[x̂ + h_receive,x(r)],   and so for y,

h the sum of a coil's harmonics (`harmonics`). A coil keeps its shape at every current, so both gradients share h and e.
By reciprocity the sensitivity of a receive coil is the field of a unit current in it, and as free of sources.

Shapes: N positions, D = 3 components, C receive channels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sm_search.config.scanner_settings import ScannerSettings, Term
from sm_search.config.simulation_settings import FieldSettings
from sm_search.physics.harmonics import harmonic_field

Field = NDArray[np.float64]


@dataclass(frozen=True)
class ScannerFields:
    """What a scanner does at N positions.

    Attributes:
        selection_3N, drive_x_3N, drive_y_3N: in T.
    """

    selection_3N: Field
    drive_x_3N: Field
    drive_y_3N: Field


def scanner_fields(scanner: ScannerSettings, field: FieldSettings, position_3N: Field) -> ScannerFields:
    """The fields of a scanner at positions in m."""
    radius_m = scanner.reference_radius_mm * 1e-3
    gradient_x, gradient_y = field.gradients_t_per_m
    mean_gradient = (gradient_x + gradient_y) / 2
    ideal_3N = np.array([[-gradient_x], [-gradient_y], [gradient_x + gradient_y]]) * position_3N
    deviation_3N = 1e-3 * mean_gradient * harmonic_field(scanner.selection_mm, position_3N, radius_m)
    drive_x_t, drive_y_t = actual(scanner, field).drives_t
    return ScannerFields(
        (1 + scanner.gradient_error) * (ideal_3N + deviation_3N),
        drive_x_t * _coil(0, scanner.drive_x_percent, position_3N, radius_m),
        drive_y_t * _coil(1, scanner.drive_y_percent, position_3N, radius_m),
    )


def sensitivities(scanner: ScannerSettings, position_3N: Field) -> Field:
    """p_c(r)/p, shape (C, D, N): 1 is the ideal coil's along its own axis."""
    radius_m = scanner.reference_radius_mm * 1e-3
    terms_C = scanner.receive_x_percent, scanner.receive_y_percent
    return np.stack([_coil(axis, terms, position_3N, radius_m) for axis, terms in enumerate(terms_C)])


def _coil(axis: int, terms_percent: tuple[Term, ...], position_3N: Field, radius_m: float) -> Field:
    """The field of a coil along x (0) or y (1) over its ideal amplitude."""
    return np.eye(3)[:, axis : axis + 1] + 0.01 * harmonic_field(terms_percent, position_3N, radius_m)


def actual(scanner: ScannerSettings, field: FieldSettings) -> FieldSettings:
    """The ideal part of the fields with the calibration errors: what the coils do where the file says `field`."""
    errors = scanner.gradient_error, *scanner.drive_error
    if not any(errors):
        return field
    gradient_x, gradient_y = (g * (1 + scanner.gradient_error) for g in field.gradients_t_per_m)
    drive_x, drive_y = (1e3 * a * (1 + e) for a, e in zip(field.drives_t, scanner.drive_error, strict=True))
    return FieldSettings(gradient_t_per_m=(gradient_x, gradient_y), drive_mt=(drive_x, drive_y))


def received(
    scanner: ScannerSettings, moment_DKN: NDArray[np.complex128], position_3N: Field
) -> NDArray[np.complex128]:
    """Σ_d p_c,d(r)/p·M_d(r): what each channel sees of the moment's spectrum, shape (C, K, N).

    Args:
        moment_DKN: its components x, y and z, or x and y of one that stays in the plane.
    """
    if scanner.ideal_coils:
        return moment_DKN[:2]
    sensitivity_CDN = channel_sensitivities(scanner, position_3N)[:, : len(moment_DKN)]
    return np.einsum("cdn,dkn->ckn", sensitivity_CDN, moment_DKN)


def channel_sensitivities(scanner: ScannerSettings, position_3N: Field) -> Field:
    """The coils' `sensitivities` and the cross-talk between their channels, shape (C, D, N)."""
    talk_x, talk_y = scanner.cross_talk
    return np.einsum("cb,bdn->cdn", np.array([[1.0, talk_x], [talk_y, 1.0]]), sensitivities(scanner, position_3N))


def in_plane(x_N: Field, y_N: Field, z_m: float = 0.0) -> Field:
    """Positions in the plane at a height above the field-free point, shape (3, N)."""
    return np.stack([x_N, y_N, np.full_like(x_N, z_m)])
