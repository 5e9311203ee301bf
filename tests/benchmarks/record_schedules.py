"""Record what p_uncond and the sampling schedule do on imperfect, noisy scanners: the paper's question, in one table.

    python tests/benchmarks/record_schedules.py data/scanner-64 schedules.csv component folded-voxel
    ALONE=1 python …        # of one model of each, noise and weight on the condition alone, one at a time

One process, one thread; what is in the file already is not done again. A model is trained `STEPS` steps, and every
schedule is rated with it on the same noisy scans: validation scans with noise `NOISE_DB` below the strongest component,
of which the network is told as in training. A schedule gives the mean of `DRAWS` draws. Seconds are processor time.
"""

import csv
import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from scipy.stats import qmc

from sm_search.config.model_settings import Diffuse, ScheduleSettings, TrainingSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.denoiser import Denoiser
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.training import Trainer, training_images

STEPS, SCANS, IMAGES, DRAWS, NOISE_DB = 300, 1, 96, 2, 70
P_UNCOND, CONDITION_NOISE = (0.0, 0.1, 0.2), ("none", "same-level")
ALONE = bool(os.environ.get("ALONE"))
SAMPLERS, SAMPLING_STEPS, DRAWN = ("ddim", "dpmpp", "ddpm"), (1, 2, 4, 8), 36
RANGES = {"eta_max": (0.0, 0.5), "gamma": (0.5, 4.0), "w_min": (0.5, 0.95), "w_max": (0.95, 1.15), "sigma": (0.5, 4.0)}
SCORES = ("val_psnr_db", "val_crps", "val_spread_error")
MODEL = ("diffuse", "condition_noise", "p_uncond")
COLUMNS = (*MODEL, "training_seconds", "sampler", "steps", *RANGES, *SCORES, "seconds")


def schedules() -> list[ScheduleSettings]:
    """Every sampler and number of steps without noise or weight on the condition, and quasi-random points (Sobol)."""
    plain = [
        ScheduleSettings(sampler=sampler, steps=steps, samples=DRAWS)
        for sampler, steps in itertools.product(SAMPLERS, SAMPLING_STEPS)
    ]
    drawn = []
    for u, v, *others in qmc.Sobol(2 + len(RANGES), rng=0).random(64)[:DRAWN].tolist():
        values = {name: low + (high - low) * at for (name, (low, high)), at in zip(RANGES.items(), others, strict=True)}
        chosen = {"sampler": SAMPLERS[int(3 * u)], "steps": SAMPLING_STEPS[int(4 * v)], "samples": DRAWS}
        drawn.append(ScheduleSettings.model_validate(values | chosen))
    return plain + drawn


def alone() -> list[ScheduleSettings]:
    """Noise without weight on the condition, and weight without noise, in four steps."""
    changes = [{"eta_max": eta} for eta in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4)]
    changes += [{"w_min": w} for w in (0.99, 0.95, 0.9, 0.8, 0.6)]
    return [ScheduleSettings(sampler="dpmpp", steps=4, samples=DRAWS, **change) for change in changes]


def settings_of(diffuse: Diffuse, condition_noise: str, p_uncond: float) -> TrainingSettings:
    """Those of demo.yaml, but that half of the draws lie between the ends, where a schedule of several steps looks."""
    backbone = {"backbone": "linear-basis", "coefficients": 336, "width": 512, "blocks": 2, "whitening": 0.75}
    return TrainingSettings.model_validate(
        {"diffuse": diffuse, "condition_noise": condition_noise, "p_uncond": p_uncond, "backbone": backbone}
        | {"mean": "none", "steps": STEPS, "batch_size": 512, "learning_rate": 3e-3, "share_at_end": 0.5}
        | {"measurement_noise_db": (60, 140), "receive_channels": (0,)}
    )


def noisy(validation: Validation) -> Validation:
    """The same with noise on the conditions, which is drawn once."""
    condition = validation.condition
    white = torch.randn(condition.image.shape, generator=torch.Generator().manual_seed(0))
    level = torch.full((len(condition),), 10 ** (-NOISE_DB / 20))
    # The spectra of voxels are in units of the strongest component already, each component's image in its own.
    unit = 1 if validation.spectra else 10**condition.log_scale
    return replace(validation, condition=condition.with_noise(white, level / unit))


def rated(
    schedules: Sequence[ScheduleSettings], denoiser: Denoiser, settings: TrainingSettings, validation: Validation
) -> list[dict[str, object]]:
    """Each schedule and its scores."""
    scorer, found = ScheduleScorer(denoiser, settings.diffusion, validation), []
    for schedule in schedules:
        begin = time.process_time()
        scores = scorer([schedule], 0, len(validation))
        seconds = time.process_time() - begin
        row = schedule.model_dump(include={"sampler", "steps", *RANGES}) | {"seconds": f"{seconds:.3f}"}
        found.append(row | {name: f"{scores[name].mean():.5g}" for name in SCORES})
    return found


def main(data: str, out: str, *diffused: str) -> None:
    torch.set_num_threads(1)
    dataset, file = Dataset.open(data), Path(out)
    done = set()
    if file.exists():
        with file.open() as stream:
            done = {tuple(row[name] for name in MODEL) for row in csv.DictReader(stream)}
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if not done:
            writer.writeheader()
        for name in diffused:
            diffuse = cast(Diffuse, name)
            images, models = training_images(dataset, "train", (0,), "none", diffuse=diffuse)
            whole = Validation.of(dataset, models, diffuse=diffuse)
            validation = noisy(whole.subset(IMAGES if diffuse == "component" else SCANS))
            models_of = [(diffuse, "none", 0.1)] if ALONE else itertools.product([diffuse], CONDITION_NOISE, P_UNCOND)
            for model in models_of:
                if tuple(map(str, model)) in done:
                    continue
                settings = settings_of(*model)
                trainer, begin = Trainer(settings, images, "cpu"), time.process_time()
                for _ in trainer.train(STEPS):
                    pass
                trained = {"training_seconds": f"{time.process_time() - begin:.1f}"}
                found = rated(alone() if ALONE else schedules(), trainer.ema, settings, validation)
                writer.writerows(dict(zip(MODEL, model, strict=True)) | trained | row for row in found)
                stream.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
