"""Figures: components high, low and synthesised, as in the paper's Figure 1; a phantom beside its reconstruction."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sm_search.config.simulation_settings import Grid
from sm_search.data.atomic import atomic_path
from sm_search.evaluation.reconstruction import ReconstructionResult
from sm_search.physics.scanner_axes import along_scanner, scanner_images, scanner_order
from sm_search.physics.system_matrix import SystemMatrix

matplotlib.use("Agg")

SHOWN_IMAGES = 16
SHOWN_PLANES = 4
ENLARGED = (10, 5, 2)
"""How many times a shown error may be enlarged: as often as leaves all but a hundredth of it in the colours' range."""
SHOWN_ORDERS = ((1, 0), (0, 1), (2, 1), (3, 2), (4, 4), (7, 2), (6, 6), (9, 5), (12, 12))


def comparison_figure(high: SystemMatrix, low: SystemMatrix, synthesised: SystemMatrix, title: str) -> Figure:
    """Real part of some components of the channel of the faster drive, x in simulations, at unit maximum modulus, and
    the error enlarged."""
    position = {order: index for index, order in enumerate(high.mixing_orders)}
    shown = [position[order] for order in SHOWN_ORDERS if order in position] or list(range(min(6, len(position))))
    truth, condition, estimate = (_patterns(sm, shown) for sm in (high, low, synthesised))
    error = estimate - truth
    large = np.quantile(np.abs(error.real), 0.99)
    times = next((each for each in ENLARGED if each * large <= 1), 1)
    rows: Sequence[tuple[str, np.ndarray]] = (
        (f"high\n{_gradient(high)} T/m", truth),
        (f"low\n{_gradient(low)} T/m", condition),
        ("synthesised", estimate),
        (f"error × {times}" if times > 1 else "error", times * error),
    )
    grid = along_scanner(high.axes, high.grid)
    figure, axes = _panels(len(rows), len(shown), 1.25, left=0.6, right=0.9, bottom=0.3, top=0.6)
    for row, (label, images) in enumerate(rows):
        for column, index in enumerate(shown):
            panel = axes[row][column]
            image, extent = scanner_images(high.axes, images[column].real), _extent_mm(grid)
            artist = panel.imshow(
                image, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1, extent=extent, interpolation="none"
            )
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                m_x, m_y = scanner_order(high.axes, high.mixing_orders[index])
                panel.set_title(f"({m_x}, {m_y})", fontsize=9)
        axes[row][0].set_ylabel(label, fontsize=9)
    figure.suptitle(title, fontsize=10)
    what = f"{high.axes[0]}-channel, real part at unit maximum; mixing orders $(m_x, m_y)$; x to the right, y up"
    figure.supxlabel(what, fontsize=8)
    figure.colorbar(artist, cax=_bar(figure, 0.9))
    return figure


def reconstruction_figure(result: ReconstructionResult, grid: Grid) -> Figure:
    """A phantom, its reconstruction on the same grey scale, and their difference."""
    peak = max(float(result.phantom.max()), float(result.image.max()))
    difference = result.image - result.phantom
    reach = max(float(np.abs(difference).max()), 1e-12)
    quality = f"PSNR {result.psnr_db:.1f} dB, SSIM {result.ssim:.3f}"
    panels: Sequence[tuple[str, np.ndarray, str, float, float]] = (
        (f"phantom {result.phantom_name!r}", result.phantom, "gray", 0.0, peak),
        (f"reconstruction\n{quality}", result.image, "gray", 0.0, peak),
        ("reconstruction − phantom", difference, "RdBu_r", -reach, reach),
    )
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    for panel, (title, image, colours, low, high) in zip(figure.subplots(1, 3), panels, strict=True):
        artist = panel.imshow(
            image, origin="lower", cmap=colours, vmin=low, vmax=high, extent=_extent_mm(grid), interpolation="none"
        )
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("x / mm", fontsize=8)
        panel.tick_params(labelsize=8)
        figure.colorbar(artist, ax=panel, shrink=0.8).ax.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("y / mm", fontsize=8)
    figure.supxlabel("concentration relative to the point sample", fontsize=8)
    return figure


def deviation_figure(image_YX: np.ndarray, deviation_YX: np.ndarray, grid: Grid) -> Figure:
    """An image, or the first planes of a volume, and beside it its standard deviation over draws of the matrix."""
    images, deviations = (each.reshape(-1, *each.shape[-2:])[:SHOWN_PLANES] for each in (image_YX, deviation_YX))
    figure = Figure(figsize=(8.2, 3.6 * len(images)), layout="constrained")
    panels = figure.subplots(len(images), 2, squeeze=False)
    for column, (what, shown, colours) in enumerate(
        (("image", images, "gray"), ("standard deviation from the matrix's uncertainty", deviations, "magma"))
    ):
        for panel, values in zip(panels[:, column], shown, strict=True):
            artist = panel.imshow(
                values,
                origin="lower",
                cmap=colours,
                vmin=0,
                vmax=shown.max() or 1.0,
                extent=_extent_mm(grid),
                interpolation="none",
            )
            panel.set_title(what, fontsize=9)
            panel.set_xlabel("x / mm", fontsize=8)
            panel.set_ylabel("y / mm", fontsize=8)
            panel.tick_params(labelsize=8)
        figure.colorbar(artist, ax=list(panels[:, column]), shrink=0.8).ax.tick_params(labelsize=8)
    figure.supxlabel("concentration relative to the point sample", fontsize=8)
    return figure


def images_figure(images_QYX: np.ndarray, grid: Grid, what: str = "image") -> Figure:
    """The first images of a measurement, or the first planes of one, all on one scale."""
    shown = images_QYX[:SHOWN_IMAGES]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.5 * columns + 1, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (panel, image) in enumerate(zip(panels, shown, strict=False)):
        artist = panel.imshow(
            image, origin="lower", cmap="viridis", vmin=0, vmax=shown.max() or 1.0, extent=_extent_mm(grid)
        )
        panel.set_title(f"{what} {number + 1} of {len(images_QYX)}", fontsize=9)
        panel.set_xlabel("x / mm", fontsize=8)
        panel.set_ylabel("y / mm", fontsize=8)
        panel.tick_params(labelsize=8)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    bar = figure.colorbar(artist, ax=list(panels), shrink=0.8)
    bar.set_label("concentration relative to the point sample", fontsize=8)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _panels(
    rows: int, columns: int, side: float, *, left: float, right: float, bottom: float, top: float
) -> tuple[Figure, np.ndarray]:
    """A figure of square panels between margins, all in inches: what matplotlib finds by itself takes it seconds."""
    width, height = side * columns + left + right, side * rows + bottom + top
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=0.06, hspace=0.06)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _bar(figure: Figure, margin: float) -> Axes:
    """Where the colour bar of all panels stands: in a right margin of so many inches."""
    width = figure.get_figwidth()
    return figure.add_axes((1 - (margin - 0.12) / width, 0.2, 0.14 / width, 0.6))


def _patterns(sm: SystemMatrix, shown: Sequence[int]) -> np.ndarray:
    images = sm.channel_images(0)[list(shown)]
    return images / np.abs(images).max(axis=(1, 2), keepdims=True)


def _gradient(sm: SystemMatrix) -> str:
    return " × ".join(f"{value:g}" for value in dict.fromkeys(scanner_order(sm.axes, sm.field.gradients_t_per_m)))


def _extent_mm(grid: Grid) -> tuple[float, float, float, float]:
    half_x, half_y = (side / 2 for side in grid.fov_mm)
    return -half_x, half_x, -half_y, half_y
