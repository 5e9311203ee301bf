"""All that is used of Ray although Ray does not promise it: each with its reason, and nowhere else.

`tests/compute/test_ray_internals.py` says in one sentence what a new version of Ray has moved. Of Optuna nothing is
used but its documented interface.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.fs
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

OWNER_DIED = "its owner has died"
"""In Ray's error of an actor, where it takes the driver for dead since the raylet of its node ended; no field tells."""


def withhold_credentials() -> None:
    """Tune hands these variables of its driver to its workers through Ray, which writes them into its logs. No setting
    turns that off; a node has credentials of its own.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)


def use_waiting_workers() -> None:
    """Tune asks for workers with a variable for PyTorch Lightning in their environment. Ray lets those wait unused that
    it started with the session, and starts others, each by a Python more.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()


@contextlib.contextmanager
def signals_left_alone() -> Iterator[None]:
    """For `ray.init` as the body: Ray would set a handler of SIGTERM twice, each of which ends the process there and
    then, and offers no way to do without.
    """
    import ray

    before = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = before


def dead_processes() -> list[str] | None:
    """Those that Ray started for a session of this process, and that have ended although nobody stopped them; None
    while it starts them, when it keeps no record.

    Ray itself ends its driver a minute later, in the midst of what it does.
    """
    import ray

    node = ray._private.worker._global_node
    return None if node is None else [str(name) for name, _ in node.dead_processes()]


def replace_callbacks(
    tuner: "tune.Tuner", callbacks: "list[tune.Callback]", stopper: "tune.Stopper | None" = None
) -> None:
    """A restored tuner has the callbacks of the dead driver, which write to nowhere; `restore` takes no others."""
    tuner._local_tuner._run_config.callbacks = callbacks
    tuner._local_tuner._run_config.stop = stopper


def search_algorithm(tuner: "tune.Tuner") -> Any:
    """The searcher that a tuner runs; of a restored one only the tuner has it."""
    return tuner._local_tuner._tune_config.search_alg


def scheduler(tuner: "tune.Tuner") -> Any:
    """The scheduler that a tuner runs; of a restored one only the tuner has it."""
    return tuner._local_tuner._tune_config.scheduler


def set_time_budget(tuner: "tune.Tuner", seconds: float | None) -> None:
    """A restored tuner has the limit that it began with, and takes no other."""
    tuner._local_tuner._tune_config.time_budget_s = seconds


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


def written_trials(folder: str, session: str) -> bytes:
    """What Tune has just written of its trials when it asks its searcher to save itself into the same folder."""
    return Path(folder, f"experiment_state-{session}.json").read_bytes()


def snapshot_progress(snapshot: bytes) -> tuple[int, int, int, float]:
    """How far an experiment had come in a snapshot of Tune's: steps trained, trials begun, trials ended, and when the
    process that wrote it began, in Unix seconds. Tune itself goes by the local time in the name of the file.

    Raises:
        ValueError: it is not whole, or not one of Tune's.
    """
    try:
        state = json.loads(snapshot)
        trials = [(json.loads(trial), json.loads(ran)) for trial, ran in state["trial_data"]]
        steps = sum(int((ran["last_result"] or {}).get("training_step", 0)) for _, ran in trials)
        ended = sum(trial["status"] == "TERMINATED" for trial, _ in trials)
        return steps, len(trials), ended, float(state["stats"]["start_time"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a snapshot of this version of Ray Tune: {error!r}") from None


def mended_suggestions(state: bytes, files: "pyarrow.fs.FileSystem", parent: str, trials: int) -> bytes:
    """The state of Tune's trial generators for an experiment of so many trials that lies in the folder `parent` now.

    Tune mends the paths of the trials that it has when an experiment was moved; those that it makes afterwards would go
    where the experiment was. A search counts the trials that it handed out, and hands out so many less.
    """
    from ray import cloudpickle

    found = cloudpickle.loads(state)
    experiment, iterators = found.get("experiment"), found.get("_iterators", ())
    specs = [*([experiment.spec] if experiment else []), *(each.unresolved_spec for each in iterators)]
    storages = [spec["storage"] for spec in specs if spec.get("storage")]
    is_there = all(storage.storage_fs_path == parent for storage in storages)
    counts = found.get("counter", trials) == trials
    if is_there and counts:
        return state
    for storage in storages:
        storage.storage_fs_path, storage.storage_filesystem = parent, files
    if not counts:
        found.update(counter=trials, finished=False)
    return bytes(cloudpickle.dumps(found))
