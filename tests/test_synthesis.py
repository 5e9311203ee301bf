"""Checkpoint + schedule + low-gradient matrix → high-gradient matrix."""

import dataclasses
from pathlib import Path
from uuid import UUID

import h5py
import numpy as np
import pytest
import torch

from sm_search.config.errors import DataError, DivergenceError
from sm_search.config.model_settings import (
    Diffuse,
    DiffusionSettings,
    LinearBasisSettings,
    ScheduleSettings,
    TrainingSettings,
)
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.run_settings import RunSettings
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.data.dataset import Dataset, Pair
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_reading import read_field, read_mdf
from sm_search.data.mdf_validation import validate_mdf
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.checkpoint import Checkpoint, load_checkpoint
from sm_search.diffusion.condition import make_condition
from sm_search.diffusion.samplers import ImageNoise, sample
from sm_search.evaluation.baselines import baselines
from sm_search.evaluation.comparison import pair_quality
from sm_search.physics.receive import receive
from sm_search.regression.scan_features import scan_features
from sm_search.search.single_training import train_single
from sm_search.synthesis import Synthesiser, load_synthesiser, synthesise_file
from sm_search.training import Trainer, make_checkpoint, training_images

TIME = "2025-01-31T12:00:00.000"


@pytest.fixture(scope="module")
def checkpoint(tiny_dataset: Dataset) -> Checkpoint:
    """A regression that knows its 16 training images by heart."""
    settings = TrainingSettings(
        backbone=LinearBasisSettings(coefficients=16, width=64, blocks=1),
        diffusion=DiffusionSettings(timesteps=50),
        steps=600,
        batch_size=16,
        learning_rate=3e-3,
        p_uncond=0.0,
        share_at_end=1.0,
        mean="none",
    )
    images, models = training_images(tiny_dataset, "train", (0,), settings.mean)
    trainer = Trainer(settings, images)
    list(trainer.train(settings.steps))
    return make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(steps=1), {})


@pytest.fixture(scope="module")
def pair(tiny_dataset: Dataset) -> Pair:
    return next(iter(tiny_dataset.pairs("train")))


def test_a_training_scan_is_synthesised_in_shape_and_in_physical_units(checkpoint: Checkpoint, pair: Pair) -> None:
    found = Synthesiser(checkpoint).predict(pair.low)
    quality = pair_quality(found, pair)
    assert quality.psnr_db_median > 25
    assert quality.nrmse_median < 0.2
    expected = dataclasses.replace(pair.high, values_CKN=found.values_CKN, tracer=pair.low.tracer)
    assert found == expected
    assert found.values_CKN.shape == pair.high.values_CKN.shape


def test_each_component_has_exactly_the_predicted_amplitude(checkpoint: Checkpoint, pair: Pair) -> None:
    found = Synthesiser(checkpoint).predict(pair.low).values_CKN[0]
    low = ScaledImages.of(pair.low.channel_images(0))
    features = scan_features(low.patterns, low.scales, pair.low.fx_hz, pair.low.nd)
    predicted = checkpoint.scan_models.gain(features, torch.from_numpy(low.scales)).numpy()
    np.testing.assert_allclose(np.abs(found).max(1), predicted, rtol=1e-12)
    # The pattern has no say in the amplitude, and the gain model nearly knows its training scans.
    np.testing.assert_allclose(predicted, np.abs(pair.high.values_CKN[0]).max(1), rtol=1e-2)


def test_concentration_passes_through(checkpoint: Checkpoint, pair: Pair) -> None:
    synthesiser = Synthesiser(checkpoint)
    stronger = dataclasses.replace(pair.low, values_CKN=1024.0 * pair.low.values_CKN)
    np.testing.assert_allclose(
        synthesiser.predict(stronger).values_CKN, 1024 * synthesiser.predict(pair.low).values_CKN, rtol=1e-4
    )


def test_the_y_channel_is_the_x_channel_of_exchanged_axes(checkpoint: Checkpoint, pair: Pair) -> None:
    """One model serves both: a matrix with channels and axes exchanged gives the exchanged result."""
    size_x, size_y = pair.low.grid.size
    swap = [pair.low.mixing_orders.index(order[::-1]) for order in pair.low.mixing_orders]

    def exchanged(values_CKN: np.ndarray) -> np.ndarray:
        images = values_CKN.reshape(2, -1, size_y, size_x)
        return images[::-1, swap].swapaxes(2, 3).reshape(values_CKN.shape)

    # Without noise in the answer, as the noise of an image goes by its channel.
    schedule = ScheduleSettings(steps=1)
    low = dataclasses.replace(pair.low, values_CKN=exchanged(pair.low.values_CKN))
    first = Synthesiser(checkpoint, schedule).predict(pair.low).values_CKN
    second = Synthesiser(checkpoint, schedule).predict(low).values_CKN
    difference = np.linalg.norm(exchanged(second) - first) / np.linalg.norm(first)
    assert difference < 0.2


@pytest.mark.parametrize("channel", [0, 1])
def test_draws_scatter_about_the_pattern_that_is_predicted(checkpoint: Checkpoint, pair: Pair, channel: int) -> None:
    schedule = ScheduleSettings(sampler="ddpm", steps=4, samples=3)
    draws = Synthesiser(checkpoint, schedule).pattern_draws(pair.low, channel, 3)
    assert draws.shape == (3, 8, 2, 12, 12)
    predicted = Synthesiser(checkpoint, schedule).synthesise(pair.low)
    pattern = ScaledImages.of(predicted.matrix.channel_images(channel)).patterns
    np.testing.assert_allclose(draws.mean(axis=0), pattern, atol=1e-5)
    assert predicted.deviation_CKN is not None
    scales = np.abs(predicted.matrix.values_CKN[0]).max(axis=1)
    deviation = np.sqrt(draws.var(axis=0, ddof=1).sum(axis=1)).reshape(8, -1)
    if channel == 0:
        np.testing.assert_allclose(deviation, predicted.deviation_CKN[0] / scales[:, None], atol=1e-5)
    assert deviation.max() > 1e-3


def test_the_same_seed_gives_the_same_bytes_also_from_the_folder(
    checkpoint: Checkpoint, pair: Pair, tmp_path: Path
) -> None:
    schedule = ScheduleSettings(sampler="ddpm", steps=4, eta_max=0.1)
    checkpoint.save(tmp_path)
    found = [
        synthesiser.predict(pair.low).values_CKN
        for synthesiser in (
            Synthesiser(checkpoint, schedule, seed=3),
            load_synthesiser(tmp_path, schedule, seed=3),
            Synthesiser(checkpoint, schedule, seed=4),
        )
    ]
    assert found[0].tobytes() == found[1].tobytes()
    assert not np.allclose(found[0], found[2])


def test_the_schedule_of_the_checkpoint_is_the_default(checkpoint: Checkpoint) -> None:
    assert Synthesiser(checkpoint).schedule == ScheduleSettings(steps=1)
    assert Synthesiser(checkpoint, ScheduleSettings(steps=3)).schedule.steps == 3


def test_a_model_of_the_voltage_answers_in_volts_without_the_conditions_noise(
    checkpoint: Checkpoint, pair: Pair, tmp_path: Path
) -> None:
    voltage = dataclasses.replace(checkpoint, info=checkpoint.info.model_copy(update={"unit": "V"}))
    chain = ReceiveSettings(signal="voltage", noise_nv=0.1, background_frames=4, low_pass_khz=500.0)
    write_mdf(tmp_path / "low.mdf", receive(pair.low, chain), uuid=str(UUID(int=1)), time=TIME)
    # Nothing but the unit is another: the phases are not those of the model's training scans.
    synthesise_file(Synthesiser(voltage), tmp_path / "low.mdf", tmp_path / "high.mdf", model="m", extrapolate=True)
    # As the condition's, its transfer function was divided out; the file does not tell which it was.
    faults = {(fault.severity, fault.field) for fault in validate_mdf(tmp_path / "high.mdf")}
    assert faults == {("warning", "/measurement/isTransferFunctionCorrected")}
    high = read_mdf(tmp_path / "high.mdf")
    assert high.unit == "V"
    assert high.background_CKE is high.snr_CK is high.transfer_function_CK is None
    with pytest.raises(DataError, match="values are in V; the model was trained for A/m"):
        synthesise_file(Synthesiser(checkpoint), tmp_path / "low.mdf", tmp_path / "other.mdf", model="m")


def test_a_condition_that_the_model_was_not_trained_for_is_refused(checkpoint: Checkpoint, pair: Pair) -> None:
    low = pair.low
    silent = low.values_CKN.copy()
    silent[1] = 0
    cases = {
        r"grid is 12 × 12 over 30 × 30 mm; the model was trained for 12 × 12 over 40 × 40 mm": {
            "grid": Grid(size=(12, 12), fov_mm=(30.0, 30.0))
        },
        "gradient_t_per_m is 0.2; the model was trained for 0.1": {
            "field": FieldSettings(gradient_t_per_m=0.2, drive_mt=2.0)
        },
        "values are in V; the model was trained for A/m": {"unit": "V"},
        "drive_mt is 3.0; the model was trained for 2.0": {"field": FieldSettings(gradient_t_per_m=0.1, drive_mt=3.0)},
        r"lacks 1 of the 8 mixing orders that the model was trained for, first \(0, 1\)": {
            "mixing_orders": low.mixing_orders[1:],
            "values_CKN": low.values_CKN[:, 1:],
        },
        "receive channel 1 is zero everywhere": {"values_CKN": silent},
        "receive channel 0 is zero everywhere": {"values_CKN": silent, "axes": "yxz"},
        # In the terms of a scanner whose faster drive is along y.
        r"grid is 12 × 12 over 40 × 30 mm; the": {"grid": Grid(size=(12, 12), fov_mm=(30.0, 40.0)), "axes": "yxz"},
        r"drive_mt is \(2.0, 3.0\); the model was trained for 2.0": {
            "field": FieldSettings(gradient_t_per_m=0.1, drive_mt=(3.0, 2.0)),
            "axes": "yxz",
        },
    }
    for message, changes in cases.items():
        with pytest.raises(DataError, match=message):
            Synthesiser(checkpoint).predict(dataclasses.replace(low, **changes))  # type: ignore[arg-type]


def test_a_condition_that_agrees_is_synthesised_whatever_its_order_and_rounding(
    checkpoint: Checkpoint, pair: Pair
) -> None:
    """As MPIFiles writes them: frequencies ascending, numbers in float32 or rounded, and more of them than needed."""
    low, synthesiser = pair.low, Synthesiser(checkpoint)
    wanted = synthesiser.synthesise(low)
    ascending = np.argsort(low.frequency_index())
    orders = tuple(low.mixing_orders[k] for k in ascending)
    values_CKN = np.concatenate((low.values_CKN[:, ascending], np.ones((2, 1, low.grid.voxels))), axis=1)
    other = dataclasses.replace(
        low,
        values_CKN=values_CKN,
        mixing_orders=(*orders, (9, 9)),
        grid=Grid(size=(12, 12), fov_mm=(1e3 * float(np.float32(0.04)), 40.0)),
        field=FieldSettings(gradient_t_per_m=(0.1, 0.10000001), drive_mt=(2.0013, 2.0)),
    )
    found = synthesiser.synthesise(other)
    assert found.matrix.mixing_orders == orders
    np.testing.assert_array_equal(found.matrix.values_CKN, wanted.matrix.values_CKN[:, ascending])


def test_the_output_tells_the_inputs_origin(checkpoint: Checkpoint, pair: Pair, tmp_path: Path) -> None:
    origin = {
        "/tracer/name": ["perimag"],
        "/tracer/vendor": ["micromod"],
        "/tracer/concentration": np.array([0.1]),
        "/tracer/volume": np.array([1e-6]),
        "/scanner/name": "pre-clinical",
        "/calibration/method": "robot",
        "/experiment/isSimulation": False,
    }
    source, target = tmp_path / "low.mdf", tmp_path / "high.mdf"
    time, uuid = "2018-04-19T09:49:08.000", "ee94cb6d-febf-47d9-bec9-e3afa59bfaf8"
    write_mdf(source, pair.low, uuid=uuid, time=time, averages=1000, provenance=origin)
    with h5py.File(source, "r+") as h5:
        del h5["/time"]
        h5["/time"] = "2018-04-19T09:49:08"
    synthesise_file(Synthesiser(checkpoint), source, target, model="m", extrapolate=True)
    assert read_field(target, "/acquisition/numAverages") == 1000
    assert read_field(target, "/time") == time
    for field, value in origin.items():
        np.testing.assert_array_equal(read_field(target, field), value)


def test_a_third_receive_channel_is_not_taken_for_y(checkpoint: Checkpoint, pair: Pair) -> None:
    third = dataclasses.replace(pair.low, values_CKN=np.concatenate((pair.low.values_CKN, pair.low.values_CKN[:1])))
    with pytest.raises(DataError, match="receive channel 3 is neither x nor y"):
        third.channel_images(2)
    found = Synthesiser(checkpoint).predict(third).values_CKN
    np.testing.assert_array_equal(found, Synthesiser(checkpoint).predict(pair.low).values_CKN)


def test_sampling_that_leaves_the_finite_numbers_ends_in_an_error(checkpoint: Checkpoint, pair: Pair) -> None:
    schedule = ScheduleSettings(steps=2, eta_max=1e38, gamma=0.0)
    with pytest.raises(DivergenceError, match="sampling left the finite numbers"):
        Synthesiser(checkpoint, schedule).predict(pair.low)


def test_without_a_network_s_say_the_result_is_the_mean_of_the_training_scans(tiny_dataset: Dataset) -> None:
    """A fresh network answers 0: what is left is mean and gain, which the kernel-ridge baseline has too."""
    settings = TrainingSettings(backbone=LinearBasisSettings(coefficients=16, width=16, blocks=1), steps=1)
    images, models = training_images(tiny_dataset, "train", (0,), settings.mean)
    fresh = make_checkpoint(Trainer(settings, images), tiny_dataset, models, ScheduleSettings(steps=1), {})
    low = next(iter(tiny_dataset.pairs("test"))).low
    expected = baselines(tiny_dataset)["kernel-ridge"].predict(low)
    found = Synthesiser(fresh).predict(low)
    scale = np.abs(expected.values_CKN).max()
    np.testing.assert_allclose(found.values_CKN, expected.values_CKN, rtol=0, atol=1e-6 * scale)
    assert (found.field, found.mixing_orders) == (expected.field, expected.mixing_orders)


def test_the_file_says_how_far_to_trust_it(checkpoint: Checkpoint, tiny_dataset: Dataset, tmp_path: Path) -> None:
    scan = tiny_dataset.settings.scans("test")[0]
    source = tiny_dataset.file(scan, "low")
    schedule = ScheduleSettings(sampler="ddpm", steps=4, samples=5)
    synthesiser = Synthesiser(checkpoint, schedule)
    made = synthesise_file(synthesiser, source, tmp_path / "high.mdf", model="tiny")
    assert made.deviation_CKN is not None
    np.testing.assert_array_equal(read_field(tmp_path / "high.mdf", "/calibration/_deviation"), made.deviation_CKN)
    for matrix in (read_mdf(tmp_path / "high.mdf"), made.matrix):
        assert matrix.deviation_CKN is not None
        np.testing.assert_array_equal(matrix.deviation_CKN, made.deviation_CKN)
    assert validate_mdf(tmp_path / "high.mdf") == []
    # By hand: five draws, each a whole synthesis but for the scaling of the mean.
    drawn = []
    low = tiny_dataset.read(scan, "low")
    scaled = ScaledImages.of(low.channel_images(0))
    features = scan_features(scaled.patterns, scaled.scales, low.fx_hz, low.nd)
    condition = make_condition(scaled.patterns, low.mixing_orders, scaled.scales, features)
    noise = ImageNoise(0, [f"0/{m_x},{m_y}" for m_x, m_y in low.mixing_orders], (12, 12))
    one = schedule.model_copy(update={"samples": 1})
    for draw in range(5):
        drawn.append(sample(checkpoint.denoiser, checkpoint.info.training.diffusion, one, condition, noise, draw))
    images = torch.stack(drawn).double()
    deviation = images.var(0).sum(1).sqrt().flatten(1)
    largest = images.mean(0).square().sum(1).sqrt().flatten(1).amax(1)
    scales = checkpoint.scan_models.gain(features, torch.from_numpy(scaled.scales))
    expected = deviation * (scales / largest)[:, None]
    np.testing.assert_allclose(made.deviation_CKN[0], expected, rtol=1e-3, atol=1e-6 * expected.max())
    assert made.expected_error_CK is None, "a model without mean expects nothing of itself"


@pytest.mark.parametrize("diffuse", ["component", "voxel"])
def test_a_model_with_a_spread_gives_its_mean_and_says_how_far_off_it_may_be(
    tiny_dataset: Dataset, tmp_path: Path, diffuse: Diffuse
) -> None:
    """Of spectra too that have fewer numbers than the network draws with."""
    settings = TrainingSettings(
        backbone=LinearBasisSettings(coefficients=16, width=16, blocks=1),
        steps=200,
        batch_size=16,
        learning_rate=3e-3,
        spread_share=0.5,
        mean="none",
        diffuse=diffuse,
    )
    run = RunSettings(training=settings, schedule=ScheduleSettings(steps=1))
    train_single(run, tiny_dataset, tmp_path / "model", False, lambda line: None)
    checkpoint = load_checkpoint(tmp_path / "model")
    loaded = Synthesiser(checkpoint)
    source, target = tiny_dataset.file(tiny_dataset.settings.scans("test")[0], "low"), tmp_path / "high.mdf"
    made = synthesise_file(loaded, source, target, model="tiny")
    low = read_mdf(source)
    for predicted in (loaded.predict(low), Synthesiser(checkpoint).predict(low)):
        np.testing.assert_array_equal(made.matrix.values_CKN, predicted.values_CKN)
    assert loaded.synthesise(low).deviation_CKN is None
    deviation_CKN = read_field(target, "/calibration/_deviation")
    several = Synthesiser(checkpoint, ScheduleSettings(steps=1, samples=8)).synthesise(low)
    assert not np.array_equal(several.matrix.values_CKN, made.matrix.values_CKN)
    assert several.deviation_CKN is not None
    # The same eight draws, but for the unit: that of their mean or of the model's.
    np.testing.assert_allclose(deviation_CKN, several.deviation_CKN, rtol=0.5)
    assert deviation_CKN.min() > 0
    assert Synthesiser(checkpoint, ScheduleSettings(steps=0)).draws == 1
    # Intervals of as many draws go with the model and into its files, but not with another schedule.
    assert loaded.intervals is not None
    assert loaded.intervals.draws == 8
    assert read_field(target, "/calibration/_intervalLevels").tolist() == [0.5, 0.9]
    factors_CQ = read_field(target, "/calibration/_intervalFactors")
    assert (
        factors_CQ.tolist() == [list(loaded.intervals.at(None, made.distance))] * 2 == made.trust()["interval_factors"]
    )
    assert f"90% within {factors_CQ[0, 1]:.2g} deviations" in made.in_words()
    assert several.interval_factors_CQ is None
    # What is drawn of some voxels is what is drawn there of all, but for the unit.
    voxels = np.array([3, 77])
    some, whole = loaded.pattern_draws(low, 1, 8, voxels), loaded.pattern_draws(low, 1, 8)
    whole = whole.reshape(*whole.shape[:3], -1)[..., voxels]
    unit_K = (some * whole).sum((0, 2, 3)) / np.square(whole).sum((0, 2, 3))
    np.testing.assert_allclose(some, unit_K[:, None, None] * whole, rtol=1e-4, atol=1e-5)
    assert unit_K == pytest.approx(1, abs=0.5)


def test_a_condition_lost_in_the_noise_is_flagged(
    checkpoint: Checkpoint, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    low = tiny_dataset.read(tiny_dataset.settings.scans("test")[0], "low")
    snr_CK = np.full((2, 8), 100.0)
    snr_CK[1, 3] = 1.0
    write_mdf(tmp_path / "low.mdf", dataclasses.replace(low, snr_CK=snr_CK), uuid=str(UUID(int=1)), time=TIME)
    synthesise_file(Synthesiser(checkpoint), tmp_path / "low.mdf", tmp_path / "high.mdf", model="tiny")
    flags = read_field(tmp_path / "high.mdf", "/calibration/_conditionInNoise")
    assert np.argwhere(flags).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("fx_khz", "nd", "message"),
    [
        (9.0, 9, None),
        (33.0, 9, None),
        (8.9, 9, "f_x is 8.9 kHz; the model was trained for 10 to 30 kHz and answers up to 10% outside"),
        (33.1, 9, "f_x is 33.1 kHz; the model was trained for 10 to 30 kHz"),
        (20.0, 8, "N_d is 8; the model was trained for 9 to 9 and answers"),
        (20.0, 10, "N_d is 10; the model"),
    ],
)
def test_a_trajectory_that_the_model_was_not_trained_for_is_named(
    checkpoint: Checkpoint, pair: Pair, fx_khz: float, nd: int, message: str | None
) -> None:
    found = Synthesiser(checkpoint).outside(dataclasses.replace(pair.low, fx_hz=1e3 * fx_khz, nd=nd))
    assert found is None if message is None else found is not None and message in found


def test_a_file_outside_the_range_is_made_on_demand_only_and_says_so(
    checkpoint: Checkpoint, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    low = tiny_dataset.read(tiny_dataset.settings.scans("test")[0], "low")
    field, target = "/calibration/_extrapolated", tmp_path / "high.mdf"
    for name, fx_hz in (("far", 60e3), ("near", 20e3)):
        write_mdf(tmp_path / name, dataclasses.replace(low, fx_hz=fx_hz), uuid=str(UUID(int=1)), time=TIME)
    synthesiser = Synthesiser(checkpoint)
    with pytest.raises(DataError, match=r"far: the condition's f_x is 60 kHz; .*; --extrapolate does it anyway"):
        synthesise_file(synthesiser, tmp_path / "far", target, model="m")
    assert not target.exists()
    synthesise_file(synthesiser, tmp_path / "far", target, model="m", extrapolate=True)
    assert read_field(target, field) == 1
    assert validate_mdf(target) == []
    synthesise_file(synthesiser, tmp_path / "near", target, model="m", extrapolate=True, overwrite=True)
    with pytest.raises(DataError, match="_extrapolated"):
        read_field(target, field)
