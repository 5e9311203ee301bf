"""`reconstruct` for a measurement as a scanner has it: frames, no truth, and options that say what is solved."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import h5py
import numpy as np
import pytest

import sm_search
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import MixingOrders
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_reading import DEVIATION, read_field, read_mdf
from sm_search.data.measurement import CONCENTRATION, read_measurement, write_measurement
from sm_search.evaluation.measured import simulate_measurement
from sm_search.evaluation.reconstruction import ReconstructionOptions, reconstruct
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import simulate
from tests.conftest import Finished, run_here

TIME = "2025-01-31T12:00:00.000"


@pytest.fixture(scope="module")
def files(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A matrix, and three frames of a phantom of 1, 2 and 3 times the concentration, of which the file says nothing."""
    folder = tmp_path_factory.mktemp("lab")
    chain = ReceiveSettings(signal="voltage", noise_nv=0.01, background_frames=8)
    settings = tiny_settings.model_copy(update={"receive": chain, "orders": MixingOrders(max_x=4, max_y=4)})
    scan = settings.scans("test")[0]
    sm = receive(simulate(settings, scan, "high"), chain, scan.id, "high")
    write_mdf(folder / "sm.mdf", sm, uuid=str(UUID(int=1)), time=TIME)
    signal, truth = simulate_measurement(settings, scan, "high", "shape", finer=1)
    signal = dataclasses.replace(signal, values_CKN=signal.values_CKN * np.array([1.0, 2.0, 3.0]))
    write_measurement(folder / "measured.mdf", signal, truth, uuid=str(UUID(int=2)), time=TIME)
    with h5py.File(folder / "measured.mdf", "r+") as file:
        del file[CONCENTRATION]
    return folder / "sm.mdf", folder / "measured.mdf"


@pytest.fixture(scope="module")
def call(files: tuple[Path, Path], run: Callable[..., Finished]) -> Callable[..., Finished]:
    sm, measured = files

    def call(*options: Any) -> Finished:
        return run("reconstruct", "--sm", sm, "--measurement", measured, *options)

    return call


def test_frames_become_images_in_an_mdf_file_that_keeps_the_measurement_s_origin(
    call: Callable[..., Finished], files: tuple[Path, Path], tmp_path: Path
) -> None:
    out, figure = tmp_path / "image.mdf", tmp_path / "image.png"
    done = call("--each-frame", "--output", out, "--figure", figure, "--iterations", 20, "--json")
    assert done.status == 0, done.stderr
    assert done.object["frames"] == 3
    images_QP1 = read_field(out, "/reconstruction/data")
    assert images_QP1.shape == (3, 144, 1)
    sums = images_QP1.sum(axis=(1, 2))
    np.testing.assert_allclose(sums / sums[0], [1, 2, 3], rtol=0.02)
    assert read_field(out, "/reconstruction/size").tolist() == [12, 12, 1]
    np.testing.assert_allclose(read_field(out, "/reconstruction/fieldOfView")[:2], [0.04, 0.04])
    for field in ("/tracer/name", "/scanner/name", "/acquisition/drivefield/divider", "/experiment/subject"):
        assert np.array_equal(read_field(out, field), read_field(files[1], field)), field
    assert read_field(out, "/reconstruction/_iterations") == 20
    assert figure.read_bytes().startswith(b"\x89PNG")
    again = call("--output", out)
    assert (again.status, "use --force" in again.stderr) == (2, True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_are_written_as_nifti_in_mm(call: Callable[..., Finished], tmp_path: Path, suffix: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    out, mdf = tmp_path / f"image{suffix}", tmp_path / "image.mdf"
    for path in (out, mdf):
        assert call("--each-frame", "--iterations", 2, "--output", path).status == 0
    image = nibabel.load(out)
    assert image.shape == (12, 12, 1, 3)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine @ [0, 11, 0, 1], [-20 + 20 / 12, 20 - 20 / 12, 0, 1])
    stored_QYX = read_field(mdf, "/reconstruction/data").reshape(3, 12, 12)
    np.testing.assert_array_equal(image.get_fdata()[:, :, 0].transpose(2, 1, 0), stored_QYX)


def test_the_mean_frame_is_the_default_and_the_functions_give_the_same(
    call: Callable[..., Finished], files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert call("--output", tmp_path / "a.mdf").status == 0
    image = read_field(tmp_path / "a.mdf", "/reconstruction/data")
    np.testing.assert_array_equal(image.ravel(), sm_search.reconstruct_images(*files).ravel())


def test_each_option_is_what_it_says(call: Callable[..., Finished], files: tuple[Path, Path], tmp_path: Path) -> None:
    sm, measurement = read_mdf(files[0]), read_measurement(files[1])
    frequency_K = sm.frequency_index() * sm.fx_hz / (sm.nd + 1)
    inside_K = (frequency_K >= 30e3) & (frequency_K <= 120e3)
    in_band = dataclasses.replace(
        sm,
        values_CKN=sm.values_CKN[:, inside_K],
        mixing_orders=tuple(order for order, inside in zip(sm.mixing_orders, inside_K, strict=True) if inside),
        background_CKE=None,
        snr_CK=None,
    )
    x_only = dataclasses.replace(sm, values_CKN=sm.values_CKN[:1], background_CKE=None, snr_CK=None)
    signal = measurement.signal_CK
    assert sm.snr_CK is not None
    threshold = float(np.median(sm.snr_CK))
    cases: dict[tuple[Any, ...], np.ndarray] = {
        ("--lambda", 0.1): reconstruct(sm, signal, regularisation=0.1),
        ("--iterations", 3): reconstruct(sm, signal, sweeps=3),
        ("--min-khz", 30, "--max-khz", 120): reconstruct(in_band, signal[:, inside_K]),
        ("--channels", "x"): reconstruct(x_only, signal[:1]),
        ("--snr-threshold", threshold): reconstruct(sm, signal, snr_threshold=threshold),
    }
    plain = reconstruct(sm, signal)
    for options, expected in cases.items():
        out = tmp_path / "out.mdf"
        assert call(*options, "--output", out, "--force").status == 0, options
        found = read_field(out, "/reconstruction/data").ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert not np.allclose(found, plain), options


def test_weighting_takes_the_noise_of_the_measurement(
    call: Callable[..., Finished], files: tuple[Path, Path], tmp_path: Path
) -> None:
    sm, measurement = read_mdf(files[0]), read_measurement(files[1])
    assert measurement.noise_CK is not None
    of_mean_CK = measurement.noise_CK / np.sqrt(3)
    for weighting in ("whitening", "uncertainty"):
        out = tmp_path / f"{weighting}.mdf"
        assert call("--weighting", weighting, "--output", out).status == 0
        expected = reconstruct(sm, measurement.signal_CK, weighting=weighting, noise_CK=of_mean_CK)
        found = read_field(out, "/reconstruction/data").ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert not np.allclose(found, reconstruct(sm, measurement.signal_CK)), weighting
    silent = dataclasses.replace(measurement, noise_CK=None)
    by_matrix = sm_search.reconstruct_images(sm, silent, ReconstructionOptions(weighting="whitening"))
    found = read_field(tmp_path / "whitening.mdf", "/reconstruction/data").ravel()
    assert np.corrcoef(by_matrix.ravel(), found)[0, 1] > 0.9, "the same receiver, other frames"
    nothing = dataclasses.replace(sm, background_CKE=None)
    with pytest.raises(DataError, match="no noise is known to whiten by"):
        sm_search.reconstruct_images(nothing, silent, ReconstructionOptions(weighting="whitening"))


def test_matrices_drawn_about_a_synthesised_one_tell_how_far_each_pixel_may_be_off(
    run: Callable[..., Finished], files: tuple[Path, Path], tmp_path: Path
) -> None:
    sm = read_mdf(files[0])
    sizes = np.abs(sm.values_CKN).max(axis=-1, keepdims=True)
    paths = [tmp_path / f"{percent}.mdf" for percent in (0, 1, 2)]
    for percent, path in enumerate(paths):
        field = {DEVIATION: np.broadcast_to(0.01 * percent * sizes, sm.values_CKN.shape)}
        write_mdf(path, sm, uuid=str(UUID(int=4)), time=TIME, extra=field)
    np.testing.assert_array_equal(read_mdf(paths[2]).deviation_CKN, field[DEVIATION])

    deviations = [sm_search.image_deviation(path, files[1], ReconstructionOptions(0.1, sweeps=5)) for path in paths]
    assert deviations[0].shape == (1, 12, 12)
    assert deviations[0].max() < 1e-12
    assert np.linalg.norm(deviations[2]) == pytest.approx(2 * np.linalg.norm(deviations[1]), rel=0.1)

    out, figure = tmp_path / "image.mdf", tmp_path / "image.png"
    command = ("reconstruct", "--sm", paths[2], "--measurement", files[1], "--draws", 8)
    done = run(*command, "--lambda", 0.1, "--iterations", 5, "--output", out, "--figure", figure, "--json")
    assert done.status == 0, done.stderr
    assert figure.read_bytes().startswith(b"\x89PNG")
    np.testing.assert_allclose(read_field(out, "/reconstruction/_deviation").ravel(), deviations[2].ravel(), rtol=1e-9)
    assert done.object["deviation"] == pytest.approx(np.sqrt(np.mean(deviations[2] ** 2)))
    for more, message in (
        (("--sm", files[0]), "states no deviation of its values"),
        (("--draws", 1), "draws = 1: a standard deviation needs at least 2"),
        (("--output", tmp_path / "image.nii"), "a NIfTI file has no place for a standard deviation"),
    ):
        refused = run(*command, *more)
        assert refused.status == 2
        assert message in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-khz", 5000), "no received component lies between 5000 and inf kHz"),
        (("--min-khz", 50, "--max-khz", 20), "frequency band 50.0 to 20.0 kHz: must go upwards"),
        (("--iterations", 0), "must be at least 0, at least 1"),
        (("--lambda", -1), "must be at least 0"),
    ],
)
def test_what_cannot_be_solved_is_one_line(
    call: Callable[..., Finished], options: tuple[Any, ...], message: str
) -> None:
    done = call(*options)
    assert done.status == 2
    assert message in done.stderr


def test_options_of_a_measurement_are_refused_for_a_phantom(
    run: Callable[..., Finished], files: tuple[Path, Path]
) -> None:
    for option in (("--lambda", 1), ("--channels", "x"), ("--each-frame",), ("--weighting", "none"), ("--draws", 2)):
        done = run("reconstruct", "--sm", files[0], "--phantom", "dots", *option)
        assert done.status == 2
        assert f"{option[0]}: is for a measurement file" in done.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"/acquisition/receiver/inductionFactor": np.array([2.0, 1.0])},
            r"inductionFactor: [1.0, 1.0] and [2.0, 1.0]",
        ),
        (
            {"/measurement/isTransferFunctionCorrected": np.int8(1)},
            "transfer function, divided out or not: True, False",
        ),
    ],
)
def test_a_measurement_of_another_receiver_is_refused(
    files: tuple[Path, Path], tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    other = tmp_path / "other.mdf"
    other.write_bytes(files[1].read_bytes())
    with h5py.File(other, "r+") as h5:
        for name, value in fields.items():
            if name in h5:
                del h5[name]
            h5[name] = value
    done = run_here("reconstruct", "--sm", files[0], "--measurement", other)
    assert done.status == 2
    assert message in done.stderr
    with pytest.raises(DataError):
        sm_search.reconstruct_images(files[0], other)


def test_a_volume_gives_images_in_three_dimensions_where_the_field_free_points_agree(
    files: tuple[Path, Path], tmp_path: Path, run: Callable[..., Finished]
) -> None:
    plane = read_mdf(files[0])
    both = np.concatenate((plane.values_CKN, np.random.default_rng(1).permutation(plane.values_CKN, axis=-1)), axis=-1)
    heights_m = (-0.001, 0.004)
    volume = dataclasses.replace(plane, values_CKN=both, heights_m=heights_m, origin_m=(0.0, 0.0, 0.002))
    sm, measured = tmp_path / "volume.mdf", tmp_path / "measured.mdf"
    write_mdf(sm, volume, uuid=str(UUID(int=3)), time=TIME)
    measured.write_bytes(files[1].read_bytes())
    command = ("reconstruct", "--sm", sm, "--measurement", measured, "--iterations", 2, "--force")
    refused = run(*command)
    assert refused.status == 2
    assert "differ in their field-free point in mm: (0.0, 0.0, 0.0), (0.0, 0.0, 2.0)" in refused.stderr
    with h5py.File(measured, "r+") as h5:
        h5["/acquisition/offsetField"] = -0.002 * h5["/acquisition/gradient"][0, 0][[2]][None]
    mdf, nifti = tmp_path / "image.mdf", tmp_path / "image.nii"
    done = run(*command, "--output", mdf, "--figure", tmp_path / "planes.png", "--json")
    assert done.status == 0, done.stderr
    assert done.object["size"] == [12, 12, 2]
    assert read_field(mdf, "/reconstruction/size").tolist() == [12, 12, 2]
    np.testing.assert_allclose(read_field(mdf, "/reconstruction/fieldOfView"), [0.04, 0.04, 0.01])
    np.testing.assert_allclose(read_field(mdf, "/reconstruction/fieldOfViewCenter"), [0, 0, 0.0035], atol=1e-9)
    stored_ZYX = read_field(mdf, "/reconstruction/data").reshape(2, 12, 12)
    expected_N = reconstruct(volume, read_measurement(measured).signal_CK, sweeps=2)
    np.testing.assert_allclose(stored_ZYX.ravel(), expected_N, rtol=1e-9, atol=1e-12)
    phantom = run("reconstruct", "--sm", sm, "--phantom", "dots")
    assert "a volume of 2 planes; a phantom is of one" in phantom.stderr
    nibabel = pytest.importorskip("nibabel")
    assert run(*command, "--output", nifti).status == 0
    image = nibabel.load(nifti)
    np.testing.assert_array_equal(image.get_fdata().transpose(2, 1, 0), stored_ZYX)
    np.testing.assert_allclose(image.affine @ [0, 0, 1, 1], [-20 + 20 / 12, -20 + 20 / 12, 6, 1], atol=1e-6)
