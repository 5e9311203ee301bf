"""Record trials for the benchmark of search algorithms: train at quasi-random points, and keep what each rung reports.

    python tests/benchmarks/record_trials.py data/demo trials.csv 512

One process, one thread; what is in the file already is not trained again. A trial is what a sweep's is, trained and
rated by the same code in one pass, at more training steps than ASHA's rungs; the full budget is rated by the schedules
of the early rungs, too, without an inner search. Seconds are processor time.
"""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import qmc

from sm_search.config.errors import DivergenceError
from sm_search.data.dataset import Dataset
from sm_search.evaluation.validation import Validation
from sm_search.search.schedule.race import search_images
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import load_space
from sm_search.search.space.tree import parameters_of
from sm_search.search.study.trial import judging_schedules
from sm_search.training import Trainer, training_images

SPACE = Path(__file__).parent / "recorded" / "space.yaml"
STEPS = (3, 9, 18, 27, 54, 81)
COLUMNS = [f"{what}_{steps}" for what in ("psnr", "seconds") for steps in STEPS]


def points(space: Space, number: int) -> list[dict[str, Any]]:
    """Quasi-random points of a space without branches (Sobol, scrambled)."""
    leaves = parameters_of(space.outer_tree())
    quantiles = qmc.Sobol(len(leaves), rng=space.seed).random(number).tolist()
    return [{name: leaf.at(u) for (name, leaf), u in zip(leaves.items(), row, strict=True)} for row in quantiles]


def record(space: Space, images: Any, validation: Validation, point: dict[str, Any]) -> dict[str, Any]:
    """Its row: metric and seconds so far at each of `STEPS`; no metric from where it diverged."""
    settings = training_settings(space, point)
    trainer, row, seconds = Trainer(settings, images, "cpu"), dict(point), 0.0
    for until in STEPS:
        begin = time.process_time()
        try:
            for _ in trainer.train(until):
                pass
            _, metrics = validation.best(
                trainer.ema, settings.diffusion, judging_schedules(space, point), space.metric, "cpu"
            )
        except DivergenceError:
            break
        seconds += time.process_time() - begin
        row |= {f"psnr_{until}": f"{metrics['val_psnr_db']:.4f}", f"seconds_{until}": f"{seconds:.3f}"}
    return row


def main(data: str, out: str, number: int) -> None:
    torch.set_num_threads(1)
    space, file = load_space(SPACE), Path(out)
    dataset = Dataset.open(data)
    images, models = training_images(dataset, "train", (0,), "none")
    whole = Validation.of(dataset, models)
    validation = search_images(whole, space.budget.images)
    done = file.read_text().count("\n") - 1 if file.exists() else 0
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, [*parameters_of(space.outer_tree()), *COLUMNS])
        if done < 0 or not file.read_text():
            writer.writeheader()
        for point in points(space, number)[max(0, done) :]:
            writer.writerow(record(space, images, validation, point))
            stream.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
