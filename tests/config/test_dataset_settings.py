"""Scans, presets and the rules of a dataset."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sm_search.config.dataset_settings import DatasetSettings, Design, SobolDesign, preset, preset_names
from sm_search.config.errors import SettingsError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders, Scan


def one(core_diameter_nm: float, fx_khz: float = 25.0, nd: int = 99) -> tuple[Design, ...]:
    return (Design(core_diameter_nm=(core_diameter_nm,), fx_khz=(fx_khz,), nd=(nd,)),)


def dataset(**changes: Any) -> DatasetSettings:
    splits = {"train": one(30.0), "validation": one(40.0), "test": one(50.0)} | changes.pop("splits", {})
    return DatasetSettings(name="a", splits={k: v for k, v in splits.items() if v is not None}, **changes)


def test_every_preset_exists_with_every_model() -> None:
    plain = preset("paper-54")
    assert plain.magnetisation == "effective-field"
    other = preset("paper-54-brownian")
    assert (other.name, other.magnetisation) == ("paper-54-brownian", "brownian")
    assert other.splits == plain.splits
    assert preset("sobol-8-neel-brown").scans("train") == preset("sobol-8").scans("train")
    with pytest.raises(SettingsError, match="preset 'paper-54-debye': does not exist"):
        preset("paper-54-debye-brownian")


@pytest.mark.parametrize(
    ("name", "there"),
    [("scanner-8", "brownian"), ("scanner-8-debye", "brownian"), ("scanner-8-brownian", "effective-field")],
)
def test_the_split_of_another_physics_has_another_model(name: str, there: str) -> None:
    settings = preset(name)
    assert {settings.magnetisation_of(scan) for scan in settings.scans("physics")} == {there}
    assert {settings.magnetisation_of(scan) for scan in settings.scans("test")} == {settings.magnetisation}


def test_presets_hold_the_papers_numbers() -> None:
    names = [name for name in preset_names() if not name.endswith("-N")]
    training = {name: preset(name).scans("train") for name in names}
    assert {name: len(scans) for name, scans in training.items()} == {
        "demo": 48,
        "paper-12": 12,
        "paper-54": 54,
        "paper-90": 90,
        "realistic": 27,
    }
    assert 54 * len(preset("paper-54").orders.pairs()) == 9072
    for name in [*names, "sobol-4"]:
        (test,) = preset(name).scans("paper" if name == "demo" else "test")
        assert test == Scan(core_diameter_nm=30.0, fx_khz=25.0, nd=99)
        assert test not in preset(name).scans("train")
    rule = "does not exist; there are demo, paper-12, paper-54, paper-90, realistic, scanner-N, sobol-N"
    with pytest.raises(SettingsError, match=f"preset 'mine': {rule}"):
        preset("mine")


def test_a_scan_in_two_splits_is_a_leak() -> None:
    with pytest.raises(ValidationError, match=r"scan d30nm-fx25kHz-nd99 is in 'train' and in 'test': a leak"):
        dataset(splits={"test": one(30.0)})
    # Also one that differs by less than its name tells: its files would be the same.
    with pytest.raises(ValidationError, match="a leak"):
        dataset(splits={"test": one(30.000000000001)})
    with pytest.raises(ValidationError, match=r"d30nm-fx25kHz-nd99 is twice in 'train'"):
        dataset(splits={"train": one(30.0) * 2})
    assert len(dataset(splits={"test": one(30.0, nd=98)}).scans("test")) == 1


def test_three_splits_are_required_and_others_are_welcome() -> None:
    with pytest.raises(ValidationError, match="needs a non-empty 'test'"):
        dataset(splits={"test": None})
    with pytest.raises(ValidationError, match="needs a non-empty 'validation'"):
        dataset(splits={"validation": ()})
    extra = dataset(splits={"diameter": one(45.0)})
    assert [scan.core_diameter_nm for scan in extra.scans("diameter")] == [45.0]
    with pytest.raises(
        SettingsError, match=r"dataset 'a': no split 'diametre'; it has train, validation, test, diameter"
    ):
        extra.scans("diametre")


def test_both_fields_must_cover_one_field_of_view() -> None:
    with pytest.raises(ValidationError, match=r"must agree.*\(low: 20 mm, high: 10 mm\)"):
        dataset(high=FieldSettings(gradient_t_per_m=2.0, drive_mt=20.0))
    with pytest.raises(ValidationError, match=r"low.gradient_t_per_m 0.1 must be below high.gradient_t_per_m 0.1"):
        dataset(high=FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0))
    other = dataset(high=FieldSettings(gradient_t_per_m=0.7, drive_mt=14.0))
    assert other.field("high").drives_t == pytest.approx((0.014, 0.014))
    assert other.field("low").drive_mt == 2.0


def test_components_may_not_share_a_frequency() -> None:
    with pytest.raises(ValidationError, match="nd must be at least twice the largest mixing order"):
        dataset(splits={"train": one(30.0, nd=23)})
    scan = dataset(splits={"train": one(30.0, nd=24)}).scans("train")[0]
    k = [m_x * (scan.nd + 1) + m_y * scan.nd for m_x, m_y in MixingOrders().pairs()]
    assert len(set(k)) == len(k) == 168


def test_a_design_is_the_product_of_its_values_and_bounded() -> None:
    design = Design(core_diameter_nm=(30.0, 50.0), fx_khz=(10.0, 20.0), nd=(49, 99))
    assert [scan.id for scan in design.scans()][:3] == [
        "d30nm-fx10kHz-nd49",
        "d30nm-fx10kHz-nd99",
        "d30nm-fx20kHz-nd49",
    ]
    assert len(set(design.scans())) == 8
    with pytest.raises(ValidationError, match=r"nd\.0\n.*greater than or equal to 2"):
        Design(core_diameter_nm=(30.0,), fx_khz=(10.0,), nd=(1,))
    with pytest.raises(ValidationError, match="110889 combinations"):
        Design(core_diameter_nm=tuple(map(float, range(1, 334))), fx_khz=tuple(map(float, range(1, 334))), nd=(9,))


@pytest.mark.parametrize("wrong", [{"core_diameter_nm": 30e-9}, {"fx_khz": 25e3}, {"core_diameter_nm": 3e4}])
def test_a_value_typed_in_another_unit_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"greater than or equal|less than or equal"):
        Scan(**{"core_diameter_nm": 30.0, "fx_khz": 25.0, "nd": 99} | wrong)


def test_a_scans_numbers_in_si() -> None:
    scan = Scan(core_diameter_nm=30.0, fx_khz=25.0, nd=99)
    assert scan.core_diameter_m == pytest.approx(30e-9, rel=1e-15)
    assert scan.fx_hz == 25_000.0
    assert scan.fy_hz == pytest.approx(24_750.0, rel=1e-15)
    # One Lissajous period holds N_d+1 periods of x and N_d of y.
    assert scan.period_s * scan.fx_hz == pytest.approx(100, rel=1e-15)
    assert scan.period_s * scan.fy_hz == pytest.approx(99, rel=1e-15)


def test_mixing_orders_are_the_box_without_its_corner() -> None:
    assert MixingOrders(max_x=1, max_y=2).pairs() == ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert len(MixingOrders().pairs()) == 13**2 - 1 == 168
    with pytest.raises(ValidationError, match="leaves no component"):
        MixingOrders(max_x=0, max_y=0)


@pytest.mark.parametrize("changes", [{"size": (0, 4)}, {"size": (4,)}, {"fov_mm": (0.0, 1.0)}, {"size": (4.0, 4)}])
def test_a_grid_has_voxels_and_extent(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Grid(**changes)


def test_a_dataset_name_is_no_path() -> None:
    for name in ("../a", "a/b", "", ".hidden", "a" * 65):
        with pytest.raises(ValidationError, match="name"):
            DatasetSettings(name=name, splits=dataset().splits)


def test_a_sobol_design_contains_the_smaller_ones_and_fills_its_ranges() -> None:
    large = preset("sobol-64").scans("train")
    assert preset("sobol-37").scans("train") == large[:37]
    diameters, frequencies, trajectories = (
        np.array([getattr(scan, name) for scan in large]) for name in ("core_diameter_nm", "fx_khz", "nd")
    )
    for values, (low, high) in ((diameters, (25, 80)), (frequencies, (8, 36))):
        cell = np.floor(64 * np.log(values * (1 + 1e-3) / low) / np.log(high / low) * (1 - 2e-3)).astype(int)
        assert len(np.unique(np.clip(cell, 0, 63))) > 55, "each of 64 equal cells of the logarithm holds one"
    assert sorted(trajectories) == list(range(44, 108)), "64 trajectories, each once"


def test_a_sobol_design_may_also_vary_shell_spread_and_noise() -> None:
    base = {"design": "sobol", "count": 8, "core_diameter_nm": (25.0, 80.0), "fx_khz": (8.0, 36.0), "nd": (44, 107)}
    plain = SobolDesign(**base)
    rich = SobolDesign(**base, shell_thickness_nm=(2.0, 10.0), size_spread=(0.0, 0.2), noise_nv=(0.1, 10.0))
    assert [scan.fx_khz for scan in rich.scans()] == [scan.fx_khz for scan in plain.scans()]
    assert rich.scans()[1].id == "d44.72nm-fx16.97kHz-nd76-shell6nm-spread0.1-noise1nV"
    settings = dataset(splits={"train": (rich,)})
    scan = settings.scans("train")[1]
    assert settings.particle_of(scan).shell_thickness_nm == 6.0
    assert settings.particle_of(scan).viscosity_mpa_s == settings.particle.viscosity_mpa_s
    assert settings.receive_of(scan).noise_nv == 1.0
    with pytest.raises(ValidationError, match=r"fx_khz: the range \[30\.0, 10\.0\] must go upwards"):
        SobolDesign(**(base | {"fx_khz": (30.0, 10.0)}))
    with pytest.raises(SettingsError, match="at most 100000 scans"):
        preset("sobol-100001")


def test_fields_per_axis() -> None:
    field = FieldSettings(gradient_t_per_m=(1.0, 0.5), drive_mt=(20.0, 15.0))
    assert field.gradients_t_per_m == (1.0, 0.5)
    assert field.drives_t == pytest.approx((0.020, 0.015))
    assert field.reach_mm == pytest.approx((20.0, 30.0))
    low = FieldSettings(gradient_t_per_m=(0.1, 0.05), drive_mt=(2.0, 1.5))
    assert dataset(low=low, high=field).field("high") == field
    with pytest.raises(ValidationError, match=r"must agree.*\(low: 20 mm, high: 30 mm\)"):
        dataset(low=FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0), high=field)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"background_frames": 1}, "a deviation needs at least 2"),
        ({"low_pass_khz": 100.0}, "set signal: voltage"),
        ({"signal": "voltage", "low_pass_khz": 5.0, "high_pass_khz": 9.0}, "high_pass_khz 9 must be below"),
        ({"noise_nv": -1.0}, "greater than or equal to 0"),
        ({"averages": 0}, "greater than or equal to 1"),
    ],
)
def test_a_receive_chain_makes_sense(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ReceiveSettings(**values)


def test_the_first_scans_of_a_sobol_design_are_the_smaller_design() -> None:
    large = preset("sobol-64")
    for count in (2, 16, 33, 64):
        assert large.scans("train", count) == preset(f"sobol-{count}").scans("train")


@pytest.mark.parametrize("axes", [(3, 3, 6), (4, 4, 4), (2, 8, 8)])
def test_the_first_scans_of_a_grid_are_spread_over_all_its_axes(axes: tuple[int, int, int]) -> None:
    design = Design(
        core_diameter_nm=tuple(30.0 + i for i in range(axes[0])),
        fx_khz=tuple(10.0 + i for i in range(axes[1])),
        nd=tuple(50 + i for i in range(axes[2])),
    )
    grid = dataset(splits={"train": (design,), "validation": one(25.0)})
    everything = grid.scans("train")
    assert sorted(scan.id for scan in grid.spread("train")) == sorted(scan.id for scan in everything)
    for count in (8, 16, 32):
        chosen = grid.scans("train", count)
        assert len(chosen) == count
        assert set(grid.scans("train", count // 2)) < set(chosen)
        assert [scan for scan in everything if scan in chosen] == list(chosen)
        seen = [{getattr(scan, name) for scan in chosen} for name in ("core_diameter_nm", "fx_khz", "nd")]
        assert all(len(values) > size / 2 for values, size in zip(seen, axes, strict=True)), (count, seen)
    assert grid.scans("train", len(everything)) == everything


def test_designs_of_one_split_take_their_share() -> None:
    grid = Design(core_diameter_nm=(30.0, 50.0), fx_khz=(10.0, 20.0), nd=(49, 59))
    (sobol,) = preset("sobol-16").splits["train"]
    both = dataset(splits={"train": (grid, sobol), "validation": one(25.0), "test": one(26.0)})
    chosen = both.scans("train", 12)
    assert len([scan for scan in chosen if scan in grid.scans()]) == 4
    assert chosen[4:] == preset("sobol-8").scans("train")


def test_more_scans_than_there_are_is_refused() -> None:
    two = dataset(splits={"train": one(30.0) + one(31.0)})
    assert len(two.scans("train", 2)) == 2
    message = r"^training.scans = 3: must be at most 2, the scans of split 'train' of dataset 'a'$"
    with pytest.raises(SettingsError, match=message):
        two.scans("train", 3)
