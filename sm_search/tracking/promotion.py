"""Promotion: the best model of a study becomes a version of the registered model, and its champion."""

import json
from dataclasses import dataclass

from sm_search.config.errors import TrackingError
from sm_search.diffusion.checkpoint import read_info
from sm_search.tracking.records import RunRecord, best_trials, study_runs
from sm_search.tracking.registry import MODEL_NAME, download_model, register, set_champion
from sm_search.tracking.store import Store


@dataclass(frozen=True)
class Promotion:
    """What a promotion did; `previous` is the champion before it, if there was another."""

    model: str
    version: int
    previous: int | None
    trial_id: str
    run_id: str
    metrics: dict[str, float]

    @property
    def uri(self) -> str:
        return f"models:/{self.model}/{self.version}"


def promote(store: Store, study: str, name: str = MODEL_NAME) -> Promotion:
    """Register the checkpoint of the best completed trial and set the alias `champion`.

    Raises:
        TrackingError: no such study, no completed trial, or its checkpoint was not stored.
    """
    parent, _ = study_runs(store, study)
    metric = parent.params.get("metric")
    if metric is None:
        raise TrackingError(f"study {study!r}: does not say which metric it maximised; was it begun by `sweep`?")
    best: RunRecord = best_trials(store, study, metric)[0]
    folder = download_model(store, f"runs:/{best.run_id}/checkpoint")
    info = read_info(folder)
    tags = {
        "study": study,
        "trial_id": best.trial_id or "",
        "dataset": info.dataset,
        "dataset_hash": info.dataset_hash,
        "split": "validation",
        "schedule": json.dumps(info.schedule.model_dump(mode="json")),
        **{name: f"{value:.6g}" for name, value in info.metrics.items()},
    }
    version = register(store, best.run_id, folder, name, tags)
    previous = set_champion(store, name, version)
    return Promotion(name, version, previous, best.trial_id or "", best.run_id, dict(info.metrics))
