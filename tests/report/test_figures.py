"""The figures are drawn, not blank, and written whole or not at all."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sm_search.config.errors import DataError
from sm_search.data.dataset import Dataset, Pair
from sm_search.evaluation.reconstruction import reconstruction_check
from sm_search.report.figures import comparison_figure, reconstruction_figure, save_figure


@pytest.fixture(scope="module")
def pair(tiny_dataset: Dataset) -> Pair:
    return next(iter(tiny_dataset.pairs("test")))


def pixels(figure: Figure, path: Path) -> np.ndarray:
    save_figure(figure, path)
    image = Image.open(path)
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(float)


def test_the_comparison_shows_high_low_estimate_and_error(pair: Pair, tmp_path: Path) -> None:
    figure = comparison_figure(pair.high, pair.low, pair.low, "a title")
    drawn = pixels(figure, tmp_path / "figure.png")
    assert 300 < drawn.shape[0] < 3000
    assert 300 < drawn.shape[1] < 4000
    assert drawn.std() > 10
    # Colour, not only black text: the channels differ.
    assert np.abs(drawn[..., 0] - drawn[..., 2]).max() > 100

    panels = [axes for axes in figure.axes if axes.get_images()]
    shown = len(panels) // 4
    labels = [panels[row * shown].get_ylabel() for row in range(4)]
    assert labels == ["high\n1 T/m", "low\n0.1 T/m", "synthesised", "error × 2"]
    order = panels[0].get_title().strip("()").split(", ")
    index = pair.high.mixing_orders.index((int(order[0]), int(order[1])))
    component = pair.high.channel_images(0)[index]
    high, low, estimate, error = (np.asarray(panels[row * shown].get_images()[0].get_array()) for row in range(4))
    np.testing.assert_allclose(high, (component / np.abs(component).max()).real)
    np.testing.assert_array_equal(low, estimate)
    np.testing.assert_allclose(error, 2 * (low - high))


@pytest.mark.parametrize(("share", "times"), [(0.001, 10), (0.1, 5), (0.3, 2), (0.9, 1)])
def test_the_error_is_enlarged_as_far_as_the_colours_reach(pair: Pair, share: float, times: int) -> None:
    shape, random = pair.high.values_CKN.shape, np.random.default_rng(0)
    off = share * np.sign(random.standard_normal(shape)) * np.abs(pair.high.values_CKN).max(axis=-1, keepdims=True)
    figure = comparison_figure(
        pair.high, pair.low, dataclasses.replace(pair.high, values_CKN=pair.high.values_CKN + off), ""
    )
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert panels[3 * len(panels) // 4].get_ylabel() == (f"error × {times}" if times > 1 else "error")


def test_a_perfect_estimate_has_no_error(pair: Pair) -> None:
    figure = comparison_figure(pair.high, pair.low, pair.high, "")
    panels = [axes for axes in figure.axes if axes.get_images()]
    error = np.asarray(panels[-1].get_images()[0].get_array())
    assert not error.any()


def test_the_reconstruction_stands_beside_its_phantom(pair: Pair, tmp_path: Path) -> None:
    result = reconstruction_check(pair.high, "shape")
    figure = reconstruction_figure(result, pair.high.grid)
    drawn = pixels(figure, tmp_path / "figure.png")
    assert drawn.shape[1] > drawn.shape[0] > 300
    assert drawn.std() > 10
    phantom, image, difference = (np.asarray(a.get_images()[0].get_array()) for a in figure.axes[:3])
    np.testing.assert_array_equal(phantom, result.phantom)
    np.testing.assert_array_equal(image, result.image)
    np.testing.assert_allclose(difference, result.image - result.phantom)
    # One grey scale for both, or they could not be compared.
    limits = [axes.get_images()[0].get_clim() for axes in figure.axes[:2]]
    assert limits[0] == limits[1]
    assert f"{result.psnr_db:.1f} dB" in figure.axes[1].get_title()


def test_a_figure_that_cannot_be_written_leaves_nothing(pair: Pair, tmp_path: Path) -> None:
    figure = comparison_figure(pair.high, pair.low, pair.low, "")
    with pytest.raises(DataError, match="cannot be written"):
        save_figure(figure, tmp_path / "none" / "figure.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder"):
        save_figure(figure, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
