"""A checkpoint folder: `model.safetensors` (weights, basis, gain) and `checkpoint.json` (everything else). No pickle."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sm_search.config.base import Settings
from sm_search.config.errors import CheckpointError
from sm_search.config.model import ScheduleSettings, TrainingSettings
from sm_search.config.simulation import FieldSettings, Grid
from sm_search.diffusion.denoiser import Denoiser, build_denoiser
from sm_search.diffusion.gain import GainModel

WEIGHTS_FILE = "model.safetensors"
SETTINGS_FILE = "checkpoint.json"
MAX_JSON_BYTES = 10_000_000


class CheckpointInfo(Settings):
    """What `checkpoint.json` holds.

    Attributes:
        orders: mixing orders that the model was trained for.
        dataset_hash: content hash of the training dataset.
        training_scans: number of scans behind the gain model.
        metrics: validation metrics by name.
    """

    format: int = 1
    training: TrainingSettings
    schedule: ScheduleSettings
    grid: Grid
    low: FieldSettings
    high: FieldSettings
    orders: tuple[tuple[int, int], ...]
    dataset: str
    dataset_hash: str
    training_scans: int
    metrics: dict[str, float] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its schedule and all that synthesis needs."""

    info: CheckpointInfo
    denoiser: Denoiser
    gain: GainModel

    def save(self, folder: Path) -> None:
        """Write both files; the JSON last and by renaming, so a folder with it is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"denoiser.{name}": value for name, value in self.denoiser.state_dict().items()}
        tensors |= {f"gain.{name}": value for name, value in self.gain.state_dict().items()}
        try:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / WEIGHTS_FILE
            )
            temporary = folder / f".{SETTINGS_FILE}.{os.getpid()}"
            temporary.write_text(json.dumps(self.info.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
            os.replace(temporary, folder / SETTINGS_FILE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: the checkpoint cannot be written: {error}") from None


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
        raise CheckpointError(f"{path}: is not a readable safetensors file: {error}") from None
    with torch.random.fork_rng(devices=[]):
        denoiser = build_denoiser(info.training.backbone, (info.grid.size[1], info.grid.size[0]))
    gain = GainModel(info.training_scans, len(info.orders))
    try:
        for prefix, module in (("denoiser.", denoiser), ("gain.", gain)):
            part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            module.load_state_dict(part)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit {SETTINGS_FILE}: {' '.join(str(error).split())[:300]}") from None
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise CheckpointError(f"{path}: holds NaN or infinite weights")
    denoiser.eval().requires_grad_(False)
    return Checkpoint(info, denoiser, gain)
