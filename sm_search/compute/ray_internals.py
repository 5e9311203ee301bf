"""All that is used of Ray although Ray does not promise it: each with its reason, and nowhere else.

`tests/compute/test_ray_internals.py` says in one sentence what a new version of Ray has moved. Of Optuna nothing is
used but its documented interface.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray import tune

COMMAND_LINE = "ray.scripts.scripts"
"""The module behind `ray`: a node's Python finds it where the command is not on the PATH of who asks."""

CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Of the jobs client: they tell on stderr what our own lines say."""

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


def withhold_credentials() -> None:
    """Tune hands these variables of its driver to its workers through Ray, which writes them into its logs. No setting
    turns that off; a node has credentials of its own.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)


def replace_callbacks(tuner: "tune.Tuner", callbacks: "list[tune.Callback]") -> None:
    """A restored tuner has the callbacks of the dead driver, which write to nowhere; `restore` takes no others."""
    tuner._local_tuner._run_config.callbacks = callbacks


def search_algorithm(tuner: "tune.Tuner") -> Any:
    """The searcher that a tuner runs; of a restored one only the tuner has it."""
    return tuner._local_tuner._tune_config.search_alg


def scheduler(tuner: "tune.Tuner") -> Any:
    """The scheduler that a tuner runs; of a restored one only the tuner has it."""
    return tuner._local_tuner._tune_config.scheduler


def trials_of(results: "tune.ResultGrid") -> list[Any]:
    """Tune's trials in the order of its results. A result does not say whether its trial was begun before the time was
    up (`has_begun`), and has no settings where nothing was reported.
    """
    trials: list[Any] = results._experiment_analysis.trials
    return trials


def has_begun(trial: Any) -> bool:
    """Whether a trial of Tune ever ran: one that waited until the time was up ends in the same state as others."""
    return trial.run_metadata.start_time is not None


def autoscaler_limits() -> dict[str, float]:
    """What a cluster may grow to, by resource, empty without an autoscaler; the public API tells what is there now."""
    import ray

    return ray._private.state.state.get_max_resources_from_cluster_config() or {}


def session_folder() -> str:
    """Where Ray keeps its session on this node, to see how full that disk is; for a task or a driver."""
    import ray

    return str(ray._private.worker._global_node.get_session_dir_path())
