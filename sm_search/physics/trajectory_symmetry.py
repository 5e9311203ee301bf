"""The exact parity of a Lissajous trajectory in ideal fields, where the moment lags: one half of the voxels gives all.

Shapes: C receive channels (x, y), K components (mixing orders), N voxels with x fastest.
"""

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import Grid


def computed_half(nd: int, grid: Grid) -> NDArray[np.int64]:
    """Voxels to compute: the half that the exact parity of the trajectory (y if N_d is odd, else x) maps to all."""
    size_x, size_y = grid.size
    index_YX = np.arange(grid.voxels).reshape(size_y, size_x)
    half = index_YX[: (size_y + 1) // 2] if nd % 2 else index_YX[:, : (size_x + 1) // 2]
    return half.ravel()


def fill_by_symmetry(
    values_CKN: NDArray[np.complex128], orders: tuple[tuple[int, int], ...], nd: int, grid: Grid
) -> None:
    """Mirror the computed half: the x-channel has parity (−1)^(m_y) in y (N_d odd) or −(−1)^(m_x) in x (N_d even)."""
    size_x, size_y = grid.size
    values = values_CKN.reshape(2, len(orders), size_y, size_x)
    order_K = np.asarray(orders)[:, 1 if nd % 2 else 0]
    along = (-1.0) ** order_K[:, None, None]
    signs = (along, -along) if nd % 2 else (-along, along)
    for channel, sign in enumerate(signs):
        if nd % 2:
            half = size_y // 2
            values[channel, :, size_y - half :] = sign * values[channel, :, half - 1 :: -1][:, :half]
        else:
            half = size_x // 2
            values[channel, :, :, size_x - half :] = sign * values[channel, :, :, half - 1 :: -1][:, :, :half]
