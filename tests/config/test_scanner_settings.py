"""Scanners: checked terms, sums, draws that depend on the number alone, and designs of scans with a scanner each."""

import pytest
from pydantic import ValidationError

from sm_search.config.dataset_settings import DatasetSettings, Design, ScannersDesign, preset
from sm_search.config.errors import SettingsError
from sm_search.config.scanner_settings import ScannerSettings, ScannerSpread
from sm_search.config.simulation_settings import Scan

RANGES = {"core_diameter_nm": (30.0, 70.0), "fx_khz": (10.0, 30.0), "nd": (49, 59)}


def design(**values: object) -> ScannersDesign:
    return ScannersDesign.model_validate({"design": "scanners", "count": 3, **RANGES, **values})


def dataset(**values: object) -> DatasetSettings:
    one = Design(core_diameter_nm=(30.0,), fx_khz=(25.0,), nd=(99,))
    other = Design(core_diameter_nm=(31.0,), fx_khz=(25.0,), nd=(99,))
    splits = {"train": (design(),), "validation": (one,), "test": (other,)}
    return DatasetSettings.model_validate({"name": "a", "scanners": ScannerSpread(), "splits": splits} | values)


@pytest.mark.parametrize(
    ("terms", "rule"),
    [
        (((0, 0, 1.0),), "degree 0: must be 1 to 8"),
        (((9, 0, 1.0),), "degree 9: must be 1 to 8"),
        (((2, -3, 1.0),), "order -3 of degree 2: must be -2 to 2"),
        (((2, 1, 1.0), (2, 1, 2.0)), "appear twice"),
    ],
)
def test_terms_are_checked(terms: tuple[tuple[int, int, float], ...], rule: str) -> None:
    for name in ("selection_mm", "drive_x_percent", "receive_y_percent"):
        with pytest.raises(ValidationError, match=rule):
            ScannerSettings(**{name: terms})


def test_deviations_add_up() -> None:
    first = ScannerSettings(selection_mm=((1, 0, 1.0), (2, 1, 2.0)), drive_error=(0.1, 0.0))
    second = ScannerSettings(selection_mm=((2, 1, 3.0), (3, -3, 4.0)), drive_error=(0.05, 0.2), gradient_error=0.1)
    total = first.plus(second)
    assert total.selection_mm == ((1, 0, 1.0), (2, 1, 5.0), (3, -3, 4.0))
    assert total.drive_error == pytest.approx((0.15, 0.2))
    assert total.gradient_error == 0.1
    assert ScannerSettings().plus(second) == second
    with pytest.raises(ValueError, match="reference_radius_mm 10 must be that of the dataset's scanner, 20"):
        first.plus(ScannerSettings(reference_radius_mm=10.0))


def test_a_scanner_depends_on_its_number_alone_and_its_factor_scales_it() -> None:
    spread = ScannerSpread(gradient_error=0.05, drive_error=0.05, cross_talk=0.02)
    one, twice, other = spread.scanner(7), spread.scanner(7, 2.0), spread.scanner(8)
    assert one == ScannerSpread(gradient_error=0.05, drive_error=0.05, cross_talk=0.02).scanner(7)
    assert len(one.selection_mm) == 3 + 5 + 7 + 9
    for name in ("selection_mm", "drive_y_percent", "receive_x_percent"):
        assert [2 * term[2] for term in getattr(one, name)] == [term[2] for term in getattr(twice, name)]
        assert not {term[2] for term in getattr(one, name)} & {term[2] for term in getattr(other, name)}
    assert twice.gradient_error == 2 * one.gradient_error != 0
    assert len({*one.drive_error, *one.cross_talk}) == 4
    # A wider spread with fewer kinds of errors leaves the others as they are.
    assert spread.model_copy(update={"drive_percent": 0.0}).scanner(7).selection_mm == one.selection_mm
    with pytest.raises(ValidationError, match="every scanner would be the same"):
        ScannerSpread(displacement_mm=0.0, drive_percent=0.0, receive_percent=0.0)


def test_a_larger_design_of_scanners_contains_the_smaller() -> None:
    assert design(count=9).scans()[:3] == design().scans()
    assert design(first=3, count=6).scans() == design(count=9).scans()[3:]
    for scan in design(count=50).scans():
        assert 30 <= scan.core_diameter_nm <= 70
        assert 10 <= scan.fx_khz <= 30
        assert scan.nd in (49, 59)
    assert {scan.nd for scan in design(count=50).scans()} == {49, 59}


def test_designs_of_the_same_scanners_pair_up() -> None:
    plain = design().scans()
    strong = design(deviation=2.0).scans()
    noisy = design(noise_db=60.0, magnetisation="debye").scans()
    again = design(draw=1).scans()
    assert plain[0].id == "d30.28nm-fx10.17kHz-nd59-s0"
    assert strong[0].id == "d30.28nm-fx10.17kHz-nd59-s0-x2"
    assert noisy[0].id == "d30.28nm-fx10.17kHz-nd59-s0-debye-noise60dB"
    assert [scan.scanner for scan in again] == [0, 1, 2]
    assert not {scan.core_diameter_nm for scan in again} & {scan.core_diameter_nm for scan in plain}


def test_a_scan_has_its_own_scanner_and_model() -> None:
    settings = dataset(scanner=ScannerSettings(selection_mm=((1, 1, 0.5),)))
    (drawn, *_), (bare,) = settings.scans("train"), settings.scans("test")
    assert settings.scanner_of(bare) == settings.scanner
    own = settings.scanner_of(drawn)
    spread = ScannerSpread().scanner(0)
    assert {t[:2]: t[2] for t in own.selection_mm}[1, 1] == pytest.approx(
        0.5 + {t[:2]: t[2] for t in spread.selection_mm}[1, 1]
    )
    assert settings.magnetisation_of(drawn) == "effective-field"
    assert settings.magnetisation_of(drawn.model_copy(update={"magnetisation": "debye"})) == "debye"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="has scanner 0, and scanners is not set"):
        dataset(scanners=None)
    with pytest.raises(ValidationError, match="reference_radius_mm 30 must be that of the dataset's scanner, 20"):
        dataset(scanners=ScannerSpread(reference_radius_mm=30.0))
    with pytest.raises(ValidationError, match="it needs scanner"):
        Scan(core_diameter_nm=30.0, fx_khz=25.0, nd=99, deviation=2.0)
    with pytest.raises(ValidationError, match="only one of them"):
        Scan(core_diameter_nm=30.0, fx_khz=25.0, nd=99, noise_db=60.0, noise_nv=1.0)
    with pytest.raises(ValidationError, match="must go upwards"):
        design(fx_khz=(30.0, 10.0))


def test_settings_from_before_there_were_scanners_keep_their_hash() -> None:
    settings = dataset(
        scanners=None,
        splits={**dataset().splits, "train": dataset().splits["test"], "test": ()}
        | {"test": (Design(core_diameter_nm=(32.0,), fx_khz=(25.0,), nd=(99,)),)},
    )
    dumped = settings.model_dump(mode="json")
    assert not {"scanner", "scanners"} & dumped.keys()
    assert DatasetSettings.model_validate_json(settings.model_dump_json()) == settings
    with_scanner = settings.model_copy(update={"scanner": ScannerSettings(gradient_error=0.1)})
    assert with_scanner.physics_hash() != settings.physics_hash()
    assert DatasetSettings.model_validate_json(with_scanner.model_dump_json()) == with_scanner


def test_the_scanner_preset_pairs_its_splits_with_test() -> None:
    small, large = preset("scanner-8"), preset("scanner-64")
    assert large.scans("train")[:8] == small.scans("train")
    assert len(large.scans("train")) == 64
    test = {scan.scanner: scan for scan in large.scans("test")}
    for split in ("strong", "physics", "noisy-60", "noisy-80"):
        for scan in large.scans(split):
            twin = test[scan.scanner]
            own = {"deviation": 1.0, "magnetisation": None, "noise_db": None}
            assert scan != twin
            assert scan.model_copy(update=own) == twin
    assert all(not 30 <= scan.core_diameter_nm <= 70 for scan in large.scans("particle"))
    trained = {scan.scanner: scan for scan in small.scans("train")}
    assert all(scan.core_diameter_nm != trained[scan.scanner].core_diameter_nm for scan in small.scans("repeat"))
    (physics, *_) = large.scans("physics")
    assert large.magnetisation_of(physics) != large.magnetisation
    files = 2 * sum(len(large.scans(split)) for split in large.splits)
    assert files == 212


def test_a_y_channel_is_served_where_axes_may_be_exchanged() -> None:
    assert preset("scanner-8").channels == (0, 1)
    assert preset("scanner-8").channel_note is None
    one_for_all = dataset(scanner=ScannerSettings(selection_mm=((1, 1, 0.5),)))
    assert one_for_all.channels == (0,)
    assert "only the x-channel is learnt" in str(one_for_all.channel_note)
    with pytest.raises(SettingsError, match=r"receive_channels = \[0, 1\]: dataset 'a': its y-channel is no x-channel"):
        one_for_all.require_channels((0, 1))
    one_for_all.require_channels((0,))
    with pytest.raises(SettingsError, match="augmentation = parity: dataset 'a': all scans share one imperfect"):
        one_for_all.require_mirrors("parity")
    one_for_all.require_mirrors("none")
    preset("scanner-8").require_mirrors("parity")
