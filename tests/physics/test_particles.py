"""Langevin function, moment, Brownian time and rate against high-precision and textbook values."""

import math
from decimal import Decimal, localcontext

import numpy as np
import physics_reference as reference
import pytest

from sm_search.config.simulation_settings import Particle
from sm_search.physics.linear_relaxation import Kinetics
from sm_search.physics.panel_kernel import BROWNIAN, langevin_over_xi
from sm_search.physics.particles import (
    brownian_time_zero_field,
    langevin_parameter_per_tesla,
    magnetic_moment,
)


def exact_langevin_over_xi(xi: float) -> float:
    """(coth ξ − 1/ξ)/ξ with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x = Decimal(xi)
        e = (2 * x).exp()
        return float(((e + 1) / (e - 1) - 1 / x) / x)


def langevin(xi2: np.ndarray) -> np.ndarray:
    """L(ξ)/ξ."""
    ratio = np.empty_like(xi2)
    langevin_over_xi(xi2, len(xi2), ratio)
    return ratio


@pytest.mark.parametrize("xi", [1e-9, 1e-4, 0.01, 0.1, 0.49999, 0.5, 0.50001, 1.0, 3.0, 10.0, 33.0, 700.0])
def test_langevin_has_all_its_digits(xi: float) -> None:
    actual = langevin(np.array([xi**2])).item()
    assert actual == pytest.approx(exact_langevin_over_xi(xi), rel=2e-14)


def test_langevin_limits() -> None:
    """Oracle 6: L(ξ)/ξ → 1/3 at ξ → 0 and L → 1 − 1/ξ at ξ → ∞."""
    ratio = langevin(np.array([0.0, 1e-320, 1e8, 1e16]))
    assert ratio[0].item() == pytest.approx(1 / 3, rel=1e-15)
    assert ratio[1].item() == pytest.approx(1 / 3, rel=1e-15)
    assert (ratio[2] * 1e4).item() == pytest.approx(1 - 1e-4, rel=1e-14)
    assert (ratio[3] * 1e8).item() == pytest.approx(1 - 1e-8, rel=1e-14)


def test_moment_and_time_of_a_30_nm_core() -> None:
    particle = Particle()
    assert magnetic_moment(30e-9, particle) == pytest.approx(474e3 * math.pi / 6 * 27e-24)
    assert langevin_parameter_per_tesla(30e-9, particle) == pytest.approx(
        reference.beta(reference.settings(), reference.SCAN), rel=1e-12
    )
    # 40 nm hydrodynamic: 3·1e-3·3.351e-23 / (1.380649e-23·293)
    assert brownian_time_zero_field(30e-9, particle) == pytest.approx(2.4852e-5, rel=1e-4)


def test_rate_follows_yoshida_and_enpuku() -> None:
    for xi in (0.0, 1.0, 20.0):
        expected = math.sqrt(1 + 0.126 * xi**1.72) / 3e-5
        assert Kinetics(BROWNIAN, 3e-5).rate(xi) == pytest.approx(expected, rel=1e-14)
