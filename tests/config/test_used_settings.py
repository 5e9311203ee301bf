"""What is set in vain, or cannot be drawn, is told before anything is simulated."""

from pathlib import Path

import pytest

from sm_search.api import dataset_settings
from sm_search.config.dataset_settings import preset
from sm_search.config.errors import DataError, SettingsError

SPLITS = {
    name: [
        {"design": "scanners", "first": first, "count": 2, "core_diameter_nm": [30, 40], "fx_khz": [20, 25], "nd": [29]}
    ]
    for name, first in (("train", 0), ("validation", 10), ("test", 20))
}
GRID = {
    name: [{"core_diameter_nm": [d], "fx_khz": [25], "nd": [29]}] for name, d in zip(SPLITS, (30, 35, 40), strict=True)
}
LAB = {"name": "lab", "orders": {"max_x": 3, "max_y": 3}}


def test_a_spread_of_scanners_that_no_scan_has_is_refused() -> None:
    with pytest.raises(SettingsError, match="'lab': scanners: no split has scans of the design `scanners`"):
        dataset_settings({**LAB, "scanners": {"displacement_mm": 1.5}, "splits": GRID})


def test_a_scanner_that_cannot_be_is_refused_before_it_is_simulated() -> None:
    far = {name: [{**designs[0], "deviation": 10}] for name, designs in SPLITS.items()}
    rule = r"scan d.*-s\d+.*: scanners.gradient_error: [-0-9.]+ was drawn for scanner \d+ with deviation 10: must be"
    with pytest.raises(SettingsError, match=rule):
        dataset_settings({**LAB, "scanners": {"gradient_error": 0.15}, "splits": far})
    assert dataset_settings({**LAB, "scanners": {"gradient_error": 0.15}, "splits": SPLITS}).name == "lab"


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        (["10000,1,0", "50000,1,0"], r"chain.csv: transfer_table: reaches from 10 to 50 kHz, .* \(scan d30nm"),
        (["1000,0,0", "900000,0,0"], r"chain.csv: transfer_table: is 0 at [0-9.]+ kHz in channel 1"),
    ],
)
def test_a_table_serves_every_component_of_every_scan(tmp_path: Path, rows: list[str], rule: str) -> None:
    (tmp_path / "chain.csv").write_text("\n".join(rows))
    file = tmp_path / "lab.yaml"
    file.write_text(str({**LAB, "receive": {"signal": "voltage", "transfer_table": "chain.csv"}, "splits": GRID}))
    with pytest.raises(DataError, match=rule):
        dataset_settings(file)


def test_a_zero_that_no_component_meets_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "chain.csv").write_text("0,0,0\n1000,1,0\n900000,1,0")
    file = tmp_path / "lab.yaml"
    file.write_text(str({**LAB, "receive": {"signal": "voltage", "transfer_table": "chain.csv"}, "splits": GRID}))
    assert not isinstance(dataset_settings(file).receive.transfer_table, str)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("scanner-64-brownain", "scanner-64-brownian"), ("papr-12", "paper-12"), ("sobol-8-debbye", "sobol-8-debye")],
)
def test_the_nearest_preset_is_named(typed: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"did you mean '{meant}'"):
        preset(typed)


def test_a_value_that_looks_like_its_place_in_a_list_is_told() -> None:
    with pytest.raises(SettingsError, match=r"grid.size.0: 0: must be greater than or equal to 1"):
        dataset_settings({**LAB, "grid": {"size": [0, 16]}, "splits": GRID})
