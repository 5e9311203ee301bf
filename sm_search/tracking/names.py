"""What our runs, their tags and their files are called; free of MLflow, so that workers can know it without."""

import re

from sm_search.config.errors import TrackingError

SCHEDULES_FILE = "schedules.json"
"""Artifact of a trial: what its inner search tried."""
FRONT_FILE = "front.json"
"""Artifact of a study with several objectives: what can be had, and what of it nothing else beats."""

EXPERIMENT = "sm_search"
# Tags that tell our runs apart. `kind` is "study" or "trial"; `state` is the trial's outcome in the search's own words.
# `split` says what the metrics of a search are of.
STUDY, TRIAL, KIND, STATE, SPLIT = "study", "trial_id", "kind", "state", "split"
SCHEDULE = "schedule"
"""Tag of a trial: its sampling schedule in words."""
DATASET, DATASET_HASH, DATASET_SOURCE = "dataset", "dataset_hash", "dataset_source"
RESUMED = "resumed."
"""Before the name of a tag of a study: what it was at a later start, where that was different."""
REVISION = "revision."
"""Before the number of a revision of a study, a tag that says what was changed."""
ENDED = "ended"
"""Tag of a study: why its search ended before its trials were used up."""
INFEASIBLE = "infeasible"
"""Tag of a trial that cannot win, with the reason: it breaks a constraint, or lies outside of the revised space."""
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""Tag that MLflow shows as the description of a run, in Markdown."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(what: str, name: str) -> None:
    """Refuse a name that would not be safe in a query or as a folder.

    Raises:
        TrackingError: it breaks the rule in the message.
    """
    if not NAME.fullmatch(name):
        rule = "1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit"
        raise TrackingError(f"{what} name {name!r}: must be {rule}")
