"""`SystemMatrix`, the value that flows through the house, and its simulation.

Shapes: C receive channels (x, y), K components (mixing orders), N voxels with x fastest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation import FieldSettings, Grid


@dataclass(frozen=True)
class SystemMatrix:
    """The scanner's response to a point sample at every voxel.

    Attributes:
        values_CKN: complex128 Fourier coefficients c_k of the signal s(t) = Σ_k c_k exp(iω_k t), unit A/m:
            the magnetisation of the magnetic core material, not yet the induced voltage.
        mixing_orders: K pairs (m_x, m_y); the component's frequency index is k = m_x(N_d+1) + m_y·N_d.
        grid: voxel layout.
        field: gradient and drive amplitude.
        fx_hz: x drive frequency in Hz.
        nd: Lissajous trajectory number N_d; f_y = N_d/(N_d+1)·f_x.
        tracer: what is known of the particle and its model, SI numbers and words by name (empty for a measurement).
    """

    values_CKN: NDArray[np.complex128]
    mixing_orders: tuple[tuple[int, int], ...]
    grid: Grid
    field: FieldSettings
    fx_hz: float
    nd: int
    tracer: Mapping[str, float | str] = field(default_factory=dict)

    def frequency_index(self) -> NDArray[np.int64]:
        """k = m_x(N_d+1) + m_y·N_d for each component, shape (K,)."""
        orders_K2 = np.asarray(self.mixing_orders, dtype=np.int64)
        return orders_K2[:, 0] * (self.nd + 1) + orders_K2[:, 1] * self.nd

    def images(self, channel: int = 0) -> NDArray[np.complex128]:
        """One channel as images, shape (K, n_y, n_x)."""
        size_x, size_y = self.grid.size
        return self.values_CKN[channel].reshape(len(self.mixing_orders), size_y, size_x)
