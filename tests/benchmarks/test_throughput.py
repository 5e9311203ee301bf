"""Training throughput of each backbone, what each makes of the same time, and the time of a synthesis.

    PAPER_54=data/paper-54 SECONDS=60 pytest -m benchmark -s tests/benchmarks/test_throughput.py

PAPER_54 names a finished dataset of the preset, else it is simulated first; SECONDS is the training time of each
backbone in the second table. One thread, and on the CPU times are processor seconds, which other load changes little;
but a synthesis is timed by the clock, on all cores.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import Checkpoint
from sm_search.regression.scan_models import ScanModels
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, TrainingImages, make_checkpoint

pytestmark = pytest.mark.benchmark

Data = Callable[..., tuple[TrainingImages, ScanModels]]

SECONDS = float(os.environ.get("SECONDS", "60"))
MEASURED_SECONDS = 5.0
SYNTHESES = 5
PEAK_SIZE = 2048

BACKBONES: dict[str, dict[str, Any]] = {
    "linear-basis": {"backbone": {"backbone": "linear-basis"}, "learning_rate": 3e-3, "batch_size": 256},
    # As in search_spaces/scanner.yaml.
    "linear-basis, spectra": {
        "diffuse": "folded-voxel",
        "backbone": {"backbone": "linear-basis", "coefficients": 384, "width": 768, "blocks": 2, "whitening": 0.75},
        "learning_rate": 2e-3,
        "batch_size": 512,
    },
    **{
        f"unet, patch {patch}": {
            "backbone": {"backbone": "unet", "patch": patch},
            "learning_rate": 1e-3,
            "batch_size": 32,
        }
        for patch in (1, 2, 4)
    },
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def seconds(device: str) -> float:
    """Processor time on the CPU, time on the clock once the GPU is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def settings(backbone: str, **changes: Any) -> TrainingSettings:
    common = {"mean": "none", "share_at_end": 0.7, "steps": 100_000}
    return TrainingSettings.model_validate_json(json.dumps({**common, **BACKBONES[backbone], **changes}))


def step_seconds(trainer: Trainer) -> float:
    """Of one training step, after two that do not count."""
    list(trainer.train(trainer.step + 2))
    first, begin = trainer.step, seconds(trainer.device)
    while seconds(trainer.device) - begin < MEASURED_SECONDS:
        list(trainer.train(trainer.step + 1))
    return (seconds(trainer.device) - begin) / (trainer.step - first)


@cache
def peak_flops(device: str) -> float:
    """Of the product of two large float32 matrices, the best of five."""
    matrix = torch.randn(PEAK_SIZE, PEAK_SIZE, device=device)
    best = float("inf")
    for _ in range(5):
        begin = seconds(device)
        matrix @ matrix
        best = min(best, seconds(device) - begin)
    return 2 * PEAK_SIZE**3 / best


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_images_a_second(backbone: str, precision: str, compiled: bool, device: str, training_data: Data) -> None:
    if compiled and device == "cpu":
        pytest.skip("compiled on a GPU only")
    torch.set_num_threads(1)
    images, _ = training_data("none", settings(backbone).diffuse)
    trainer = Trainer(settings(backbone, precision=precision), images, device)
    with FlopCounterMode(display=False) as counter:
        list(trainer.train(1))
    if compiled:
        trainer.denoiser.compile()
    step = step_seconds(trainer)
    batch = trainer.settings.batch_size
    print(
        f"\n| {backbone} | {precision}{', compiled' if compiled else ''} | {device} | {batch / step:.0f} "
        f"| {counter.get_total_flops() / batch / 1e6:.0f} "
        f"| {100 * counter.get_total_flops() / step / peak_flops(device):.0f} % |",
        end="",
        flush=True,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_quality_after_the_same_time(
    backbone: str,
    device: str,
    paper_54: Dataset,
    training_data: Data,
    unseen_quality: Callable[[Checkpoint, ScheduleSettings], str],
) -> None:
    torch.set_num_threads(1)
    images, models = training_data("none", settings(backbone).diffuse)
    steps = max(1, round(SECONDS / step_seconds(Trainer(settings(backbone), images, device))))
    trainer = Trainer(settings(backbone, steps=steps), images, device)
    begin = seconds(device)
    list(trainer.train(steps))
    spent = seconds(device) - begin
    checkpoint = make_checkpoint(trainer, paper_54, models, ScheduleSettings(), {})
    checkpoint.denoiser.to("cpu")
    for count in (1, 8):
        cells = unseen_quality(checkpoint, ScheduleSettings(sampler="ddim", steps=count))
        print(f"\n| {backbone} | {device} | {spent:.0f} | {steps} | {count} | {cells} |", end="", flush=True)


@pytest.mark.parametrize("backbone", ["linear-basis", "linear-basis, spectra", "unet, patch 4"])
def test_synthesis_of_a_whole_matrix(backbone: str, paper_54: Dataset, training_data: Data) -> None:
    """Both receive channels, spectra also drawn eight times; the weights are untrained, which changes no time."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    spectra = settings(backbone).by_voxel
    mean, more = ("none", {"spread_share": 0.15}) if spectra else ("kernel-ridge", {})
    images, models = training_data(mean, settings(backbone).diffuse)
    trainer = Trainer(settings(backbone, mean=mean, **more), images)
    checkpoint = make_checkpoint(trainer, paper_54, models, ScheduleSettings(), {})
    low = next(iter(paper_54.pairs("test"))).low
    components = low.values_CKN.shape[0] * low.values_CKN.shape[1]
    for steps, draws in ((1, 1), (1, 8)) if spectra else ((0, 1), (1, 1), (4, 1), (16, 1), (50, 1)):
        synthesiser = Synthesiser(checkpoint, ScheduleSettings(sampler="ddim", steps=steps))
        taken = []
        for _ in range(SYNTHESES):
            begin = time.perf_counter()
            synthesiser.synthesise(low, draws)
            taken.append(time.perf_counter() - begin)
        print(
            f"\n| {backbone} | {components} | {steps} | {draws} | {statistics.median(taken):.3g} |", end="", flush=True
        )
