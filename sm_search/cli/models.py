"""Verbs on models: train, promote, synthesize, evaluate, gc.

Imports of Ray, MLflow and torch wait inside the verbs: `--help` and `validate` answer at once.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search import api
from sm_search.api.defaults import opened_store
from sm_search.cli.output import Output, require_free
from sm_search.cli.parsing import Adder, add_ray, add_store, place, ray_address
from sm_search.config.errors import InputError

if TYPE_CHECKING:
    from sm_search.data.dataset import Dataset
    from sm_search.evaluation.calibration import Calibration
    from sm_search.evaluation.comparison import Row
    from sm_search.evaluation.distribution import ScanDistribution
    from sm_search.evaluation.image_comparison import ImageRow
    from sm_search.synthesis import Synthesiser


def add_verbs(add: Adder) -> None:
    p = add("train", train, "Train one model without a search; run again to resume it.")
    p.add_argument(
        "--config", type=place, metavar="FILE", help="training settings and schedule (YAML); defaults without it"
    )
    p.add_argument("--data", required=True, type=place, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--out", required=True, type=place, metavar="DIR", help="checkpoint folder")
    p.add_argument(
        "--from", dest="base", type=place, metavar="URI", help="go on from this model, as on a few measured pairs"
    )
    p.add_argument(
        "--leave-one-out",
        action="store_true",
        help="with --from: first leave out each pair in turn, and tell what 1, 3, 10 and all others add to the model",
    )
    p.add_argument("--force", action="store_true", help="overwrite a finished checkpoint")
    add_store(p)

    p = add("promote", promote, "Make the best model of a study the champion, if it is better than what there is.")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--study", metavar="NAME")
    what.add_argument("--rollback", action="store_true", help="make the previous champion the champion again")
    p.add_argument("--data", type=place, metavar="DIR", help="the study's dataset, on which the models are compared")
    p.add_argument("--name", default="sm-search", metavar="MODEL", help="registered model (default sm-search)")
    p.add_argument("--seeds", type=int, default=3, metavar="N", help="sampling seeds to average over (default 3)")
    p.add_argument(
        "--min-gain-db",
        type=float,
        default=-0.1,
        metavar="DB",
        help="PSNR above the champion's that is asked for on validation and test (default -0.1: a tolerance)",
    )
    add_store(p)

    p = add("synthesize", synthesize, "Turn low-gradient MDF files into high-gradient ones.")
    p.add_argument(
        "--model",
        required=True,
        type=place,
        metavar="URI",
        help="models:/NAME@champion, runs:/ID/checkpoint or a folder",
    )
    p.add_argument(
        "--input",
        required=True,
        type=place,
        metavar="PATH",
        help="low-gradient MDF file, a folder of them, or a .txt list",
    )
    p.add_argument(
        "--output",
        required=True,
        type=place,
        metavar="PATH",
        help="high-gradient MDF file, or for many the folder to write into",
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling noise (default 0)")
    p.add_argument("--force", action="store_true", help="overwrite the output")
    p.add_argument("--extrapolate", action="store_true", help="also for a condition unlike the training scans")
    add_ray(p)
    add_store(p)

    p = add("gc", collect_garbage, "List old checkpoints and synthesised files of trials; --delete removes them.")
    p.add_argument("--study", metavar="NAME", help="of this study alone (default: of all)")
    p.add_argument("--keep-best", type=int, default=3, metavar="N", help="keep the N best of a study (default 3)")
    p.add_argument("--older-than-days", type=float, default=30, metavar="D", help="keep what is younger (default 30)")
    p.add_argument("--delete", action="store_true", help="delete what is listed; without it nothing is changed")
    add_store(p)

    p = add("evaluate", evaluate, "PSNR, SSIM and nRMSE of a model and of all baselines on a split.")
    p.add_argument(
        "--model",
        required=True,
        type=place,
        metavar="URI",
        help="models:/NAME@champion, runs:/ID/checkpoint or a folder",
    )
    p.add_argument("--data", required=True, type=place, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--split", default=["test"], nargs="+", metavar="NAME", help="splits of the dataset (default test)")
    p.add_argument("--regression", action="store_true", help="train a regression network as a further baseline")
    p.add_argument("--noise-free", action="store_true", help="rate against the truth simulated without its noise")
    p.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="rate N draws of the model as a distribution too (default: its samples, 8 where its network draws)",
    )
    p.add_argument("--phantom", metavar="NAME", help="also image dots, bars, shape or vessel with every matrix")
    p.add_argument("--figure", type=place, metavar="FILE", help="write the comparison figure of the first scan (PNG)")
    p.add_argument("--force", action="store_true", help="overwrite the figure")
    add_store(p)


def train(options: Namespace, output: Output) -> dict[str, Any]:
    dataset = api.open_dataset(options.data)
    base = None
    if options.base:
        base = api.load_model(options.base, home=options.home, tracking_uri=options.tracking_uri)
    left_out = []
    if options.leave_one_out:
        if base is None:
            raise InputError("--leave-one-out: tells what pairs add to a model; give --from as well")
        left_out = _leave_one_out(options, output, dataset, base)
    model = api.train(options.config, dataset, options.out, force=options.force, announce=output.progress, base=base)
    metrics = model.checkpoint.info.metrics
    output.result(f"{options.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return {"checkpoint": options.out, "metrics": metrics, "left_out": left_out}


def _leave_one_out(options: Namespace, output: Output, dataset: "Dataset", base: "Synthesiser") -> list[dict[str, Any]]:
    found = api.leave_one_out(options.config, dataset, base, announce=output.progress)
    output.table(
        "Each pair left out of the training, and the model after so many others",
        ["pair left out", "trained on", "PSNR dB", "SSIM", "nRMSE", "distance"],
        [
            [
                each.pair,
                str(each.trained_on),
                f"{each.quality.psnr_db_mean:.1f}",
                f"{each.quality.ssim_mean:.3f}",
                f"{each.quality.nrmse_mean:.3g}",
                "–" if each.distance is None else f"{each.distance:.2g}",
            ]
            for each in found
        ],
    )
    return [
        {"pair": each.pair, "trained_on": each.trained_on, "distance": each.distance, **each.quality.as_dict()}
        for each in found
    ]


def promote(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.tracking import gate

    if options.rollback:
        from sm_search.tracking.champion import roll_back

        version, former = roll_back(opened_store(options.home, options.tracking_uri), options.name)
        after = "the champion after it is deleted" if former is None else f"version {former} is now @previous"
        output.result(f"models:/{options.name}@champion is version {version} again; {after}")
        return {"model": options.name, "version": version, "previous": former}
    if options.data is None:
        raise InputError("--data is missing: the dataset of the study, on which the models are compared")
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: must be at least 1")
    done = api.promote(
        options.study,
        api.open_dataset(options.data),
        name=options.name,
        seeds=options.seeds,
        least_gain_db=options.min_gain_db,
        home=options.home,
        tracking_uri=options.tracking_uri,
        announce=output.progress,
    )
    if done.scores:
        title = f"Version {done.version} (trial {done.trial_id}) of {done.model}, {options.seeds} sampling seeds"
        output.table(title, gate.COLUMNS, gate.table_rows(done.scores))
    for shortfall in done.shortfalls:
        output.error(f"{done.uri} stays challenger: {shortfall}")
    if not done.shortfalls:
        previous = f"; version {done.champion} is now @previous" if done.champion else ""
        already = "" if done.scores else " already"
        output.result(
            f"models:/{done.model}@champion is{already} version {done.version} (trial {done.trial_id}){previous}"
        )
    return {
        "model": done.model,
        "version": done.version,
        "trial_id": done.trial_id,
        "run_id": done.run_id,
        "compared_with": done.champion,
        **gate.as_object(done.scores, done.checks),
        "exit_status": 2 if done.shortfalls else 0,
    }


def synthesize(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.compute.parallel_synthesis import is_many

    if is_many(Path(options.input)):
        return _synthesize_many(options, output)
    made, name = api.synthesize_file(
        options.model,
        options.input,
        options.output,
        seed=options.seed,
        force=options.force,
        extrapolate=options.extrapolate,
        home=options.home,
        tracking_uri=options.tracking_uri,
    )
    channels, components, voxels = made.matrix.values_CKN.shape
    if made.outside:
        output.progress(f"warning: {made.outside}")
    output.result(f"{options.output}: {channels} × {components} components of {voxels} voxels by {name}")
    output.result(f"{options.output}: {made.in_words()}")
    return {"output": options.output, "model": name, "shape": [channels, components, voxels], **made.trust()}


def _synthesize_many(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.compute.parallel_synthesis import plan_files, synthesise_files
    from sm_search.compute.session import ray_session
    from sm_search.tracking.registry import describe_model, download_model

    store = opened_store(options.home, options.tracking_uri)
    checkpoint, name = download_model(store, options.model), describe_model(store, options.model)
    plan = plan_files(Path(options.input), Path(options.output))
    with ray_session(ray_address(options, output)), output.counted("synthesised") as progress:
        outcomes = synthesise_files(checkpoint, plan, name, options.seed, options.force, progress, options.extrapolate)
    refused = [each for each in outcomes if each.state == "refused"]
    for each in refused:
        output.error(each.reason)
    for each in outcomes:
        if each.state == "made" and each.reason:
            output.progress(f"warning: {each.reason}")
    counts = {state: sum(each.state == state for each in outcomes) for state in ("made", "kept", "refused")}
    output.result(
        f"{options.output}: {counts['made']} files by {name}, {counts['kept']} kept, {counts['refused']} refused"
    )
    files = [asdict(each) for each in outcomes]
    return {"output": options.output, "model": name, **counts, "files": files, "exit_status": 2 if refused else 0}


def collect_garbage(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.tracking.housekeeping import plan_removals, remove

    if options.keep_best < 0 or not options.older_than_days >= 0:
        raise InputError("--keep-best and --older-than-days: must be at least 0")
    store = opened_store(options.home, options.tracking_uri)
    plan = plan_removals(store, options.keep_best, options.older_than_days, options.study)
    output.table(
        "Deleted" if options.delete else "Would be deleted; nothing is without --delete",
        ("study", "trial", "rank", "days", "folder", "MB"),
        [
            (r.study, r.trial_id, str(r.rank or "–"), f"{r.age_days:.0f}", r.folder, f"{r.size_bytes / 1e6:.1f}")
            for r in plan
        ],
    )
    for removal in plan if options.delete else ():
        remove(store, removal)
    total = sum(removal.size_bytes for removal in plan)
    output.result(f"{len(plan)} folders, {total / 1e6:.1f} MB" + ("" if options.delete else "; --delete removes them"))
    return {"deleted": options.delete, "bytes": total, "folders": [asdict(removal) for removal in plan]}


def evaluate(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.evaluation.metrics import METRIC_DEFINITION, require_rateable
    from sm_search.evaluation.phantoms import require_phantom
    from sm_search.report.figures import comparison_figure, save_figure
    from sm_search.tracking.evaluations import log_evaluation

    require_free(options.figure, options.force)
    dataset = api.open_dataset(options.data)
    require_rateable(dataset.settings)
    for split in options.split:
        dataset.settings.scans(split)  # one that does not exist is told before any work
    if options.phantom:
        require_phantom(options.phantom)
    if dataset.settings.channel_note:
        output.progress(dataset.settings.channel_note)
    store = opened_store(options.home, options.tracking_uri)
    model = api.load_model(options.model, home=options.home, tracking_uri=options.tracking_uri)
    draws = options.draws
    if draws is None:
        draws = model.draws if model.draws > 1 else 0
    intervals = api.model_intervals(model, dataset, draws) if draws else None
    methods = api.evaluation_methods(model, dataset, regression=options.regression, announce=output.progress)
    told: dict[str, Any] = {"rows": [], "images": [], "calibration": [], "distribution": []}
    for split in options.split:
        found = api.evaluate(
            model,
            dataset,
            split,
            methods=methods,
            noise_free=options.noise_free,
            phantom=options.phantom,
            draws=draws,
            intervals=intervals,
        )
        if options.figure and split == options.split[0]:
            pair, made = found.first
            save_figure(comparison_figure(pair.high, pair.low, made, f"{pair.scan.id} ({split})"), Path(options.figure))
        listed = [row.as_dict() for row in found.rows]
        logged_as = f"{split}_noise_free" if options.noise_free else split
        channels = "both channels" if len(dataset.settings.channels) > 1 else "x-channel"
        title = f"Split {split} of {dataset.settings.name}, {channels}, {options.model}"
        _show_evaluation(output, title, found.rows, found.calibration)
        _show_distribution(output, found.distribution, draws)
        _show_images(output, found.images)
        logged = log_evaluation(store, options.model, logged_as, listed)
        told["rows"] += [{"split": split, **row} for row in listed]
        told["images"] += [{"split": split, **asdict(image)} for image in found.images]
        told["distribution"] += [{"split": split, **each.as_dict()} for each in found.distribution]
        told["calibration"] += [{"split": split, **asdict(each)} for each in found.calibration]
    output.result(METRIC_DEFINITION)
    if logged is None and not Path(options.model).is_dir():
        output.progress(f"not stored in MLflow: the run that {options.model} came from is deleted")
    return {"model": options.model, "definition": METRIC_DEFINITION, **told, "logged_to_run": logged}


def _show_evaluation(output: Output, title: str, rows: "list[Row]", trust: "list[Calibration]") -> None:
    output.quality_table(title, rows)
    for found in trust:
        output.result(
            f"{found.scan}: error over the model's expected error {found.ratio:.2g} (10 to 90 % of the components: "
            f"{found.ratio_p10:.2g} to {found.ratio_p90:.2g}), rank correlation {found.rank_correlation:.2f}"
        )


def _show_distribution(output: Output, scans: "list[ScanDistribution]", draws: int) -> None:
    if scans:
        output.table(
            f"{draws} draws of the model: fair CRPS of the patterns, error of their mean, spread over error, and what "
            "the intervals fitted to the validation scans, by the condition's noise, cover",
            ["scan", "CRPS", "mean |error|", "spread/error", "50 %", "90 %"],
            [
                [
                    each.scan,
                    f"{each.scores.crps:.3g}",
                    f"{each.scores.absolute_error:.3g}",
                    f"{each.scores.spread_over_error:.2f}",
                    *(f"{100 * covered:.0f} %" for covered in each.scores.coverages.values()),
                ]
                for each in scans
            ],
        )


def _show_images(output: Output, images: "list[ImageRow]") -> None:
    if images:
        output.table(
            f"Phantom {images[0].phantom}, measured on a finer grid with noise, reconstructed with the matrix of",
            ["scan", "method", "PSNR dB", "SSIM", "λ"],
            [[i.scan, i.method, f"{i.psnr_db:.2f}", f"{i.ssim:.3f}", f"{i.regularisation:g}"] for i in images],
        )
