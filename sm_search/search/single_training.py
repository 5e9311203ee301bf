"""One model without a sweep."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sm_search.config.base import content_hash
from sm_search.config.errors import CheckpointError, DataError, SettingsError
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.config.run_settings import RunSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import SETTINGS_FILE, Checkpoint
from sm_search.evaluation.metrics import require_rateable
from sm_search.evaluation.validation import Validation
from sm_search.search.schedule.base_schedule import untrained_guidance
from sm_search.search.schedule.with_intervals import with_intervals
from sm_search.synthesis import Synthesiser
from sm_search.training import STATE_FILE, Trainer, make_checkpoint, training_images

RUN_FILE = "run.json"
SAVES = 20
"""Times that a run saves its state."""


FINE_TUNING = {"steps": 400, "learning_rate": 1e-4, "p_uncond": 0.0, "scans": None}
"""Of a run that goes on from a model and says nothing else."""


def fine_tuning_settings(base: Checkpoint) -> RunSettings:
    """What a run that goes on from a model takes where it is told nothing: the model's own, but for `FINE_TUNING`."""
    return RunSettings(training=base.info.training.model_copy(update=FINE_TUNING), schedule=base.info.schedule)


def require_extendable(base: Checkpoint, training: TrainingSettings, dataset: Dataset) -> None:
    """Refuse to go on from a model with another network, or on other data than it can take.

    Raises:
        SettingsError: with the first setting that differs, and both values.
        DataError: the same for the dataset.
    """
    known, settings = base.info, dataset.settings
    for name in ("backbone", "diffusion", "diffuse", "mean"):
        asked, trained = getattr(training, name), getattr(known.training, name)
        if asked != trained:
            raise SettingsError(f"training.{name} is {asked}; the model that the run goes on from has {trained}")
    for name, given, trained, same in (
        ("grid", settings.grid, known.grid, settings.grid.agrees(known.grid)),
        ("low field", settings.low, known.low, settings.low.agrees(known.low)),
        ("high field", settings.high, known.high, settings.high.agrees(known.high)),
        ("unit", settings.receive.unit, known.unit, settings.receive.unit == known.unit),
    ):
        if not same:
            raise DataError(f"{dataset.location}: its {name} is {given}; the model's is {trained}")
    if settings.orders.pairs() != known.orders:
        x, y = (max(order[axis] for order in known.orders) for axis in (0, 1))
        rule = f"up to ({settings.orders.max_x}, {settings.orders.max_y}); the model's up to ({x}, {y})"
        raise DataError(f"{dataset.location}: its mixing orders go {rule}; `import --orders {x},{y}` makes them agree")


def train_single(
    settings: RunSettings,
    dataset: Dataset,
    out: Path,
    force: bool,
    announce: Callable[[str], None],
    base: Checkpoint | None = None,
) -> dict[str, float]:
    """Train one model into the checkpoint folder `out`; an interrupted call resumes. The validation metrics.

    Args:
        base: a model to go on from: its network is trained on, with a fresh optimiser, and its models of whole scans
            are fitted to its own training scans and to those of the dataset.

    Raises:
        DataError: the grid of the dataset is too small to rate a model, or the data are not like the base's.
        SettingsError: the settings ask for another network than the base has.
        CheckpointError: `out` holds a finished checkpoint and `force` is false, or the state of another run.
    """
    require_rateable(dataset.settings)
    if (out / SETTINGS_FILE).exists() and not force:
        raise CheckpointError(f"{out}: holds a finished checkpoint; use --force to overwrite it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be created: {error.strerror}") from None
    if warning := untrained_guidance(settings.training.p_uncond, settings.schedule.guidance):
        announce(warning)
    dataset.settings.require_mirrors(settings.training.augmentation)
    if dataset.settings.channel_note:
        announce(dataset.settings.channel_note)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training = settings.training
    if base is not None:
        require_extendable(base, training, dataset)
    images, models = training_images(
        dataset,
        "train",
        training.receive_channels,
        training.mean,
        training.scans,
        training.diffuse,
        base=None if base is None else base.scan_models,
        told_noise=training.told_noise,
    )
    trainer = Trainer(settings.training, images, device, start=None if base is None else base.denoiser)
    state, identity = out / STATE_FILE, {"settings": settings.content_hash(), "dataset": dataset.content_hash()}
    if base is not None:
        identity["base"] = content_hash([base.info.model_dump(mode="json"), base.info.dataset_hash])
    if state.exists():
        known = json.loads((out / RUN_FILE).read_text())
        if known not in [{**identity, "dataset": each} for each in dataset.known_hashes()]:
            raise CheckpointError(f"{state}: belongs to a run with other settings or data; choose another folder")
        trainer.restore(load_file(state))
        announce(f"resumed at step {trainer.step}")
    (out / RUN_FILE).write_text(json.dumps(identity))
    every = max(1, settings.training.steps // SAVES)
    for record in trainer.train(settings.training.steps, every):
        announce(f"step {record.step}: loss {record.loss:.3e}, {record.images_per_second:.0f} images/s")
        temporary = state.with_name(f".{STATE_FILE}.{os.getpid()}")
        save_file(trainer.state(), temporary)
        os.replace(temporary, state)
    metrics = Validation.of(dataset, models, diffuse=training.diffuse).metrics(
        trainer.ema, settings.training.diffusion, settings.schedule, device
    )
    start = None if base is None else base.info
    checkpoint = make_checkpoint(trainer, dataset, models, settings.schedule, metrics, start)
    with_intervals(checkpoint, dataset, device).save(out)
    state.unlink()
    (out / RUN_FILE).unlink()
    return metrics


def regression_network(training: TrainingSettings, dataset: Dataset) -> Synthesiser:
    """A baseline: the model's own backbone and training budget spent on a regression, which one step at t = T is."""
    settings = training.model_copy(
        update={
            "diffusion": training.diffusion.model_copy(update={"prediction": "x0"}),
            "mean": "none",
            "p_uncond": 0.0,
            "condition_noise": "none",
            "condition_weight": "none",
            "loss_weighting": "none",
            "share_at_end": 1.0,
        }
    )
    images, models = training_images(
        dataset, "train", settings.receive_channels, settings.mean, settings.scans, settings.diffuse
    )
    trainer = Trainer(settings, images, "cuda" if torch.cuda.is_available() else "cpu")
    for _ in trainer.train(settings.steps):
        pass
    return Synthesiser(make_checkpoint(trainer, dataset, models, ScheduleSettings(steps=1), {}))
