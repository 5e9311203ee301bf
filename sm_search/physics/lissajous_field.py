"""The field of a Lissajous trajectory at any voxels: B(t) = static + x·cos(2πf_x t) + y·cos(2πf_y t), in T."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LissajousField:
    """What N voxels see, as vectors (x, y, z).

    Attributes:
        static_3N: selection field in T.
        x_3N, y_3N: amplitudes of the two drive fields in T; both channels are cosines.
        fx_hz: frequency of the first.
        nd: N_d; the second has f_y = N_d/(N_d+1)·f_x.
    """

    static_3N: NDArray[np.float64]
    x_3N: NDArray[np.float64]
    y_3N: NDArray[np.float64]
    fx_hz: float
    nd: int

    @property
    def largest_t(self) -> float:
        """An upper bound of |B|, from those of its components."""
        parts = (self.static_3N, self.x_3N, self.y_3N)
        return float(np.linalg.norm(sum(np.abs(part_3N).max(axis=1) for part_3N in parts)))

    @property
    def drive_t(self) -> float:
        """The weaker drive's largest amplitude."""
        return min(float(np.linalg.norm(part_3N, axis=0).max()) for part_3N in (self.x_3N, self.y_3N))

    def at(self, voxels: NDArray[np.int64]) -> "LissajousField":
        """The field of some of the voxels."""
        return LissajousField(
            self.static_3N[:, voxels], self.x_3N[:, voxels], self.y_3N[:, voxels], self.fx_hz, self.nd
        )

    def voxel_vectors(self, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The three parts times `scale`, voxel by voxel, shape (N, 3)."""
        static_N3, x_N3, y_N3 = (
            np.ascontiguousarray(scale * part_3N.T) for part_3N in (self.static_3N, self.x_3N, self.y_3N)
        )
        return static_N3, x_N3, y_N3
