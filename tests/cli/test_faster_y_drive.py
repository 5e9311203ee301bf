"""What is made of files of a scanner whose faster drive is along y: the mirror image of what is made of another's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from matplotlib.figure import Figure

import sm_search
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import Grid, MixingOrders
from sm_search.data.dataset import Dataset
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_reading import read_field
from sm_search.data.measurement import write_measurement
from sm_search.evaluation.measured import simulate_measurement
from sm_search.evaluation.reconstruction import ReconstructionOptions
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import simulate
from sm_search.report import figures
from sm_search.training import Trainer, make_checkpoint, training_images
from tests.conftest import TINY_TRAINING, Finished
from tests.lab_files import fields_of, mirrored

TIME = "2025-01-31T12:00:00.000"
Files = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def files(tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A matrix of 14 × 12 voxels, a volume of it, and the measurement of a phantom: each with its mirror image."""
    folder = tmp_path_factory.mktemp("lab")
    chain = ReceiveSettings(signal="voltage", noise_nv=0.01, background_frames=8)
    changes = {"receive": chain, "orders": MixingOrders(max_x=4, max_y=3), "grid": Grid(size=(14, 12))}
    settings = tiny_settings.model_copy(update=changes)
    scan = settings.scans("test")[0]
    sm = receive(simulate(settings, scan, "high"), chain, scan.id, "high")
    volume = dataclasses.replace(
        sm, values_CKN=np.concatenate((sm.values_CKN, sm.values_CKN[..., ::-1]), axis=-1), heights_m=(-0.001, 0.004)
    )
    write_mdf(folder / "sm.mdf", sm, uuid=str(UUID(int=1)), time=TIME)
    write_mdf(folder / "volume.mdf", volume, uuid=str(UUID(int=2)), time=TIME)
    signal, truth = simulate_measurement(settings, scan, "high", "shape", finer=1)
    write_measurement(folder / "measured.mdf", signal, truth, uuid=str(UUID(int=3)), time=TIME)
    paths = {name: folder / f"{name}.mdf" for name in ("sm", "volume", "measured")}
    return {name: (path, mirrored(path, folder / f"mirrored {name}.mdf", 6)) for name, path in paths.items()}


def images(path: Path) -> np.ndarray:
    """(Q, Z, Y, X)."""
    size = read_field(path, "/reconstruction/size")
    return read_field(path, "/reconstruction/data").reshape(-1, *size[::-1])


@pytest.mark.parametrize(
    ("matrix", "options"),
    [("sm", ()), ("sm", ("--channels", "x", "y")), ("volume", ()), ("sm", ("--channels", "{}"))],
)
def test_images_have_the_axes_of_the_scanner(
    files: Files, run: Callable[..., Finished], tmp_path: Path, matrix: str, options: tuple[str, ...]
) -> None:
    made, told = [], []
    for at, axis in enumerate("xy"):
        made.append(tmp_path / f"{at}.mdf")
        given = [option.format(axis) for option in options]
        command = ("--sm", files[matrix][at], "--measurement", files["measured"][at], "--iterations", 5, *given)
        done = run("reconstruct", *command, "--output", made[-1], "--json")
        assert done.status == 0, done.stderr
        told.append(done.object)
    np.testing.assert_array_equal(images(made[1]), images(made[0]).swapaxes(2, 3))
    expected, found = fields_of(mirrored(made[0], tmp_path / "mirrored.mdf", 6)), fields_of(made[1])
    of_file = {"/uuid", "/time", "/reconstruction/_systemMatrix", "/reconstruction/_options"}
    for name in found.keys() - of_file:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert told[1]["size"][:2] == told[0]["size"][:2][::-1] == [12, 14]
    assert told[1].get("psnr_db", 0) == pytest.approx(told[0].get("psnr_db", 0), rel=1e-12)
    assert ("psnr_db" in told[0]) == (matrix == "sm")


def test_pictures_have_them_too(
    files: Files, run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, _: shown.append(figure))
    for at in (0, 1):
        for matrix in ("sm", "volume"):
            command = ("--sm", files[matrix][at], "--measurement", files["measured"][at], "--iterations", 2)
            assert run("reconstruct", *command, "--figure", tmp_path / "a.png").status == 0
        assert (
            run("reconstruct", "--sm", files["sm"][at], "--phantom", "shape", "--figure", tmp_path / "a.png").status
            == 0
        )
    for first, second, panel in ((0, 3, 1), (1, 4, 1), (2, 5, 0)):
        images = [shown[at].axes[panel].get_images()[0] for at in (first, second)]
        (left, right, bottom, top), exchanged = (image.get_extent() for image in images)
        assert list(exchanged) == [bottom, top, left, right]
        if panel:  # of a phantom that is upright in both
            np.testing.assert_array_equal(images[1].get_array(), images[0].get_array().T)


def test_nifti_has_them_too(files: Files, run: Callable[..., Finished], tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    made = []
    for at in (0, 1):
        command = ("--sm", files["volume"][at], "--measurement", files["measured"][at], "--iterations", 2)
        assert run("reconstruct", *command, "--output", tmp_path / f"{at}.nii").status == 0
        made.append(nibabel.load(tmp_path / f"{at}.nii"))
    np.testing.assert_array_equal(made[1].get_fdata(), made[0].get_fdata().swapaxes(0, 1))
    exchange = np.eye(4)[[1, 0, 2, 3]]
    np.testing.assert_allclose(made[1].affine, exchange @ made[0].affine @ exchange)


def test_the_functions_give_the_same_and_scanners_are_not_mixed(files: Files) -> None:
    options = ReconstructionOptions(sweeps=2)
    first, second = (sm_search.reconstruct_images(files["sm"][at], files["measured"][at], options) for at in (0, 1))
    np.testing.assert_array_equal(second, first.swapaxes(1, 2))
    rated = sm_search.reconstruct(files["sm"][1], measurement=files["measured"][1], options=options)
    np.testing.assert_array_equal(rated.image, second[0])
    upright = [sm_search.reconstruct(files["sm"][at], phantom="vessel").phantom for at in (0, 1)]
    assert [phantom.shape for phantom in upright] == [(12, 14), (14, 12)]
    with pytest.raises(DataError, match="differ in their faster drive: y, x"):
        sm_search.reconstruct_images(files["sm"][0], files["measured"][1])


def test_a_synthesised_file_has_the_axes_and_dividers_of_its_condition(
    tiny_dataset: Dataset, trainer: Trainer, run: Callable[..., Finished], tmp_path: Path
) -> None:
    """The draws, the expected errors and the noise too, of a plane and of a volume."""
    _, models = training_images(tiny_dataset, "train", (0,), TINY_TRAINING.mean)
    make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(steps=2, samples=3), {}).save(tmp_path / "model")
    low = next(iter(tiny_dataset.pairs("train"))).low
    noise_CKE = (
        np.random.default_rng(1).normal(size=(2, len(low.mixing_orders), 5)) * np.abs(low.values_CKN).max() / 100
    )
    low = dataclasses.replace(low, background_CKE=noise_CKE + 0j, snr_CK=np.array([[1.0] * 8, [9.0] * 8]))
    planes = dataclasses.replace(
        low, values_CKN=np.concatenate((low.values_CKN, 2 * low.values_CKN), axis=-1), heights_m=(-1e-5, 1e-5)
    )
    for name, sm in (("plane", low), ("volume", planes)):
        write_mdf(tmp_path / f"{name}.mdf", sm, uuid=str(UUID(int=1)), time=TIME)
        sources = tmp_path / f"{name}.mdf", mirrored(tmp_path / f"{name}.mdf", tmp_path / f"mirrored {name}.mdf", 6)
        made = [tmp_path / f"high {at} {name}.mdf" for at in (0, 1)]
        for source, target in zip(sources, made, strict=True):
            command = ("--model", tmp_path / "model", "--input", source, "--output", target, "--extrapolate")
            done = run("synthesize", *command)
            assert done.status == 0, done.stderr
        expected, found = fields_of(mirrored(made[0], tmp_path / "expected.mdf", 6)), fields_of(made[1])
        assert expected.keys() == found.keys() >= {"/calibration/_deviation", "/calibration/_conditionInNoise"}
        assert found["/acquisition/drivefield/divider"].tolist() == [[60], [54]]
        of_file = {"/uuid", "/study/uuid", "/experiment/uuid", "/calibration/_synthesisSource"}
        for field in found.keys() - of_file:
            np.testing.assert_array_equal(found[field], expected[field], err_msg=field)
        first, second = (sm_search.read_mdf(path).deviation_CKN for path in made)
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(second, first, err_msg="as a reconstruction weighs with it")
        assert [fault for fault in sm_search.validate(made[1]) if fault.severity != "warning"] == []
