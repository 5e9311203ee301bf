"""Scores of a model and of what it has to beat, and the images that its matrices give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sm_search.api.defaults import Announce, silent
from sm_search.api.matrices import read_mdf
from sm_search.config.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sm_search.data.dataset import Dataset, Pair
    from sm_search.data.measurement import Measurement
    from sm_search.diffusion.intervals import Intervals
    from sm_search.evaluation.baselines import Method
    from sm_search.evaluation.calibration import Calibration
    from sm_search.evaluation.comparison import Row
    from sm_search.evaluation.distribution import ScanDistribution
    from sm_search.evaluation.image_comparison import ImageRow
    from sm_search.evaluation.reconstruction import ReconstructionOptions, ReconstructionResult
    from sm_search.physics.system_matrix import SystemMatrix
    from sm_search.synthesis import Synthesiser


@dataclass(frozen=True)
class Evaluation:
    """The methods on one split.

    Attributes:
        rows: quality of each method on each scan; `row.as_dict()` is a line of a table.
        images: of a phantom with each method's matrix, if one was asked for.
        calibration: how well the model's expected errors are met on each scan; empty for a model that expects none.
        distribution: scores of the model's draws on each scan, if draws were asked for.
        first: the first scan, and what the model made of it: for a picture.
    """

    split: str
    rows: "list[Row]"
    images: "list[ImageRow]"
    calibration: "list[Calibration]"
    distribution: "list[ScanDistribution]"
    first: "tuple[Pair, SystemMatrix]"


def evaluation_methods(
    model: "Synthesiser", dataset: "Dataset", *, regression: bool = False, announce: Announce = silent
) -> "dict[str, Method]":
    """Every baseline, fitted to the training split, and the model, by name.

    Args:
        regression: also train a network of the model's own backbone and budget as a regression.
    """
    from sm_search.evaluation.baselines import Method, baselines

    methods: dict[str, Method] = {**baselines(dataset)}
    if regression:
        from sm_search.search.single_training import regression_network

        training = model.checkpoint.info.training
        announce(f"training a regression network for {training.steps} steps")
        methods["regression"] = regression_network(training, dataset)
    return {**methods, "model": model}


def evaluate(
    model: "Synthesiser",
    dataset: "Dataset",
    split: str = "test",
    *,
    methods: "Mapping[str, Method] | None" = None,
    noise_free: bool = False,
    phantom: str | None = None,
    draws: int = 0,
    intervals: "Intervals | None" = None,
) -> Evaluation:
    """PSNR, SSIM, nRMSE and gain error of a model and of all baselines on every scan of a split, over all receive
    channels that the model serves.

    Args:
        methods: what is compared, to spare fitting it again for another split; default `evaluation_methods`.
        noise_free: rate against the truth simulated without its noise.
        phantom: also image `dots`, `bars`, `shape` or `vessel` with every matrix, with that of a model that draws also
            weighted by its uncertainty.
        draws: also rate so many draws of the model, at least 2, as a distribution.
        intervals: whose coverage is told, of as many draws, to spare fitting them again; default `model_intervals`.

    Raises:
        InputError: no such split or phantom, fewer than two draws, or draws of a model whose schedule has no steps.
    """
    from sm_search.evaluation.calibration import calibration
    from sm_search.evaluation.comparison import compare_estimates, without_noise
    from sm_search.evaluation.distribution import ScanDistribution
    from sm_search.evaluation.image_comparison import images_of
    from sm_search.evaluation.metrics import require_rateable
    from sm_search.evaluation.phantoms import require_phantom

    require_rateable(dataset.settings)
    dataset.settings.scans(split)  # one that does not exist is told before any work
    if phantom:
        require_phantom(phantom)
    methods = evaluation_methods(model, dataset) if methods is None else methods
    channels = dataset.settings.channels
    if draws and intervals is None:
        intervals = model_intervals(model, dataset, draws)
    found = None
    for pair in dataset.pairs(split):
        made = model.synthesise(pair.low, model.draws if phantom else 1)
        found = found or Evaluation(split, [], [], [], [], (pair, made.matrix))
        estimates = {
            name: made.matrix if method is model else method.predict(pair.low) for name, method in methods.items()
        }
        rated = without_noise(pair, dataset.settings) if noise_free else pair
        found.rows.extend(compare_estimates(estimates, pair, rated, channels))
        if phantom:
            found.images.extend(images_of(estimates, pair, dataset.settings, phantom))
        if made.expected_error_CK is not None:
            found.calibration.append(calibration(made.matrix, made.expected_error_CK, pair, channels))
        if intervals:
            found.distribution.append(ScanDistribution.of(model, rated, channels, intervals))
    assert found is not None  # a split has scans
    return found


def model_intervals(model: "Synthesiser", dataset: "Dataset", draws: int) -> "Intervals":
    """How far the values of a model may be off, in standard deviations of `draws` draws: the model's own intervals if
    they are of as many; else fitted to the validation split.

    Raises:
        InputError: fewer than two draws, or draws of a model whose schedule has no steps.
    """
    from sm_search.evaluation.interval_fitting import fitted_intervals

    if draws < 2:
        raise InputError(f"draws = {draws}: a distribution needs at least 2")
    if not model.schedule.steps:
        raise InputError(f"draws = {draws}: the schedule of this model has no steps, so it draws nothing")
    if model.intervals is not None and model.intervals.draws == draws:
        return model.intervals
    return fitted_intervals(model, dataset, draws, model.checkpoint.info.training.measurement_noise_db)


def reconstruct(
    sm: "SystemMatrix | str | Path",
    *,
    phantom: str | None = None,
    truth: "SystemMatrix | str | Path | None" = None,
    measurement: "Measurement | str | Path | None" = None,
    snr_threshold: float | None = None,
    options: "ReconstructionOptions | None" = None,
) -> "ReconstructionResult":
    """The image of a phantom, reconstructed with a system matrix and rated: `image` and `phantom` are (Y, X) along the
    scanner's own axes.

    Args:
        phantom: `dots`, `bars`, `shape` or `vessel`, measured here on the matrix's own grid.
        truth: the matrix that the phantom is measured with; default `sm`, which shows how well it can be inverted.
        measurement: in place of a phantom an MDF measurement, which tells itself what was measured.
        snr_threshold: leave out components with a smaller SNR.
        options: all there is to choose (`ReconstructionOptions`), for a measurement.
    """
    from sm_search.data.measurement import Measurement, read_measurement
    from sm_search.evaluation.measured import reconstruct_measurement
    from sm_search.evaluation.reconstruction import ReconstructionOptions, reconstruction_check

    if (phantom is None) == (measurement is None) or (measurement is not None and truth is not None):
        raise InputError("reconstruct: takes a phantom, with or without a truth, or else a measurement")
    if options is not None and (phantom is not None or snr_threshold is not None):
        raise InputError("reconstruct: options are for a measurement, and hold the SNR threshold themselves")
    matrix, true_matrix = _matrix(sm), None if truth is None else _matrix(truth)
    measured = measurement if isinstance(measurement, Measurement | None) else read_measurement(measurement)
    try:
        if measured is not None:
            chosen = options or ReconstructionOptions(snr_threshold=snr_threshold)
            return reconstruct_measurement(matrix, measured, chosen)
        return reconstruction_check(matrix, str(phantom), true_matrix, snr_threshold=snr_threshold)
    except DataError as error:
        raise DataError(_named([sm, measurement, truth], error)) from None


def reconstruct_images(
    sm: "SystemMatrix | str | Path",
    measurement: "Measurement | str | Path",
    options: "ReconstructionOptions | None" = None,
) -> "NDArray[np.float64]":
    """The images of a measurement that need not tell what was measured, of its frames or of their mean: frames × Y × X,
    along the scanner's own axes, in units of the point sample of the system matrix.

    Args:
        options: regularisation, iterations, frequency band, channels and so on (`ReconstructionOptions`).
    """
    from sm_search.data.mdf_provenance import require_same_induction
    from sm_search.data.measurement import Measurement, read_measurement
    from sm_search.evaluation.measured import measured_images
    from sm_search.evaluation.reconstruction import ReconstructionOptions

    if isinstance(sm, str | Path) and isinstance(measurement, str | Path):
        require_same_induction(sm, measurement)
    matrix = _matrix(sm)
    measured = measurement if isinstance(measurement, Measurement) else read_measurement(measurement)
    try:
        return measured_images(matrix, measured, options or ReconstructionOptions())
    except DataError as error:
        raise DataError(_named([sm, measurement], error)) from None


def image_deviation(
    sm: "SystemMatrix | str | Path",
    measurement: "Measurement | str | Path",
    options: "ReconstructionOptions | None" = None,
    *,
    draws: int = 8,
    seed: int = 0,
) -> "NDArray[np.float64]":
    """How far the errors of a synthesised matrix may move the images of a measurement: their standard deviation in each
    voxel over images with so many matrices drawn about it, shaped as `reconstruct_images` gives them.

    Args:
        sm: one that was synthesised by a model that draws, which states the deviation of its values.
        options: as in `reconstruct_images`.
    """
    from sm_search.data.measurement import Measurement, read_measurement
    from sm_search.evaluation.measured import image_deviation
    from sm_search.evaluation.reconstruction import ReconstructionOptions

    matrix = _matrix(sm)
    measured = measurement if isinstance(measurement, Measurement) else read_measurement(measurement)
    try:
        return image_deviation(matrix, measured, options or ReconstructionOptions(), draws=draws, seed=seed)
    except DataError as error:
        raise DataError(_named([sm, measurement], error)) from None


def _named(given: Sequence[object], error: DataError) -> str:
    files = [str(each) for each in given if isinstance(each, str | Path)]
    return f"{', '.join(files)}: {error}" if files else str(error)


def _matrix(given: "SystemMatrix | str | Path") -> "SystemMatrix":
    return read_mdf(given) if isinstance(given, str | Path) else given
