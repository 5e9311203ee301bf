"""The search in figures: quality against time, overhead, growth. Prints tables; asserts no time.

    DATA=data/paper-54 SEEDS=0,1,2 pytest -m benchmark -s tests/benchmarks/test_search.py -k quality
    pytest -m benchmark -s tests/benchmarks/test_search.py -k "images or sampler or store"
    TRIALS=1000 pytest -m benchmark -s tests/benchmarks/test_search.py -k trivial
    NODES=1,2,4,8 pytest -m benchmark -s tests/benchmarks/test_search.py -k growth

DATA names a finished dataset (default: the preset `paper-12`, simulated first); BUDGET_MINUTES is the time of
joint in `quality` (two-level gets a quarter of it), STEPS the training steps of a trial, SCHEDULES those of each inner
search; with JOINT_RUNGS=1 ASHA stops bad trials of joint, too. With CONTEST=FOLDER `quality` keeps its
studies there, and runs only those that are missing.
All else is the machine's: run it where nothing else runs.
"""

import os
import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import torch
from ray import tune
from ray.cluster_utils import Cluster

from sm_search.compute.parallel_simulation import simulate_dataset
from sm_search.compute.session import ray_session
from sm_search.config.dataset_settings import preset
from sm_search.data.dataset import Dataset
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import SPACES, load_space
from sm_search.search.space.tree import suggest
from sm_search.search.study import search as search_module
from sm_search.search.study.folder import RESULT_FILE
from sm_search.search.study.optuna_searcher import OptunaSearcher
from sm_search.search.study.sweep import sweep
from sm_search.search.study.trial import TrialContext
from sm_search.tracking.records import RunRecord, metric_history, study_runs
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import open_store
from sm_search.training import Trainer, training_images

pytestmark = pytest.mark.benchmark

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "0,1,2").split(",")]
BUDGET_MINUTES = float(os.environ.get("BUDGET_MINUTES", "10"))
JOINT_RUNGS = bool(os.environ.get("JOINT_RUNGS"))
STEPS = int(os.environ.get("STEPS", "900"))
SCHEDULES = int(os.environ.get("SCHEDULES", "24"))
TRIALS = int(os.environ.get("TRIALS", "100"))
SUGGESTIONS = 5
ROUNDS = 5
NODES = [int(nodes) for nodes in os.environ.get("NODES", "1,2,4,8").split(",")]
CORES_OF_A_NODE = 4
TWO_LEVEL_SHARE = 4
"""Part of joint's time that two-level gets: what it has not reached by then, it has not reached ten times faster."""
LARGE = 100_000
"""More trials than any time limit allows."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = os.environ.get("DATA")
    if folder:
        return Dataset.open(folder)
    with ray_session(None):
        return simulate_dataset(tmp_path_factory.mktemp("demo") / "data", preset("paper-12"))


@pytest.fixture
def local_ray() -> Iterator[None]:
    with ray_session(None):
        yield


def printed(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    print(f"\n{title}\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.4g}' if isinstance(cell, float) else str(cell) for cell in row)} |")


def progress(home: Path, study: str, metric: str) -> list[tuple[float, float]]:
    """(seconds since the study's start, best metric so far) at each trial that reached the full budget in time."""
    parent, trials = study_runs(open_store(home), study)
    ended = sorted((t for t in trials if t.state == "complete"), key=lambda t: t.ended_ms or 0)
    best, curve = float("-inf"), []
    for trial in ended:
        best = max(best, trial.metrics[metric])
        curve.append((((trial.ended_ms or 0) - parent.started_ms) / 1000, best))
    return [(seconds, best) for seconds, best in curve if seconds <= 60 * BUDGET_MINUTES]


def first_at(curve: list[tuple[float, float]], value: float) -> float:
    return next((seconds for seconds, best in curve if best >= value), float("inf"))


def contest(kind: str, mode: str, seed: int) -> Space:
    """The same parameters, ranges and initial points for either search.

    Args:
        kind: `shipped` is paper.yaml; `paper-method` has no mean model, as the paper, and all of schedule.yaml;
            `paper-schedule` asks the paper's own question: p_uncond and all of schedule.yaml, and else its training
            (t uniform, noise on the condition).
        mode: `joint` trains to the end for every sample, unless JOINT_RUNGS gives it the rungs of `two-level`;
            `paper-schedule` has no early rungs in either.
    """
    shipped = load_space(SPACES / "paper.yaml")
    training, schedule, first = dict(shipped.training) | {"steps": STEPS}, shipped.schedule, shipped.first
    if kind != "shipped":
        training["mean"], schedule = "none", load_space(SPACES / "schedule.yaml").schedule
        first = tuple({k: v for k, v in point.items() if k != "mean"} for point in first if point["mean"] == "none")
    if kind == "paper-schedule":
        # 1 dB better after 300 steps than with the sizes of paper.yaml, in a third of the time.
        backbone = {"backbone": "linear-basis", "coefficients": 256, "width": 256, "blocks": 2}
        training |= {"backbone": backbone, "learning_rate": 4e-3, "share_at_end": 0.0, "condition_noise": "same-level"}
        first = ({"p_uncond": 0.1},)
    if mode == "joint":
        first = tuple({f"training.{name}": value for name, value in point.items()} for point in first)
    minutes = BUDGET_MINUTES if mode == "joint" else BUDGET_MINUTES / TWO_LEVEL_SHARE
    # An early rung says nothing about p_uncond alone: dropping the condition slows the training at first.
    is_full = kind == "paper-schedule" or (mode == "joint" and not JOINT_RUNGS)
    first_rung = STEPS if is_full else STEPS // 3
    budget = {"trials": LARGE, "minutes": minutes, "first_rung": first_rung, "schedules": SCHEDULES, "images": 96}
    name = f"{kind}-{mode}-{seed}"
    return Space.model_validate(
        {"study": name, "seed": seed, "mode": mode, "training": training, "schedule": schedule, "first": first}
        | {"budget": budget}
    )


@pytest.mark.parametrize("kind", ["paper-schedule", "paper-method", "shipped"])
def test_quality_against_time(kind: str, dataset: Dataset, tmp_path: Path, local_ray: None) -> None:
    """Both searches on the same data and machine: when does two-level have what joint ends with?"""
    home = Path(os.environ.get("CONTEST", tmp_path))
    rows, ratios = [], []
    for seed in SEEDS:
        curves = {}
        for mode in ("joint", "two-level"):
            space = contest(kind, mode, seed)
            if not (home / "studies" / space.study / RESULT_FILE).exists():
                sweep(space, dataset.location, home=home)
            curves[mode] = progress(home, space.study, space.metric)
        joint_best, two_best = curves["joint"][-1][1], curves["two-level"][-1][1]
        # When joint found its best, not when its time was up.
        joint_s, two_s = first_at(curves["joint"], joint_best), first_at(curves["two-level"], joint_best)
        ratios.append((joint_s / two_s, 60 * BUDGET_MINUTES / two_s))
        trials = f"{len(curves['joint'])} / {len(curves['two-level'])}"
        rows.append((seed, trials, joint_best, joint_s, two_s, *ratios[-1], two_best))
    columns = (
        "seed",
        "full trials joint / two-level",
        "joint's best dB",
        "joint s",
        "two-level s to it",
        "ratio",
        "of its budget",
    )
    budgets = f"{BUDGET_MINUTES:g} min for joint, {BUDGET_MINUTES / TWO_LEVEL_SHARE:.3g} for two-level"
    printed(f"Quality against time, {kind}, {STEPS} steps, {budgets}", (*columns, "two-level's best dB"), rows)
    print("median ratios " + ", ".join(f"{statistics.median(each):.3g}" for each in zip(*ratios, strict=True)))


def test_images_per_second_inside_a_trial(dataset: Dataset, tmp_path: Path, local_ray: None) -> None:
    """The same settings in a trial and in a bare loop of this process, in turn; each trial against its neighbours."""
    given = load_space(SPACES / "paper.yaml").model_dump()
    fixed = {"batch_size": 256, "steps": STEPS, "backbone": {"backbone": "linear-basis"}}
    budget = {"trials": 1, "first_rung": STEPS, "schedules": 0}
    torch.set_num_threads(1)

    def space(study: str) -> Space:
        return Space.model_validate({**given, "training": fixed, "first": (), "budget": budget, "study": study})

    settings = training_settings(space("bare"), {})
    images = training_images(dataset, "train", settings.receive_channels, settings.mean)[0]

    def bare() -> float:
        trainer = Trainer(settings, images)
        begin = time.perf_counter()
        list(trainer.train(STEPS))
        return STEPS * settings.batch_size / (time.perf_counter() - begin)

    before, rows = bare(), []
    for number in range(ROUNDS):
        begin = time.perf_counter()
        metrics = sweep(space(f"speed-{number}"), dataset.location, home=tmp_path).best.metrics
        rest = time.perf_counter() - begin - metrics["training_seconds"] - metrics["validation_seconds"]
        inside, after = STEPS * settings.batch_size / metrics["training_seconds"], bare()
        rows.append((inside, before, after, 2 * inside / (before + after), rest))
        before = after
    columns = (
        "in a trial, images/s",
        "bare before",
        "bare after",
        "share",
        "a sweep beside training and validation, s",
    )
    printed("Overhead of a trial", columns, rows)
    print(f"median share {statistics.median(row[3] for row in rows):.3f}")


def trivial(config: Mapping[str, Any], context: TrialContext) -> None:
    """A trial that trains nothing; its value is its parameter."""
    space = Space.model_validate_json(context.space_json)
    for step in space.rungs():
        value = 30 + 1000 * config["learning_rate"] - 1 / step
        told = {"val_psnr_db": value, "val_ssim": 0.5, "training_step": step, "evaluations": 1, "losses": []}
        tune.report(told)


def trivial_sweep(
    monkeypatch: pytest.MonkeyPatch, dataset: Dataset, home: Path, study: str, trials: int, cpus: float = 1
) -> float:
    """Seconds of a study of trivial trials, from its first trial's start to its last one's end."""
    training = {"steps": 90, "learning_rate": {"float": [1e-3, 1e-2]}}
    budget = {"trials": trials, "first_rung": 10, "reduction": 3}
    space = Space.model_validate({"study": study, "training": training, "budget": budget, "resources": {"cpus": cpus}})
    monkeypatch.setattr(search_module, "run_trial", trivial)
    monkeypatch.setattr("sm_search.search.study.result._store_checkpoint", lambda *rest: None)
    sweep(space, dataset.location, home=home)
    runs: list[RunRecord] = study_runs(open_store(home), study)[1]
    assert len(runs) == trials
    return (max(run.ended_ms or 0 for run in runs) - min(run.started_ms for run in runs)) / 1000


def test_trivial_trials(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, tmp_path: Path, local_ray: None) -> None:
    """What Ray, Optuna and MLflow take of a trial that trains nothing, as their number grows."""
    rows = []
    counts = [count for count in (10, 100, 1000, 10_000) if count < TRIALS]
    for count in (*counts, TRIALS):
        seconds = trivial_sweep(monkeypatch, dataset, tmp_path / str(count), f"trivial-{count}", count)
        store = open_store(tmp_path / str(count))
        _, runs = study_runs(store, f"trivial-{count}")
        begin = time.perf_counter()
        points = sum(len(metric_history(store, run.run_id, "val_psnr_db")) for run in runs[:20])
        read_ms = (time.perf_counter() - begin) / min(20, len(runs)) * 1000
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = (tmp_path / str(count) / "mlflow.db").stat().st_size / 2**20
        rows.append((count, seconds, 1000 * seconds / count, peak, size, points / min(20, len(runs)), read_ms))
    columns = ("trials", "s", "ms a trial", "driver's peak MiB", "mlflow.db MiB", "reports a trial", "ms to read one")
    printed("Trivial trials on one machine", columns, rows)


def test_growth_over_nodes(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, tmp_path: Path) -> None:
    """Simulated nodes on this machine: what the driver can keep busy, since the trials themselves are nothing."""
    rows = []
    for nodes in NODES:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=CORES_OF_A_NODE)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            home = tmp_path / str(nodes)
            seconds = trivial_sweep(monkeypatch, dataset, home, f"growth-{nodes}", TRIALS)
        finally:
            ray.shutdown()
            cluster.shutdown()
        rows.append((nodes, nodes * CORES_OF_A_NODE, TRIALS, seconds, TRIALS / seconds))
    printed("Trivial trials on simulated nodes", ("nodes", "trials at once", "trials", "s", "trials/s"), rows)


@pytest.mark.filterwarnings("ignore:Define-by-run function:UserWarning")
def test_sampler_suggests(tmp_path: Path) -> None:
    """How Optuna's time for a suggestion grows with the trials that it knows."""
    space = load_space(SPACES / "gpu.yaml")
    rows = []
    for known in (10, 100, 1000, 10_000):
        search = OptunaSearcher(space)
        random = optuna.samplers.RandomSampler(seed=0)
        source = optuna.create_study(sampler=random)
        for number in range(known):
            trial = source.ask()
            suggest(trial, space.outer_tree())
            frozen = optuna.trial.create_trial(
                value=float(number % 97), params=trial.params, distributions=trial.distributions
            )
            search.study.add_trial(frozen)
        begin = time.perf_counter()
        for number in range(SUGGESTIONS):
            search.suggest(str(number))
        rows.append((known, 1000 * (time.perf_counter() - begin) / SUGGESTIONS))
    printed("A suggestion", ("trials known", "ms"), rows)


def test_store_takes_a_trial(tmp_path: Path) -> None:
    """What MLflow takes to store one trial with five rungs, and to list them all, as their number grows."""
    store = open_store(tmp_path)
    log = StudyLog.open(store, "stored", params={"metric": "val_psnr_db"})
    rows, stored = [], 0
    for until in (10, 100, 1000):
        begin, before = time.perf_counter(), stored
        while stored < until:
            log.start_trial(str(stored), {f"p{number}": 0.5 for number in range(10)})
            for step in range(1, 6):
                log.log_metrics(str(stored), step, {f"m{number}": 1.0 for number in range(8)})
            log.finish_trial(str(stored), "complete")
            stored += 1
        write_ms = 1000 * (time.perf_counter() - begin) / (stored - before)
        begin = time.perf_counter()
        study_runs(store, "stored")
        rows.append((until, write_ms, time.perf_counter() - begin))
    printed("MLflow on SQLite", ("trials", "ms to store one", "s to list all"), rows)
