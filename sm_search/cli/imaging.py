"""The verbs that image a phantom: its measurement, and its reconstruction."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sm_search import api
from sm_search.cli.output import Output, require_free
from sm_search.cli.parsing import Adder, place
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import InputError
from sm_search.config.simulation_settings import FieldName

MEASUREMENT_OPTIONS = ("scan", "field", "finer", "seed")
SHOWN_SCANS = 3


def add_verbs(add: Adder) -> None:
    p = add("reconstruct", reconstruct, "Reconstruct a phantom with a system matrix and rate the image.")
    p.add_argument("--sm", required=True, type=place, metavar="FILE", help="MDF file to reconstruct with")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--measurement", type=place, metavar="FILE", help="MDF measurement file (`simulate --phantom` makes one)"
    )
    what.add_argument(
        "--phantom", metavar="NAME", help="dots, bars, shape or vessel, measured on the matrix's own grid"
    )
    p.add_argument(
        "--truth", type=place, metavar="FILE", help="MDF file that the phantom is measured with (default: --sm)"
    )
    p.add_argument("--snr-threshold", type=float, metavar="X", help="leave out components with a smaller SNR")
    p.add_argument("--figure", type=place, metavar="FILE", help="write phantom and image (PNG)")
    p.add_argument("--force", action="store_true", help="overwrite the figure")


def require_no_measurement(options: Namespace) -> None:
    """Options that would do nothing are refused."""
    for name in MEASUREMENT_OPTIONS:
        if getattr(options, name, None) is not None:
            raise InputError(f"--{name}: is for the measurement of a phantom; give --phantom as well")


def simulate_phantom(settings: DatasetSettings, options: Namespace, output: Output) -> dict[str, Any]:
    """`simulate --phantom`: one MDF measurement file."""
    from sm_search.evaluation.measured import FINER, write_phantom_measurement

    if options.ray_address:
        raise InputError("--ray-address: a measurement is simulated in this process; leave the option out")
    require_free(options.out, options.force)
    scans = {scan.id: scan for split in settings.splits for scan in settings.scans(split)}
    if options.scan not in scans:
        what = "is missing" if options.scan is None else f"{options.scan!r}: is not in {settings.name!r}"
        shown = ", ".join(list(scans)[-SHOWN_SCANS:])
        raise InputError(f"--scan {what}, which has {len(scans)} scans, such as {shown}")
    which: FieldName = options.field or "high"
    made = {"finer": FINER if options.finer is None else options.finer, "seed": options.seed or 0}
    time = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    write_phantom_measurement(options.out, settings, scans[options.scan], which, options.phantom, time=time, **made)
    output.result(f"{options.out}: phantom {options.phantom}, {options.scan}, {which} field, grid × {made['finer']}")
    return {"measurement": options.out, "phantom": options.phantom, "scan": options.scan, "field": which, **made}


def reconstruct(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.report.figures import reconstruction_figure, save_figure

    if options.measurement and options.truth:
        raise InputError("--truth: a measurement file tells itself what was measured; give --truth with --phantom only")
    require_free(options.figure, options.force)
    result = api.reconstruct(
        options.sm,
        phantom=options.phantom,
        truth=options.truth,
        measurement=options.measurement,
        snr_threshold=options.snr_threshold,
    )
    if options.figure:
        save_figure(reconstruction_figure(result, api.read_mdf(options.sm).grid), Path(options.figure))
    output.result(f"phantom {result.phantom_name}: PSNR {result.psnr_db:.2f} dB, SSIM {result.ssim:.4f}")
    return {"phantom": result.phantom_name, "psnr_db": result.psnr_db, "ssim": result.ssim}
