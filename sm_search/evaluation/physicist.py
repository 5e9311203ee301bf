"""The physicist's answer: fit the particle to the low-gradient matrix, then simulate the high-gradient one.

It knows what no learned method is told: the model of the magnetisation and the scanner. On data that this same
simulator made it is nearly exact: what the learned methods could reach at best. On measured data they must beat it.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldName, Grid, Scan
from sm_search.data.scaling import ScaledImages
from sm_search.physics.receive import SILENT, as_read, receive
from sm_search.physics.system_matrix import SystemMatrix, simulate

FITTED_VOXELS = 6
"""Side of the block of central voxels that the fit looks at, where the grid has more."""

DIAMETERS_NM = (10.0, 120.0)
SHELLS_NM = (0.01, 60.0)
FAINT = 1e-9
"""Components below so much of the strongest one there have no say: their patterns are those of rounding errors."""

STARTS_NM = (22.0, 26.0, 30.0, 35.0, 40.0, 46.0, 53.0, 60.0, 68.0, 77.0, 88.0)
"""The best of them is where the fit begins: on imperfect scanners wrong minima lie 20 % away from the right one."""


class PhysicistFit:
    """Core diameter and shell thickness (so the hydrodynamic diameter), by least squares on the central voxels.

    Args:
        settings: of the dataset: magnetisation model, grid, fields and receive chain, of which the noise is left out.
    """

    def __init__(self, settings: DatasetSettings) -> None:
        chain = settings.receive.model_copy(update=SILENT)
        self.settings = settings.model_copy(update={"receive": chain})

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        """The high-gradient matrix of the particle that fits `low` best, with its amplitude."""
        scan = self.fit(low)
        expected, high = self._simulated(self.settings, scan, "low"), self._simulated(self.settings, scan, "high")
        amount = np.linalg.norm(low.values_CKN) / np.linalg.norm(expected.values_CKN)
        return dataclasses.replace(high, values_CKN=amount * high.values_CKN)

    def fit(self, low: SystemMatrix) -> Scan:
        """The scan whose low-gradient patterns are nearest to those of `low`, from the nearest of some diameters."""
        central, kept = self._central(low.grid)
        central_KN = low.values_CKN[0][:, kept]
        size_K = np.abs(central_KN).max(axis=1)
        clear_K = size_K > FAINT * size_K.max()
        measured = _patterns(central_KN[clear_K])

        def scan_of(x: NDArray[np.float64]) -> Scan:
            diameter_nm, shell_nm = np.exp(x).tolist()
            return Scan(core_diameter_nm=diameter_nm, fx_khz=low.fx_hz / 1e3, nd=low.nd, shell_thickness_nm=shell_nm)

        def simulated(x: NDArray[np.float64], samples: int | None = None) -> SystemMatrix:
            return self._simulated(central, scan_of(x), "low", samples)

        def difference(sm: SystemMatrix) -> NDArray[np.float64]:
            return _patterns(sm.values_CKN[0][clear_K]) - measured

        bounds = [math.log(limit) for limit in (DIAMETERS_NM[0], SHELLS_NM[0], DIAMETERS_NM[1], SHELLS_NM[1])]
        shell = math.log(max(self.settings.particle.shell_thickness_nm, 2 * SHELLS_NM[0]))
        starts = [np.array([math.log(diameter_nm), shell]) for diameter_nm in STARTS_NM]
        tried = [simulated(x) for x in starts]
        best = int(np.argmin([np.linalg.norm(difference(sm)) for sm in tried]))
        # Samples in time that are enough there are so nearby: to find that out costs more than the solution.
        told = tried[best].tracer.get("samplesPerPeriod")
        samples = None if told is None else math.ceil(float(told))
        found = least_squares(
            lambda x: difference(simulated(x, samples)),
            starts[best],
            bounds=(bounds[:2], bounds[2:]),
            diff_step=1e-4,
            xtol=1e-8,
            ftol=1e-10,
            max_nfev=20,
        )
        return scan_of(found.x)

    def _central(self, grid: Grid) -> tuple[DatasetSettings, NDArray[np.int64]]:
        """Settings of the block of central voxels, and their positions in the whole grid."""
        size = [min(n, FITTED_VOXELS + n % 2) for n in grid.size]
        fov_mm = [fov * part / n for fov, part, n in zip(grid.fov_mm, size, grid.size, strict=True)]
        block = Grid(size=(size[0], size[1]), fov_mm=(fov_mm[0], fov_mm[1]))
        first = [(n - part) // 2 for n, part in zip(grid.size, size, strict=True)]
        index_YX = np.arange(grid.voxels).reshape(grid.size[1], grid.size[0])
        kept = index_YX[first[1] : first[1] + size[1], first[0] : first[0] + size[0]].ravel()
        return self.settings.model_copy(update={"grid": block}), kept

    @staticmethod
    def _simulated(settings: DatasetSettings, scan: Scan, which: FieldName, samples: int | None = None) -> SystemMatrix:
        try:
            sm = simulate(settings, scan, which, samples=samples)
        except DataError:
            if samples is None:
                raise
            sm = simulate(settings, scan, which)  # a particle for which they are too few
        return as_read(receive(sm, settings.receive))


def _patterns(values_KN: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Components at unit maximum modulus, flat: their amplitudes, which span many decades, have no say."""
    return ScaledImages.of(values_KN[:, None]).patterns.ravel()
