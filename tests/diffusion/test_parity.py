"""Mirror symmetries: an involution in general, and exact on simulated matrices where the design says so."""

import numpy as np
import pytest
import torch

from sm_search.config.dataset_settings import DatasetSettings, Design
from sm_search.config.simulation_settings import Grid, MixingOrders
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.parity import mirrored
from sm_search.physics.system_matrix import SystemMatrix, simulate


def equilibrium(nd: int) -> SystemMatrix:
    """The high-gradient matrix of 40 nm cores; N_d is so small that aliases are seen."""
    settings = DatasetSettings(
        name="parity",
        magnetisation="equilibrium",
        grid=Grid(size=(12, 12)),
        orders=MixingOrders(max_x=4, max_y=4),
        splits={
            split: (Design(core_diameter_nm=(diameter_nm,), fx_khz=(25.0,), nd=(nd,)),)
            for split, diameter_nm in (("train", 20.0), ("validation", 30.0), ("test", 40.0))
        },
    )
    return simulate(settings, settings.scans("test")[0], "high")


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("nd", [9, 10])
def test_a_simulated_matrix_is_its_own_mirror_image_where_the_symmetry_is_exact(nd: int, channel: int) -> None:
    matrix = equilibrium(nd)
    images = torch.from_numpy(ScaledImages.of(matrix.channel_images(channel)).patterns)
    orders = torch.tensor(matrix.mixing_orders)
    yes, no = torch.ones(len(images), dtype=torch.bool), torch.zeros(len(images), dtype=torch.bool)
    change = {
        "x": (mirrored(images, orders, yes, no) - images).abs().amax().item(),
        "y": (mirrored(images, orders, no, yes) - images).abs().amax().item(),
    }
    # A y-channel seen along its own axis has x and y exchanged.
    exact, other = ("y", "x") if (nd % 2 == 1) == (channel == 0) else ("x", "y")
    assert change[exact] < 1e-9
    assert 1e-6 < change[other] < 1


def test_mirroring_twice_changes_nothing_and_touches_only_what_is_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((4, 2, 3, 5), generator=generator)
    orders = torch.tensor([[0, 0], [1, 0], [0, 1], [3, 2]])
    along_x, along_y = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    once = mirrored(images, orders, along_x, along_y)
    assert torch.equal(mirrored(once, orders, along_x, along_y), images)
    assert torch.equal(once[3], images[3])
    np.testing.assert_array_equal(once[0], -images[0].flip(1, 2))
    np.testing.assert_array_equal(once[1], images[1].flip(1))
    np.testing.assert_array_equal(once[2], -images[2].flip(2))
