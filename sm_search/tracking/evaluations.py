"""The evaluation of a model on a split, stored with the run that it came from."""

import json
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from mlflow.entities import Metric

from sm_search.tracking.registry import source_run
from sm_search.tracking.store import Store

MODEL_ROW = "model"
SHORT = ("psnr_db", "ssim", "nrmse")


def log_evaluation(store: Store, uri: str, split: str, rows: Sequence[dict[str, Any]]) -> str | None:
    """Store the table as `evaluation/<split>.json` and the model's own figures as metrics.

    `<split>_<scan>_<metric>` for each scan, and the means over the scans under short names: `test_psnr_db`.

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
    own = [row for row in rows if row["method"] == MODEL_ROW]
    values = {
        f"{split}_{row['scan']}_{name}": value
        for row in own
        for name, value in row.items()
        if name not in ("scan", "method")
    }
    for name in SHORT if own else ():
        values[f"{split}_{name}"] = fmean(row[f"{name}_mean"] for row in own)
    metrics = [Metric(name, value, now, 0) for name, value in values.items()]
    with store.asked(f"evaluation of {uri!r}"):
        store.client.log_batch(run_id, metrics=metrics, synchronous=True)
        store.client.log_text(run_id, json.dumps(list(rows), indent=1), f"evaluation/{split}.json")
    return run_id
