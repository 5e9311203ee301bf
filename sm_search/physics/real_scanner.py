"""The system matrix in the fields of a real scanner: every voxel by itself, since no symmetry is left."""

import numpy as np
from numpy.typing import NDArray

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.scanner_settings import ScannerSettings
from sm_search.config.simulation_settings import FieldName, Scan
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.moment_spectrum import Spectrum, moment_spectrum
from sm_search.physics.particles import langevin_parameter_per_tesla
from sm_search.physics.scanner_fields import actual, channel_sensitivities, scanner_fields
from sm_search.physics.sizes import Sizes
from sm_search.physics.voxel_mean import points_for


def real_scanner_components(
    settings: DatasetSettings,
    scanner: ScannerSettings,
    scan: Scan,
    which: FieldName,
    sizes: Sizes,
    position_3N: NDArray[np.float64],
    samples: int | None,
) -> Spectrum:
    """SM_k/M_s as the channels receive it, shape (C, K, N), and how finely it was computed.

    The mean over a voxel is taken of what is received, at points of which the ideal gradient says how many are enough.
    """
    field, particle = settings.field(which), settings.particle_of(scan)
    beta = langevin_parameter_per_tesla(float(sizes.diameter_m_S.max()), particle)
    gradient_x, gradient_y = actual(scanner, field).gradients_t_per_m
    width_x_m, width_y_m = settings.grid.voxel_m
    points, tolerance = points_for(settings.voxel, (width_x_m, width_y_m), (beta * gradient_x, beta * gradient_y))
    numerics = {"tolerance": tolerance}
    components = len(settings.orders.pairs())
    values_CKN = np.zeros((2, components, position_3N.shape[1]), dtype=np.complex128)
    for x_m, y_m, share in points:
        here_3N = position_3N + np.array([[x_m], [y_m], [0.0]])
        fields = scanner_fields(scanner, field, here_3N)
        path = LissajousField(fields.selection_3N, fields.drive_x_3N, fields.drive_y_3N, scan.fx_hz, scan.nd)
        values, sampling = moment_spectrum(
            path,
            settings.magnetisation,
            sizes,
            particle,
            settings.orders,
            sensitivity_CDN=channel_sensitivities(scanner, here_3N),
            samples=samples,
        )
        values_CKN += share * values
        numerics |= sampling
    return values_CKN, numerics | {"pointsPerVoxel": float(len(points))}
