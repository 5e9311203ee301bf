"""A phantom measured on a finer grid than the system matrix has, and reconstructed: no inverse crime.

Shapes: C receive channels, K components, N voxels with x fastest; Y and X pixels.
"""

import dataclasses
import math
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError, SettingsError
from sm_search.config.simulation_settings import FieldName, FieldSettings, Grid, Scan
from sm_search.config.streams import complex_normal, stream
from sm_search.data.mdf_fields import receive_fields
from sm_search.data.mdf_frames import TRANSFER
from sm_search.data.measurement import Measurement, Truth, write_measurement
from sm_search.evaluation.phantoms import phantom, resample
from sm_search.evaluation.reconstruction import ReconstructionOptions, ReconstructionResult, image_quality, reconstruct
from sm_search.physics.receive import noise_deviation, receive, receive_chain
from sm_search.physics.scanner_axes import along_scanner, scanner_images, scanner_order
from sm_search.physics.system_matrix import SystemMatrix, chosen_channels, simulate

FINER = 2
MAX_FINER = 16
IMAGE_DRAWS = 8
DEFAULTS = ReconstructionOptions()
_UUID_SPACE = uuid.UUID("d6a7f0f4-0f0e-4f0b-9d52-2f6d8c3b9a40")


def simulate_measurement(
    settings: DatasetSettings, scan: Scan, which: FieldName, phantom_name: str, *, finer: int = FINER, seed: int = 0
) -> tuple[SystemMatrix, Truth]:
    """The received signal of a phantom, as a system matrix of one frame, and what was measured.

    Each voxel of the finer grid holds the response to its share 1/finer² of the point sample. The noise has the same
    size as in the system matrix and comes from a stream of its own.

    Args:
        finer: voxels along a side of a voxel of the system matrix.
        seed: of the noise.

    Raises:
        SettingsError: no such phantom, or `finer` or `seed` is out of range.
    """
    if seed < 0:
        raise SettingsError(f"seed {seed}: must not be negative")
    if not 1 <= finer <= MAX_FINER:
        raise SettingsError(f"finer {finer}: must be 1 to {MAX_FINER}")
    size_x, size_y = settings.grid.size
    try:
        grid = Grid(size=(size_x * finer, size_y * finer), fov_mm=settings.grid.fov_mm)
    except ValueError:
        raise SettingsError(f"finer {finer}: makes a grid of {size_x * finer} × {size_y * finer} voxels") from None
    concentration_N = phantom(phantom_name, grid)
    fine = simulate(settings.model_copy(update={"grid": grid}), scan, which)
    signal_CK1 = (fine.values_CKN @ concentration_N / finer**2)[:, :, None]
    chain = receive_chain(settings, scan).model_copy(update={"seed": seed})
    signal = receive(
        dataclasses.replace(fine, values_CKN=signal_CK1),
        chain,
        scan.id,
        which,
        "measurement",
        phantom_name,
        scanner=scan.scanner,
    )
    return signal, Truth(phantom_name, concentration_N.reshape(size_y * finer, size_x * finer), grid, finer)


def write_phantom_measurement(
    path: str | Path,
    settings: DatasetSettings,
    scan: Scan,
    which: FieldName,
    phantom_name: str,
    *,
    time: str,
    finer: int = FINER,
    seed: int = 0,
) -> None:
    """Simulate a measurement and write it as an MDF file that tells how it was made; equal arguments, equal bytes.

    Args:
        time: for the file, UTC, `yyyy-mm-ddThh:mm:ss.ms`.

    Raises:
        SettingsError: as `simulate_measurement`.
        DataError: the file cannot be written.
    """
    signal, truth = simulate_measurement(settings, scan, which, phantom_name, finer=finer, seed=seed)
    chain = receive_chain(settings, scan).model_copy(update={"seed": seed})
    origin = [settings.physics_hash(), scan.id, which, phantom_name, str(finer), str(seed)]
    write_measurement(
        path,
        signal,
        truth,
        uuid=str(uuid.uuid5(_UUID_SPACE, "/".join(origin))),
        time=time,
        averages=chain.averages,
        extra=receive_fields(chain) | {"/experiment/_scan": scan.id},
    )


def reconstruct_measurement(
    sm: SystemMatrix, measurement: Measurement, options: ReconstructionOptions = DEFAULTS
) -> ReconstructionResult:
    """The image of a measurement's mean frame, rated against its truth on the grid of `sm`.

    Raises:
        DataError: the measurement has no truth, or does not pair with the matrix; the message says in what.
    """
    if measurement.truth is None:
        raise DataError("the measurement does not tell what was measured: its image cannot be rated")
    image = measured_images(sm, measurement, dataclasses.replace(options, each_frame=False))[0]
    return rated(image, measurement.truth, sm)


def rated(image: NDArray[np.float64], truth: Truth, sm: SystemMatrix) -> ReconstructionResult:
    """An image of a measurement, reconstructed with `sm`, against what was measured in its plane.

    Raises:
        DataError: `sm` is of a volume.
    """
    if len(sm.heights_m) > 1:
        raise DataError(
            f"the system matrix is of a volume of {len(sm.heights_m)} planes; what was measured is known of one"
        )
    expected = truth_on(truth, along_scanner(sm.axes, sm.grid))
    return ReconstructionResult(truth.phantom, image, expected, *image_quality(image, expected))


def measured_images(
    sm: SystemMatrix, measurement: Measurement, options: ReconstructionOptions = DEFAULTS
) -> NDArray[np.float64]:
    """The images of a measurement, of its frames or of their mean, relative to the point sample, (Q, Y, X); with the
    matrix of a volume (Q, Z, Y, X); along the scanner's own axes.

    Raises:
        DataError: the measurement does not pair with the matrix, or has the mean alone where frames are asked for.
    """
    frames_CKF = measurement.signal_CK[..., None]
    if options.each_frame:
        if measurement.frames_CKF is None:
            raise DataError("the measurement holds the mean of its frames alone")
        frames_CKF = measurement.frames_CKF
    index_K = _pairing(sm, measurement, options.channels)
    frames_CKF = frames_CKF[:, index_K]
    # Where the measurement tells no noise, it is that of the matrix, of the same receiver.
    noise_CK = noise_deviation(sm.background_CKE)
    if measurement.noise_CK is not None:
        noise_CK = measurement.noise_CK[:, index_K]
    if noise_CK is not None and not options.each_frame and measurement.frames_CKF is not None:
        noise_CK = noise_CK / math.sqrt(measurement.frames_CKF.shape[-1])
    if options.channels is not None:
        channels = sorted(sm.axes.index("xyz"[channel]) for channel in options.channels)
        sm, frames_CKF = chosen_channels(sm, channels), frames_CKF[channels]
        noise_CK = None if noise_CK is None else noise_CK[channels]
    size_x, size_y = sm.grid.size
    shape = (size_y, size_x) if len(sm.heights_m) == 1 else (len(sm.heights_m), size_y, size_x)
    images = [
        reconstruct(
            sm,
            frames_CKF[..., frame],
            regularisation=options.regularisation,
            sweeps=options.sweeps,
            snr_threshold=options.snr_threshold,
            band_hz=options.band_hz,
            weighting=options.weighting,
            noise_CK=noise_CK,
        ).reshape(shape)
        for frame in range(frames_CKF.shape[-1])
    ]
    return scanner_images(sm.axes, np.stack(images))


def image_deviation(
    sm: SystemMatrix,
    measurement: Measurement,
    options: ReconstructionOptions = DEFAULTS,
    *,
    draws: int = IMAGE_DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """How far the errors of a synthesised matrix may move the images of a measurement: their standard deviation in each
    voxel, shaped as `measured_images` gives them.

    Each draw images with S + s·z, s the deviation that the matrix states and z complex normal, independent between
    voxels, as the network draws them. The noise of the measurement is the same in all.

    Raises:
        SettingsError: fewer than two draws.
        DataError: the matrix states no deviation; or as `measured_images`.
    """
    if draws < 2:
        raise SettingsError(f"draws = {draws}: a standard deviation needs at least 2")
    if sm.deviation_CKN is None:
        raise DataError(
            "the system matrix states no deviation of its values, as one that was synthesised in draws does"
        )
    images = []
    for draw in range(draws):
        z_CKN = complex_normal(stream(seed, "image-deviation", draw), sm.values_CKN.shape)
        drawn = dataclasses.replace(sm, values_CKN=sm.values_CKN + sm.deviation_CKN * z_CKN)
        images.append(measured_images(drawn, measurement, options))
    return np.asarray(np.std(images, axis=0, ddof=1))


def truth_on(truth: Truth, grid: Grid) -> NDArray[np.float64]:
    """The truth on the grid of a system matrix, relative to its point sample, which fills a voxel of whatever size."""
    sampled_m2 = _voxel_m2(truth.grid) * truth.finer**2
    return resample(truth.concentration_YX, truth.grid, grid) * (_voxel_m2(grid) / sampled_m2)


def _voxel_m2(grid: Grid) -> float:
    return grid.fov_m[0] * grid.fov_m[1] / grid.voxels


def _pairing(sm: SystemMatrix, measurement: Measurement, channels: tuple[int, ...] | None) -> list[int]:
    """Where the measurement has the components of the matrix."""
    counts = len(measurement.signal_CK), len(sm.values_CKN)
    for channel in channels or ():
        if not (0 <= channel < 3 and sm.axes.index("xyz"[channel]) < min(counts)):
            rule = f"the measurement has {counts[0]} channels and the system matrix {counts[1]}"
            raise DataError(f"receive channel {channel}: {rule}")
    for name, given, wanted in (
        ("receive channels", *((None, None) if channels else counts)),
        ("unit", measurement.unit, sm.unit),
        ("transfer function, divided out or not", *(TRANSFER in each.corrections for each in (measurement, sm))),
        ("faster drive", measurement.axes[0], sm.axes[0]),
        ("N_d", measurement.nd, sm.nd),
        (f"f_{sm.axes[0]} in Hz", f"{measurement.fx_hz:.6g}", f"{sm.fx_hz:.6g}"),
        (
            "gradient in T/m and drive in mT",
            *(_shown(along_scanner(sm.axes, each.field)) for each in (measurement, sm)),
        ),
        ("field-free point in mm", *(_point_mm(scanner_order(sm.axes, each.origin_m)) for each in (measurement, sm))),
    ):
        if given != wanted:
            raise DataError(f"the measurement and the system matrix differ in their {name}: {given}, {wanted}")
    position = {order: index for index, order in enumerate(measurement.mixing_orders)}
    missing = [order for order in sm.mixing_orders if order not in position]
    if missing:
        raise DataError(
            f"the measurement lacks {len(missing)} of the matrix's mixing orders, first "
            f"{scanner_order(sm.axes, missing[0])}"
        )
    return [position[order] for order in sm.mixing_orders]


def _point_mm(origin_m: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(1e3 * value, 2) + 0.0 for value in origin_m)


def _shown(field: FieldSettings) -> str:
    """Rounded as files are compared."""
    values = (*field.gradients_t_per_m, *(drive * 1e3 for drive in field.drives_t))
    return ", ".join(f"{value:.6g}" for value in values)
