"""Checkpoint + schedule + low-gradient system matrix → high-gradient system matrix in physical units."""

import uuid
from pathlib import Path

import numpy as np
import torch

from sm_search.config.errors import DataError
from sm_search.config.model import ScheduleSettings
from sm_search.config.simulation import FieldSettings, Grid
from sm_search.data.atomic import sha256
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_reading import read_field, read_mdf
from sm_search.data.scaling import ScaledImages
from sm_search.diffusion.checkpoint import Checkpoint, load_checkpoint
from sm_search.diffusion.condition import make_condition
from sm_search.diffusion.samplers import ImageNoise, sample
from sm_search.diffusion.scan_features import scan_features
from sm_search.physics.system_matrix import SystemMatrix, from_channel_images

UUID_SPACE = uuid.UUID("0c6f2f3c-5a2e-4d0e-9a43-6a2b1d5d7a11")


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
        checkpoint.denoiser.to(device)

    @property
    def grid(self) -> Grid:
        return self.checkpoint.info.grid

    @property
    def low(self) -> FieldSettings:
        return self.checkpoint.info.low

    @property
    def unit(self) -> str:
        return self.checkpoint.info.unit

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        """Synthesise the high-gradient matrix with the channels and mixing orders of `low`.

        Raises:
            DataError: `low` is not of the grid, unit, field or orders that the model was trained for; the message says
                which.
            DivergenceError: sampling left the finite numbers.
        """
        self.check(low)
        images = [self._channel(low, channel) for channel in range(len(low.values_CKN))]
        values_CKN = from_channel_images(images, low.mixing_orders, low.grid)
        return SystemMatrix(
            values_CKN, low.mixing_orders, low.grid, self.checkpoint.info.high, low.fx_hz, low.nd, low.tracer, low.unit
        )

    def _channel(self, low: SystemMatrix, channel: int) -> np.ndarray:
        scaled = ScaledImages.of(low.channel_images(channel))
        condition = make_condition(scaled.patterns, low.mixing_orders, scaled.scales).to(self.device)
        info = self.checkpoint.info
        names = [f"{channel}/{m_x},{m_y}" for m_x, m_y in low.mixing_orders]
        noise = ImageNoise(self.seed, names, (info.grid.size[1], info.grid.size[0]))
        drawn = sample(self.checkpoint.denoiser, info.training.diffusion, self.schedule, condition, noise).cpu()
        features = scan_features(scaled.patterns, scaled.scales, low.drive_hz(channel), low.nd)
        models = self.checkpoint.scan_models
        mean, spread_K = models.origin(features, (len(names), *noise.shape[1:]))
        patterns = (mean + spread_K[:, None, None, None] * drawn).double().numpy()
        high_scales = models.gain(features, torch.from_numpy(scaled.scales)).numpy()
        return ScaledImages(ScaledImages.of(patterns[:, 0] + 1j * patterns[:, 1]).patterns, high_scales).images()

    def check(self, low: SystemMatrix) -> None:
        """Raise a DataError if `low` is outside what the model was trained for."""
        info = self.checkpoint.info
        if low.grid != info.grid:
            raise DataError(f"the condition's grid is {_grid(low.grid)}; the model was trained for {_grid(info.grid)}")
        if low.unit != info.unit:
            raise DataError(f"the condition's values are in {low.unit}; the model was trained for {info.unit}")
        for name in ("gradient_t_per_m", "drive_mt"):
            given, trained = getattr(low.field, name), getattr(info.low, name)
            if not np.allclose(given, trained, rtol=1e-6):
                raise DataError(f"the condition's {name} is {given}; the model was trained for {trained}")
        if low.mixing_orders != info.orders:
            unknown = sorted(set(low.mixing_orders) ^ set(info.orders))
            raise DataError(
                f"the condition has {len(low.mixing_orders)} mixing orders, the model was trained for "
                f"{len(info.orders)}"
                + (f"; first that only one has: {unknown[0]}" if unknown else ", in another order")
            )
        for channel, values_KN in enumerate(low.values_CKN):
            if not np.any(values_KN):
                raise DataError(f"the condition's receive channel {channel} is zero everywhere: it has no amplitude")


def _grid(grid: Grid) -> str:
    return f"{grid.size[0]} × {grid.size[1]} over {grid.fov_mm[0]:g} × {grid.fov_mm[1]:g} mm"


def synthesise_file(
    synthesiser: Synthesiser, source: str | Path, target: str | Path, *, model: str, overwrite: bool = False
) -> SystemMatrix:
    """Turn a low-gradient MDF file into a high-gradient one that says how it was made; equal arguments, equal bytes.

    Args:
        model: the name of the model for the file, such as its URI and version.

    Raises:
        DataError: the input cannot be used, or the output exists and `overwrite` is false.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists; use --force to overwrite it")
    if not target.parent.is_dir():
        raise DataError(f"{target}: its folder {target.parent} does not exist")
    try:
        high = synthesiser.predict(read_mdf(source))
    except DataError as error:
        raise DataError(f"{source}: {error}" if str(source) not in str(error) else str(error)) from None
    info, schedule = synthesiser.checkpoint.info, synthesiser.schedule.model_dump_json()
    origin = [sha256(source), model, schedule, str(synthesiser.seed), info.dataset_hash]
    write_mdf(
        target,
        high,
        uuid=str(uuid.uuid5(UUID_SPACE, "/".join(origin))),
        time=str(read_field(source, "/time")),
        extra={
            "/calibration/_synthesisModel": model,
            "/calibration/_synthesisSchedule": schedule,
            "/calibration/_synthesisSeed": synthesiser.seed,
            "/calibration/_synthesisSource": sha256(source),
            "/calibration/_trainingDataset": info.dataset_hash,
        },
    )
    return high


def load_synthesiser(
    folder: str | Path, schedule: ScheduleSettings | None = None, seed: int = 0, device: str = "cpu"
) -> Synthesiser:
    """The synthesiser of a checkpoint folder."""
    return Synthesiser(load_checkpoint(folder), schedule, seed, device)
