"""Runs, registry, promotion, served model: the only room that imports mlflow.

MLflow's own defaults suit a notebook. Ours, each kept only where the user has set nothing: no telemetry, no progress
bars or links on stdout, warnings only, and a server that is away is noticed in seconds rather than minutes.
"""

import os

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Otherwise a model takes along the lock file of whatever project the current folder belongs to.
    "MLFLOW_UV_AUTO_DETECT": "false",
}

# MLflow reads some of these when it is imported, so they are set here, before any module of this room does that.
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
