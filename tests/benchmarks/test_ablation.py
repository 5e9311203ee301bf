"""What each part of the method is worth: one training per variant, everything else equal.

    pytest -m benchmark -s tests/benchmarks/test_ablation.py

PAPER_54 names a finished dataset of the preset, else it is simulated first; STEPS is the budget of each training. Each
variant changes one thing of the base, a diffusion of the patterns themselves (mean: none): x0-prediction from the
Wiener input with most draws at t = T. Prints mean PSNR and SSIM on three scans that no training saw.
"""

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from sm_search.config.model_settings import Mean, ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import Checkpoint
from sm_search.regression.scan_models import ScanModels
from sm_search.training import Trainer, TrainingImages, make_checkpoint

Train = Callable[[str], tuple[Checkpoint, float]]
Quality = Callable[[Checkpoint, ScheduleSettings], str]

pytestmark = pytest.mark.benchmark

STEPS = int(os.environ.get("STEPS", "600"))
BASE: dict[str, Any] = {"mean": "none", "learning_rate": 3e-3, "share_at_end": 0.7, "p_uncond": 0.1, "steps": STEPS}
LINEAR = {"backbone": "linear-basis", "coefficients": 384, "width": 512, "blocks": 4}
UNET: dict[str, Any] = {"learning_rate": 1e-3, "steps": max(1, STEPS // 10)}

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "diffusion of the residual about the mean": {"mean": "kernel-ridge"},
    "epsilon-prediction (paper)": {"diffusion": {"prediction": "epsilon"}, "share_at_end": 0.0},
    "v-prediction": {"diffusion": {"prediction": "v"}, "share_at_end": 0.0},
    "x0-prediction, t uniform": {"share_at_end": 0.0},
    "min-SNR weighting, t uniform": {"loss_weighting": "min-snr", "share_at_end": 0.0},
    "cosine noise schedule": {"diffusion": {"noise_schedule": "cosine"}},
    "no Wiener input": {"backbone": {**LINEAR, "wiener_input": False}},
    "no moving average (EMA)": {"ema_decay": 0.0},
    "no condition dropout": {"p_uncond": 0.0},
    "noise on the condition (paper's text)": {"condition_noise": "same-level"},
    "decaying condition weight (paper's text)": {"condition_weight": "decay"},
    "no mixing orders": {"backbone": {**LINEAR, "order_embedding": "none"}},
    "context: 3 components of the scan's features": {"backbone": {**LINEAR, "context": 3}},
    "context: 12 components of the scan's features": {"backbone": {**LINEAR, "context": 12}},
    "parity augmentation": {"augmentation": "parity"},
    "pixel U-Net, a tenth of the images": {**UNET, "backbone": {"backbone": "unet"}},
    "pixel U-Net, patch 2, a tenth of the images": {**UNET, "backbone": {"backbone": "unet", "patch": 2}},
    "pixel U-Net, patch 4, a tenth of the images": {**UNET, "backbone": {"backbone": "unet", "patch": 4}},
}

SCHEDULES: dict[str, dict[str, Any]] = {
    "DDIM, 1 step": {"steps": 1},
    "DDIM, 4 steps": {"steps": 4},
    "DDIM, 16 steps": {"steps": 16},
    "DDIM, 50 steps": {"steps": 50},
    "DPM-Solver++ 2M, 4 steps": {"sampler": "dpmpp", "steps": 4},
    "DPM-Solver++ 2M, 16 steps": {"sampler": "dpmpp", "steps": 16},
    "DDPM, 16 steps": {"sampler": "ddpm", "steps": 16},
    "DDPM, 16 steps, mean of 8": {"sampler": "ddpm", "steps": 16, "samples": 8},
    "Algorithm 2 as printed, 16 steps": {"sampler": "paper", "steps": 16},
    "guidance 1.5, DDIM, 4 steps": {"steps": 4, "guidance": 1.5},
    "η_max 0.1, DDIM, 16 steps": {"steps": 16, "eta_max": 0.1},
    "η_max 0.3, DDIM, 16 steps": {"steps": 16, "eta_max": 0.3},
    "w 0.8 … 1, DDIM, 16 steps": {"steps": 16, "w_min": 0.8, "w_max": 1.0},
    "w 0 … 1, DDIM, 16 steps": {"steps": 16, "w_min": 0.0, "w_max": 1.0},
}


@pytest.fixture(scope="module")
def trained(paper_54: Dataset, training_data: Callable[[Mean], tuple[TrainingImages, ScanModels]]) -> Train:
    """A trained variant, and images a second."""

    @cache
    def train(variant: str) -> tuple[Checkpoint, float]:
        settings = TrainingSettings.model_validate_json(json.dumps({**BASE, **VARIANTS[variant]}))
        images, models = training_data(settings.mean)
        trainer = Trainer(settings, images)
        (record,) = trainer.train(settings.steps, settings.steps)
        return make_checkpoint(trainer, paper_54, models, ScheduleSettings(), {}), record.images_per_second

    return train


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_of_the_training(variant: str, trained: Train, unseen_quality: Quality) -> None:
    torch.set_num_threads(1)
    checkpoint, rate = trained(variant)
    steps = (1,) if checkpoint.info.training.share_at_end else (50,)
    for count in (*steps, 16):
        cells = unseen_quality(checkpoint, ScheduleSettings(sampler="ddim", steps=count))
        print(f"\n| {variant} | {count} | {cells} | {rate:.0f} |", end="", flush=True)


@pytest.mark.parametrize(
    "variant", ["base", "diffusion of the residual about the mean", "noise on the condition (paper's text)"]
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule(name: str, variant: str, trained: Train, unseen_quality: Quality) -> None:
    torch.set_num_threads(1)
    checkpoint, _ = trained(variant)
    schedule = ScheduleSettings.model_validate(SCHEDULES[name])
    evaluations = schedule.evaluations(checkpoint.info.training.diffusion.timesteps)
    cells = unseen_quality(checkpoint, schedule)
    print(f"\n| {name}, {variant} | {evaluations} | {cells} |", end="", flush=True)
