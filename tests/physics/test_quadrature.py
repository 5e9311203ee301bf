"""Panels integrate and merge polynomials exactly."""

import numpy as np
import pytest

from sm_search.physics.quadrature import gauss_panel


@pytest.mark.parametrize("order", [1, 2, 7, 16, 20])
def test_running_integrals_are_exact_for_polynomials(order: int) -> None:
    panel = gauss_panel(order)
    ends_R = np.append(panel.nodes_Q, 1.0)
    for power in range(order):
        integral_R = panel.running_RQ @ panel.nodes_Q**power
        assert integral_R == pytest.approx(ends_R ** (power + 1) / (power + 1), abs=1e-13)


def test_merging_keeps_the_moments_of_a_kink() -> None:
    """|t − ½| is smooth on both halves only, yet all moments up to degree Q−1 survive the merge."""
    panel = gauss_panel(8)
    halves = [panel.nodes_Q / 2, (1 + panel.nodes_Q) / 2]
    values_S = np.concatenate([np.append(np.abs(t - 0.5), end) for t, end in zip(halves, (0.0, 0.5), strict=True)])
    merged_R = panel.merge_RS @ values_S
    assert merged_R[-1] == 0.5
    for power in range(8):
        exact = sum((panel.weights_Q / 2 * np.abs(t - 0.5) * t**power).sum() for t in halves)
        assert panel.weights_Q @ (merged_R[:-1] * panel.nodes_Q**power) == pytest.approx(exact, rel=1e-13)
