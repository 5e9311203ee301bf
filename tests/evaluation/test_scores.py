"""What a study may search for: exact values of each score, and that it tells better from worse."""

import itertools
import math

import numpy as np
import pytest
import torch

from sm_search.config.model_settings import ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.evaluation.evaluation_cost import EvaluationCost, evaluation_cost
from sm_search.evaluation.metrics import gain_error_db, nrmse
from sm_search.evaluation.phantom_image import PHANTOM, PhantomImage
from sm_search.evaluation.reconstruction import REGULARISATIONS, reconstruction_check
from sm_search.evaluation.scores import DIRECTIONS, SCORES, Made, sign
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.physics.system_matrix import chosen_channels
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images


def made(truth: float, draws: list[float], gain: float = 1.0, pattern: float | None = None) -> Made:
    """One component of one value everywhere."""
    images = np.stack([np.full((1, 2, 12, 12), value) for value in draws])
    pattern = sum(draws) / len(draws) if pattern is None else pattern
    patterns, right = np.full((1, 2, 12, 12), pattern), np.full((1, 2, 12, 12), truth)
    return Made(patterns, images, right, np.array([gain]))


@pytest.fixture(scope="module")
def image(tiny_dataset: Dataset) -> PhantomImage:
    """Of the validation scan, of 8 components on 12 × 12 voxels."""
    return PhantomImage.of(next(iter(tiny_dataset.pairs("validation"))).high)


@pytest.mark.parametrize(
    ("name", "case", "value"),
    [
        ("val_psnr_db", made(0.5, [0.7]), 10 * math.log10(4 / 0.04)),
        ("val_nrmse", made(0.5, [0.6]), 0.2),
        ("val_nrmse", made(0.5, [0.5], gain=1.5), 0.5),
        ("val_nrmse", made(0.5, [0.25], gain=2.0), 0.0),
        ("val_gain_error_db", made(0.5, [0.1], gain=0.1), 20.0),
        ("val_gain_error_db", made(0.5, [0.1], gain=10.0), 20.0),
        ("val_gain_error_db", made(0.5, [0.1], gain=0.0), 200.0),
        ("val_crps", made(0.5, [0.7]), 0.2),
        ("val_crps", made(0.5, [0.4, 0.8]), 0.2 - 0.4 / 2),
        # Deviation √0.08 of the draws 0.4 and 0.8, times √1.5, over an error of 0.1: 2√3.
        ("val_spread_error", made(0.5, [0.4, 0.8]), 2 * math.sqrt(3)),
        ("val_miscalibration", made(0.5, [0.4, 0.8]), 1 + math.log2(3) / 2),
        ("val_spread_error", made(0.5, [0.7]), 0.0),
        ("val_miscalibration", made(0.5, [0.7]), 10.0),
        ("val_miscalibration", made(0.6, [0.4, 0.8]), 10.0),
    ],
)
def test_exact_values(name: str, case: Made, value: float) -> None:
    assert SCORES[name].of(case) == pytest.approx([value], abs=1e-9)


@pytest.mark.parametrize("name", [name for name in DIRECTIONS if name in SCORES])
def test_a_score_is_of_each_component_and_worse_the_larger_the_error(name: str, image: PhantomImage) -> None:
    random = np.random.default_rng(0)
    truth = ScaledImages.of(image.truth.channel_images(0)).patterns
    draws = truth + 0.1 * random.normal(size=(8, *truth.shape))
    noise = random.normal(size=truth.shape)
    values = []
    for size in (0.01, 0.1, 1.0):
        off = draws - draws.mean(axis=0) + truth + 10 * size * noise
        if name == "val_miscalibration":  # the error that fits the draws' spread is the best
            off = draws - draws.mean(axis=0) + truth + (0.1 + size) * noise
        values.append(SCORES[name].of(Made(truth + size * noise, off, truth, np.full(8, 1 + size), (image,))))
    assert all(each.shape == (8,) and np.isfinite(each).all() for each in values)
    assert all((sign(name) * (better - worse) > 0).all() for better, worse in itertools.pairwise(values))


def test_validation_scores_what_a_synthesised_matrix_is_worth(tiny_dataset: Dataset, trainer: Trainer) -> None:
    """nRMSE and gain error in physical units, of the mean that a schedule without steps gives."""
    _, models = training_images(tiny_dataset, "train", (0,), trainer.settings.mean)
    schedule = ScheduleSettings(steps=0)
    synthesiser = Synthesiser(make_checkpoint(trainer, tiny_dataset, models, schedule, {}))
    expected: dict[str, list[float]] = {"val_nrmse": [], "val_gain_error_db": []}
    for pair in tiny_dataset.pairs("validation"):
        low, high = synthesiser.predict(pair.low).channel_images(0), pair.high.channel_images(0)
        expected["val_nrmse"] += nrmse(low, high).tolist()
        expected["val_gain_error_db"] += gain_error_db(low, high).tolist()
    scores = Validation.of(tiny_dataset, models).metrics(trainer.ema, trainer.settings.diffusion, schedule)
    assert {name: scores[name] for name in expected} == pytest.approx(
        {name: sum(values) / len(values) for name, values in expected.items()}, rel=1e-4
    )


def test_the_image_of_a_phantom_is_what_reconstruct_makes_with_the_synthesised_matrix(
    tiny_dataset: Dataset, trainer: Trainer
) -> None:
    """Also of one scan of several; and a matrix of nothing has an image, of nothing."""
    _, models = training_images(tiny_dataset, "train", (0,), "kernel-ridge")
    diffusion, schedule = trainer.settings.diffusion, ScheduleSettings(steps=0)
    synthesiser = Synthesiser(make_checkpoint(trainer, tiny_dataset, models, schedule, {}))
    expected = []
    for pair in tiny_dataset.pairs("train"):
        made, truth = (chosen_channels(each, (0,)) for each in (synthesiser.predict(pair.low), pair.high))
        images = [reconstruction_check(made, PHANTOM, truth, regularisation=each) for each in REGULARISATIONS]
        expected.append(max(image.psnr_db for image in images))
    whole = Validation.of(tiny_dataset, models, "train", asked={"val_image_psnr_db"})
    scores = ScheduleScorer(trainer.ema, diffusion, whole)([schedule], 0, 2)
    assert scores["val_image_psnr_db"][0] == pytest.approx(expected, abs=1e-3)
    alone = ScheduleScorer(trainer.ema, diffusion, whole.spread_out().part(1, 2))([schedule], 0, 1)
    assert alone["val_image_psnr_db"][0] == pytest.approx(expected[1:], abs=1e-3)
    concentration_N = (image := whole.phantoms[0]).concentration_N
    nothing = 10 * math.log10(concentration_N.max() ** 2 / (concentration_N**2).mean())
    assert image.psnr_db(np.zeros((8, 12, 12), complex)) == pytest.approx(nothing)


def test_a_score_of_whole_scans_leaves_the_others_as_they_are_and_is_computed_only_if_asked_for(
    tiny_dataset: Dataset, trainer: Trainer, validation: Validation
) -> None:
    """The same noise for each image, whether it is rated alone or with its scan."""
    _, models = training_images(tiny_dataset, "train", (0,), trainer.settings.mean)
    whole = Validation.of(tiny_dataset, models, asked={"val_ssim", "val_image_psnr_db"})
    schedule = ScheduleSettings(sampler="ddpm", steps=2, eta_max=0.1, samples=2)
    found = whole.metrics(trainer.ema, trainer.settings.diffusion, schedule)
    parts = validation.metrics(trainer.ema, trainer.settings.diffusion, schedule)
    assert found.pop("val_image_psnr_db") > 0
    assert "val_image_psnr_db" not in parts
    assert found == pytest.approx(parts, rel=1e-4)
    assert (len(whole), whole.rows_of_a_scan()) == (1, len(validation))


def test_parts_of_a_validation_keep_the_gains_of_their_images(validation: Validation, trainer: Trainer) -> None:
    spread = validation.spread_out()
    schedule = ScheduleSettings(steps=0)
    whole = ScheduleScorer(trainer.ema, trainer.settings.diffusion, validation)([schedule], 0, len(validation))
    again = ScheduleScorer(trainer.ema, trainer.settings.diffusion, spread)([schedule], 0, len(validation))
    order = [validation.names.index(name) for name in spread.names]
    for name in ("val_nrmse", "val_gain_error_db"):
        np.testing.assert_allclose(again[name][0], whole[name][0][order], rtol=1e-6)


def test_what_an_evaluation_takes(validation: Validation, trainer: Trainer, tiny_dataset: Dataset) -> None:
    """Seconds are some, and bytes more than the weights and what goes in and out of the network for a whole scan."""
    cost = evaluation_cost(trainer.ema, validation)
    weights = sum(tensor.nbytes for tensor in trainer.ema.state_dict().values())
    components = len(tiny_dataset.settings.orders.pairs())
    assert validation.rows_of_a_scan() == components
    image = validation.targets[0].nbytes
    assert 0 < cost.seconds < 60
    assert weights < cost.bytes < weights + 1000 * components * image
    assert evaluation_cost(trainer.ema, validation).bytes == cost.bytes
    assert EvaluationCost(2.0, 8.0).of(3) == {"evaluations": 3.0, "synthesis_seconds": 6.0, "synthesis_bytes": 8.0}


class Chain(torch.nn.Module):
    """Ten layers, of which each frees what went into it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(100))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def forward(self, x_t: torch.Tensor, alpha_bar: torch.Tensor, condition: object, z: object = None) -> torch.Tensor:
        for _ in range(10):
            x_t = x_t + 1
        return x_t


def test_memory_is_what_lives_at_once(validation: Validation) -> None:
    """Of equal layers two hold their values at a time, and not all ten; and for a moment the number that is added."""
    scan = validation.rows_of_a_scan() * validation.targets[0].nbytes
    assert evaluation_cost(Chain(), validation).bytes == 4 * 100 + 2 * scan + 8  # type: ignore[arg-type]
