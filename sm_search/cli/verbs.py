"""The verbs: each calls the rooms below and prints what they return.

Imports of Ray, MLflow and torch wait inside the verbs: `--help` and `validate` answer at once.
"""

import json
import tempfile
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search.cli.imaging import require_no_measurement, simulate_phantom
from sm_search.cli.output import Output, quality_objects, require_free
from sm_search.config.dataset import DatasetSettings, preset
from sm_search.config.errors import DataError, InputError, SettingsError
from sm_search.config.loading import load_settings
from sm_search.config.run import RunSettings

if TYPE_CHECKING:
    from sm_search.data.dataset import Dataset
    from sm_search.evaluation.calibration import Calibration
    from sm_search.synthesis import Synthesiser


def simulate(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.dataset import Dataset
    from sm_search.search.session import ray_session, require_cluster
    from sm_search.search.simulation import simulate_dataset

    settings = preset(options.preset) if options.preset else load_settings(options.config, DatasetSettings)
    if options.phantom:
        return simulate_phantom(settings, options, output)
    require_no_measurement(options)

    # What cannot be used is told before Ray is started, which takes a while.
    if options.ray_address:
        require_cluster(options.ray_address)
    Dataset.create(options.out, settings)
    with ray_session(options.ray_address), output.counted("simulated") as progress:
        dataset = simulate_dataset(options.out, settings, progress)
    files, dataset_hash = len(dataset.manifest.files), dataset.content_hash()
    output.result(f"{dataset.location}: {files} files, dataset hash {dataset_hash[:12]}")
    return {"data": dataset.location, "files": files, "dataset_hash": dataset_hash}


def train(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.dataset import Dataset
    from sm_search.search.single import train_single

    settings = load_settings(options.config, RunSettings) if options.config else RunSettings()
    metrics = train_single(settings, Dataset.open(options.data), Path(options.out), options.force, output.progress)
    output.result(f"{options.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return {"checkpoint": options.out, "metrics": metrics}


def sweep(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.dataset import Dataset
    from sm_search.report.publication import publish_study
    from sm_search.search import sweep as search
    from sm_search.search.session import ray_session
    from sm_search.search.space import load_space, parameter_names
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
    search.check_study(space, dataset, options.home, options.resume)
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


def promote(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.tracking import promotion
    from sm_search.tracking.store import open_store

    done = promotion.promote(open_store(options.home, options.tracking_uri), options.study, options.name)
    output.result(
        f"models:/{done.model}@champion is version {done.version} (trial {done.trial_id}, "
        + ", ".join(f"{name} {value:.4g}" for name, value in done.metrics.items())
        + (f"); version {done.previous} is now @previous" if done.previous else ")")
    )
    return {"model": done.model, "version": done.version, "previous": done.previous, "metrics": done.metrics}


def synthesize(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.synthesis import load_synthesiser, synthesise_file
    from sm_search.tracking.registry import describe_model, download_model
    from sm_search.tracking.store import open_store

    store = open_store(options.home, options.tracking_uri)
    synthesiser = load_synthesiser(download_model(store, options.model), seed=options.seed)
    name = describe_model(store, options.model)
    made = synthesise_file(synthesiser, options.input, options.output, model=name, overwrite=options.force)
    channels, components, voxels = made.matrix.values_CKN.shape
    output.result(f"{options.output}: {channels} × {components} components of {voxels} voxels by {name}")
    return {"output": options.output, "model": name, "shape": [channels, components, voxels]}


def evaluate(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.dataset import Dataset
    from sm_search.evaluation.baselines import Method, baselines
    from sm_search.evaluation.comparison import compare
    from sm_search.evaluation.image_comparison import compare_images
    from sm_search.evaluation.metrics import METRIC_DEFINITION
    from sm_search.report.figures import comparison_figure, save_figure
    from sm_search.synthesis import load_synthesiser
    from sm_search.tracking.evaluations import log_evaluation
    from sm_search.tracking.registry import download_model
    from sm_search.tracking.store import open_store

    require_free(options.figure, options.force)
    dataset = Dataset.open(options.data)
    store = open_store(options.home, options.tracking_uri)
    model = load_synthesiser(download_model(store, options.model))
    methods: dict[str, Method] = {**baselines(dataset)}
    if options.regression:
        from sm_search.search.single import regression_network

        steps = model.checkpoint.info.training.steps
        output.progress(f"training a regression network for {steps} steps")
        methods["regression"] = regression_network(model.checkpoint.info.training, dataset)
    methods["model"] = model
    rows = compare(methods, dataset, options.split)
    logged = log_evaluation(store, options.model, options.split, quality_objects(rows))
    if options.figure:
        pair = next(iter(dataset.pairs(options.split)))
        made = model.predict(pair.low)
        save_figure(
            comparison_figure(pair.high, pair.low, made, f"{pair.scan.id} ({options.split})"), Path(options.figure)
        )
    output.quality_table(f"Split {options.split} of {dataset.settings.name}, x-channel, {options.model}", rows)
    output.result(METRIC_DEFINITION)
    trust = expected_errors(model, dataset, options.split)
    for found in trust:
        output.result(
            f"{found.scan}: error over the model's expected error {found.ratio:.2g} (10 to 90 % of the components: "
            f"{found.ratio_p10:.2g} to {found.ratio_p90:.2g}), rank correlation {found.rank_correlation:.2f}"
        )
    images = compare_images(methods, dataset, options.split, options.phantom) if options.phantom else []
    if images:
        output.table(
            f"Phantom {options.phantom}, measured on a finer grid with noise, reconstructed with the matrix of",
            ["scan", "method", "PSNR dB", "SSIM", "λ"],
            [[i.scan, i.method, f"{i.psnr_db:.2f}", f"{i.ssim:.3f}", f"{i.regularisation:g}"] for i in images],
        )
    return {
        "split": options.split,
        "model": options.model,
        "definition": METRIC_DEFINITION,
        "rows": quality_objects(rows),
        "images": [asdict(row) for row in images],
        "calibration": [asdict(found) for found in trust],
        "logged_to_run": logged,
    }


def expected_errors(model: "Synthesiser", dataset: "Dataset", split: str) -> "list[Calibration]":
    """How well the model's expected errors are met on a split; empty for a model that expects none."""
    from sm_search.evaluation.calibration import calibration

    made = [(pair, model.synthesise(pair.low)) for pair in dataset.pairs(split)]
    return [
        calibration(each.matrix, each.expected_error_CK, pair)
        for pair, each in made
        if each.expected_error_CK is not None
    ]


def validate(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.validation import file_kind, validate_mdf

    if not Path(options.file).is_file():
        raise DataError(f"{options.file}: does not exist or is not a file")
    faults = validate_mdf(options.file)
    errors = sum(fault.severity == "error" for fault in faults)
    for fault in faults:
        output.result(f"{fault.severity}: {fault.field}: {fault.message}")
    kind = file_kind(options.file)
    output.result(f"{options.file}: {kind} file, {errors} errors, {len(faults) - errors} warnings")
    listed = [{"severity": f.severity, "field": f.field, "message": f.message} for f in faults]
    return {"file": options.file, "kind": kind, "errors": errors, "faults": listed, "exit_status": 2 if errors else 0}


def demo(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.cli.demo import run_demo

    if options.tracking_uri and options.tracking_uri.startswith("sqlite"):
        raise SettingsError("--tracking-uri: the demo keeps its SQLite store in --home")
    return run_demo(options, output)
