"""The contract of every magnetisation model: laws that hold whatever the particle does, on a small grid."""

from typing import get_args

import numpy as np
import pytest

from sm_search.config.dataset_settings import DatasetSettings, preset
from sm_search.config.simulation_settings import Grid, Magnetisation, MixingOrders, Scan
from sm_search.physics.magnetisation import MODELS
from sm_search.physics.system_matrix import SystemMatrix, simulate

SCAN = Scan(core_diameter_nm=25.0, fx_khz=20.0, nd=7)


def settings(magnetisation: str, **changes: object) -> DatasetSettings:
    given = {"magnetisation": magnetisation, "grid": Grid(size=(5, 5)), "orders": MixingOrders(max_x=3, max_y=3)}
    return preset("paper-12").model_copy(update=given | changes)


@pytest.fixture(scope="module", params=get_args(Magnetisation))
def made(request: pytest.FixtureRequest) -> SystemMatrix:
    return simulate(settings(request.param), SCAN, "high")


def test_every_model_that_settings_may_name_stands_in_the_table() -> None:
    assert tuple(MODELS) == get_args(Magnetisation)


def test_it_is_a_matrix_that_tells_its_model_and_its_accuracy(made: SystemMatrix) -> None:
    assert made.values_CKN.shape == (2, 15, 25)
    assert made.values_CKN.dtype == np.complex128
    assert np.isfinite(made.values_CKN).all()
    assert made.unit == "A/m"
    assert made.tracer["magnetisation"] in get_args(Magnetisation)
    assert 0 < made.tracer["tolerance"] <= 1e-2


def test_no_component_exceeds_the_saturation(made: SystemMatrix) -> None:
    # |c_k| ≤ the largest |M|, and the particle cannot be more than saturated.
    assert np.abs(made.values_CKN).max() < made.tracer["saturationMagnetisation"]


def test_the_same_settings_give_the_same_numbers(made: SystemMatrix) -> None:
    again = simulate(settings(str(made.tracer["magnetisation"])), SCAN, "high")
    assert np.array_equal(again.values_CKN, made.values_CKN)


def test_mirroring_along_y_gives_the_parity_of_the_order(made: SystemMatrix) -> None:
    """Oracle of symmetry: y → −y multiplies the x-channel by (−1)^(m_y), exactly for odd N_d."""
    images = made.values_CKN[0].reshape(-1, 5, 5)
    sign_K = np.array([(-1.0) ** m_y for _, m_y in made.mixing_orders])[:, None, None]
    largest = np.abs(images).max(axis=(1, 2), keepdims=True)
    assert np.abs(images[:, ::-1] - sign_K * images).max() <= 1e-5 * largest.max()


def test_a_voxel_does_not_depend_on_the_others(made: SystemMatrix) -> None:
    """The grid is no part of the physics."""
    magnetisation = str(made.tracer["magnetisation"])
    (middle,) = simulate(settings(magnetisation, grid=Grid(size=(1, 1))), SCAN, "high").values_CKN[0].T
    largest_K = np.abs(made.values_CKN[0]).max(axis=1)
    assert (np.abs(made.values_CKN[0][:, 12] - middle) <= 1e-5 * largest_K + 1e-9).all()
