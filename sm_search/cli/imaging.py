"""The verbs that image a phantom: its measurement, and its reconstruction."""

import dataclasses
import json
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search import api
from sm_search.cli.output import Output, require_free
from sm_search.cli.parsing import Adder, place
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError, InputError
from sm_search.config.simulation_settings import FieldName, Grid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sm_search.evaluation.reconstruction import ReconstructionOptions, ReconstructionResult
    from sm_search.physics.system_matrix import SystemMatrix

MEASUREMENT_OPTIONS = ("scan", "field", "finer", "seed")
SHOWN_SCANS = 3
CHANNELS = ("x", "y")


def add_verbs(add: Adder) -> None:
    p = add("reconstruct", reconstruct, "Image a measurement with a system matrix; rate the image of a phantom.")
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
    p.add_argument(
        "--lambda",
        dest="regularisation",
        type=float,
        metavar="X",
        help="Tikhonov regularisation relative to the matrix's energy per voxel (default 1e-3)",
    )
    p.add_argument("--iterations", type=int, metavar="N", help="Kaczmarz sweeps over all equations (default 50)")
    p.add_argument("--min-khz", type=float, metavar="F", help="leave out components of lower frequency")
    p.add_argument("--max-khz", type=float, metavar="F", help="leave out components of higher frequency")
    p.add_argument("--channels", nargs="+", choices=CHANNELS, metavar="C", help="receive channels, x y (default all)")
    p.add_argument(
        "--weighting",
        choices=("none", "whitening", "uncertainty"),
        help="of the equations: by the noise of the measurement, or by that and the errors that the matrix states of "
        "itself (default none)",
    )
    p.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="also image with so many matrices drawn about a synthesised one, for the standard deviation of each pixel "
        "in figure and MDF output",
    )
    p.add_argument("--each-frame", action="store_true", help="an image of each frame, not of their mean")
    p.add_argument(
        "--output",
        type=place,
        metavar="FILE",
        help="write the images as an MDF reconstruction file, or as NIfTI (.nii, .nii.gz; needs the extra nifti)",
    )
    p.add_argument("--figure", type=place, metavar="FILE", help="write phantom and image (PNG)")
    p.add_argument("--force", action="store_true", help="overwrite the output and the figure")


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
        what = "is missing" if options.scan is None else f"{options.scan!r}: no such scan"
        shown = ", ".join(list(scans)[-SHOWN_SCANS:])
        raise InputError(f"--scan {what}; {settings.name!r} has {len(scans)}, such as {shown}")
    which: FieldName = options.field or "high"
    made = {"finer": FINER if options.finer is None else options.finer, "seed": options.seed or 0}
    time = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    write_phantom_measurement(options.out, settings, scans[options.scan], which, options.phantom, time=time, **made)
    output.result(f"{options.out}: phantom {options.phantom}, {options.scan}, {which} field, grid × {made['finer']}")
    return {"measurement": options.out, "phantom": options.phantom, "scan": options.scan, "field": which, **made}


def reconstruct(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.report.figures import reconstruction_figure, save_figure

    for target in (options.output, options.figure):
        require_free(target, options.force)
    if options.measurement:
        return _reconstruct_measurement(options, output)
    for name in ("regularisation", "iterations", "min_khz", "max_khz", "channels", "output", "weighting", "draws"):
        if getattr(options, name) is not None:
            option = "lambda" if name == "regularisation" else name.replace("_", "-")
            raise InputError(f"--{option}: is for a measurement file; give --measurement in place of --phantom")
    if options.each_frame:
        raise InputError("--each-frame: is for a measurement file; give --measurement in place of --phantom")
    result = api.reconstruct(
        options.sm, phantom=options.phantom, truth=options.truth, snr_threshold=options.snr_threshold
    )
    if options.figure:
        save_figure(reconstruction_figure(result, _grid(api.read_mdf(options.sm))), Path(options.figure))
    return _rated(result, output)


def _reconstruct_measurement(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.data.mdf_provenance import require_same_induction
    from sm_search.data.measurement import read_measurement
    from sm_search.data.nifti_file import SUFFIXES
    from sm_search.evaluation.measured import image_deviation, measured_images, rated
    from sm_search.report.figures import deviation_figure, images_figure, reconstruction_figure, save_figure

    if options.truth:
        raise InputError("--truth: a measurement file tells itself what was measured; give --truth with --phantom only")
    if options.draws is not None and options.output and options.output.endswith(SUFFIXES):
        raise InputError("--draws: a NIfTI file has no place for a standard deviation; give --output an MDF file")
    chosen = _measurement_options(options)
    require_same_induction(options.sm, options.measurement)
    sm, measurement = api.read_mdf(options.sm), read_measurement(options.measurement)
    grid = _grid(sm)
    try:
        images = measured_images(sm, measurement, chosen)
        planes = len(sm.heights_m)
        truth = None if chosen.each_frame or planes > 1 else measurement.truth
        result = None if truth is None else rated(images[0], truth, sm)
        deviation = None
        if options.draws is not None:
            deviation = image_deviation(sm, measurement, chosen, draws=options.draws)
    except DataError as error:
        raise DataError(f"{options.sm}, {options.measurement}: {error}") from None
    if options.output:
        _write(options, images, deviation, chosen, sm)
    if options.figure:
        if deviation is not None:
            figure = deviation_figure(images[0], deviation[0], grid)
        elif result is not None:
            figure = reconstruction_figure(result, grid)
        elif planes > 1:
            figure = images_figure(images[0], grid, "plane")
        else:
            figure = images_figure(images, grid)
        save_figure(figure, Path(options.figure))
    frames, size = len(images), [*grid.size, *([planes] if planes > 1 else [])]
    count = f"{frames} images" if frames > 1 else "an image"
    output.result(f"{options.measurement}: {count} of {' × '.join(map(str, size))}, largest {images.max():.4g}")
    told = {"frames": frames, "size": size, "largest": float(images.max()), "output": options.output}
    if deviation is not None:
        told["deviation"] = float((deviation**2).mean() ** 0.5)
        output.result(
            f"standard deviation over {options.draws} drawn matrices: {told['deviation']:.2g} (root mean square), "
            f"largest {deviation.max():.2g}"
        )
    return told if result is None else {**told, **_rated(result, output)}


def _grid(sm: "SystemMatrix") -> "Grid":
    """Of images, which are along the scanner's own axes."""
    from sm_search.physics.scanner_axes import along_scanner

    return along_scanner(sm.axes, sm.grid)


def _rated(result: "ReconstructionResult", output: Output) -> dict[str, Any]:
    output.result(f"phantom {result.phantom_name}: PSNR {result.psnr_db:.2f} dB, SSIM {result.ssim:.4f}")
    return {"phantom": result.phantom_name, "psnr_db": result.psnr_db, "ssim": result.ssim}


def _measurement_options(options: Namespace) -> "ReconstructionOptions":
    from sm_search.evaluation.reconstruction import ReconstructionOptions

    given = {
        "regularisation": options.regularisation,
        "sweeps": options.iterations,
        "snr_threshold": options.snr_threshold,
        "min_khz": options.min_khz,
        "max_khz": options.max_khz,
        "weighting": options.weighting,
        "channels": options.channels and tuple(sorted({CHANNELS.index(name) for name in options.channels})),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return ReconstructionOptions(**chosen, each_frame=options.each_frame)


def _write(
    options: Namespace,
    images: "NDArray[np.float64]",
    deviation: "NDArray[np.float64] | None",
    chosen: "ReconstructionOptions",
    sm: "SystemMatrix",
) -> None:
    from sm_search.data.atomic import sha256
    from sm_search.data.nifti_file import SUFFIXES, write_nifti
    from sm_search.data.reconstruction_file import write_reconstruction

    if options.output.endswith(SUFFIXES):
        write_nifti(options.output, images, sm)
        return
    write_reconstruction(
        options.output,
        images,
        sm,
        options.measurement,
        {
            "systemMatrix": sha256(options.sm),
            "lambda": chosen.regularisation,
            "iterations": chosen.sweeps,
            "options": json.dumps(dataclasses.asdict(chosen)),
            **({} if deviation is None else {"draws": options.draws}),
        },
        deviation,
        time=datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds"),
    )
