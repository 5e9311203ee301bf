"""Checkpoint + schedule + low-gradient system matrix → high-gradient system matrix in physical units."""

import dataclasses
import math
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sm_search.config.errors import DataError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.config.simulation_settings import AGREEMENT, FieldSettings, Grid
from sm_search.data.atomic import sha256
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_provenance import read_provenance
from sm_search.data.mdf_reading import DEVIATION, read_mdf
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.checkpoint import Checkpoint, load_checkpoint
from sm_search.diffusion.condition import Condition, make_condition
from sm_search.diffusion.intervals import LEVELS, Intervals
from sm_search.diffusion.samplers import Drawn, ImageNoise, sample_mean
from sm_search.diffusion.spectra import Spectra
from sm_search.physics.scanner_axes import along_scanner, scanner_channels, scanner_order, scanner_values
from sm_search.physics.system_matrix import SystemMatrix, from_channel_images, swapped_orders, with_orders
from sm_search.regression.delay import DelayCheck
from sm_search.regression.scan_features import scan_features, trajectories
from sm_search.trust import Trust, in_noise

DEVIATION_DRAWS = 8
"""Of a network that draws about its mean: the standard deviation is then known to a quarter."""

RANGE_SLACK = 0.1
"""A model is used this share of its value below the smallest, and above the largest, f_x and N_d that it was trained
for: so far the features of a scan go no further than to a neighbour of the presets' grids."""

PLANE_SLACK = 0.1
"""And this share of a voxel below the lowest and above the highest plane."""

EXTRAPOLATED = "/calibration/_extrapolated"
"""User field of a file whose condition is unlike the training scans."""

DISTANCE = "/calibration/_distance"
"""User field: how far the condition lies from the training scans, in units of the limit."""

UNKNOWN_DISTANCE = (
    "whether the condition is like the training scans cannot be checked: the model (of an earlier version, or of one "
    "scan) has no record of them"
)

UUID_SPACE = uuid.UUID("0c6f2f3c-5a2e-4d0e-9a43-6a2b1d5d7a11")


@dataclass(frozen=True)
class Synthesis:
    """A synthesised matrix and how far to trust it.

    Attributes:
        matrix: the result.
        expected_error_CK: root-mean-square error of each component that the mean model expects of itself, in units of
            the component's maximum modulus; None without mean model.
        distance: of the condition from the training scans, in units of the limit (`TrainingDomain`); None if the model
            has no record of them.
        interval_factors_CQ: how many deviations about a value hold the true one with 50 and with 90 %, the component's
            amplitude taken for right (`Intervals`); None without deviation, or where the model does not know.
        in_noise_CK: components whose condition is mostly noise; None where it has no SNR.
        outside: why the condition is unlike the training scans, where it was synthesised all the same.
    """

    matrix: SystemMatrix
    expected_error_CK: NDArray[np.float64] | None
    distance: float | None
    in_noise_CK: NDArray[np.bool_] | None
    interval_factors_CQ: NDArray[np.float64] | None = None
    outside: str | None = None

    @property
    def deviation_CKN(self) -> NDArray[np.float64] | None:
        """Standard deviation of each complex value over the draws, in the matrix's unit; None from one."""
        return self.matrix.deviation_CKN

    def trust(self) -> dict[str, Any]:
        """The same numbers by name, for JSON."""
        expected_CK, noise_CK = self.expected_error_CK, self.in_noise_CK
        return {
            "expected_error": None if expected_CK is None else float(np.median(expected_CK)),
            "in_noise": None if noise_CK is None else int(noise_CK.sum()),
            "distance": self.distance,
            "interval_factors": None if self.interval_factors_CQ is None else self.interval_factors_CQ.tolist(),
            "outside": self.outside,
        }

    def in_words(self) -> str:
        """Expected error, width of the intervals, components in the noise and distance, in one line."""
        words = []
        if self.expected_error_CK is not None:
            words.append(f"expected error {np.median(self.expected_error_CK):.2g} of the maximum (median)")
        if self.interval_factors_CQ is not None:
            half, most = self.interval_factors_CQ.max(axis=0)
            words.append(f"{LEVELS[0]:.0%} within {half:.2g} and {LEVELS[1]:.0%} within {most:.2g} deviations")
        if self.in_noise_CK is not None:
            words.append(f"{self.in_noise_CK.sum()} of {self.in_noise_CK.size} conditions in the noise")
        if self.distance is not None:
            words.append(f"distance to the training scans {self.distance:.2g} of the limit")
        else:
            words.append(UNKNOWN_DISTANCE)
        return ", ".join(words)


@dataclass(frozen=True)
class _Given:
    """What is drawn of one channel, and what makes patterns of it: `mean` (K, 2, Y, X) and `spread_K`."""

    condition: Condition
    names: list[str]
    features: Tensor
    low_scales_K: Tensor
    mean: Tensor
    spread_K: Tensor
    spectra: Spectra | None

    def images(self, drawn: Tensor, voxels: Tensor | None = None) -> Tensor:
        """Component images (K, 2, Y, X), float64, also of spectra, perhaps of some voxels: 0 in the others."""
        if self.spectra is None:
            return drawn.cpu().double()
        if voxels is not None:
            whole = drawn.new_zeros(len(self.names), *drawn.shape[1:])
            whole[voxels] = drawn
            drawn = whole
        return self.spectra.images(drawn.cpu()).double()

    def pattern(self, drawn: Tensor, voxels: Tensor | None = None) -> Tensor:
        """A draw or a mean of draws as patterns, (K, 2, Y, X)."""
        return self.mean + self.spread_K[:, None, None, None] * self.images(drawn, voxels)


class Synthesiser:
    """A checkpoint that predicts.

    Args:
        schedule: replaces the checkpoint's own.
        seed: of the sampling noise; same seed, same result.
    """

    def __init__(
        self, checkpoint: Checkpoint, schedule: ScheduleSettings | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.checkpoint = checkpoint
        self.schedule = schedule or checkpoint.info.schedule
        self.seed = seed
        self.device = device
        self._delays: DelayCheck | None = None
        checkpoint.denoiser.to(device)

    @property
    def grid(self) -> Grid:
        return self.checkpoint.info.grid

    @property
    def low(self) -> FieldSettings:
        return self.checkpoint.info.low

    @property
    def orders(self) -> tuple[tuple[int, int], ...]:
        return self.checkpoint.info.orders

    @property
    def unit(self) -> str:
        return self.checkpoint.info.unit

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        """Synthesise the high-gradient matrix with the mixing orders of `low`, in its order, and of these and of the
        channels those that the model serves: where the y-channel is no x-channel with exchanged axes, x alone.

        Raises:
            DataError: `low` is not of the grid, unit, field or orders that the model was trained for; the message says
                which.
            DivergenceError: sampling left the finite numbers.
        """
        return self.synthesise(low).matrix

    @property
    def draws(self) -> int:
        """How many draws tell how far its values may be off: more than one where the schedule or the network draws."""
        draws_itself = self.checkpoint.denoiser.spread is not None and self.schedule.steps > 0
        return DEVIATION_DRAWS if draws_itself and self.schedule.samples == 1 else self.schedule.samples

    @property
    def intervals(self) -> Intervals | None:
        """How far its values may be off; None where that was not fitted, or for another schedule."""
        info = self.checkpoint.info
        return info.intervals if self.schedule == info.schedule else None

    def synthesise(self, low: SystemMatrix, draws: int = 1) -> "Synthesis":
        """`predict`, and how far to trust it; a volume plane by plane.

        Args:
            draws: at least so many for the deviation of each value; the values are the schedule's however many.
        """
        if len(low.heights_m) > 1:
            return _stacked(low, [self.synthesise(plane, draws) for plane in low.planes()])
        given, low = low, self.adapted(low)
        channels = [self._channel(low, channel, draws) for channel in self._served(low)]
        images, deviations, errors = zip(*channels, strict=True)
        high = self.checkpoint.info.high
        values_CKN = from_channel_images(images, low.mixing_orders, low.grid)
        matrix = SystemMatrix(
            values_CKN,
            low.mixing_orders,
            low.grid,
            high,
            low.fx_hz,
            low.nd,
            low.tracer,
            low.unit,
            corrections=low.corrections,
            heights_m=low.heights_m,
            origin_m=low.origin_m,
            axes=low.axes,
        )
        deviation_CKN = expected_CK = factors_CQ = None
        distance = self.distance(low)
        if max(draws, self.schedule.samples) > 1:
            deviation_CKN = from_channel_images(deviations, low.mixing_orders, low.grid).real
            if self.intervals is not None and self.intervals.draws == max(draws, self.schedule.samples):
                levels = (low.above_noise_db(channel) for channel in self._served(low))
                factors_CQ = np.array([self.intervals.at(level, distance) for level in levels])
        if self.checkpoint.scan_models.mean is not None:
            swapped = [other[swapped_orders(low.mixing_orders, low.grid)] for other in errors[1:]]
            expected_CK = np.stack([errors[0], *swapped])
        in_order = [order for order in given.mixing_orders if order in set(low.mixing_orders)]
        back_K = [low.mixing_orders.index(order) for order in in_order]
        noise_CK = in_noise(low)
        return Synthesis(
            with_orders(dataclasses.replace(matrix, deviation_CKN=deviation_CKN), tuple(in_order)),
            None if expected_CK is None else expected_CK[:, back_K],
            distance,
            None if noise_CK is None else noise_CK[:, back_K],
            factors_CQ,
        )

    def adapted(self, low: SystemMatrix) -> SystemMatrix:
        """`low` in the terms of the model, with which it agrees: its grid, its field, its mixing orders in their order.

        Raises:
            DataError: it does not agree; see `check`.
        """
        self.check(low)
        info = self.checkpoint.info
        return with_orders(dataclasses.replace(low, grid=info.grid, field=info.low), info.orders)

    def _served(self, low: SystemMatrix) -> list[int]:
        return [channel for channel in range(len(low.values_CKN)) if channel in self.checkpoint.info.channels]

    def distance(self, low: SystemMatrix) -> float | None:
        """How far the condition lies from the training scans, in units of the limit; None without a record of them.

        Of a volume that of its farthest plane.
        """
        if len(low.heights_m) > 1:
            found = [self.distance(plane) for plane in low.planes()]
            return max((each for each in found if each is not None), default=None)
        trust, low = self._trust(), self.adapted(low)
        return None if trust is None else trust.distance(low, self._served(low))

    def _trust(self) -> Trust | None:
        models, training = self.checkpoint.scan_models, self.checkpoint.info.training
        if models.domain is None:
            return None
        delays = partial(self._delay_check, models.domain.regression.features_SF)
        return Trust(models.domain, models, delays, training.measurement_noise_db)

    def _delay_check(self, features_SF: Tensor) -> DelayCheck:
        if self._delays is None:
            self._delays = DelayCheck.fitted(features_SF, self.checkpoint.info.orders)
        return self._delays

    def _channel(
        self, low: SystemMatrix, channel: int, draws: int
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]:
        """Images and their deviation, (K, Y, X), and the expected error of each component, (K,)."""
        given = self._given(low, channel)
        drawn = self._drawn(given, self.schedule)
        mean = given.pattern(drawn.mean)
        if draws > self.schedule.samples:
            drawn = self._drawn(given, self.schedule.model_copy(update={"samples": draws}))
        deviation = given.spread_K[:, None, None, None] * given.images(drawn.deviation)
        unit = ScaledImages.of(torch.complex(mean[:, 0], mean[:, 1]).numpy())
        scales_K = self.checkpoint.scan_models.gain(given.features, given.low_scales_K).numpy()
        images = ScaledImages(unit.patterns, scales_K).images()
        per_pattern = (scales_K / np.where(unit.scales > 0, unit.scales, 1.0))[:, None, None]
        deviations = per_pattern * deviation.square().sum(1).sqrt().numpy().astype(np.complex128)
        return images, deviations, math.sqrt(2) * given.spread_K.numpy()

    def pattern_draws(
        self, low: SystemMatrix, channel: int, count: int, voxels: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Draws of one channel's patterns, (M, K, 2, Y, X), in units of each component's maximum modulus in their mean.

        Args:
            voxels: only of these, (M, K, 2, n). Where spectra are drawn about a mean, that spares the draws of others;
                the unit is then the mean's.

        Raises:
            DataError, DivergenceError: as `predict`.
        """
        self.check(low)
        given, schedule = self._given(low, channel), self.schedule.model_copy(update={"samples": count})
        some = None
        if voxels is not None and given.spectra is not None and self.checkpoint.denoiser.spread is not None:
            some = torch.from_numpy(voxels)
        drawn = self._drawn(given, schedule, count, some)
        mean = given.pattern(drawn.mean if some is None else self._drawn(given, self.schedule).mean)
        scale_K = mean.square().sum(1).sqrt().amax((1, 2))
        scale_K = torch.where(scale_K > 0, scale_K, 1.0)
        draws_M = torch.stack([given.pattern(draw, some) for draw in drawn.draws[0]])
        patterns: NDArray[np.float64] = (draws_M / scale_K[:, None, None, None]).numpy()
        return patterns if voxels is None else patterns.reshape(*patterns.shape[:3], -1)[..., voxels]

    def _given(self, low: SystemMatrix, channel: int) -> "_Given":
        scaled = ScaledImages.of(low.channel_images(channel))
        features = scan_features(scaled.patterns, scaled.scales, low.drive_hz(channel), low.nd)
        noise_K, low_scales_K = low.channel_noise(channel), torch.from_numpy(scaled.scales)
        training, models = self.checkpoint.info.training, self.checkpoint.scan_models
        if training.told_noise:
            features, low_scales_K = models.without_noise(features, low_scales_K, noise_K)
        condition = make_condition(scaled.patterns, low.mixing_orders, scaled.scales, features, noise_K)
        shape = low.grid.size[1], low.grid.size[0]
        spectra = Spectra.for_images(training.diffuse, torch.tensor(low.mixing_orders), shape)
        if spectra:
            condition = spectra.condition(condition, channel)
            names = [f"{channel}/voxel {voxel}" for voxel in range(low.grid.voxels)]
        else:
            names = [f"{channel}/{m_x},{m_y}" for m_x, m_y in low.mixing_orders]
        mean, spread_K = models.origin(features, (len(low.mixing_orders), *shape))
        return _Given(condition, names, features, low_scales_K, mean.double(), spread_K.double(), spectra)

    def _drawn(self, given: "_Given", schedule: ScheduleSettings, kept: int = 0, rows: Tensor | None = None) -> Drawn:
        """What a schedule draws of one channel, or of some rows of its condition."""
        condition, names = given.condition, given.names
        if rows is not None:
            condition, names = condition[rows], [names[row] for row in rows.tolist()]
        noise = ImageNoise(self.seed, names, (condition.image.shape[2], condition.image.shape[3]))
        diffusion = self.checkpoint.info.training.diffusion
        return sample_mean(self.checkpoint.denoiser, diffusion, schedule, condition.to(self.device), noise, kept)

    def check(self, low: SystemMatrix) -> None:
        """Raise a DataError if `low` is outside what the model was trained for."""
        info = self.checkpoint.info
        if not low.grid.agrees(info.grid):
            given, trained = (_grid(along_scanner(low.axes, grid)) for grid in (low.grid, info.grid))
            raise DataError(f"the condition's grid is {given}; the model was trained for {trained}")
        if low.unit != info.unit:
            raise DataError(f"the condition's values are in {low.unit}; the model was trained for {info.unit}")
        for name in ("gradient_t_per_m", "drive_mt"):
            given, trained = (getattr(along_scanner(low.axes, field), name) for field in (low.field, info.low))
            if not np.allclose(given, trained, rtol=AGREEMENT):
                raise DataError(f"the condition's {name} is {given}; the model was trained for {trained}")
        missing = [order for order in info.orders if order not in set(low.mixing_orders)]
        if missing:
            raise DataError(
                f"the condition lacks {len(missing)} of the {len(info.orders)} mixing orders that the model was "
                f"trained for, first {scanner_order(low.axes, missing[0])}"
            )
        for channel, values_KN in enumerate(low.values_CKN):
            if not np.any(values_KN):
                number = scanner_channels(low)[channel]
                raise DataError(f"the condition's receive channel {number} is zero everywhere: it has no amplitude")

    def outside(self, low: SystemMatrix) -> str | None:
        """Why the condition is unlike the training scans: f_x, N_d, the height of its plane or noise outside their
        range, or a distance above the limit (`TrainingDomain`); None if it is like them, or if the model has no record
        of them. Of a volume the reason of the first plane that is unlike.

        `synthesise` answers there too, so that a split outside the range can be evaluated; nothing else vouches for it.

        Raises:
            DataError: as `predict`.
        """
        if len(low.heights_m) > 1:
            reasons = ((plane, self.outside(plane)) for plane in low.planes())
            return next((f"plane z = {_mm(plane):.4g} mm: {why}" for plane, why in reasons if why), None)
        low = self.adapted(low)
        (lowest_mm, highest_mm), slack_mm = self.checkpoint.info.heights_mm, 1e3 * PLANE_SLACK * min(low.grid.voxel_m)
        if not lowest_mm - slack_mm <= _mm(low) <= highest_mm + slack_mm:
            return (
                f"the condition's plane lies {_mm(low):.4g} mm above the field-free point; the model was trained for "
                f"{lowest_mm:g} to {highest_mm:g} mm"
            )
        frequencies, numbers = trajectories(self.checkpoint.scan_models.gain.regression.features_SF)
        for name, value, trained, unit in (
            (f"f_{low.axes[0]}", low.fx_hz / 1e3, frequencies / 1e3, " kHz"),
            ("N_d", float(low.nd), numbers, ""),
        ):
            least, most = trained.min().item(), trained.max().item()
            # A part in a million more: the range comes back through a logarithm.
            if not (1 - RANGE_SLACK) * least * (1 - 1e-6) <= value <= (1 + RANGE_SLACK) * most * (1 + 1e-6):
                return (
                    f"the condition's {name} is {value:g}{unit}; the model was trained for {least:g} to {most:g}{unit} "
                    f"and answers up to {RANGE_SLACK:.0%} outside"
                )
        trust = self._trust()
        return None if trust is None else trust.unlike(low, self._served(low))


def _stacked(low: SystemMatrix, made: "list[Synthesis]") -> "Synthesis":
    """The planes of a volume as one; the expected error is the root mean square of theirs, distance and intervals are
    the largest."""
    deviations = [each.deviation_CKN for each in made if each.deviation_CKN is not None]
    expected = [each.expected_error_CK for each in made if each.expected_error_CK is not None]
    factors = [each.interval_factors_CQ for each in made if each.interval_factors_CQ is not None]
    deviation_CKN = np.concatenate(deviations, axis=-1) if deviations else None
    return Synthesis(
        dataclasses.replace(
            made[0].matrix,
            values_CKN=np.concatenate([each.matrix.values_CKN for each in made], axis=-1),
            heights_m=low.heights_m,
            deviation_CKN=deviation_CKN,
        ),
        np.sqrt(np.mean(np.square(expected), axis=0)) if expected else None,
        max((each.distance for each in made if each.distance is not None), default=None),
        made[0].in_noise_CK,
        np.max(factors, axis=0) if factors else None,
    )


def _mm(plane: SystemMatrix) -> float:
    return 1e3 * plane.heights_m[0]


def _grid(grid: Grid) -> str:
    return f"{grid.size[0]} × {grid.size[1]} over {grid.fov_mm[0]:g} × {grid.fov_mm[1]:g} mm"


def synthesise_file(
    synthesiser: Synthesiser,
    source: str | Path,
    target: str | Path,
    *,
    model: str,
    overwrite: bool = False,
    extrapolate: bool = False,
) -> Synthesis:
    """Turn a low-gradient MDF file into a high-gradient one that says how it was made; equal arguments, equal bytes.

    Args:
        model: the name of the model for the file, such as its URI and version.
        extrapolate: also for a condition that is unlike the training scans; the file says so then.

    Raises:
        DataError: the input cannot be used, or the output exists and `overwrite` is false.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists; use --force to overwrite it")
    if not target.parent.is_dir():
        raise DataError(f"{target}: its folder {target.parent} does not exist")
    try:
        low, provenance = read_mdf(source), read_provenance(source)
        outside = synthesiser.outside(low)
        if outside and not extrapolate:
            raise DataError(f"{outside}; --extrapolate does it anyway")
        made = dataclasses.replace(synthesiser.synthesise(low, synthesiser.draws), outside=outside)
    except DataError as error:
        raise DataError(f"{source}: {error}" if str(source) not in str(error) else str(error)) from None
    origin = origin_fields(synthesiser, source, model)
    write_mdf(
        target,
        made.matrix,
        uuid=str(uuid.uuid5(UUID_SPACE, "/".join(map(str, origin.values())))),
        time=provenance.time,
        averages=provenance.averages,
        provenance=provenance.fields,
        extra={**origin, **_trust(made)},
    )
    return made


def origin_fields(synthesiser: Synthesiser, source: str | Path, model: str) -> dict[str, Any]:
    """User fields that say how a file is made; equal fields, equal bytes."""
    return {
        "/calibration/_synthesisSource": sha256(source),
        "/calibration/_synthesisModel": model,
        "/calibration/_synthesisSchedule": synthesiser.schedule.model_dump_json(),
        "/calibration/_synthesisSeed": synthesiser.seed,
        "/calibration/_trainingDataset": synthesiser.checkpoint.info.dataset_hash,
    }


def _trust(made: Synthesis) -> dict[str, NDArray[Any]]:
    """User fields that say how far to trust a file, in its order of channels and voxels."""
    fields: dict[str, NDArray[Any]] = {}
    if made.deviation_CKN is not None:
        fields[DEVIATION] = scanner_values(made.matrix, made.deviation_CKN)
    if made.interval_factors_CQ is not None:
        fields["/calibration/_intervalFactors"] = np.array(scanner_order(made.matrix.axes, made.interval_factors_CQ))
        fields["/calibration/_intervalLevels"] = np.array(LEVELS)
    if made.expected_error_CK is not None:
        fields["/calibration/_expectedError"] = np.array(scanner_order(made.matrix.axes, made.expected_error_CK))
    if made.in_noise_CK is not None:
        fields["/calibration/_conditionInNoise"] = np.array(scanner_order(made.matrix.axes, made.in_noise_CK), np.int8)
    if made.distance is not None:
        fields[DISTANCE] = np.array(made.distance)
    if made.outside:
        fields[EXTRAPOLATED] = np.array(1, dtype=np.int8)
    return fields


def load_synthesiser(
    folder: str | Path, schedule: ScheduleSettings | None = None, seed: int = 0, device: str = "cpu"
) -> Synthesiser:
    """The synthesiser of a checkpoint folder."""
    return Synthesiser(load_checkpoint(folder), schedule, seed, device)
