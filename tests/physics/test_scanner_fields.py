"""The fields of a scanner: the ideal ones where nothing deviates, and offset, rotation and tilt as low degrees."""

import math

import numpy as np
import pytest

from sm_search.config.scanner_settings import ScannerSettings, ScannerSpread, Term
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.physics.scanner_fields import actual, in_plane, received, scanner_fields, sensitivities
from sm_search.physics.system_matrix import voxel_centres

LOW = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
HIGH = FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0)
PLANE_3N = in_plane(*voxel_centres(Grid(size=(6, 5))))


def gradient_terms(gradient_33: np.ndarray, radius_mm: float) -> tuple[Term, ...]:
    """A symmetric trace-free gradient per 1 T/m as terms of degree 2, in mT: by the fields at three positions."""
    radius_m = radius_mm * 1e-3
    found = []
    for order in range(-2, 3):
        unit = ScannerSettings(reference_radius_mm=radius_mm, selection_mm=((2, order, 1.0),))
        no_gradient = scanner_fields(ScannerSettings(), HIGH, radius_m * np.eye(3)).selection_3N
        basis_33 = (scanner_fields(unit, HIGH, radius_m * np.eye(3)).selection_3N - no_gradient) / 1e-3
        found.append((2, order, float(np.sum(basis_33 * gradient_33) / np.sum(basis_33**2)) * radius_mm))
    return tuple(found)


@pytest.mark.parametrize("field", [LOW, HIGH, FieldSettings(gradient_t_per_m=(1.0, 0.5), drive_mt=(20.0, 10.0))])
def test_without_deviation_the_fields_are_ideal(field: FieldSettings) -> None:
    fields = scanner_fields(ScannerSettings(), field, PLANE_3N)
    (g_x, g_y), (a_x, a_y), zero_N = field.gradients_t_per_m, field.drives_t, np.zeros(30)
    np.testing.assert_array_equal(fields.selection_3N, [-g_x * PLANE_3N[0], -g_y * PLANE_3N[1], zero_N])
    np.testing.assert_array_equal(fields.drive_x_3N, [zero_N + a_x, zero_N, zero_N])
    np.testing.assert_array_equal(fields.drive_y_3N, [zero_N, zero_N + a_y, zero_N])
    np.testing.assert_array_equal(sensitivities(ScannerSettings(), PLANE_3N), np.eye(3)[:2, :, None].repeat(30, axis=2))


def test_degree_one_of_the_selection_field_displaces_the_field_free_point() -> None:
    scanner = ScannerSettings(selection_mm=((1, 1, 1.5), (1, -1, -2.0)))
    for field in (LOW, HIGH):
        at_3N = np.array([[1.5e-3], [-2.0e-3], [0.0]])
        assert np.abs(scanner_fields(scanner, field, at_3N).selection_3N).max() < 1e-12 * field.gradients_t_per_m[0]


def test_degree_two_turns_and_tilts_the_selection_field() -> None:
    """R·G·Rᵀ − G is symmetric and trace-free: a turned coil is five terms of degree 2."""
    angle = 0.03
    turn_33 = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    tilt_33 = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    ideal_33 = np.diag([-1.0, -1.0, 2.0])
    wanted_33 = (turn_33 @ tilt_33) @ ideal_33 @ (turn_33 @ tilt_33).T
    scanner = ScannerSettings(selection_mm=gradient_terms(wanted_33 - ideal_33, 20.0))
    at_3N = np.random.default_rng(0).uniform(-0.02, 0.02, (3, 9))
    np.testing.assert_allclose(scanner_fields(scanner, HIGH, at_3N).selection_3N, wanted_33 @ at_3N, atol=1e-15)
    np.testing.assert_allclose(scanner_fields(scanner, LOW, at_3N).selection_3N, 0.1 * wanted_33 @ at_3N, atol=1e-16)


def test_degree_one_of_a_drive_coil_turns_it_and_changes_its_amplitude() -> None:
    angle = math.radians(2)
    terms = ((1, 1, 100 * (math.cos(angle) - 1)), (1, -1, 100 * math.sin(angle)))
    drive_3N = scanner_fields(ScannerSettings(drive_x_percent=terms), HIGH, PLANE_3N).drive_x_3N
    expected_3 = 0.02 * np.array([math.cos(angle), math.sin(angle), 0])
    np.testing.assert_allclose(drive_3N, expected_3[:, None].repeat(30, axis=1), rtol=1e-12)


def test_the_coils_have_one_shape_at_both_gradients() -> None:
    scanner = ScannerSpread(gradient_error=0.1, drive_error=0.1).scanner(5)
    low, high = (scanner_fields(scanner, field, PLANE_3N) for field in (LOW, HIGH))
    for name in ("selection_3N", "drive_x_3N", "drive_y_3N"):
        np.testing.assert_allclose(10 * getattr(low, name), getattr(high, name), rtol=1e-12)
    assert np.abs(high.selection_3N[2]).max() > 1e-4, "the field leaves the plane"


def test_calibration_errors_scale_what_the_file_says() -> None:
    scanner = ScannerSettings(gradient_error=0.1, drive_error=(0.05, -0.2))
    assert scanner.ideal_fields
    assert actual(scanner, HIGH).gradients_t_per_m == pytest.approx((1.1, 1.1))
    assert actual(scanner, HIGH).drives_t == pytest.approx((0.021, 0.016))
    fields, ideal = (scanner_fields(each, HIGH, PLANE_3N) for each in (scanner, ScannerSettings()))
    np.testing.assert_allclose(fields.selection_3N, 1.1 * ideal.selection_3N)
    np.testing.assert_allclose(fields.drive_y_3N, 0.8 * ideal.drive_y_3N)
    assert actual(ScannerSettings(), HIGH) is HIGH


def test_a_channel_receives_the_moment_along_its_sensitivity() -> None:
    moment_DKN = np.random.default_rng(2).normal(size=(3, 4, 30)) * (1 + 2j)
    np.testing.assert_array_equal(received(ScannerSettings(), moment_DKN, PLANE_3N), moment_DKN[:2])
    tilted = ScannerSettings(receive_x_percent=((1, 0, 30.0),))
    np.testing.assert_allclose(received(tilted, moment_DKN, PLANE_3N)[0], moment_DKN[0] + 0.3 * moment_DKN[2])
    # A moment that stays in the plane may come without its z.
    np.testing.assert_allclose(received(tilted, moment_DKN[:2], PLANE_3N), moment_DKN[:2])
    # A linear term: the sensitivity changes along the plane as a source-free field does.
    graded = ScannerSettings(receive_y_percent=((2, -2, 50.0),))
    share_N = sensitivities(graded, PLANE_3N)[1]
    np.testing.assert_allclose(
        received(graded, moment_DKN, PLANE_3N)[1], np.einsum("dn,dkn->kn", share_N, moment_DKN), rtol=1e-13
    )
    assert np.ptp(share_N[0]) > 0.3


def test_cross_talk_is_a_share_of_the_other_channel() -> None:
    moment_DKN = np.random.default_rng(2).normal(size=(3, 4, 30)) * (1 + 2j)
    profile = {"receive_x_percent": ((2, 1, 20.0),), "receive_y_percent": ((1, 1, 5.0),)}
    quiet = received(ScannerSettings(**profile), moment_DKN, PLANE_3N)
    talking = received(ScannerSettings(**profile, cross_talk=(0.02, -0.05)), moment_DKN, PLANE_3N)
    np.testing.assert_allclose(talking[0], quiet[0] + 0.02 * quiet[1])
    np.testing.assert_allclose(talking[1], quiet[1] - 0.05 * quiet[0])


def test_spread_scanners_deviate_by_what_is_said_in_every_direction() -> None:
    spread = ScannerSpread(displacement_mm=1.5, degree=4, receive_percent=10.0)
    directions = np.random.default_rng(4).normal(size=(3, 6))
    at_3N = 0.02 * directions / np.linalg.norm(directions, axis=0)
    squares, receive = [], []
    ideal = scanner_fields(ScannerSettings(), HIGH, at_3N)
    for number in range(400):
        fields = scanner_fields(spread.scanner(number), HIGH, at_3N)
        squares.append(((fields.selection_3N - ideal.selection_3N) ** 2).sum(axis=0))
        share = sensitivities(spread.scanner(number), at_3N)[0]
        receive.append(((share - [[1], [0], [0]]) ** 2).sum(axis=0))
    assert np.sqrt(np.mean(squares, axis=0)) == pytest.approx(np.full(6, 1.5e-3), rel=0.1)
    assert np.sqrt(np.mean(receive, axis=0)) == pytest.approx(np.full(6, 0.1), rel=0.1)
