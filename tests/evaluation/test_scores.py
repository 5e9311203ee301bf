"""What a study may search for: exact values of each score, and that it tells better from worse."""

import itertools
import math

import numpy as np
import pytest
import torch

from sm_search.config.model_settings import ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.evaluation.evaluation_cost import EvaluationCost, evaluation_cost
from sm_search.evaluation.metrics import gain_error_db, nrmse
from sm_search.evaluation.scores import DIRECTIONS, SCORES, Made, sign
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images


def made(truth: float, draws: list[float], gain: float = 1.0, pattern: float | None = None) -> Made:
    """One component of one value everywhere."""
    images = np.stack([np.full((1, 2, 12, 12), value) for value in draws])
    pattern = sum(draws) / len(draws) if pattern is None else pattern
    patterns, right = np.full((1, 2, 12, 12), pattern), np.full((1, 2, 12, 12), truth)
    return Made(patterns, images, right, np.array([gain]))


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
def test_a_score_is_of_each_component_and_worse_the_larger_the_error(name: str) -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, size=(3, 2, 12, 12))
    draws = truth + 0.1 * random.normal(size=(8, 3, 2, 12, 12))
    noise = random.normal(size=truth.shape)
    values = []
    for size in (0.01, 0.1, 1.0):
        off = draws - draws.mean(axis=0) + truth + 10 * size * noise
        if name == "val_miscalibration":  # the error that fits the draws' spread is the best
            off = draws - draws.mean(axis=0) + truth + (0.1 + size) * noise
        values.append(SCORES[name].of(Made(truth + size * noise, off, truth, np.full(3, 1 + size))))
    assert all(each.shape == (3,) and np.isfinite(each).all() for each in values)
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
