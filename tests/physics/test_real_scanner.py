"""System matrices of imperfect scanners: the ideal one as the limit, displacement, rotation, coils and noise."""

import math

import numpy as np
import physics_reference as reference
import pytest

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.scanner_settings import ScannerSettings, ScannerSpread
from sm_search.config.simulation_settings import Grid, Scan
from sm_search.physics.receive import angular_frequencies, receive, receive_chain, volts_per_magnetisation
from sm_search.physics.scanner_fields import in_plane, received
from sm_search.physics.system_matrix import SystemMatrix, simulate, voxel_centres

SCAN = Scan(core_diameter_nm=30, fx_khz=25, nd=7)
NOTHING = ((3, 0, 1e-13),)
"""A deviation too small to matter, for the path of imperfect fields."""


def matrix(
    magnetisation: str = "brownian", scan: Scan = SCAN, which: str = "low", grid: Grid | None = None, **scanner: object
) -> SystemMatrix:
    plain = reference.settings(magnetisation, size=(4, 3))
    update = {"scanner": ScannerSettings.model_validate(scanner), **({"grid": grid} if grid else {})}
    return simulate(plain.model_copy(update=update), scan, which)  # type: ignore[arg-type]


def error(found: SystemMatrix, expected: SystemMatrix | np.ndarray) -> float:
    """Largest, relative to the largest value of the channel."""
    values = expected.values_CKN if isinstance(expected, SystemMatrix) else expected
    return float(np.abs(found.values_CKN - values).max() / np.abs(values).max())


@pytest.mark.parametrize("which", ["low", "high"])
@pytest.mark.parametrize("magnetisation", ["equilibrium", "debye", "brownian", "effective-field"])
def test_the_ideal_scanner_is_the_limit(magnetisation: str, which: str) -> None:
    ideal = matrix(magnetisation, which=which)
    assert error(matrix(magnetisation, which=which, selection_mm=NOTHING), ideal) < 1e-7
    assert error(matrix(magnetisation, which=which, receive_x_percent=NOTHING), ideal) < 1e-12


def test_an_offset_of_the_selection_field_is_a_displaced_grid() -> None:
    """1 mm in x moves the field-free point there: the matrix is that of a grid that begins 1 mm earlier."""
    wide = Grid(size=(8, 3), fov_mm=(8.0, 9.0))
    ideal = matrix(grid=wide).values_CKN.reshape(2, -1, 3, 8)
    moved = matrix(grid=wide, selection_mm=((1, 1, 1.0),)).values_CKN.reshape(2, -1, 3, 8)
    np.testing.assert_allclose(moved[..., 1:], ideal[..., :-1], atol=1e-7 * np.abs(ideal).max())
    assert np.abs(moved - ideal).max() > 1e-3 * np.abs(ideal).max()


def test_calibration_errors_are_other_amplitudes() -> None:
    scanner = {"gradient_error": 0.1, "drive_error": (0.1, -0.2)}
    plain = reference.settings("brownian", size=(4, 3))
    low = plain.low.model_copy(update={"gradient_t_per_m": 0.11, "drive_mt": (2.2, 1.6)})
    other = simulate(plain.model_copy(update={"low": low}), SCAN, "low")
    assert error(matrix(**scanner), other) < 1e-12
    assert error(matrix(**scanner, selection_mm=NOTHING), other) < 1e-7
    assert matrix(**scanner).field == plain.low, "the file states what was asked for"


def test_a_field_along_z_counts() -> None:
    """With B_z = b added everywhere, |B| and so the saturation grows: equilibrium by the plain formula."""
    plain = reference.settings("equilibrium", size=(4, 3))
    found = matrix("equilibrium", selection_mm=((1, 0, 20.0),))  # 2 mT at the low gradient, 0.1 T/m
    points = 400 * (SCAN.nd + 1)
    t = np.arange(points) / points * SCAN.period_s
    phase = 2 * math.pi * SCAN.fx_hz * t, 2 * math.pi * SCAN.fy_hz * t
    xi_2VT = reference.xi_vector(plain, SCAN, "low", phase)
    xi_z = reference.beta(plain, SCAN) * 2e-3
    modulus_VT = np.sqrt((xi_2VT**2).sum(axis=0) + xi_z**2)
    moment_2VT = reference.langevin(modulus_VT) / modulus_VT * xi_2VT
    expected_CKV = np.stack(
        [
            (moment_2VT * np.exp(-2j * math.pi * k * np.arange(points) / points)).mean(axis=-1)
            for k in found.frequency_index()
        ],
        axis=1,
    )
    assert error(found, 474e3 * expected_CKV) < 1e-8


@pytest.mark.parametrize("magnetisation", ["equilibrium", "debye", "effective-field"])
def test_a_plane_above_the_field_free_point_sees_its_field_along_z(magnetisation: str) -> None:
    """10 mm above it B_z = (G_x + G_y)·z is 2 mT, as where the selection field has so much of it everywhere."""
    above = SCAN.model_copy(update={"height_mm": 10.0})
    found, expected = matrix(magnetisation, above), matrix(magnetisation, selection_mm=((1, 0, 20.0),))
    assert error(found, expected) < 1e-7
    assert error(found, matrix(magnetisation)) > 0.1
    assert error(found, matrix(magnetisation, SCAN.model_copy(update={"height_mm": -10.0}))) < 1e-12
    assert found.heights_m == (0.01,)
    assert above.id == f"{SCAN.id}-z10mm"


def test_a_turned_scanner_sees_a_turned_matrix() -> None:
    """All coils turned by 180° about z, which leaves the ideal selection field as it is."""
    half_turn = {
        "drive_x_percent": ((1, 1, -200.0),),
        "drive_y_percent": ((1, -1, -200.0),),
        "receive_x_percent": ((1, 1, -200.0),),
        "receive_y_percent": ((1, -1, -200.0),),
    }
    ideal, turned = matrix(), matrix(**half_turn)
    # Turning r by 180° reverses the order of the voxels of a centred grid.
    assert error(turned, ideal.values_CKN[..., ::-1]) < 1e-7


def test_receive_coils_act_on_the_moment_alone() -> None:
    ideal = matrix()
    profile = {"receive_x_percent": ((2, 1, 10.0), (1, -1, 5.0)), "cross_talk": (0.0, 0.03)}
    found = matrix(**profile)
    grid = reference.settings("brownian", size=(4, 3)).grid
    expected = received(ScannerSettings(**profile), ideal.values_CKN, in_plane(*voxel_centres(grid)))
    assert error(found, expected) < 1e-12
    assert error(found, ideal) > 0.01


def test_the_mean_over_a_voxel_is_the_mean_of_finer_points() -> None:
    scanner = ScannerSpread().scanner(1)
    plain = reference.settings("brownian", size=(3, 2)).model_copy(update={"scanner": scanner})
    mean = simulate(plain.model_copy(update={"voxel": "mean"}), SCAN, "low")
    fine = plain.model_copy(update={"grid": plain.grid.model_copy(update={"size": (24, 16)})})
    values = simulate(fine, SCAN, "low").values_CKN.reshape(2, -1, 2, 8, 3, 8).mean(axis=(3, 5))
    assert error(mean, values.reshape(mean.values_CKN.shape)) < 2e-3
    assert mean.tracer["pointsPerVoxel"] >= 36


def test_every_scan_of_a_dataset_has_its_scanner_and_model() -> None:
    plain = reference.settings("brownian", size=(4, 3)).model_copy(update={"scanners": ScannerSpread()})
    one, two, strong = (
        simulate(plain, SCAN.model_copy(update=update), "low")
        for update in ({"scanner": 1}, {"scanner": 2}, {"scanner": 1, "deviation": 2.0})
    )
    assert error(one, matrix(**ScannerSpread().scanner(1).model_dump())) == 0
    assert min(error(one, two), error(one, strong)) > 0.01
    debye = simulate(plain, SCAN.model_copy(update={"magnetisation": "debye"}), "low")
    assert error(debye, matrix("debye")) == 0
    assert debye.tracer["magnetisation"] == "debye"


@pytest.mark.parametrize("noise_db", [40.0, 80.0])
def test_noise_in_db_is_that_below_the_strongest_low_gradient_voltage(noise_db: float) -> None:
    chain = ReceiveSettings(signal="voltage", averages=4)
    settings: DatasetSettings = reference.settings("brownian", size=(4, 3)).model_copy(update={"receive": chain})
    scan = SCAN.model_copy(update={"noise_db": noise_db})
    low = simulate(settings, scan, "low")
    own = receive_chain(settings, scan)
    assert own == receive_chain(settings, scan, low)
    strongest_v = np.abs(receive(low, chain).values_CKN).max()
    assert 20 * math.log10(strongest_v / (own.noise_nv * 1e-9 / 2)) == pytest.approx(noise_db, rel=1e-9)
    per_unit_K = np.abs(volts_per_magnetisation(chain, angular_frequencies(low)))
    assert strongest_v == pytest.approx((np.abs(low.values_CKN).max(axis=-1) * per_unit_K).max())
    assert receive_chain(settings, SCAN) is settings.receive
