"""How many schedules a second the inner search tries, beside one schedule at a time on all images.

    pytest -m benchmark -s tests/benchmarks/test_schedule_search.py -k second

PAPER_54 names a finished dataset of the preset, else it is simulated first; STEPS is the training of the model whose
schedule is searched. Processor seconds of one thread, Optuna's own included. Loss: by how much the schedule found falls
short of the best of all that were tried, had each been measured on all images. Beside it, `-k samplers`
compares samplers, and `-k gains` tells what the schedules of earlier models are worth.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import optuna
import pytest
import torch
from _pytest.monkeypatch import MonkeyPatch

from sm_search.config.model_settings import (
    DiffusionSettings,
    LinearBasisSettings,
    Mean,
    ScheduleSettings,
    TrainingSettings,
)
from sm_search.data.dataset import Dataset
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.samplers import ImageNoise, sample_each, sample_mean
from sm_search.evaluation.metrics import psnr_db
from sm_search.evaluation.validation import NOISE_SEED, ScheduleScorer, Scores, Validation
from sm_search.regression.scan_models import ScanModels
from sm_search.search.schedule import inner_search as schedule_search
from sm_search.search.schedule.good_schedules import best_of, initial_schedules
from sm_search.search.schedule.inner_search import STARTUP_SCHEDULES, ScheduleSearch, search_schedule
from sm_search.search.schedule.race import ASKED_AT_ONCE, search_images
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import SPACES, load_space
from sm_search.training import Trainer, TrainingImages

pytestmark = pytest.mark.benchmark

STEPS = int(os.environ.get("STEPS", "300"))
SEEDS = (0, 1, 2)
P_UNCOND = (0.1, 0.15, 0.05, 0.2, 0.0, 0.02)
CHAINS = 6


@dataclass(frozen=True)
class Model:
    """Frozen weights and the images that they are judged on."""

    denoiser: Denoiser
    diffusion: DiffusionSettings
    validation: Validation


@pytest.fixture(scope="module")
def model(paper_54: Dataset, training_data: Callable[[Mean], tuple[TrainingImages, ScanModels]]) -> Model:
    torch.set_num_threads(1)
    settings = TrainingSettings(mean="none", steps=STEPS, learning_rate=3e-3, share_at_end=0.7)
    images, models = training_data(settings.mean)
    trainer = Trainer(settings, images)
    list(trainer.train(STEPS, STEPS))
    return Model(trainer.ema, settings.diffusion, Validation.of(paper_54, models))


def seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def one_at_a_time(model: Model, schedules: list[ScheduleSettings], images: Validation) -> list[float]:
    """PSNR in dB of each, the plain way: noise, samples and metric for one after the other."""
    found = []
    for schedule in schedules:
        noise = ImageNoise(NOISE_SEED, images.names, images.targets.shape[2:])  # type: ignore[arg-type]
        drawn, *_ = sample_mean(model.denoiser, model.diffusion, schedule, images.condition, noise)
        values = (images.mean + images.spread[:, None, None, None] * drawn).double().numpy()
        patterns = ScaledImages.of(values[:, 0] + 1j * values[:, 1]).patterns
        found.append(float(psnr_db(patterns, images.targets).mean()))
    return found


class Counted:
    """A scorer that counts the images that it draws under a schedule."""

    def __init__(self, scorer: ScheduleScorer) -> None:
        self.scorer, self.images = scorer, 0

    def __call__(self, schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        self.images += len(schedules) * (end - begin)
        return self.scorer(schedules, begin, end)


def ratio(model: Model, space: Space, seed: int) -> float:
    """Schedules a second of one search over those of the plain way on the same schedules."""
    denoiser, diffusion, validation = model.denoiser, model.diffusion, model.validation
    images = search_images(validation, space.budget.images)
    counted = Counted(ScheduleScorer(denoiser, diffusion, images))
    found: list[ScheduleSearch] = []
    search = seconds(
        lambda: found.append(
            search_schedule(
                denoiser,
                diffusion,
                space.schedule,
                validation,
                metric="val_psnr_db",
                trials=space.budget.schedules,
                images=space.budget.images,
                seed=seed,
                measure=counted,
            )
        )
    )
    best, schedules = found[0].best, [trial.schedule for trial in found[0].trials]
    # The best one's metrics on all images belong to either way.
    search -= seconds(lambda: validation.metrics(denoiser, diffusion, best))
    values: list[float] = []
    plain = seconds(lambda: values.extend(one_at_a_time(model, schedules, images)))
    batch = seconds(lambda: ScheduleScorer(denoiser, diffusion, images)(schedules, 0, len(images)))
    count, reached = len(schedules), values[schedules.index(best)]
    print(
        f"seed {seed}: one at a time {count / plain:.2f} schedules/s, in batches {count / batch:.2f} "
        f"({plain / batch:.2f}×), with dropping {count / search:.2f} ({plain / search:.2f}×, "
        f"{counted.images / count / len(images):.0%} of the images); best {reached:.3f} dB, "
        f"loss {max(values) - reached:.3f} dB, worst {min(values):.2f} dB; front of {len(found[0].front)}",
        flush=True,
    )
    return plain / search


@pytest.mark.parametrize("name", ["paper", "schedule"])
def test_schedules_a_second(model: Model, name: str) -> None:
    space = load_space(SPACES / f"{name}.yaml")
    print(f"\n{name}: {space.budget.schedules} schedules on {space.budget.images} images")
    print(f"median {statistics.median(ratio(model, space, seed) for seed in SEEDS):.2f}×")


def gaussian_process(seed: int) -> optuna.samplers.GPSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=8, deterministic_objective=True)


def each_by_itself(seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=False, constant_liar=True, n_startup_trials=STARTUP_SCHEDULES
    )


@pytest.fixture(scope="module")
def paper_model(
    paper_54: Dataset, training_data: Callable[[Mean], tuple[TrainingImages, ScanModels]]
) -> Callable[[float], Model]:
    """Models trained as in the paper, where schedules differ, by p_uncond."""
    torch.set_num_threads(1)

    def trained(p_uncond: float) -> Model:
        settings = TrainingSettings(
            mean="none",
            steps=STEPS,
            learning_rate=4e-3,
            share_at_end=0.0,
            condition_noise="same-level",
            p_uncond=p_uncond,
            backbone=LinearBasisSettings(coefficients=256, width=256, blocks=2),
        )
        images, models = training_data(settings.mean)
        trainer = Trainer(settings, images)
        list(trainer.train(STEPS, STEPS))
        return Model(trainer.ema, settings.diffusion, Validation.of(paper_54, models))

    return cache(trained)


def searched(
    model: Model, seed: int, first: Sequence[Mapping[str, Any]] = (), at_once: int = ASKED_AT_ONCE
) -> ScheduleSearch:
    """24 schedules of schedule.yaml."""
    space = load_space(SPACES / "schedule.yaml")
    return search_schedule(
        model.denoiser,
        model.diffusion,
        space.schedule,
        model.validation,
        metric="val_psnr_db",
        trials=24,
        images=space.budget.images,
        seed=seed,
        initial_points=first,
        asked_at_once=at_once,
    )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_of_the_inner_search(paper_model: Callable[[float], Model], monkeypatch: MonkeyPatch) -> None:
    """The best of 24 schedules, on all validation images: TPE beside others, and asked for more at once."""
    ours = schedule_search._sampler
    models = [paper_model(p_uncond) for p_uncond in P_UNCOND[:4]]
    print("\n| sampler | at once | best dB, mean of 12 | the worst | s |\n|---|---|---|---|---|")
    for name, sampler, at_once in (
        ("TPE", ours, ASKED_AT_ONCE),
        ("TPE", ours, 8),
        ("TPE, each parameter by itself", each_by_itself, ASKED_AT_ONCE),
        ("Gaussian process", gaussian_process, ASKED_AT_ONCE),
        ("random", lambda seed: optuna.samplers.RandomSampler(seed=seed), ASKED_AT_ONCE),
    ):
        monkeypatch.setattr(schedule_search, "_sampler", sampler)
        values, took = [], []
        for model, seed in itertools.product(models, SEEDS):
            begin = time.process_time()
            values.append(searched(model, seed, at_once=at_once).metrics["val_psnr_db"])
            took.append(time.process_time() - begin)
        monkeypatch.undo()
        cells = f"{statistics.fmean(values):.3f} | {min(values):.3f} | {statistics.median(took):.1f}"
        print(f"| {name} | {at_once} | {cells} |", flush=True)


def test_what_a_search_gains_by_those_before_it(paper_model: Callable[[float], Model]) -> None:
    """A search on each of several models, with and without the best of the models before among them."""
    rows: dict[str, list[list[float]]] = {"without": [], "with": []}
    for name, values in rows.items():
        for seed in range(CHAINS):
            before: list[ScheduleSearch] = []
            for number, p_uncond in enumerate(P_UNCOND):
                ranked = sorted(before, key=lambda search: search.metrics["val_psnr_db"], reverse=True)
                known = ranked if name == "with" else []
                first = initial_schedules(best_of(search.trials, "val_psnr_db") for search in known)
                before.append(searched(paper_model(p_uncond), 100 * seed + number, first))
            values.append([search.metrics["val_psnr_db"] for search in before])
        later = [value for chain in values for value in chain[1:]]
        best = [max(chain) for chain in values]
        print(f"\n{name}: later models {statistics.fmean(later):.3f}, best of a chain {statistics.fmean(best):.3f}")


def test_eight_numbers_of_steps_in_one_batch(model: Model) -> None:
    """12 images, as at the first rung of a race."""
    images = search_images(model.validation, 96)
    condition, names = images.condition[:12], images.names[:12]
    schedules = [ScheduleSettings(steps=steps, eta_max=0.01 * i) for i, steps in enumerate((1, 2, 4, 8, 16, 3, 6, 12))]
    noise = ImageNoise(NOISE_SEED, names, images.targets.shape[2:], kept=40)  # type: ignore[arg-type]

    def draw(groups: list[list[ScheduleSettings]]) -> None:
        for group in groups:
            sample_each(model.denoiser, model.diffusion, group, condition, noise)

    for what, groups in (("one at a time", [[schedule] for schedule in schedules]), ("in one batch", [schedules])):
        # The first round draws the noise, which is kept.
        best = min(seconds(partial(draw, groups)) for _ in range(5))
        print(f"\n{what}: {best:.4f} s", end="")
