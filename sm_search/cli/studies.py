"""Verbs on studies: sweep, tune-schedule, report.

Imports of Ray, MLflow and torch wait inside the verbs: `--help` and `validate` answer at once.
"""

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search import api
from sm_search.api.defaults import opened_store
from sm_search.api.searching import study_parts
from sm_search.cli.output import Output, require_free, shown
from sm_search.cli.parsing import RAY_HELP, Adder, add_ray, add_store, place, ray_address, same_store
from sm_search.config.errors import InputError

if TYPE_CHECKING:
    from sm_search.data.dataset import Dataset
    from sm_search.search.space.space import Space

SPACE_HELP = "search space: one that ships by its name, such as paper, or a YAML file"


def add_verbs(add: Adder) -> None:
    p = add("sweep", sweep, "Run a study: search training settings and sampling schedule.")
    p.add_argument("--space", type=place, metavar="SPACE", help=SPACE_HELP)
    p.add_argument("--data", type=place, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--resume", action="store_true", help="continue the study after an interruption")
    p.add_argument(
        "--while-simulating",
        action="store_true",
        help="the dataset is still being simulated: begin each trial as soon as its scans are there",
    )
    p.add_argument(
        "--storage", type=place, metavar="URI", help="folder or s3:// URI that every node reaches (default: under home)"
    )
    p.add_argument("--warm-start", action="append", metavar="STUDY", help="learn from an earlier study; repeatable")
    p.add_argument("--dry-run", action="store_true", help="check everything, print what would run and what it costs")
    job = p.add_mutually_exclusive_group()
    job.add_argument("--attach", metavar="STUDY", help="follow the Ray job of a study; needs --ray-address http://…")
    job.add_argument("--cancel", metavar="STUDY", help="stop the Ray job of a study and close its runs; the same")
    p.add_argument("--ray-address", metavar="ADDRESS", help=f"{RAY_HELP}; http://HOST:8265 submits a Ray job")
    add_store(p)

    p = add("tune-schedule", tune_schedule, "Search the sampling schedule alone, on a finished model.")
    model = p.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="RUN_ID", help="MLflow run of a trial with a stored checkpoint")
    model.add_argument(
        "--model", type=place, metavar="URI", help="models:/NAME@champion, runs:/ID/checkpoint or a folder"
    )
    p.add_argument("--data", required=True, type=place, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument(
        "--space",
        type=place,
        metavar="SPACE",
        help="space whose schedule part is searched, by name or file (default: the study's, or `schedule`)",
    )
    p.add_argument(
        "--trials", type=int, metavar="N", help="schedules to try (default: the space's budget, at least 40)"
    )
    p.add_argument("--workers", type=int, metavar="N", help="tasks on Ray at once (default: none, in this process)")
    p.add_argument("--out", type=place, metavar="DIR", help="write a checkpoint with the best schedule here")
    p.add_argument("--force", action="store_true", help="overwrite a checkpoint")
    add_ray(p)
    add_store(p)

    p = add("report", report, "Write the HTML report of a study.")
    p.add_argument(
        "--study", required=True, action="append", metavar="NAME", help="given twice or more, a page that compares them"
    )
    p.add_argument("--out", type=place, metavar="FILE", help="HTML file (default: NAME.html in the home folder)")
    p.add_argument("--force", action="store_true", help="overwrite FILE")
    add_store(p)


def sweep(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.cli.sweep_job import is_job, sweep_as_job

    if is_job(options):
        return sweep_as_job(options, output)
    for name in ("space", "data"):
        if not getattr(options, name):
            raise InputError(f"--{name} is missing")
    return _sweep_here(options, output)


def _sweep_here(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.search.study.result import as_object

    if options.dry_run:
        # The speeds that it tells are measured on the data, so that it needs all of them.
        parts = study_parts(options.space, options.data, options.warm_start or (), announce=output.progress)
        return _plan(*parts, output)
    with output.live_study() as watch:
        result = api.sweep(
            options.space,
            options.data,
            home=options.home,
            tracking_uri=options.tracking_uri,
            storage=options.storage,
            ray_address=ray_address(options, output),
            warm_start=options.warm_start or (),
            resume=options.resume,
            while_simulating=options.while_simulating,
            announce=output.progress,
            watch=watch,
        )
    told = as_object(result)
    output.trials(told)
    report = f"sm-search report --study {result.study}{same_store(options)}"
    output.result(f"Report: `{report}`, or report.html of the study's run in MLflow.")
    return told


def _plan(space: "Space", dataset: "Dataset", output: Output) -> dict[str, Any]:
    """What would run, and what it would cost."""
    from sm_search.search.space.tree import parameter_names
    from sm_search.search.study.cost import (
        expected_bytes,
        expected_cost,
        expected_seconds,
        expected_work,
        measured_costs,
        trial_seconds,
        workers,
    )
    from sm_search.search.study.gpu_share import placed_here

    space = placed_here(space, dataset)
    names = parameter_names(space.outer_tree())
    work = expected_work(space, space.budget.trials if names else 1)
    costs, at_once = measured_costs(space, dataset, output.progress), workers(space)
    confirm = work.confirmations * space.training_steps()
    hours = trial_seconds(space, work, costs, at_once) / 3600
    plan = {
        "study": space.study,
        "mode": space.mode,
        "objectives": space.objectives(),
        "warm_start": list(space.warm_start),
        "trials": work.trials,
        "rungs": space.rungs(),
        "parameters": names,
        "schedule_parameters": parameter_names(space.schedule),
        "schedules_per_trial": space.budget.schedules if space.mode == "two-level" else 0,
        "trainings_with_other_seeds": work.confirmations,
        "most_training_steps": work.most_steps + confirm,
        "expected_training_steps": round(work.expected_steps + confirm),
        "expected_training_images": round((work.expected_steps + confirm) * costs.batch_size),
        "gpus_per_trial": space.resources.gpu_share,
        "trials_at_once": at_once,
        "measured_seconds_per_step": costs.step_s,
        "measured_seconds_per_validation": costs.validation_s,
        "measured_seconds_per_schedule_search": costs.inner_search_s,
        "estimated_minutes": expected_seconds(space, work, costs, at_once) / 60,
        "estimated_trial_hours": hours,
        "estimated_cost": expected_cost(space, hours),
        "estimated_disk_gb": expected_bytes(space, work, costs, at_once) / 1e9,
    }
    output.table("What would run", ("setting", "value"), [(key, shown(value)) for key, value in plan.items()])
    output.result(
        "The time is an estimate: steps and validations timed for some seconds on this machine, by ASHA's expected "
        "share of the trials; it leaves out the start of Ray and MLflow. The disk is for checkpoints while the study "
        "runs; when it is done, those of its best trials stay."
    )
    return plan


def tune_schedule(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.diffusion.checkpoint import SETTINGS_FILE

    for name in ("trials", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    if options.out:
        require_free(Path(options.out) / SETTINGS_FILE, options.force)
    with output.counted("schedules") as progress:
        found = api.tune_schedule(
            options.model or f"runs:/{options.run}/checkpoint",
            api.open_dataset(options.data),
            space=options.space,
            trials=options.trials,
            out=options.out,
            workers=options.workers,
            ray_address=ray_address(options, output) if options.workers else options.ray_address,
            home=options.home,
            tracking_uri=options.tracking_uri,
            announce=output.progress,
            progress=progress,
        )
    schedule = found.best.model_dump(mode="json")
    output.table(
        "Quality against evaluations",
        ("evaluations", "sampler", "PSNR dB", "SSIM"),
        [
            (
                str(each.evaluations),
                each.schedule.sampler,
                f"{each.metrics['val_psnr_db']:.2f}",
                f"{each.metrics['val_ssim']:.4f}",
            )
            for each in found.front
        ],
    )
    output.result(json.dumps(schedule))
    output.result(", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items()))
    return {
        "schedule": schedule,
        "metrics": found.metrics,
        "tried": len(found.trials),
        "front": [each.as_dict() for each in found.front],
    }


def report(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.atomic import atomic_path
    from sm_search.report.comparison_page import comparison_page
    from sm_search.report.page import study_page
    from sm_search.report.publication import published_evidence
    from sm_search.tracking.records import study_runs

    store = opened_store(options.home, options.tracking_uri)
    study, *others = options.study
    parent, _ = study_runs(store, study)
    target = Path(options.out) if options.out else options.home / f"{'-and-'.join(options.study)}.html"
    if options.out:
        require_free(target, options.force)
    if others:
        page = comparison_page(store, options.study)
    else:
        metric = parent.params.get("metric", "val_psnr_db")
        with tempfile.TemporaryDirectory() as folder:
            evidence = published_evidence(store, study, metric, Path(folder))
            page = study_page(store, study, metric, evidence)
    with atomic_path(target) as temporary:
        target.parent.mkdir(parents=True, exist_ok=True)  # with a server nothing else has made the home
        temporary.write_text(page, encoding="utf-8")
    output.result(f"{target}")
    return {"report": str(target)}
