"""One model without a sweep: train it, or tune its schedule."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sm_search.config.errors import CheckpointError, InputError
from sm_search.config.model import ScheduleSettings, TrainingSettings
from sm_search.config.run import RunSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import SETTINGS_FILE, Checkpoint, load_checkpoint
from sm_search.search.schedule_search import ScheduleSearch, search_schedule
from sm_search.search.space import Space, load_space
from sm_search.search.validation import Validation
from sm_search.synthesis import Synthesiser
from sm_search.tracking.records import get_run, read_study_text
from sm_search.tracking.registry import download_model
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store
from sm_search.training import STATE_FILE, Trainer, make_checkpoint, training_images

RUN_FILE = "run.json"
SAVES = 20
"""Times that a run saves its state."""


def train_single(
    settings: RunSettings, dataset: Dataset, out: Path, force: bool, announce: Callable[[str], None]
) -> dict[str, float]:
    """Train one model into the checkpoint folder `out`; an interrupted call resumes. The validation metrics.

    Raises:
        CheckpointError: `out` holds a finished checkpoint and `force` is false, or the state of another run.
    """
    if (out / SETTINGS_FILE).exists() and not force:
        raise CheckpointError(f"{out}: holds a finished checkpoint; use --force to overwrite it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be created: {error.strerror}") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, models = training_images(dataset, "train", settings.training.receive_channels, settings.training.mean)
    trainer = Trainer(settings.training, images, device)
    state, identity = out / STATE_FILE, {"settings": settings.content_hash(), "dataset": dataset.content_hash()}
    if state.exists():
        if json.loads((out / RUN_FILE).read_text()) != identity:
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
    metrics = Validation.of(dataset, models).metrics(
        trainer.ema, settings.training.diffusion, settings.schedule, device
    )
    make_checkpoint(trainer, dataset, models, settings.schedule, metrics).save(out)
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
    images, models = training_images(dataset, "train", settings.receive_channels, settings.mean)
    trainer = Trainer(settings, images, "cuda" if torch.cuda.is_available() else "cpu")
    for _ in trainer.train(settings.steps):
        pass
    return Synthesiser(make_checkpoint(trainer, dataset, models, ScheduleSettings(steps=1), {}))


def tune_model_schedule(
    store: Store, run_id: str, dataset: Dataset, space_file: str | None, trials: int, out: str | None
) -> ScheduleSearch:
    """Search the schedule of a trial's stored model; the result is stored with its run, and under `out` if given.

    Raises:
        InputError: the run belongs to another dataset, or the space has no schedule parameters.
        TrackingError, CheckpointError: no such run, or it has no checkpoint.
    """
    run = get_run(store, run_id)
    checkpoint = load_checkpoint(download_model(store, f"runs:/{run_id}/checkpoint"))
    if checkpoint.info.dataset_hash != dataset.content_hash():
        raise InputError(f"run {run_id}: was trained on another dataset than {dataset.location}")
    space = (
        load_space(space_file)
        if space_file
        else Space.model_validate_json(read_study_text(store, run.study, "space.json"))
    )
    found = search_schedule(
        checkpoint.denoiser,
        checkpoint.info.training.diffusion,
        space.schedule,
        Validation.of(dataset, checkpoint.scan_models),
        metric=space.metric,
        trials=trials,
        images=space.budget.images,
        seed=space.seed,
    )
    if len(found.trials) == 1:
        raise InputError(f"{space_file or f'study {run.study}'}: schedule: has no parameter to search")
    log = StudyLog.attach(store, run.study)
    log.log_text(run.trial_id, json.dumps(found.best.model_dump(mode="json"), indent=1), "tuned_schedule.json")
    log.log_metrics(run.trial_id, len(found.trials), {f"tuned_{name}": value for name, value in found.metrics.items()})
    if out:
        info = checkpoint.info.model_copy(update={"schedule": found.best, "metrics": found.metrics})
        Checkpoint(info, checkpoint.denoiser, checkpoint.scan_models).save(Path(out))
    return found
