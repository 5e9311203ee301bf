"""`sm-search VERB`: the parser, the exit status and the output rules.

Every verb prints its result on stdout (`--json`: one object) and its progress on stderr. Exit status: 0 done, 2 bad
usage or bad input (one line, no traceback), 1 our own fault, 130 interrupted.
"""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sm_search import __version__
from sm_search.cli import imaging, verbs
from sm_search.cli.output import Output
from sm_search.config.errors import InputError, SmSearchError

HOME_VARIABLE = "SM_SEARCH_HOME"
Verb = Callable[[argparse.Namespace, Output], dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    options = build_parser().parse_args(arguments)
    output = Output(as_json=options.json)
    try:
        result = options.call(options, output)
    except InputError as error:
        output.error(str(error))
        return 2
    except SmSearchError as error:
        output.error(str(error))
        return 1
    except KeyboardInterrupt:
        output.error("interrupted")
        return 130
    except Exception:
        traceback.print_exc()
        output.error("this is a fault of sm-search, not of your input")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    return int(result.get("exit_status", 0))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="sm-search", description="Search for models that synthesise MPI system matrices."
    )
    parser.add_argument("--version", action="version", version=f"sm-search {__version__}")
    verb_parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, run: Verb, about: str) -> argparse.ArgumentParser:
        added = verb_parsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        added.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        added.set_defaults(call=run)
        return added

    _add_work(add)
    _add_models(add)
    _add_files(add)
    return parser


def _add_work(add: Callable[[str, Verb, str], argparse.ArgumentParser]) -> None:
    p = add(
        "simulate",
        verbs.simulate,
        "Simulate a dataset in parallel (run again to resume or repair it), or the measurement of a phantom.",
    )
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="FILE", help="dataset settings (YAML)")
    which.add_argument(
        "--preset", metavar="NAME", help="demo, paper-54, paper-90, realistic, or sobol-N for N training scans"
    )
    p.add_argument(
        "--out", required=True, metavar="PATH", help="dataset folder or s3:// URI; with --phantom an MDF file"
    )
    _add_ray(p)
    measured = p.add_argument_group("measurement of a phantom, one file that pairs with the scan's system matrix")
    measured.add_argument("--phantom", metavar="NAME", help="dots, bars, shape or vessel")
    measured.add_argument("--scan", metavar="ID", help="scan of the dataset, such as d30nm-fx25kHz-nd99")
    measured.add_argument("--field", choices=("low", "high"), help="default high")
    measured.add_argument("--finer", type=int, metavar="N", help="grid N times finer than the matrix's (default 2)")
    measured.add_argument("--seed", type=int, metavar="N", help="of the measurement's noise (default 0)")
    measured.add_argument("--force", action="store_true", help="overwrite the measurement file")

    p = add("train", verbs.train, "Train one model without a search; run again to resume it.")
    p.add_argument("--config", metavar="FILE", help="training settings and schedule (YAML); defaults without it")
    p.add_argument("--data", required=True, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--out", required=True, metavar="DIR", help="checkpoint folder")
    p.add_argument("--force", action="store_true", help="overwrite a finished checkpoint")

    p = add("sweep", verbs.sweep, "Run a study: search training settings and sampling schedule.")
    p.add_argument("--space", required=True, metavar="FILE", help="search space (YAML), see search_spaces/")
    p.add_argument("--data", required=True, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--resume", action="store_true", help="continue the study after an interruption")
    p.add_argument("--storage", metavar="URI", help="folder or s3:// URI that every node reaches (default: under home)")
    p.add_argument("--dry-run", action="store_true", help="check everything and print what would run")
    _add_ray(p)
    _add_store(p)

    p = add("tune-schedule", verbs.tune_schedule, "Search the sampling schedule alone, on a finished model.")
    p.add_argument("--run", required=True, metavar="RUN_ID", help="MLflow run of a trial with a stored checkpoint")
    p.add_argument("--data", required=True, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--space", metavar="FILE", help="space whose schedule part is searched (default: the study's own)")
    p.add_argument("--trials", type=int, default=40, metavar="N", help="schedules to try (default 40)")
    p.add_argument("--out", metavar="DIR", help="write a checkpoint with the best schedule here")
    p.add_argument("--force", action="store_true", help="overwrite a checkpoint")
    _add_store(p)

    p = add(
        "demo", verbs.demo, "All of it, small: simulate, sweep, promote, synthesize, evaluate; minutes on two cores."
    )
    p.add_argument("--space", metavar="FILE", help=argparse.SUPPRESS)
    p.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    _add_ray(p)
    _add_store(p)


def _add_models(add: Callable[[str, Verb, str], argparse.ArgumentParser]) -> None:
    p = add("report", verbs.report, "Write the HTML report of a study.")
    p.add_argument("--study", required=True, metavar="NAME")
    p.add_argument("--out", metavar="FILE", help="HTML file (default: NAME.html in the home folder)")
    p.add_argument("--force", action="store_true", help="overwrite FILE")
    _add_store(p)

    p = add("promote", verbs.promote, "Register the best model of a study and make it the champion.")
    p.add_argument("--study", required=True, metavar="NAME")
    p.add_argument("--name", default="sm-search", metavar="MODEL", help="registered model (default sm-search)")
    _add_store(p)

    p = add("synthesize", verbs.synthesize, "Turn a low-gradient MDF file into a high-gradient one.")
    p.add_argument(
        "--model", required=True, metavar="URI", help="models:/NAME@champion, runs:/ID/checkpoint or a folder"
    )
    p.add_argument("--input", required=True, metavar="FILE", help="low-gradient MDF file")
    p.add_argument("--output", required=True, metavar="FILE", help="high-gradient MDF file to write")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling noise (default 0)")
    p.add_argument("--force", action="store_true", help="overwrite the output")
    _add_store(p)

    p = add("evaluate", verbs.evaluate, "PSNR, SSIM and nRMSE of a model and of all baselines on a split.")
    p.add_argument(
        "--model", required=True, metavar="URI", help="models:/NAME@champion, runs:/ID/checkpoint or a folder"
    )
    p.add_argument("--data", required=True, metavar="DIR", help="dataset folder or s3:// URI")
    p.add_argument("--split", default="test", metavar="NAME", help="split of the dataset (default test)")
    p.add_argument("--regression", action="store_true", help="train a regression network as a further baseline")
    p.add_argument("--phantom", metavar="NAME", help="also image dots, bars, shape or vessel with every matrix")
    p.add_argument("--figure", metavar="FILE", help="write the comparison figure of the first scan (PNG)")
    p.add_argument("--force", action="store_true", help="overwrite the figure")
    _add_store(p)


def _add_files(add: Callable[[str, Verb, str], argparse.ArgumentParser]) -> None:
    p = add("reconstruct", imaging.reconstruct, "Reconstruct a phantom with a system matrix and rate the image.")
    p.add_argument("--sm", required=True, metavar="FILE", help="MDF file to reconstruct with")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--measurement", metavar="FILE", help="MDF measurement file (`simulate --phantom` makes one)")
    what.add_argument(
        "--phantom", metavar="NAME", help="dots, bars, shape or vessel, measured on the matrix's own grid"
    )
    p.add_argument("--truth", metavar="FILE", help="MDF file that the phantom is measured with (default: --sm)")
    p.add_argument("--snr-threshold", type=float, metavar="X", help="leave out components with a smaller SNR")
    p.add_argument("--figure", metavar="FILE", help="write phantom and image (PNG)")
    p.add_argument("--force", action="store_true", help="overwrite the figure")

    p = add(
        "validate",
        verbs.validate,
        "Check an MDF calibration or measurement file against the standard; one line a fault.",
    )
    p.add_argument("file", metavar="FILE")


def _add_ray(p: argparse.ArgumentParser) -> None:
    p.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster (`auto` on its head); default: this machine")


def _add_store(p: argparse.ArgumentParser) -> None:
    home = Path(os.environ.get(HOME_VARIABLE, "outputs"))
    p.add_argument(
        "--home", type=Path, default=home, metavar="DIR", help=f"local state (default ${HOME_VARIABLE} or outputs)"
    )
    p.add_argument("--tracking-uri", metavar="URI", help="MLflow server (default: SQLite in the home folder)")
