"""Gradients of solid harmonics: source-free fields, normalised, whose low degrees are offset, rotation and tilt."""

import math

import numpy as np
import pytest

from sm_search.physics.harmonics import harmonic_field, solid_harmonics

RADIUS_M = 0.02
ALL = [(degree, order) for degree in range(1, 7) for order in range(-degree, degree + 1)]


def positions(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.03, 0.03, (3, count))


def jacobian(terms: list[tuple[int, int, float]], at_3N: np.ndarray) -> np.ndarray:
    """∂B_i/∂x_j by central differences of fourth order, shape (3, 3, N)."""
    step = 1e-4
    columns = []
    for axis in range(3):
        moved = np.zeros((3, 1))
        moved[axis] = step
        near, far = (
            harmonic_field(terms, at_3N + n * moved, RADIUS_M) - harmonic_field(terms, at_3N - n * moved, RADIUS_M)
            for n in (1, 2)
        )
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("degree", "order"), ALL)
def test_every_term_is_free_of_divergence_and_curl(degree: int, order: int) -> None:
    gradient_33N = jacobian([(degree, order, 1.0)], positions(20))
    size = np.abs(gradient_33N).max() + 1 / RADIUS_M
    assert np.abs(np.trace(gradient_33N)).max() < 1e-7 * size
    assert np.abs(gradient_33N - gradient_33N.transpose(1, 0, 2)).max() < 1e-7 * size


def test_the_harmonics_are_those_of_the_textbook() -> None:
    """Degrees 0 to 3 as polynomials."""
    x, y, z = at_3N = positions(9) / RADIUS_M
    found, r2 = solid_harmonics(at_3N, 3), x**2 + y**2 + z**2
    expected = {
        (0, 0): 1 + 0 * x,
        (1, 0): z,
        (1, 1): (x + 1j * y) / 2,
        (2, 0): (3 * z**2 - r2) / 4,
        (2, 1): z * (x + 1j * y) / 2,
        (2, 2): (x + 1j * y) ** 2 / 8,
        (3, 0): z * (5 * z**2 - 3 * r2) / 12,
        (3, 1): (5 * z**2 - r2) * (x + 1j * y) / 16,
        (3, 3): (x + 1j * y) ** 3 / 48,
    }
    for key, values_N in expected.items():
        np.testing.assert_allclose(found[key], values_N, rtol=1e-12, atol=1e-14)


def test_the_squares_of_the_coefficients_add_up_to_the_mean_square_on_the_sphere() -> None:
    """By a product quadrature of the sphere that is exact for these degrees: terms are orthonormal."""
    roots, weights = np.polynomial.legendre.leggauss(16)
    angle = 2 * np.pi * np.arange(32) / 32
    sine = np.sqrt(1 - roots**2)
    sphere = np.array([np.outer(sine, np.cos(angle)), np.outer(sine, np.sin(angle)), np.outer(roots, np.ones(32))])
    share_N = np.repeat(weights / 2 / 32, 32)
    fields = [harmonic_field([(*term, 1.0)], RADIUS_M * sphere.reshape(3, -1), RADIUS_M) for term in ALL]
    gram = np.einsum("adn,bdn,n->ab", fields, fields, share_N)
    np.testing.assert_allclose(gram, np.eye(len(ALL)), atol=1e-12)


def test_degree_one_is_a_homogeneous_field() -> None:
    field_3N = harmonic_field([(1, 1, 2.0), (1, -1, 3.0), (1, 0, 5.0)], positions(7), RADIUS_M)
    np.testing.assert_allclose(field_3N, np.array([[2.0], [3.0], [5.0]]).repeat(7, axis=1), rtol=1e-14)


def test_degree_two_are_the_five_symmetric_trace_free_gradients() -> None:
    for order in range(-2, 3):
        gradient = jacobian([(2, order, 1.0)], np.zeros((3, 1)))[..., 0]
        np.testing.assert_allclose(gradient, gradient.T, atol=1e-9)
        assert abs(np.trace(gradient)) < 1e-9
        # The mean of |g·r|² over the sphere is R²·‖g‖²/3.
        assert np.linalg.norm(gradient) == pytest.approx(math.sqrt(3) / RADIUS_M, rel=1e-9)
        np.testing.assert_allclose(
            harmonic_field([(2, order, 1.0)], positions(5), RADIUS_M), gradient @ positions(5), rtol=1e-8, atol=1e-9
        )


def test_a_field_of_degree_l_grows_with_the_distance_to_the_power_l_minus_one() -> None:
    at_3N = positions(4)
    for degree, order in ALL:
        one, two = (harmonic_field([(degree, order, 1.0)], n * at_3N, RADIUS_M) for n in (1, 2))
        np.testing.assert_allclose(two, 2 ** (degree - 1) * one, rtol=1e-12, atol=1e-14)
