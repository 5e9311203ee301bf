"""One trial: train to each rung, validate, report; at the full budget search the schedule on the frozen weights."""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray import tune
from safetensors.torch import load_file, save_file

from sm_search.compute.ray_folder import use_own_ray_folder
from sm_search.config.errors import DivergenceError, SettingsError, SmSearchError
from sm_search.config.model_settings import Diffuse, Mean, ScheduleSettings
from sm_search.config.streams import stream_seed
from sm_search.data.dataset import Dataset
from sm_search.evaluation.evaluation_cost import EvaluationCost, evaluation_cost
from sm_search.evaluation.validation import Validation
from sm_search.regression.scan_models import ScanModels
from sm_search.search.schedule.base_schedule import early_schedules
from sm_search.search.schedule.good_schedules import REPORTED, best_of, good_schedules
from sm_search.search.schedule.inner_search import ScheduleSearch, search_schedule
from sm_search.search.schedule.with_intervals import with_intervals
from sm_search.search.space.resolved_settings import schedule_settings, training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.tree import Recorded, suggest
from sm_search.search.study.outside_fault import OUTSIDE
from sm_search.search.study.while_simulating import wait_for
from sm_search.tracking.names import SCHEDULES_FILE
from sm_search.training import STATE_FILE, Trainer, TrainingImages, make_checkpoint, training_images

RECORD_EVERY = 100
TRAINED_FILE = "trained_seconds"
"""In a rung's checkpoint: how long the training up to it took."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a study share: small values and paths only.

    Attributes:
        place: folder or URI of the study's files.
        dataset_hash: empty while the dataset is still being simulated; each trial then waits for what it needs.
    """

    space_json: str
    data: str
    dataset_hash: str
    place: str


_Loaded = tuple[Dataset, TrainingImages, ScanModels, Validation]
_kept: dict[tuple[Any, ...], _Loaded] = {}
"""What a worker keeps from one trial to the next: gigabytes, so never of two kinds at once."""


def _loaded(
    data: str,
    dataset_hash: str,
    channels: tuple[int, ...],
    mean: Mean,
    scans: int | None,
    diffuse: Diffuse,
    asked: frozenset[str],
) -> _Loaded:
    """A dataset and its images."""
    key = (data, dataset_hash, channels, mean, scans, diffuse, asked)
    if key not in _kept:
        _kept.clear()
        dataset = Dataset.open(data, complete=bool(dataset_hash))
        wait_for(dataset, [*dataset.settings.scans("validation"), *dataset.settings.scans("train", scans)])
        images, models = training_images(dataset, "train", channels, mean, scans, diffuse)
        _kept[key] = dataset, images, models, Validation.of(dataset, models, diffuse=diffuse, asked=asked)
    return _kept[key]


def run_trial(config: Mapping[str, Any], context: TrialContext) -> None:
    """Ray Tune's function trainable; `config` holds the outer parameters by name.

    A trial that fails for a reason of its own, such as a loss that diverges, reports NaN with the reason and ends: to
    try it again would fail again. One that is refused what it needs, such as a damaged file, says so (`OUTSIDE`), and
    the search stops. Any other exception is left to Ray, which tries again from the last checkpoint.
    """
    _run(config, context)


def run_confirmation(config: Mapping[str, Any], context: TrialContext) -> None:
    """The same for a finished trial with another seed: `config["point"]` holds its `params` and the `seed` to add."""
    _run(config["point"]["params"], context, config["point"]["seed"])


def _run(config: Mapping[str, Any], context: TrialContext, seed_offset: int = 0) -> None:
    space = Space.model_validate_json(context.space_json)
    try:
        use_own_ray_folder()  # for the locks of checkpoints: a node of a cluster has Ray's default
        _train(space, config, context, seed_offset)
    except SmSearchError as error:
        nothing = dict.fromkeys(space.objectives(), math.nan)
        reason = {"error": str(error), OUTSIDE: not isinstance(error, DivergenceError | SettingsError)}
        tune.report({**nothing, "training_step": 0, "losses": [], **reason})


def _train(space: Space, config: Mapping[str, Any], context: TrialContext, seed_offset: int) -> None:
    torch.set_num_threads(space.resources.threads)
    device = "cuda" if space.resources.gpu_share and torch.cuda.is_available() else "cpu"
    settings = training_settings(space, config)
    settings = settings.model_copy(update={"seed": settings.seed + seed_offset})
    dataset, images, models, validation = _loaded(
        context.data,
        context.dataset_hash,
        settings.receive_channels,
        settings.mean,
        settings.scans,
        settings.diffuse,
        space.asked(),
    )
    trainer = Trainer(settings, images, device, captured=space.resources.cuda_graph)
    checkpoint, trained_seconds = tune.get_checkpoint(), 0.0
    if checkpoint:
        with checkpoint.as_directory() as folder:
            trainer.restore(load_file(f"{folder}/{STATE_FILE}"))
            if (trained := Path(folder, TRAINED_FILE)).is_file():  # an earlier version left none
                trained_seconds = float(trained.read_text())
    for until in space.rungs():
        if trainer.step >= until:
            continue
        begin = time.perf_counter()
        records = list(trainer.train(until, RECORD_EVERY))
        training_seconds = time.perf_counter() - begin
        trained_seconds += training_seconds
        try:
            validated = _validate(space, config, context.place, trainer, validation, until, device, trained_seconds)
        except DivergenceError as error:
            raise DivergenceError(f"at training step {until}: {error}") from None
        validation_seconds = time.perf_counter() - begin - training_seconds
        if until == space.rungs()[-1]:
            wait_for(dataset)  # a finished model names its dataset, and that has a name when all of it is there
        # A worker that is killed meanwhile leaves it, so in the trial's own folder, which is a part of Ray's session.
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            # A model that is trained again only to confirm a trial is kept nowhere.
            fitted_on = device if until == space.rungs()[-1] and not seed_offset else None
            store_rung(Path(folder), trainer, dataset, models, validated.schedule, validated.metrics, fitted_on)
            Path(folder, SCHEDULES_FILE).write_text(json.dumps(validated.tried, indent=1))
            Path(folder, TRAINED_FILE).write_text(str(trained_seconds))
            report = {
                **validated.metrics,
                **validated.costs,
                "training_step": until,
                "training_seconds": training_seconds,
                "validation_seconds": validation_seconds,
                "images_per_second": records[-1].images_per_second,
                "schedule": validated.schedule.in_words(),
                "schedule_front": validated.front,
                REPORTED: validated.good,
                "losses": [[record.step, record.loss] for record in records],
            }
            tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))


def store_rung(
    folder: Path,
    trainer: Trainer,
    dataset: Dataset,
    models: ScanModels,
    schedule: ScheduleSettings,
    metrics: Mapping[str, float],
    device: str | None = None,
) -> None:
    """What a rung leaves: the state to go on from, and the model, if the dataset that it names is whole.

    Args:
        device: where the intervals of a finished model are fitted; None for none.
    """
    save_file(trainer.state(), folder / STATE_FILE)
    if dataset.content_hash():
        checkpoint = make_checkpoint(trainer, dataset, models, schedule, dict(metrics))
        (with_intervals(checkpoint, dataset, device) if device else checkpoint).save(folder)


@dataclass(frozen=True)
class _Validated:
    """The schedule of a rung, its metrics and its costs; after an inner search also the schedules `tried`, those on its
    `front`, and the parameters of `good` ones.
    """

    schedule: ScheduleSettings
    metrics: dict[str, float]
    costs: dict[str, float]
    tried: list[dict[str, Any]] = field(default_factory=list)
    front: list[dict[str, Any]] = field(default_factory=list)
    good: list[Mapping[str, Any]] = field(default_factory=list)


def _validate(
    space: Space,
    config: Mapping[str, Any],
    place: str,
    trainer: Trainer,
    validation: Validation,
    until: int,
    device: str,
    trained_seconds: float,
) -> _Validated:
    """The better of a few fixed schedules at the early rungs, the inner search at the last."""
    diffusion = trainer.settings.diffusion
    one = evaluation_cost(trainer.ema, validation, device)

    def costs(schedule: ScheduleSettings) -> dict[str, float]:
        return {**one.of(schedule.evaluations(diffusion.timesteps)), "trained_seconds": trained_seconds}

    if space.mode == "joint" or until < space.rungs()[-1]:
        schedules = judging_schedules(space, config)
        schedule, metrics = validation.best(trainer.ema, diffusion, schedules, space.metric, device)
        return _Validated(schedule, metrics, costs(schedule))
    first = good_schedules(place, space.metric)
    search = search_trial_schedule(space, trainer, validation, device, space.budget.schedules, first, one)
    # A study with one objective has no front, and need not pay for one.
    unbeaten = [trial.schedule for trial in search.front] if space.further_objectives else []
    front = [
        {
            **validation.metrics(trainer.ema, diffusion, schedule, device),
            **costs(schedule),
            "schedule": schedule.model_dump(mode="json"),
        }
        for schedule in unbeaten
    ]
    tried, good = [each.as_dict() for each in search.trials], best_of(search.trials, space.metric)
    return _Validated(search.best, search.metrics, costs(search.best), tried, front, good)


def judging_schedules(space: Space, config: Mapping[str, Any]) -> list[ScheduleSettings]:
    """The schedules by whose best an early rung judges; in mode `joint` the one that belongs to the trial."""
    if space.mode == "joint":
        return [schedule_settings(suggest(Recorded(config), space.outer_tree())["schedule"])]
    return early_schedules(space.schedule)


def search_trial_schedule(
    space: Space,
    trainer: Trainer,
    validation: Validation,
    device: str,
    schedules: int,
    initial_points: Sequence[Mapping[str, Any]] = (),
    cost: EvaluationCost | None = None,
) -> ScheduleSearch:
    """The inner search of a trial, which begins at `initial_points`. Each trial draws schedules of its own: if all drew
    the same ones, a study that begins with its best would never see anything new.
    """
    return search_schedule(
        trainer.ema,
        trainer.settings.diffusion,
        space.schedule,
        validation,
        metric=space.metric,
        trials=schedules,
        images=space.budget.images,
        seed=stream_seed(space.seed, "schedule", trainer.settings.content_hash()) % 2**32,
        device=device,
        initial_points=initial_points,
        further=space.further_objectives,
        constraints=space.constraints,
        cost=cost,
    )
