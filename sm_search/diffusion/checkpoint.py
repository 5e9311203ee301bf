"""A checkpoint folder: `model.safetensors` (network, basis, regressions), `checkpoint.json` (all else); no pickle."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sm_search.config.base import Settings
from sm_search.config.errors import CheckpointError, SettingsError
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.diffusion.backbones import denoiser_of
from sm_search.diffusion.denoiser import Denoiser
from sm_search.diffusion.intervals import Intervals
from sm_search.diffusion.spectra import state_shape
from sm_search.regression.gain import GainModel
from sm_search.regression.mean import MeanModel
from sm_search.regression.scan_features import feature_count
from sm_search.regression.scan_models import ScanModels
from sm_search.regression.training_domain import TrainingDomain

WEIGHTS_FILE = "model.safetensors"
SETTINGS_FILE = "checkpoint.json"
MAX_JSON_BYTES = 10_000_000


class CheckpointInfo(Settings):
    """What `checkpoint.json` holds.

    Attributes:
        orders: mixing orders that the model was trained for.
        unit: of the system matrices that it was trained on.
        channels: receive channels that it serves.
        dataset_hash: content hash of the training dataset.
        training_scans: number of scans behind the gain and the mean model.
        gain_rank, mean_rank, domain_rank: directions that their outputs are stored in; no `mean_rank` without mean
            model, no `domain_rank` in checkpoints of older versions, which do not know what conditions look like.
        heights_mm: of the lowest and the highest plane that it was trained on, along z from the field-free point.
        metrics: validation metrics by name.
        intervals: how far its values may be off, of a model that draws with this schedule; None in others, and in those
            of older versions.
    """

    added: ClassVar[frozenset[str]] = frozenset({"heights_mm", "intervals"})

    format: int = Field(default=1, ge=1, le=1)
    training: TrainingSettings
    schedule: ScheduleSettings
    grid: Grid
    low: FieldSettings
    high: FieldSettings
    orders: Annotated[tuple[tuple[int, int], ...], Field(min_length=1)]
    unit: str = "A/m"
    channels: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1)
    dataset: str
    dataset_hash: str
    training_scans: Annotated[int, Field(ge=1)]
    gain_rank: Annotated[int, Field(ge=0)]
    mean_rank: Annotated[int, Field(ge=0)] | None
    domain_rank: Annotated[int, Field(ge=0)] | None = None
    heights_mm: tuple[float, float] = (0.0, 0.0)
    metrics: dict[str, float] = Field(default={})
    intervals: Intervals | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its schedule and all that synthesis needs."""

    info: CheckpointInfo
    denoiser: Denoiser
    scan_models: ScanModels

    def save(self, folder: Path) -> None:
        """Write both files. The JSON goes first and comes last, by renaming: a folder with it is complete.

        Raises:
            CheckpointError: the operating system refuses.
        """
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in _tensors(self.denoiser, self.scan_models).items()
        }
        text = json.dumps(self.info.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        temporary = folder / f".{SETTINGS_FILE}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SETTINGS_FILE).unlink(missing_ok=True)
            save_file(tensors, folder / WEIGHTS_FILE)
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, folder / SETTINGS_FILE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: the checkpoint cannot be written: {error}") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def read_info(folder: Path) -> CheckpointInfo:
    """Only the settings of a checkpoint.

    Raises:
        CheckpointError: missing or invalid.
    """
    path = Path(folder) / SETTINGS_FILE
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_JSON_BYTES} bytes, the limit for checkpoint settings")
        return CheckpointInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: does not exist; a checkpoint folder holds {SETTINGS_FILE} and {WEIGHTS_FILE}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CheckpointError(f"{path}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from None


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Load a checkpoint folder.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the other.
    """
    folder = Path(folder)
    info = read_info(folder)
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a readable safetensors file: {' '.join(str(error).split())}") from None
    try:
        # Without storage: settings that ask for terabytes are refused by the comparison, not by the machine.
        with torch.device("meta"):
            training, shape = info.training, (info.grid.size[1], info.grid.size[0])
            features = feature_count(len(info.orders))
            diffused = state_shape(training.diffuse, len(info.orders), shape)
            denoiser = denoiser_of(training, diffused, features)
            models = _empty_scan_models(info, shape)
    except (SettingsError, RuntimeError) as error:
        raise CheckpointError(f"{folder / SETTINGS_FILE}: no such model can be built: {error}") from None
    _require_fit(path, tensors, _tensors(denoiser, models))
    for prefix, module in _modules(denoiser, models).items():
        part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        module.load_state_dict(part, assign=True)
    denoiser.eval().requires_grad_(False)
    return Checkpoint(info, denoiser, models)


def _empty_scan_models(info: CheckpointInfo, shape: tuple[int, int]) -> ScanModels:
    scans, components = info.training_scans, len(info.orders)
    mean = None if info.mean_rank is None else MeanModel(scans, components, shape, info.mean_rank)
    domain = None
    if info.domain_rank is not None:
        domain = TrainingDomain(scans, components, 2 * shape[0] * shape[1], info.domain_rank)
    return ScanModels(GainModel(scans, components, info.gain_rank), mean, domain)


def _modules(denoiser: Denoiser, models: ScanModels) -> dict[str, nn.Module]:
    """The parts of a checkpoint by the prefix of their tensors' names."""
    modules: dict[str, nn.Module] = {"denoiser.": denoiser, "gain.": models.gain}
    if models.mean is not None:
        modules["mean."] = models.mean
    if models.domain is not None:
        modules["domain."] = models.domain
    return modules


def _tensors(denoiser: Denoiser, models: ScanModels) -> dict[str, Tensor]:
    """What `model.safetensors` holds, by name."""
    return {
        f"{prefix}{name}": value
        for prefix, module in _modules(denoiser, models).items()
        for name, value in module.state_dict().items()
    }


def _require_fit(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        shown = [
            f"{tensors[name].dtype} {list(tensors[name].shape)}" if name in tensors else "absent"
            for tensors in (found, expected)
        ]
        if shown[0] != shown[1]:
            raise CheckpointError(f"{path}: {name}: is {shown[0]}, but by {SETTINGS_FILE} {shown[1]}")
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(f"{path}: {name}: holds NaN or infinite values")
