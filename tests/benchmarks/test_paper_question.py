"""The paper's question on imperfect, noisy scanners, from recorded schedules: what p_uncond and each parameter of the
schedule do to PSNR and to CRPS, and what a search on two levels is worth. Prints tables in seconds.

    pytest -m benchmark -s tests/benchmarks/test_paper_question.py      # RECORDS=FILE for other records

The records are those of `record_schedules.py`.
"""

import csv
import itertools
import math
import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from sm_search.evaluation.scores import sign
from tests.benchmarks.record_schedules import CONDITION_NOISE, MODEL, P_UNCOND, RANGES, SAMPLERS, SAMPLING_STEPS

pytestmark = pytest.mark.benchmark
optuna.logging.set_verbosity(optuna.logging.WARNING)

RECORDS = Path(os.environ.get("RECORDS", Path(__file__).parent / "recorded" / "schedules.csv"))
DIFFUSED = ("component", "folded-voxel")
METRICS = ("val_psnr_db", "val_crps")
CONTESTS, TRAININGS, SCHEDULES = 1001, 100, (12, 24)
"""How often both searches are replayed, the trainings of each, and the schedules of a two-level trial."""

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    names = {"diffuse", "condition_noise", "sampler"}
    with RECORDS.open() as stream:
        return [{k: v if k in names else float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def best(rows: Sequence[Row], metric: str) -> Row:
    return max(rows, key=lambda row: sign(metric) * row[metric])


def is_plain(row: Row) -> bool:
    """Neither noise nor weight on the condition."""
    return bool(row["eta_max"] == 0 and row["w_min"] == row["w_max"] == 1)


def shown(row: Row) -> str:
    """PSNR, 1000 CRPS, spread over error, and the schedule."""
    schedule = f"{row['sampler']} {row['steps']:.0f}"
    if not is_plain(row):
        schedule += f", η {row['eta_max']:.2f}, w {row['w_min']:.2f}–{row['w_max']:.2f}"
    scores = f"{row['val_psnr_db']:.2f} / {1e3 * row['val_crps']:.1f} / {row['val_spread_error']:.2f}"
    return f"{scores} ({schedule})"


def test_what_each_parameter_does(rows: list[Row]) -> None:
    """Shares of the variance by fANOVA, of the quasi-random schedules of all models of a kind."""
    distributions: dict[str, BaseDistribution] = {
        "p_uncond": CategoricalDistribution(P_UNCOND),
        "condition_noise": CategoricalDistribution(CONDITION_NOISE),
        "sampler": CategoricalDistribution(SAMPLERS),
        "steps": CategoricalDistribution(SAMPLING_STEPS),
        **{name: FloatDistribution(low, high) for name, (low, high) in RANGES.items()},
    }
    print(f"\n| | {' | '.join(distributions)} |\n|{'---|' * (1 + len(distributions))}")
    for diffuse in DIFFUSED:
        for metric in METRICS:
            study = optuna.create_study(direction="maximize")
            for row in rows:
                if row["diffuse"] == diffuse and not is_plain(row):
                    params = {name: row[name] for name in distributions} | {"steps": int(row["steps"])}
                    trial = optuna.trial.create_trial(
                        params=params, distributions=distributions, value=sign(metric) * row[metric]
                    )
                    study.add_trial(trial)
            shares = FanovaImportanceEvaluator(seed=0).evaluate(study)
            print(f"| {diffuse}, {metric} | {' | '.join(f'{100 * shares[name]:.0f} %' for name in distributions)} |")


def test_the_best_schedules(rows: list[Row]) -> None:
    """Of each model the best by either metric, with and without what the paper does to the condition."""
    print(
        "\n| diffuse | condition_noise | p_uncond | by PSNR | plain | by CRPS | plain |\n|---|---|---|---|---|---|---|"
    )
    for values in itertools.product(DIFFUSED, CONDITION_NOISE, P_UNCOND):
        of_model = [row for row in rows if all(row[name] == value for name, value in zip(MODEL, values, strict=True))]
        plain = [row for row in of_model if is_plain(row)]
        cells = [shown(best(some, metric)) for metric in METRICS for some in (of_model, plain)]
        print(f"| {' | '.join(map(str, values))} | {' | '.join(cells)} |")


def test_two_levels_against_joint(rows: list[Row]) -> None:
    """Both draw at random from what is recorded; time is that of training and of rating schedules."""
    print("\n| metric | diffused | schedules of a trial | joint's time over two-level's, quartiles | ends at |")
    print("|---|---|---|---|---|")
    for metric, kind, schedules in itertools.product(METRICS, (*DIFFUSED, "both"), SCHEDULES):
        drawn = [row for row in rows if not is_plain(row) and kind in (row["diffuse"], "both")]
        ratios, ends = [], []
        for seed in range(CONTESTS):
            draw = random.Random(seed)
            joint, two_level = (replayed(drawn, metric, count, draw) for count in (1, schedules))
            joint_s, value = joint[-1]
            two_s = next((s for s, v in two_level if sign(metric) * v >= sign(metric) * value), math.inf)
            ratios.append(joint_s / two_s)
            ends.append((value, two_level[-1][1]))
        low, middle, high = statistics.quantiles(ratios, n=4)
        at_end = " / ".join(f"{statistics.median(each):.4g}" for each in zip(*ends, strict=True))
        print(f"| {metric} | {kind} | {schedules} | {middle:.1f} ({low:.1f}, {high:.1f}) | {at_end} |")


def replayed(rows: Sequence[Row], metric: str, schedules: int, draw: random.Random) -> list[tuple[float, float]]:
    """(seconds, best so far) at each improvement of a random search of so many schedules with each model it trains."""
    models: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        models.setdefault(tuple(str(row[name]) for name in MODEL), []).append(row)
    keys, seconds = list(models), 0.0
    found: list[tuple[float, float]] = []
    for _ in range(TRAININGS):
        tried = draw.sample(models[draw.choice(keys)], schedules)
        seconds += tried[0]["training_seconds"] + sum(row["seconds"] for row in tried)
        value = best(tried, metric)[metric]
        if not found or sign(metric) * value > sign(metric) * found[-1][1]:
            found.append((seconds, value))
    return found
