"""Promotion: the best model of a study becomes a version of the registered model and, through a gate, its champion.

The gate: on the validation split, with several sampling seeds, a larger mean PSNR than `copy`, and at least that of
the champion plus a least gain, by default −0.1 dB, a tolerance. Only a model that passes there is shown the test split,
once in its life, and must pass there too. The figures of the other baselines are kept beside it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sm_search.config.errors import DataError, InputError, TrackingError
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import CheckpointInfo, load_checkpoint, read_info
from sm_search.evaluation.baselines import Method, baselines
from sm_search.evaluation.comparison import compare
from sm_search.synthesis import Synthesiser
from sm_search.tracking.champion import champion_of, change_champion
from sm_search.tracking.gate import (
    CHAMPION_ROW,
    MODEL,
    TOLERANCE_DB,
    Check,
    Score,
    as_object,
    checks,
    markdown,
)
from sm_search.tracking.logged_models import DIGEST_TAG, checkpoint_digest, log_model_metrics
from sm_search.tracking.records import best_of_study, study_runs
from sm_search.tracking.registry import (
    MODEL_NAME,
    download_model,
    find_version,
    register,
    set_challenger,
    source_model,
    version_tags,
)
from sm_search.tracking.store import Store

VALIDATION, TEST = "validation", "test"
SEEDS = 3

Scores = dict[str, dict[str, Score]]
"""By split and method."""


@dataclass(frozen=True)
class Promotion:
    """What a promotion found and did.

    Attributes:
        champion: the champion that the model was compared with; None if there was none, or it is the model itself.
        scores, checks: what was compared; empty when the model was champion already.
    """

    model: str
    version: int
    champion: int | None
    trial_id: str
    run_id: str
    scores: Scores = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"models:/{self.model}/{self.version}"

    @property
    def shortfalls(self) -> list[str]:
        """The numbers that fell short; without any, the model is champion."""
        return [str(check) for check in self.checks if not check.passed]


def promote(
    store: Store,
    study: str,
    dataset: Dataset,
    name: str = MODEL_NAME,
    *,
    seeds: int = SEEDS,
    least_gain_db: float = -TOLERANCE_DB,
    announce: Callable[[str], None] = lambda line: None,
) -> Promotion:
    """Register the best completed trial as challenger, compare it, and make it champion if it passes the gate.

    Args:
        dataset: the one that the study was made with.
        seeds: sampling seeds to average over.
        least_gain_db: PSNR that the model must have over the champion's, on either split.

    Raises:
        InputError: another dataset, or a champion that cannot be compared on it.
        TrackingError: no such study, no completed trial, its checkpoint was not stored, or somebody else changed the
            champion meanwhile.
    """
    best = best_of_study(store, study)[0]
    try:
        folder = download_model(store, f"runs:/{best.run_id}/checkpoint")
    except TrackingError:
        status = study_runs(store, study)[0].status
        if status == "FINISHED":
            raise
        what = "is being run" if status == "RUNNING" else "was interrupted; `sweep --resume` continues it"
        raise TrackingError(f"study {study!r}: {what}; its models are stored when it ends") from None
    info = read_info(folder)
    if info.dataset_hash not in dataset.known_hashes():
        raise InputError(
            f"{dataset.location}: is not the dataset of study {study!r}: its hash is {dataset.content_hash()[:12]}, "
            f"the model's {info.dataset_hash[:12]}"
        )
    identity = {DIGEST_TAG: checkpoint_digest(folder)}
    version = find_version(store, name, best.run_id, identity)
    if version is None:
        tags = {**identity, **_origin(study, best.trial_id, info)}
        example = dataset.read(dataset.settings.scans("train")[0], "low")
        version = register(store, best.run_id, folder, name, tags, example)
    champion = champion_of(store, name)
    if champion == version:
        return Promotion(name, version, None, best.trial_id or "", best.run_id)
    set_challenger(store, name, version)
    done = Promotion(name, version, champion, best.trial_id or "", best.run_id)
    done = _compared(store, done, folder, dataset, seeds, least_gain_db, announce)
    _record(store, done)
    if not done.shortfalls:
        change_champion(store, name, version, done.champion, f"best of study {study}")
    return done


def _compared(
    store: Store,
    done: Promotion,
    folder: Path,
    dataset: Dataset,
    seeds: int,
    least_gain_db: float,
    announce: Callable[[str], None],
) -> Promotion:
    others = baselines(dataset)
    versions = {MODEL: (done.version, folder)}
    if done.champion is not None:
        uri = f"models:/{done.model}/{done.champion}"
        versions[CHAMPION_ROW] = (done.champion, download_model(store, uri))
    scores: Scores = {}
    asked: list[Check] = []
    for split in (VALIDATION, TEST):
        scores[split] = {}
        for method, (version, checkpoint) in versions.items():
            announce(f"{method} (version {version}) on the {split} split")
            with_others = others if method == MODEL else {}
            try:
                if split == TEST:
                    found = _tested_once(store, done.model, version, checkpoint, dataset, with_others, seeds)
                else:
                    found = _scores(checkpoint, dataset, split, with_others, seeds)
            except DataError as error:
                raise InputError(
                    f"models:/{done.model}/{version}: cannot be compared on {dataset.location}: {error}; "
                    "models for other scans belong under another --name"
                ) from None
            scores[split] |= {method: found.pop(MODEL), **(found if with_others else {})}
        asked += checks(split, scores[split], least_gain_db)
        if not all(check.passed for check in asked):
            break  # a model that fails on the validation split is not shown the test split
    return Promotion(done.model, done.version, done.champion, done.trial_id, done.run_id, scores, asked)


def _scores(
    checkpoint: Path, dataset: Dataset, split: str, others: Mapping[str, Method], seeds: int
) -> dict[str, Score]:
    """The model, averaged over sampling seeds, and the methods beside it on one split."""
    loaded = load_checkpoint(checkpoint)
    models = [Synthesiser(loaded, seed=seed) for seed in range(seeds)]
    found = {MODEL: Score.of([compare({MODEL: model}, dataset, split) for model in models])}
    rows = compare(others, dataset, split)
    return found | {name: Score.of([[row for row in rows if row.method == name]]) for name in others}


def _tested_once(
    store: Store,
    name: str,
    version: int,
    checkpoint: Path,
    dataset: Dataset,
    others: Mapping[str, Method],
    seeds: int,
) -> dict[str, Score]:
    """The scores on the test split: measured the first time, from the version's tags ever after.

    How often the split was read is counted before it is read: an interruption cannot hide a second look.
    """
    records = [f"test_scores.{known[:12]}" for known in dataset.known_hashes()]
    record, count = records[0], f"test_reads.{dataset.content_hash()[:12]}"
    tags = version_tags(store, name, version)
    found_in = next((each for each in records if each in tags), None)
    if found_in:
        stored = json.loads(tags[found_in])
        return {method: Score.model_validate(score) for method, score in stored.items()}
    with store.asked(f"model {name!r}, version {version}: count of test reads"):
        store.client.set_model_version_tag(name, str(version), count, str(1 + int(tags.get(count, "0"))))
    found = _scores(checkpoint, dataset, TEST, others, seeds)
    text = json.dumps({method: score.model_dump() for method, score in found.items()})
    with store.asked(f"model {name!r}, version {version}: scores on the test split"):
        store.client.set_model_version_tag(name, str(version), record, text)
    return found


def _record(store: Store, done: Promotion) -> None:
    """The comparison as tags and description of the version, as a table in JSON and Markdown with its run, and the
    model's own figures as metrics of run and model."""
    values = {
        f"{split}_{metric}": getattr(scores[MODEL], metric)
        for split, scores in done.scores.items()
        for metric in ("psnr_db", "ssim", "nrmse")
    }
    log_model_metrics(store, done.run_id, source_model(store, done.uri)[1], values)
    against = f"champion version {done.champion}" if done.champion else "no champion yet"
    title = f"{done.model} version {done.version} (trial {done.trial_id}) against {against}"
    text = markdown(title, done.scores, done.checks)
    tags = {
        "gate": "; ".join(done.shortfalls) or "passed",
        "compared_with": str(done.champion or "none"),
        **{
            f"{split}_psnr_db.{method}": f"{score.psnr_db:.4f}"
            for split, scores in done.scores.items()
            for method, score in scores.items()
        },
        **{f"{split}_psnr_db_spread": f"{scores[MODEL].psnr_db_spread:.4g}" for split, scores in done.scores.items()},
    }
    with store.asked(f"model {done.model!r}, version {done.version}: record of the comparison"):
        for tag, value in tags.items():
            store.client.set_model_version_tag(done.model, str(done.version), tag, value)
        store.client.update_model_version(done.model, str(done.version), description=text)
        file = f"promotion/{done.model}-version-{done.version}"
        store.client.log_text(done.run_id, text, f"{file}.md")
        comparison = {"version": done.version, "champion": done.champion, **as_object(done.scores, done.checks)}
        store.client.log_text(done.run_id, json.dumps(comparison, indent=1), f"{file}.json")


def _origin(study: str, trial_id: str | None, info: CheckpointInfo) -> dict[str, Any]:
    return {
        "study": study,
        "trial_id": trial_id or "",
        "dataset": info.dataset,
        "dataset_hash": info.dataset_hash,
        "schedule": json.dumps(info.schedule.model_dump(mode="json")),
        **{name: f"{value:.6g}" for name, value in info.metrics.items()},
    }
