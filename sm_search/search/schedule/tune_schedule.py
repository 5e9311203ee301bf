"""The sampling schedule of a finished model, tuned alone: in this process, or with many workers on Ray."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from sm_search.compute.session import ray_session
from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import Checkpoint, load_checkpoint
from sm_search.evaluation.evaluation_cost import evaluation_cost
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.search.schedule.base_schedule import untrained_guidance
from sm_search.search.schedule.inner_search import Progress, ScheduleSearch, search_schedule
from sm_search.search.schedule.race import ASKED_AT_ONCE, Measure, search_images
from sm_search.search.schedule.with_intervals import with_intervals
from sm_search.search.space.resolved_settings import schedule_branches
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import load_space
from sm_search.search.space.tree import parameter_names
from sm_search.tracking.records import get_run, read_study_text
from sm_search.tracking.registry import download_model, source_model
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store

FEWEST_SCHEDULES = 40


def tune_model_schedule(
    model: str,
    dataset: Dataset,
    *,
    store: Callable[[], Store],
    space_file: str | Path | None = None,
    schedules: int | None = None,
    out: Path | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    announce: Callable[[str], None],
    progress: Progress | None = None,
) -> ScheduleSearch:
    """Search the schedule of a model; the result is stored with the run that the model came from, and under `out`.

    Args:
        model: a URI or a checkpoint folder; only for a URI is the `store` opened.
        space_file: name or file of the space whose schedule part is searched; None for that of the model's study, or
            else the shipped `schedule`.
        schedules: how many are tried; None for the space's budget, at least 40.
        workers: tasks on Ray at once; with None and no `ray_address` the search runs in this process.

    Raises:
        InputError: the model is of another dataset, the space has no schedule parameters, or `out` is the model itself.
        TrackingError, CheckpointError: no such model.
    """
    opened, run_id, folder = None, None, Path(model)
    if not folder.is_dir():
        opened = store()
        folder, run_id = download_model(opened, model), source_model(opened, model)[0]
    if out and out.resolve() == folder.resolve():
        raise InputError(f"{out}: is the model itself; the tuned one needs a folder of its own")
    checkpoint = load_checkpoint(folder)
    if checkpoint.info.dataset_hash not in dataset.known_hashes():
        raise InputError(f"{model}: was trained on another dataset than {dataset.location}")
    space = _space(space_file, opened, run_id)
    guidance = [branch.get("guidance", 1.0) for branch in schedule_branches(space.schedule)]
    searched = next((each for each in guidance if each != 1), 1.0)
    if warning := untrained_guidance(checkpoint.info.training.p_uncond, searched):
        announce(warning)
    schedules = schedules or max(FEWEST_SCHEDULES, space.budget.schedules)
    search = _search(checkpoint, dataset, space, schedules, workers, ray_address, progress)
    if out:
        info = checkpoint.info.model_copy(update={"schedule": search.best, "metrics": search.metrics})
        device = str(next(checkpoint.denoiser.parameters()).device)
        with_intervals(Checkpoint(info, checkpoint.denoiser, checkpoint.scan_models), dataset, device).save(out)
    if opened and run_id:
        _store(opened, run_id, search)
    return search


def _space(space_file: str | Path | None, store: Store | None, run_id: str | None) -> Space:
    if space_file or not (store and run_id):
        where = str(space_file or "schedule")
        space = load_space(where)
    else:
        study = get_run(store, run_id).study
        where, space = f"study {study}", Space.model_validate_json(read_study_text(store, study, "space.json"))
    if not parameter_names(space.schedule):
        raise InputError(f"{where}: schedule: has no parameter to search")
    return space


def _search(
    checkpoint: Checkpoint,
    dataset: Dataset,
    space: Space,
    schedules: int,
    workers: int | None,
    ray_address: str | None,
    progress: Progress | None,
) -> ScheduleSearch:
    is_here = workers is None and ray_address is None
    device = "cuda" if is_here and torch.cuda.is_available() else "cpu"
    denoiser, diffusion = checkpoint.denoiser.to(device), checkpoint.info.training.diffusion
    diffuse, asked = checkpoint.info.training.diffuse, space.asked()
    validation = Validation.of(dataset, checkpoint.scan_models, diffuse=diffuse, asked=asked)
    scorer = ScheduleScorer(denoiser, diffusion, search_images(validation, space.budget.images), device)
    measure: Measure = scorer
    at_once = ASKED_AT_ONCE
    with nullcontext() if is_here else ray_session(ray_address, workers):
        if not is_here:
            # After the session's settings for Ray, which Ray reads when it is imported.
            from sm_search.search.schedule.workers import WorkerScorer, worker_count

            count = worker_count(workers, space.resources)
            measure, at_once = WorkerScorer(scorer, count, space.resources), ASKED_AT_ONCE * count
        return search_schedule(
            denoiser,
            diffusion,
            space.schedule,
            validation,
            metric=space.metric,
            trials=schedules,
            images=space.budget.images,
            seed=space.seed,
            device=device,
            further=space.further_objectives,
            constraints=space.constraints,
            cost=evaluation_cost(denoiser, validation, device),
            asked_at_once=at_once,
            measure=measure,
            progress=progress,
        )


def _store(store: Store, run_id: str, search: ScheduleSearch) -> None:
    run = get_run(store, run_id)
    log = StudyLog.attach(store, run.study)
    log.log_text(run.trial_id, json.dumps(search.best.model_dump(mode="json"), indent=1), "tuned_schedule.json")
    tried = {"front": [each.as_dict() for each in search.front], "tried": [each.as_dict() for each in search.trials]}
    log.log_text(run.trial_id, json.dumps(tried, indent=1), "tuned_schedules.json")
    log.log_metrics(
        run.trial_id, len(search.trials), {f"tuned_{name}": value for name, value in search.metrics.items()}
    )
