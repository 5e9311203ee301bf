"""The log-normal size distribution against brute force, and its number of nodes."""

import math

import numpy as np
import physics_reference as reference
import pytest

from sm_search.config.simulation_settings import Scan
from sm_search.physics import system_matrix
from sm_search.physics.magnetisation import MODELS
from sm_search.physics.sizes import core_sizes
from sm_search.physics.system_matrix import simulate


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
def test_volume_weighting_moves_the_median(spread: float) -> None:
    """Moments of d under n(d)·d³, log-normal with median d_0: ⟨d^p⟩ = d_0^p·exp((3p + p²/2)·σ²)."""
    chosen = core_sizes(30e-9, spread, 20)
    assert chosen.share_S.sum() == pytest.approx(1, rel=1e-13)
    for power in (1, 2, 3):
        expected = 30e-9**power * math.exp((3 * power + power**2 / 2) * spread**2)
        assert chosen.share_S @ chosen.diameter_m_S**power == pytest.approx(expected, rel=1e-9)


def test_no_spread_is_one_size() -> None:
    chosen = core_sizes(30e-9, 0.0, 9)
    assert (chosen.diameter_m_S.tolist(), chosen.share_S.tolist()) == ([30e-9], [1.0])


@pytest.mark.parametrize("magnetisation", ["equilibrium", "debye", "brownian", "neel-brown"])
def test_signal_is_the_mean_over_the_core_volume(magnetisation: str) -> None:
    """Σ n·V·M/Σ n·V over 129 diameters of the number distribution, each simulated alone."""
    spread, median = 0.08, 22.0
    scan = Scan(core_diameter_nm=median, fx_khz=25, nd=6)
    settings = reference.settings(magnetisation, size=(3, 2), particle={"size_spread": spread})
    matrix = simulate(settings, scan, "low")
    assert matrix.tracer["sizes"] == MODELS[settings.magnetisation].size_nodes(spread) > 1
    tolerance = MODELS[settings.magnetisation].size_tolerance(spread)
    assert matrix.tracer["tolerance"] == tolerance
    assert matrix.tracer["sizeSpread"] == spread
    alone = reference.settings(magnetisation, size=(3, 2))
    total, expected = 0.0, np.zeros_like(matrix.values_CKN)
    for deviation in np.linspace(-8, 8, 129):
        diameter = median * math.exp(spread * deviation)
        weight = math.exp(-(deviation**2) / 2) * diameter**3
        total += weight
        size = scan.model_copy(update={"core_diameter_nm": diameter})
        expected += weight * simulate(alone, size, "low").values_CKN
    assert reference.worst(matrix.values_CKN, expected / total) < tolerance
    single = simulate(alone, scan, "low").values_CKN
    assert reference.worst(single, expected / total) > 1e-2


def test_a_scan_may_say_its_own_spread() -> None:
    settings = reference.settings(particle={"size_spread": 0.1})
    scan = Scan(core_diameter_nm=30, fx_khz=25, nd=6, size_spread=0.2)
    assert simulate(settings, scan, "low").tracer["sizeSpread"] == 0.2
    assert simulate(settings, scan.model_copy(update={"size_spread": 0.0}), "low").tracer["sizes"] == 1


@pytest.mark.parametrize(("spread", "which"), [(0.1, "low"), (0.1, "high"), (0.2, "high"), (0.3, "low")])
def test_twice_as_many_sizes_do_not_show(monkeypatch: pytest.MonkeyPatch, spread: float, which: str) -> None:
    settings = reference.settings("debye", size=(4, 3), particle={"size_spread": spread})
    scan = Scan(core_diameter_nm=25, fx_khz=25, nd=6)
    values = simulate(settings, scan, which).values_CKN
    monkeypatch.setattr(system_matrix, "core_sizes", lambda median, s, nodes: core_sizes(median, s, 2 * nodes))
    finer = simulate(settings, scan, which).values_CKN
    assert reference.worst(values, finer) < MODELS["debye"].size_tolerance(spread)


@pytest.mark.parametrize(
    ("magnetisation", "spread", "diameter"),
    [
        ("brownian", 0.1, 30.0),
        ("brownian", 0.2, 30.0),
        ("brownian", 0.2, 22.0),
        *((model, spread, 22.0) for model in ("equilibrium", "debye") for spread in (0.1, 0.2, 0.3)),
    ],
)
def test_twice_as_many_sizes_do_not_show_in_the_faint_orders(
    monkeypatch: pytest.MonkeyPatch, magnetisation: str, spread: float, diameter: float
) -> None:
    """All 168 orders at the low field, where the highest are faint."""
    settings = reference.settings(magnetisation, size=(2, 1), orders=(12, 12), particle={"size_spread": spread})
    scan = Scan(core_diameter_nm=diameter, fx_khz=10, nd=29)
    values = simulate(settings, scan, "low").values_CKN
    monkeypatch.setattr(system_matrix, "core_sizes", lambda median, s, nodes: core_sizes(median, s, 2 * nodes))
    finer = simulate(settings, scan, "low").values_CKN
    whole = np.abs(finer).max(axis=-1)
    heard = whole > 1e-10 * whole.max()  # fainter ones are rounding
    error = np.abs(values - finer).max(axis=-1)
    assert (error[heard] / whole[heard]).max() < MODELS[settings.magnetisation].size_tolerance(spread)


def test_negligible_sizes_are_left_out() -> None:
    nodes = MODELS["equilibrium"].size_nodes(0.5)
    chosen = core_sizes(30e-9, 0.5, nodes)
    assert len(chosen.share_S) < nodes
    assert chosen.share_S.sum() == pytest.approx(1, rel=1e-12)
