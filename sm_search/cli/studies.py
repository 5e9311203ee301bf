"""Verbs on studies: sweep, tune-schedule, report.

Imports of Ray, MLflow and torch wait inside the verbs: `--help` and `validate` answer at once.
"""

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search.cli.output import Output, require_free
from sm_search.cli.parsing import Adder, add_ray, add_store
from sm_search.config.errors import InputError

if TYPE_CHECKING:
    pass


def add_verbs(add: Adder) -> None:
    p = add("sweep", sweep, "Run a study: search training settings and sampling schedule.")
    p.add_argument("--space", required=True, metavar="FILE", help="search space (YAML), see search_spaces/")
    p.add_argument("--data", required=True, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--resume", action="store_true", help="continue the study after an interruption")
    p.add_argument("--storage", metavar="URI", help="folder or s3:// URI that every node reaches (default: under home)")
    p.add_argument("--dry-run", action="store_true", help="check everything and print what would run")
    add_ray(p)
    add_store(p)

    p = add("tune-schedule", tune_schedule, "Search the sampling schedule alone, on a finished model.")
    p.add_argument("--run", required=True, metavar="RUN_ID", help="MLflow run of a trial with a stored checkpoint")
    p.add_argument("--data", required=True, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--space", metavar="FILE", help="space whose schedule part is searched (default: the study's own)")
    p.add_argument("--trials", type=int, default=40, metavar="N", help="schedules to try (default 40)")
    p.add_argument("--out", metavar="DIR", help="write a checkpoint with the best schedule here")
    p.add_argument("--force", action="store_true", help="overwrite a checkpoint")
    add_store(p)

    p = add("report", report, "Write the HTML report of a study.")
    p.add_argument("--study", required=True, metavar="NAME")
    p.add_argument("--out", metavar="FILE", help="HTML file (default: NAME.html in the home folder)")
    p.add_argument("--force", action="store_true", help="overwrite FILE")
    add_store(p)


def sweep(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.dataset import Dataset
    from sm_search.report.publication import publish_study
    from sm_search.search import sweep as search
    from sm_search.search.session import ray_session
    from sm_search.search.space import load_space, parameter_names
    from sm_search.search.study_folder import check_study
    from sm_search.tracking.store import open_store

    space = load_space(options.space)
    dataset = Dataset.open(options.data)
    names = parameter_names(space.outer_tree())
    plan = {
        "study": space.study,
        "mode": space.mode,
        "trials": space.budget.trials,
        "rungs": space.rungs(),
        "parameters": names,
        "schedule_parameters": parameter_names(space.schedule),
        "schedules_per_trial": space.budget.schedules,
        "most_training_steps": space.budget.trials * space.training_steps(),
    }
    if options.dry_run:
        output.table("What would run", ("setting", "value"), [(key, str(value)) for key, value in plan.items()])
        return plan
    # Before Ray is started, which takes a while.
    check_study(space, dataset, options.home, options.resume)
    store = open_store(options.home, options.tracking_uri)
    with ray_session(options.ray_address):
        result = search.sweep(
            space,
            options.data,
            home=options.home,
            tracking_uri=options.tracking_uri,
            storage=options.storage,
            resume=options.resume,
            announce=output.progress,
        )
    publish_study(store, space.study, space.metric, dataset)
    output.table(
        f"Study {result.study}",
        ("trial", "state", "PSNR dB", "SSIM", "steps", *names),
        [
            (
                trial.trial_id,
                trial.state,
                f"{trial.metrics.get('val_psnr_db', float('nan')):.2f}",
                f"{trial.metrics.get('val_ssim', float('nan')):.4f}",
                f"{trial.metrics.get('training_step', 0):.0f}",
                *(_shown(trial.params.get(name)) for name in names),
            )
            for trial in result.trials
        ],
    )
    trials = [
        {"trial_id": t.trial_id, "state": t.state, "params": t.params, "metrics": t.metrics} for t in result.trials
    ]
    return {"study": result.study, "run_id": result.run_id, "metric": result.metric, "trials": trials}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def tune_schedule(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.dataset import Dataset
    from sm_search.diffusion.checkpoint import SETTINGS_FILE
    from sm_search.search.single import tune_model_schedule
    from sm_search.tracking.store import open_store

    if options.trials < 1:
        raise InputError(f"--trials {options.trials}: must be at least 1")
    if options.out:
        require_free(Path(options.out) / SETTINGS_FILE, options.force)
    store = open_store(options.home, options.tracking_uri)
    found = tune_model_schedule(
        store, options.run, Dataset.open(options.data), options.space, options.trials, options.out
    )
    schedule = found.best.model_dump(mode="json")
    output.result(json.dumps(schedule))
    output.result(", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items()))
    return {"schedule": schedule, "metrics": found.metrics, "tried": len(found.trials)}


def report(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.atomic import atomic_path
    from sm_search.report.page import study_page
    from sm_search.report.publication import published_evidence
    from sm_search.tracking.records import study_runs
    from sm_search.tracking.store import open_store

    store = open_store(options.home, options.tracking_uri)
    parent, _ = study_runs(store, options.study)
    target = Path(options.out) if options.out else options.home / f"{options.study}.html"
    if options.out:
        require_free(target, options.force)
    metric = parent.params.get("metric", "val_psnr_db")
    with tempfile.TemporaryDirectory() as folder:
        evidence = published_evidence(store, options.study, metric, Path(folder))
        page = study_page(store, options.study, metric, evidence)
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    output.result(f"{target}")
    return {"report": str(target)}
