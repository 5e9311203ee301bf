"""The comparison figure: high, low and synthesised components side by side, as in the paper's Figure 1."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sm_search.config.errors import DataError
from sm_search.physics.system_matrix import SystemMatrix

matplotlib.use("Agg")

SHOWN_ORDERS = ((1, 0), (0, 1), (2, 1), (3, 2), (4, 4), (7, 2), (6, 6), (9, 5), (12, 12))


def comparison_figure(high: SystemMatrix, low: SystemMatrix, synthesised: SystemMatrix, title: str) -> Figure:
    """Real part of some components of the x-channel at unit maximum modulus, and the error ten times enlarged."""
    position = {order: index for index, order in enumerate(high.mixing_orders)}
    shown = [position[order] for order in SHOWN_ORDERS if order in position] or list(range(min(6, len(position))))
    truth, condition, estimate = (_patterns(sm, shown) for sm in (high, low, synthesised))
    rows: Sequence[tuple[str, np.ndarray]] = (
        (f"high\n{high.field.gradient_t_per_m:g} T/m", truth),
        (f"low\n{low.field.gradient_t_per_m:g} T/m", condition),
        ("synthesised", estimate),
        ("error × 10", 10 * (estimate - truth)),
    )
    figure = Figure(figsize=(1.25 * len(shown) + 1.6, 1.25 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), len(shown), squeeze=False)
    for row, (label, images) in enumerate(rows):
        for column, index in enumerate(shown):
            panel = axes[row][column]
            extent = _extent_mm(high)
            artist = panel.imshow(
                images[column].real, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1, extent=extent, interpolation="none"
            )
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                panel.set_title(f"({high.mixing_orders[index][0]}, {high.mixing_orders[index][1]})", fontsize=9)
        axes[row][0].set_ylabel(label, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel("real part at unit maximum modulus; mixing orders $(m_x, m_y)$; x to the right, y up", fontsize=8)
    figure.colorbar(artist, ax=axes, shrink=0.6)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _patterns(sm: SystemMatrix, shown: Sequence[int]) -> np.ndarray:
    images = sm.channel_images(0)[list(shown)]
    return images / np.abs(images).max(axis=(1, 2), keepdims=True)


def _extent_mm(sm: SystemMatrix) -> tuple[float, float, float, float]:
    half_x, half_y = (side / 2 for side in sm.grid.fov_mm)
    return -half_x, half_x, -half_y, half_y
