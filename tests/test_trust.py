"""A condition unlike the training scans is refused with the reason: each way in which a file of a scanner may be."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import torch

from sm_search.config.dataset_settings import DatasetSettings, Design
from sm_search.config.errors import DataError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.simulation_settings import Grid, MixingOrders, Particle
from sm_search.data.dataset import Dataset
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_reading import read_field, read_mdf
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.checkpoint import Checkpoint, load_checkpoint
from sm_search.physics.system_matrix import SystemMatrix, simulate
from sm_search.regression.delay import DelayCheck
from sm_search.regression.scan_features import scan_features
from sm_search.synthesis import UNKNOWN_DISTANCE, Synthesiser, synthesise_file
from sm_search.training import Trainer, make_checkpoint, training_images
from tests.conftest import TINY_TRAINING, Finished
from tests.datasets import simulated

TIME = "2025-01-31T12:00:00.000"


def design(core_diameter_nm: tuple[float, ...], fx_khz: tuple[float, ...]) -> Design:
    return Design(core_diameter_nm=core_diameter_nm, fx_khz=fx_khz, nd=(19,))


SETTINGS = DatasetSettings(
    name="trust",
    magnetisation="brownian",
    grid=Grid(size=(12, 12)),
    orders=MixingOrders(max_x=3, max_y=3),
    splits={
        "train": (design((25.0, 30.0, 36.0, 43.0, 50.0), (10.0, 20.0, 30.0)),),
        "validation": (design((40.0,), (15.0,)),),
        "test": (design((28.0, 33.0, 47.0), (12.0, 25.0)),),
    },
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return simulated(SETTINGS, tmp_path_factory.mktemp("data") / "trust")


@pytest.fixture(scope="module")
def checkpoint(dataset: Dataset) -> Checkpoint:
    images, models = training_images(dataset, "train", (0,), TINY_TRAINING.mean)
    return make_checkpoint(Trainer(TINY_TRAINING, images), dataset, models, ScheduleSettings(steps=0), {})


@pytest.fixture(scope="module")
def low(dataset: Dataset) -> SystemMatrix:
    return dataset.read(SETTINGS.scans("test")[3], "low")


def with_values(low: SystemMatrix, values: np.ndarray) -> SystemMatrix:
    return dataclasses.replace(low, values_CKN=np.ascontiguousarray(values).reshape(low.values_CKN.shape))


def images(low: SystemMatrix) -> np.ndarray:
    return low.values_CKN.reshape(2, -1, 12, 12)


def delayed(low: SystemMatrix, delay_us: float) -> SystemMatrix:
    omega_K = 2 * np.pi * low.frequency_index() * low.fx_hz / (low.nd + 1)
    return with_values(low, low.values_CKN * np.exp(-1j * omega_K * delay_us * 1e-6)[:, None])


def noise(low: SystemMatrix) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=low.values_CKN.shape) + 1j * random.normal(size=low.values_CKN.shape)


def of_other_physics(low: SystemMatrix, **changes: object) -> SystemMatrix:
    return simulate(SETTINGS.model_copy(update=changes), SETTINGS.scans("test")[3], "low")


PERMUTATION = np.random.default_rng(1).permutation(144)
UNLIKE: dict[str, tuple[Callable[[SystemMatrix], SystemMatrix], str]] = {
    "polarity": (lambda low: with_values(low, -low.values_CKN), "the receive polarity reversed"),
    "mirrored": (lambda low: with_values(low, images(low)[..., ::-1]), "mirrored along x|turned by 180°"),
    "exchanged axes": (lambda low: with_values(low, images(low).swapaxes(2, 3)), "x and y of the voxels exchanged"),
    "exchanged channels": (lambda low: with_values(low, low.values_CKN[::-1]), "channels exchanged"),
    "shuffled": (lambda low: with_values(low, low.values_CKN[..., PERMUTATION]), "voxels in another order"),
    "noise": (lambda low: with_values(low, noise(low)), "another particle, another physics or noise"),
    "noise of each component's size": (
        lambda low: with_values(low, noise(low) * np.abs(low.values_CKN).max(-1, keepdims=True)),
        "unlike",
    ),
    "delay": (lambda low: delayed(low, 1.0), "delayed by 1 µs"),
    "conjugated": (lambda low: with_values(low, low.values_CKN.conj()), "complex-conjugated"),
    "equilibrium": (lambda low: of_other_physics(low, magnetisation="equilibrium"), "unlike"),
    "debye": (lambda low: of_other_physics(low, magnetisation="debye"), "unlike"),
    "viscosity": (lambda low: of_other_physics(low, particle=Particle(viscosity_mpa_s=5.0)), "unlike"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_condition_unlike_the_training_scans_is_refused_with_reason_and_number(
    checkpoint: Checkpoint, low: SystemMatrix, name: str
) -> None:
    change, reason = UNLIKE[name]
    changed = change(low)
    synthesiser = Synthesiser(checkpoint)
    distance, found = synthesiser.distance(changed), synthesiser.outside(changed)
    assert distance is not None
    assert distance > 1
    assert found is not None
    assert f"{distance:.3g} times as far as the limit" in found
    assert any(words in found for words in reason.split("|")), found


def test_scans_that_the_model_was_not_trained_on_but_for_are_served(checkpoint: Checkpoint, dataset: Dataset) -> None:
    synthesiser = Synthesiser(checkpoint)
    for split in ("train", "validation", "test"):
        for pair in dataset.pairs(split):
            distance = synthesiser.distance(pair.low)
            assert distance is not None
            assert distance < 1, pair.scan.id
            assert synthesiser.outside(pair.low) is None


def phase_features(low: SystemMatrix) -> torch.Tensor:
    scaled = ScaledImages.of(low.channel_images(0))
    return scan_features(scaled.patterns, scaled.scales, low.fx_hz, low.nd)


def test_a_delay_is_found_and_refused_where_the_images_are_near_enough(
    checkpoint: Checkpoint, dataset: Dataset
) -> None:
    """A particle of slower relaxation is delayed too; its amplitudes tell it from a delay of the receiver."""
    check = DelayCheck.fitted(checkpoint.scan_models.gain.regression.features_SF, SETTINGS.orders.pairs())
    synthesiser, reasons = Synthesiser(checkpoint), []
    synthesiser._delays = dataclasses.replace(check, limit_us=0.3)  # of scans enough to know it so well
    for pair in dataset.pairs("test"):
        ratio = pair.low.nd / (pair.low.nd + 1)
        own_us, later_us = (
            check.delay_us(phase_features(delayed(pair.low, delay_us)), pair.low.fx_hz, ratio) for delay_us in (0, 2)
        )
        assert own_us is not None
        assert abs(own_us) < check.limit_us
        assert later_us == pytest.approx(own_us + 2, abs=0.051)
        reasons += [synthesiser.outside(delayed(pair.low, delay_us)) or "" for delay_us in (-0.5, 0.5)]
    assert any("the condition is delayed by" in reason and "up to 0.3 µs either way" in reason for reason in reasons)


def test_half_a_period_of_the_drive_is_no_delay(checkpoint: Checkpoint, low: SystemMatrix) -> None:
    """Both drives are nearly as fast, and phases are doubled: it turns them by nearly whole turns."""
    check = DelayCheck.fitted(checkpoint.scan_models.gain.regression.features_SF, SETTINGS.orders.pairs())
    half_us = 0.5e6 / low.fx_hz
    found_us = check.delay_us(phase_features(delayed(low, half_us)), low.fx_hz, low.nd / (low.nd + 1))
    assert found_us is not None
    assert abs(found_us) < half_us / 2


def test_delays_that_training_scans_have_are_served(dataset: Dataset) -> None:
    """The limit is that of the training scans: here each has a delay of its own of up to 2 µs."""
    random = np.random.default_rng(2)
    rows = []
    for pair in dataset.pairs("train"):
        rows.append(phase_features(delayed(pair.low, random.uniform(-2, 2))))
    check = DelayCheck.fitted(torch.stack(rows), SETTINGS.orders.pairs())
    assert 1 < check.limit_us < 5


def test_the_concentration_is_no_distance(checkpoint: Checkpoint, low: SystemMatrix) -> None:
    synthesiser = Synthesiser(checkpoint)
    stronger = with_values(low, 1024.0 * low.values_CKN)
    assert synthesiser.distance(stronger) == pytest.approx(synthesiser.distance(low), rel=1e-9)


def test_a_file_tells_the_distance_and_an_extrapolated_one_why(
    checkpoint: Checkpoint, low: SystemMatrix, tmp_path: Path, run: Callable[..., Finished]
) -> None:
    checkpoint.save(tmp_path / "model")
    for name, sm in (("good", low), ("bad", with_values(low, -low.values_CKN))):
        write_mdf(tmp_path / f"{name}.mdf", sm, uuid=str(UUID(int=1)), time=TIME)

    def synthesize(name: str, *options: str) -> Finished:
        files = ("--input", tmp_path / f"{name}.mdf", "--output", tmp_path / f"{name}.out")
        return run("synthesize", "--model", tmp_path / "model", *files, "--home", tmp_path / "home", *options)

    done = synthesize("good")
    assert done.status == 0, done.stderr
    assert "expected error " in done.stdout
    assert "distance to the training scans 0." in done.stdout
    assert 0 < read_field(tmp_path / "good.out", "/calibration/_distance") < 1
    refused = synthesize("bad")
    assert refused.status == 2
    assert "bad.mdf: the condition is unlike the training scans" in refused.stderr
    assert "the receive polarity reversed; without that it would be 0." in refused.stderr
    assert not (tmp_path / "bad.out").exists()
    forced = synthesize("bad", "--extrapolate", "--json")
    assert forced.status == 0
    assert "warning: the condition is unlike the training scans" in forced.stderr
    assert forced.object["distance"] > 1
    assert "polarity" in forced.object["outside"]
    assert read_field(tmp_path / "bad.out", "/calibration/_extrapolated") == 1


def test_the_record_is_saved_and_a_checkpoint_without_it_says_so(
    checkpoint: Checkpoint, low: SystemMatrix, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "new")
    assert Synthesiser(load_checkpoint(tmp_path / "new")).distance(low) == Synthesiser(checkpoint).distance(low)
    info = checkpoint.info.model_copy(update={"domain_rank": None})
    old = Checkpoint(info, checkpoint.denoiser, dataclasses.replace(checkpoint.scan_models, domain=None))
    old.save(tmp_path / "old")
    assert "domain" not in str(sorted((tmp_path / "old").iterdir()))
    reversed_low = with_values(low, -low.values_CKN)
    write_mdf(tmp_path / "low.mdf", reversed_low, uuid=str(UUID(int=1)), time=TIME)
    made = synthesise_file(
        Synthesiser(load_checkpoint(tmp_path / "old")), tmp_path / "low.mdf", tmp_path / "high.mdf", model="m"
    )
    assert made.distance is None
    assert UNKNOWN_DISTANCE in made.in_words()


def test_what_a_wrong_matrix_has_of_wrong_shape_is_said_first(checkpoint: Checkpoint, low: SystemMatrix) -> None:
    with pytest.raises(DataError, match="values are in V"):
        Synthesiser(checkpoint).outside(dataclasses.replace(low, unit="V"))


def noisy(low: SystemMatrix, decibels: float) -> SystemMatrix:
    """Noise that the strongest component stands so far above, less the mean of its background frames."""
    random = np.random.default_rng(5)
    deviation = np.abs(low.values_CKN).max() * 10 ** (-decibels / 20) / np.sqrt(2)

    def draw(frames: int) -> np.ndarray:
        shape = (*low.values_CKN.shape[:2], frames)
        return deviation * (random.normal(size=shape) + 1j * random.normal(size=shape))

    background = draw(20)
    mean = background.mean(-1, keepdims=True)
    values = low.values_CKN + draw(low.grid.voxels) - mean
    return dataclasses.replace(low, values_CKN=values, background_CKE=background - mean)


@pytest.fixture(scope="module")
def told(dataset: Dataset) -> Synthesiser:
    """A model that knew noise of 50 dB and less in training."""
    training = TINY_TRAINING.model_copy(update={"measurement_noise_db": (50.0, 140.0)})
    images, models = training_images(dataset, "train", (0,), training.mean)
    return Synthesiser(make_checkpoint(Trainer(training, images), dataset, models, ScheduleSettings(steps=0), {}))


@pytest.mark.parametrize("decibels", [120.0, 80.0, 60.0, 50.0])
def test_noise_that_a_model_was_told_in_training_is_no_distance(
    told: Synthesiser, dataset: Dataset, decibels: float
) -> None:
    for pair in dataset.pairs("test"):
        assert told.outside(noisy(pair.low, decibels)) is None, pair.scan.id


def test_more_noise_than_in_training_and_any_of_a_model_that_knew_none_is_refused(
    told: Synthesiser, checkpoint: Checkpoint, low: SystemMatrix
) -> None:
    reason = told.outside(noisy(low, 40.0))
    assert reason is not None
    assert "above its noise (receive channel 0); the model was trained for 50 dB and more" in reason
    unlike = Synthesiser(checkpoint).outside(noisy(low, 50.0))
    assert unlike is not None


@pytest.mark.parametrize("name", UNLIKE)
def test_noise_hides_nothing_that_is_unlike_the_training_scans(told: Synthesiser, low: SystemMatrix, name: str) -> None:
    assert told.outside(noisy(UNLIKE[name][0](low), 60.0)) is not None


def stacked(low: SystemMatrix, *heights_mm: float) -> SystemMatrix:
    """The same values in every plane, around a field-free point away from the origin."""
    heights_m = tuple(1e-3 * z for z in heights_mm)
    values_CKN = np.concatenate([low.values_CKN] * len(heights_m), axis=-1)
    return dataclasses.replace(low, values_CKN=values_CKN, heights_m=heights_m, origin_m=(0.002, 0.0, -0.004))


def test_a_volume_is_synthesised_plane_by_plane_into_one_file(
    checkpoint: Checkpoint, low: SystemMatrix, tmp_path: Path
) -> None:
    """The offset field goes with the gradient: the field-free point stays where it was."""
    synthesiser, sm = Synthesiser(checkpoint), stacked(low, -0.3, 0.0, 0.3)
    write_mdf(tmp_path / "low.mdf", sm, uuid=str(UUID(int=1)), time=TIME)
    made = synthesise_file(synthesiser, tmp_path / "low.mdf", tmp_path / "high.mdf", model="m")
    found, alone = read_mdf(tmp_path / "high.mdf"), synthesiser.synthesise(low)
    for plane in found.planes():
        np.testing.assert_array_equal(plane.values_CKN, alone.matrix.values_CKN)
    np.testing.assert_allclose((found.heights_m, found.origin_m), (sm.heights_m, sm.origin_m))
    assert made.expected_error_CK == pytest.approx(alone.expected_error_CK)
    assert made.distance == pytest.approx(alone.distance)
    offsets = [read_field(tmp_path / f"{name}.mdf", "/acquisition/offsetField") for name in ("low", "high")]
    np.testing.assert_allclose(offsets[1], 10 * offsets[0])


def test_a_plane_outside_those_of_the_training_is_refused(checkpoint: Checkpoint, low: SystemMatrix) -> None:
    reason = Synthesiser(checkpoint).outside(stacked(low, 0.0, 4.0))
    assert reason is not None
    assert "plane z = 4 mm: the condition's plane lies 4 mm above the field-free point; the model was trained" in reason
    info = checkpoint.info.model_copy(update={"heights_mm": (0.0, 4.0)})
    wider = Checkpoint(info, checkpoint.denoiser, checkpoint.scan_models)
    assert Synthesiser(wider).outside(stacked(low, 0.0, 4.0)) is None
    reversed_low = with_values(low, -low.values_CKN)
    both = np.concatenate((low.values_CKN, reversed_low.values_CKN), axis=-1)
    told = Synthesiser(wider).outside(dataclasses.replace(low, values_CKN=both, heights_m=(0.0, 4e-3)))
    assert told is not None
    assert "plane z = 4 mm: the condition is unlike the training scans" in told
    assert "polarity" in told
