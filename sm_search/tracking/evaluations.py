"""The evaluation of a model on a split, stored with the run that it came from."""

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sm_search.tracking.logged_models import log_model_metrics
from sm_search.tracking.records import is_active
from sm_search.tracking.registry import source_model
from sm_search.tracking.store import Store

MODEL_ROW = "model"
SHORT = ("psnr_db", "ssim", "nrmse")


def log_evaluation(store: Store, uri: str, split: str, rows: Sequence[dict[str, Any]]) -> str | None:
    """Store the table as `evaluation/<split>.json` and the model's own figures as metrics of its run and of itself.

    `<split>_<scan>_<metric>` for each scan, and the means over the scans under short names: `test_psnr_db`.

    Args:
        rows: one mapping a scan and method: `scan`, `method` and metrics.

    Returns:
        The run; None for a model in a plain folder, which has none, and for one whose run was deleted.

    Raises:
        TrackingError: the store does not take it.
    """
    run_id, model_id = source_model(store, uri)
    if run_id is None or not is_active(store, run_id):
        return None
    own = [row for row in rows if row["method"] == MODEL_ROW]
    values = {
        f"{split}_{row['scan']}_{name}": value
        for row in own
        for name, value in row.items()
        if name not in ("scan", "method")
    }
    for name in SHORT if own else ():
        values[f"{split}_{name}"] = fmean(row[f"{name}_mean"] for row in own)
    log_model_metrics(store, run_id, model_id, values)
    with store.asked(f"evaluation of {uri!r}"):
        store.client.log_text(run_id, json.dumps(list(rows), indent=1), f"evaluation/{split}.json")
    return run_id
