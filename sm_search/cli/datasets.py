"""Verbs on datasets and files: simulate, import, validate.

Imports of Ray, MLflow and torch wait inside the verbs: `--help` and `validate` answer at once.
"""

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from sm_search.api.matrices import dataset_settings, simulate_dataset
from sm_search.api.matrices import validate as validate_file
from sm_search.cli.imaging import require_no_measurement, simulate_phantom
from sm_search.cli.output import Output
from sm_search.cli.parsing import Adder, add_ray, place, ray_address
from sm_search.config.errors import DataError, InputError


def add_verbs(add: Adder) -> None:
    p = add(
        "simulate",
        simulate,
        "Simulate a dataset in parallel (run again to resume or repair it), or the measurement of a phantom.",
    )
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=place, metavar="FILE", help="dataset settings (YAML), see docs/simulator.md")
    which.add_argument(
        "--preset",
        metavar="NAME",
        help="demo, paper-12, paper-54, paper-90, realistic, or sobol-N, scanner-N for N scans; with another model of "
        "the magnetisation behind it: paper-54-brownian",
    )
    p.add_argument(
        "--out",
        required=True,
        type=place,
        metavar="PATH",
        help="dataset folder or s3:// URI; with --phantom an MDF file",
    )
    add_ray(p)
    p.add_argument("--on", metavar="LABEL=VALUE", help="only on Ray nodes with this label, such as pool=cpu")
    measured = p.add_argument_group("measurement of a phantom, one file that pairs with the scan's system matrix")
    measured.add_argument("--phantom", metavar="NAME", help="dots, bars, shape or vessel")
    measured.add_argument("--scan", metavar="ID", help="scan of the dataset, such as d30nm-fx25kHz-nd99")
    measured.add_argument("--field", choices=("low", "high"), help="default high")
    measured.add_argument("--finer", type=int, metavar="N", help="grid N times finer than the matrix's (default 2)")
    measured.add_argument("--seed", type=int, metavar="N", help="of the measurement's noise (default 0)")
    measured.add_argument("--force", action="store_true", help="overwrite the measurement file")

    p = add(
        "import",
        import_files,
        "Measured pairs of calibration files to a dataset; the files themselves are not touched.",
    )
    p.add_argument(
        "sources",
        nargs="+",
        type=place,
        metavar="FILE",
        help="LOW HIGH LOW HIGH …, lists with a pair a line (.txt, .csv), or folders of pairs",
    )
    p.add_argument("--out", required=True, type=place, metavar="DIR", help="dataset folder")
    p.add_argument("--name", default="measured", metavar="NAME", help="of the dataset (default measured)")
    p.add_argument("--orders", type=orders, metavar="X,Y", help="largest mixing orders (default: those of all files)")
    p.add_argument(
        "--background",
        choices=("mean", "interpolated"),
        default="mean",
        help="subtract the mean of the background frames (default), or what lies between those before and after",
    )
    p.add_argument("--validation", action="append", default=[], metavar="PAIR", help="default: the last but one")
    p.add_argument("--test", action="append", default=[], metavar="PAIR", help="default: the last")
    p.add_argument("--skip-refused", action="store_true", help="import the others where pairs are refused")
    p.add_argument("--dry-run", action="store_true", help="print the page that tells what would be done; write nothing")

    p = add(
        "validate",
        validate,
        "Check an MDF calibration or measurement file against the standard, and against what is served here; one line "
        "a fault.",
    )
    p.add_argument("file", type=place, metavar="FILE")


def simulate(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.evaluation.metrics import require_rateable

    settings = dataset_settings(options.preset or Path(options.config))
    if options.phantom:
        return simulate_phantom(settings, options, output)
    require_no_measurement(options)
    label, equals, value = (options.on or "").partition("=")
    if options.on and not (label and equals and value):
        raise InputError(f"--on {options.on}: must be LABEL=VALUE, such as pool=cpu")
    address = ray_address(options, output)
    if options.on and not address:
        raise InputError(f"--on {options.on}: chooses nodes of a cluster, which --ray-address names")
    try:
        require_rateable(settings)
    except DataError as error:
        output.progress(f"note: {error}")  # but matrices can be made, and images reconstructed with them
    labels = {label: value} if options.on else {}
    with output.counted("simulated") as progress:
        dataset = simulate_dataset(
            settings,
            options.out,
            ray_address=address,
            labels=labels,
            announce=output.progress,
            progress=progress,
        )
    files, dataset_hash = len(dataset.manifest.files), dataset.content_hash()
    output.result(f"{dataset.location}: {files} files, dataset hash {dataset_hash[:12]}")
    return {"data": dataset.location, "files": files, "dataset_hash": dataset_hash}


def orders(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    return int(x), int(y or x)


def import_files(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.measured_import import import_measured, plan_import

    plan = plan_import(
        options.sources,
        name=options.name,
        orders=options.orders,
        background=options.background,
        validation=options.validation,
        test=options.test,
    )
    refused = {pair.name: pair.reasons for pair in plan.refused}
    pairs = [pair.name for pair in plan.pairs if not pair.reasons]
    result: dict[str, Any] = {"pairs": pairs, "refused": refused, "data": None}
    stopped = plan.settings is None or (refused and not options.skip_refused)
    if options.dry_run or stopped:
        output.result(plan.page())
    if options.dry_run:
        return {**result, "exit_status": 2 if stopped else 0}
    if stopped:
        reasons = [f"{name}: {reason}" for name, found in refused.items() for reason in found]
        advice = [] if plan.settings is None else ["--skip-refused imports the other pairs"]
        raise DataError("; ".join([*([plan.problem] if plan.problem else []), *reasons, *advice]))
    dataset = import_measured(plan, options.out)
    dataset_hash = dataset.content_hash()
    output.result(f"{dataset.location}: {len(pairs)} pairs, dataset hash {dataset_hash[:12]}; see import.md")
    return {**result, "data": dataset.location, "dataset_hash": dataset_hash}


def validate(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.mdf_validation import file_kind

    faults = validate_file(options.file)
    counts = Counter(fault.severity for fault in faults)
    for fault in faults:
        output.result(f"{fault.severity}: {fault.field}: {fault.message}")
    kind, errors = file_kind(options.file), counts["error"]
    served = f", {counts['not served']} fields not served" if counts["not served"] else ""
    what = "no MDF file" if kind == "unreadable" else f"{kind} file"
    output.result(f"{options.file}: {what}, {errors} errors, {counts['warning']} warnings{served}")
    listed = [{"severity": f.severity, "field": f.field, "message": f.message} for f in faults]
    return {"file": options.file, "kind": kind, "errors": errors, "faults": listed, "exit_status": 2 if errors else 0}
