"""The evaluation of a model on a split, stored with the run that it came from."""

import json
import time
from collections.abc import Sequence
from typing import Any

from mlflow.entities import Metric

from sm_search.tracking.registry import source_run
from sm_search.tracking.store import Store

MODEL_ROW = "model"


def log_evaluation(store: Store, uri: str, split: str, rows: Sequence[dict[str, Any]]) -> str | None:
    """Store the table as `evaluation/<split>.json` and the model's own figures as metrics `<split>_<scan>_<metric>`.

    Args:
        rows: one mapping a scan and method: `scan`, `method` and metrics.

    Returns:
        The run; None for a model in a plain folder, which has none.

    Raises:
        TrackingError: the store does not take it.
    """
    run_id = source_run(store, uri)
    if run_id is None:
        return None
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(f"{split}_{row['scan']}_{name}", value, now, 0)
        for row in rows
        if row["method"] == MODEL_ROW
        for name, value in row.items()
        if name not in ("scan", "method")
    ]
    with store.asked(f"evaluation of {uri!r}"):
        store.client.log_batch(run_id, metrics=metrics, synchronous=True)
        store.client.log_text(run_id, json.dumps(list(rows), indent=1), f"evaluation/{split}.json")
    return run_id
