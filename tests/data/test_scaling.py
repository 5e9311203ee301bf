"""Components to patterns at unit maximum modulus, and back."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sm_search.data.scaling import ScaledImages


def images(seed: int, components: int = 3, size_y: int = 4, size_x: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = (components, size_y, size_x)
    decades = 10.0 ** random.uniform(-12, 12, size=(components, 1, 1))
    return decades * (random.normal(size=shape) + 1j * random.normal(size=shape))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_round_trip_is_exact_to_rounding_and_the_maximum_modulus_is_one(seed: int) -> None:
    original = images(seed)
    scaled = ScaledImages.of(original)
    assert scaled.patterns.shape == (3, 2, 4, 5)
    modulus = np.hypot(scaled.patterns[:, 0], scaled.patterns[:, 1])
    np.testing.assert_allclose(modulus.max(axis=(1, 2)), 1, rtol=1e-15)
    np.testing.assert_allclose(scaled.images(), original, rtol=1e-15)


def test_an_exact_case() -> None:
    scaled = ScaledImages.of(np.array([[[3 + 4j, -5.0]], [[0, -2j]]]))
    assert scaled.scales.tolist() == [5, 2]
    np.testing.assert_allclose(scaled.patterns[:, 0], [[[0.6, -1.0]], [[0.0, 0.0]]], rtol=1e-15)
    np.testing.assert_allclose(scaled.patterns[:, 1], [[[0.8, 0.0]], [[0.0, -1.0]]], rtol=1e-15)


def test_patterns_do_not_change_with_a_positive_factor_per_component() -> None:
    original = images(1)
    factor_K = np.array([2.0**-40, 1.0, 2.0**70])
    scaled, changed = ScaledImages.of(original), ScaledImages.of(original * factor_K[:, None, None])
    np.testing.assert_array_equal(changed.patterns, scaled.patterns)
    np.testing.assert_array_equal(changed.scales, scaled.scales * factor_K)


def test_an_empty_component_stays_empty() -> None:
    original = images(2)
    original[1] = 0
    scaled = ScaledImages.of(original)
    assert scaled.scales[1] == 0
    assert not scaled.patterns[1].any()
    np.testing.assert_allclose(scaled.images(), original, rtol=1e-15)
