"""What is used of Ray beyond its promises is where `ray_internals` looks for it, and nothing else of it is used."""

import ast
import inspect
import json
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from pyarrow.fs import LocalFileSystem
from ray import cloudpickle, tune
from ray.tune.experiment import Trial

import sm_search
from sm_search.compute import ray_internals, session

PACKAGE = Path(sm_search.__file__).parent


def a_tuner(folder: Path) -> tune.Tuner:
    config = tune.RunConfig(storage_path=str(folder), name="experiment", callbacks=[tune.Callback()])
    return tune.Tuner(
        lambda config: None, tune_config=tune.TuneConfig(search_alg="S", scheduler="A"), run_config=config
    )


def credentials_are_propagated_by_a_set(folder: Path) -> None:
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.add("AWS_ACCESS_KEY_ID")
    ray_internals.withhold_credentials()
    assert not class_cache.ENV_VARS_TO_PROPAGATE & set(ray_internals.CREDENTIALS)


def workers_need_no_environment(folder: Path) -> None:
    from ray.tune.execution import class_cache

    assert isinstance(class_cache.DEFAULT_ENV_VARS, dict)
    class_cache.DEFAULT_ENV_VARS["A"] = "1"
    ray_internals.use_waiting_workers()
    with pytest.MonkeyPatch.context() as patch:
        for name in class_cache.ENV_VARS_TO_PROPAGATE:
            patch.delenv(name, raising=False)
        actor = class_cache._ActorClassCache().get(type("Trainable", (), {}))
    assert not actor._default_options["runtime_env"]


def callbacks_are_replaced(folder: Path) -> None:
    tuner, callbacks = a_tuner(folder), [tune.Callback()]
    assert len(tuner._local_tuner._run_config.callbacks) == 1  # it is there, and not made by the assignment
    ray_internals.replace_callbacks(tuner, callbacks)
    assert tuner._local_tuner.get_run_config().callbacks is callbacks
    the_stopper_is_replaced(folder / "stopper")


def the_stopper_is_replaced(folder: Path) -> None:
    tuner, stopper = a_tuner(folder), tune.stopper.NoopStopper()
    assert hasattr(tuner._local_tuner._run_config, "stop")
    ray_internals.replace_callbacks(tuner, [], stopper)
    assert tuner._local_tuner.get_run_config().stop is stopper


def the_time_limit_is_replaced(folder: Path) -> None:
    tuner = a_tuner(folder)
    assert tuner._local_tuner._tune_config.time_budget_s is None
    ray_internals.set_time_budget(tuner, 60.0)
    assert tuner._local_tuner._tune_config.time_budget_s == 60.0


def handlers_are_set_by_one_function(folder: Path) -> None:
    from ray._private import node, worker

    for module in (node, worker):
        assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(module)
        assert "signal.signal(" not in inspect.getsource(module)
    before = signal.getsignal(signal.SIGTERM)
    with ray_internals.signals_left_alone():
        ray._private.utils.set_sigterm_handler(signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == before


def a_node_knows_its_dead_processes(folder: Path) -> None:
    from ray._private.node import Node

    assert inspect.signature(Node.dead_processes).parameters.keys() == {"self"}
    assert ray_internals.dead_processes() is None  # no session: no record


def the_searcher_is_found(folder: Path) -> None:
    assert ray_internals.search_algorithm(a_tuner(folder)) == "S"


def the_scheduler_is_found(folder: Path) -> None:
    assert ray_internals.scheduler(a_tuner(folder)) == "A"


def trials_are_found(folder: Path) -> None:
    trials: list[Trial] = []
    assert ray_internals.trials_of(tune.ResultGrid(SimpleNamespace(trials=trials))) is trials


def a_trial_that_waits_has_not_begun(folder: Path) -> None:
    trial = Trial("t", stub=True)
    assert not ray_internals.has_begun(trial)
    trial.set_status(Trial.RUNNING)
    assert ray_internals.has_begun(trial)


def limits_are_asked_for(folder: Path) -> None:
    assert callable(ray._private.state.state.get_max_resources_from_cluster_config)


def a_node_knows_its_session(folder: Path) -> None:
    assert hasattr(ray._private.worker, "_global_node")
    assert callable(ray._private.node.Node.get_session_dir_path)


def the_command_line_is_a_module(folder: Path) -> None:
    assert "drain-node" in __import__(ray_internals.COMMAND_LINE, fromlist=["cli"]).cli.commands


def loggers_have_the_names_of_modules(folder: Path) -> None:
    for name in ray_internals.CHATTY_LOGGERS:
        assert Path(ray.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py").is_file(), name


def the_owner_of_an_actor_dies_in_these_words(folder: Path) -> None:
    server = Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server"
    assert ray_internals.OWNER_DIED.encode() in server.read_bytes()


def a_snapshot_says_how_far_it_came(folder: Path) -> None:
    from ray.tune.execution.tune_controller import TuneController

    assert TuneController.CKPT_FILE_TMPL == "experiment_state-{}.json"
    trials = []
    for status, steps in ((Trial.TERMINATED, 400), (Trial.RUNNING, 100), (Trial.PENDING, None)):
        trial = Trial("t", stub=True)
        trial.set_status(status)
        trial.run_metadata.last_result = {} if steps is None else {"training_step": steps}
        trials.append(trial.get_json_state())
    written = json.dumps({"trial_data": trials, "runner_data": {}, "stats": {"start_time": 12.5}}).encode()
    assert ray_internals.snapshot_progress(written) == (500, 3, 1, 12.5)


def trials_are_written_before_the_searcher(folder: Path) -> None:
    from ray.tune.execution.tune_controller import TuneController

    written = inspect.getsource(TuneController.save_to_dir)
    assert 0 < written.index("json.dump(") < written.index("self._search_alg.save_to_dir(")
    (folder / TuneController.CKPT_FILE_TMPL.format("now")).write_bytes(b"trials")
    assert ray_internals.written_trials(str(folder), "now") == b"trials"


def suggestions_are_mended(folder: Path) -> None:
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Experiment
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.search_generator import SearchGenerator

    experiment = Experiment("e", lambda config: None, storage_path=str(folder), num_samples=2)
    generators = [SearchGenerator(tune.search.Searcher()), BasicVariantGenerator()]
    for generator in generators:
        generator.add_configurations([experiment])
        state = cloudpickle.dumps(generator.get_state())
        assert ray_internals.mended_suggestions(state, LocalFileSystem(), str(folder), 0) is state
        moved = ray_internals.mended_suggestions(state, LocalFileSystem(), "/elsewhere", 0)
        generator.set_state(cloudpickle.loads(moved))
        suggested = generator._experiment.spec if hasattr(generator, "_experiment") else generator.next_trial()
        storage = suggested["storage"] if isinstance(suggested, dict) else suggested.storage
        assert isinstance(storage, StorageContext)
        assert storage.experiment_fs_path == "/elsewhere/e"


USES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "withhold_credentials": (
        "ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE",
        credentials_are_propagated_by_a_set,
    ),
    "use_waiting_workers": ("ray.tune.execution.class_cache.DEFAULT_ENV_VARS", workers_need_no_environment),
    "replace_callbacks": ("Tuner._local_tuner._run_config.callbacks", callbacks_are_replaced),
    "signals_left_alone": ("ray._private.utils.set_sigterm_handler", handlers_are_set_by_one_function),
    "dead_processes": ("ray._private.node.Node.dead_processes", a_node_knows_its_dead_processes),
    "set_time_budget": ("Tuner._local_tuner._tune_config.time_budget_s", the_time_limit_is_replaced),
    "search_algorithm": ("Tuner._local_tuner._tune_config.search_alg", the_searcher_is_found),
    "scheduler": ("Tuner._local_tuner._tune_config.scheduler", the_scheduler_is_found),
    "trials_of": ("ResultGrid._experiment_analysis.trials", trials_are_found),
    "has_begun": ("Trial.run_metadata.start_time", a_trial_that_waits_has_not_begun),
    "autoscaler_limits": ("ray._private.state.state.get_max_resources_from_cluster_config", limits_are_asked_for),
    "written_trials": ("the order in which TuneController.save_to_dir writes", trials_are_written_before_the_searcher),
    "snapshot_progress": ("the contents of experiment_state-*.json", a_snapshot_says_how_far_it_came),
    "mended_suggestions": ("the state of its trial generators", suggestions_are_mended),
    "session_folder": ("ray._private.worker._global_node.get_session_dir_path", a_node_knows_its_session),
    "COMMAND_LINE": (ray_internals.COMMAND_LINE, the_command_line_is_a_module),
    "CHATTY_LOGGERS": ("the modules of its jobs client", loggers_have_the_names_of_modules),
    "OWNER_DIED": ("the words of its GCS for a lost owner", the_owner_of_an_actor_dies_in_these_words),
}


@pytest.mark.parametrize("use", USES)
def test_it_is_where_ray_had_it(use: str, tmp_path: Path) -> None:
    name, check = USES[use]
    try:
        check(tmp_path)
    except (AssertionError, AttributeError, ImportError, TypeError) as error:
        pytest.fail(f"Ray {ray.__version__} has moved or changed {name}, which ray_internals.{use} needs: {error}")


def test_every_use_has_its_check() -> None:
    given = {name for name, value in vars(ray_internals).items() if inspect.isfunction(value)}
    assert given | {"COMMAND_LINE", "CHATTY_LOGGERS", "OWNER_DIED"} == set(USES)


@cache
def source_of_ray() -> str:
    folder = Path(ray.__file__).parent
    places = [
        folder / "tune",
        folder / "train",
        folder / "air",
        folder / "_private",
        folder / "_common",
        folder / "experimental",
    ]
    return "".join(path.read_text() for place in places for path in place.rglob("*.py"))


@pytest.mark.parametrize("name", session.QUIET)
def test_ray_reads_every_variable_that_a_session_sets(name: str) -> None:
    assert name in source_of_ray(), f"Ray {ray.__version__} reads no {name}: session.QUIET sets it for nothing"


def test_tune_stops_gently_at_a_signal() -> None:
    from ray.tune import tune as run

    assert "SIGUSR1" in inspect.getsource(run), (
        f"Ray Tune {ray.__version__} does not end at SIGUSR1: session.interrupted_gently"
    )
    assert hasattr(signal, "SIGUSR1")


def private_uses(path: Path) -> list[str]:
    """Attributes with a leading underscore that a file takes of what is not its own."""
    tree = ast.parse(path.read_text())
    modules = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    if not any(line.split()[1].split(".")[0] in ("ray", "optuna") for line in modules):
        return []
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and of_self(n)}
    taken = [
        n for n in nodes if isinstance(n, ast.Attribute) and n.attr.startswith("_") and not n.attr.startswith("__")
    ]
    found = [ast.unparse(node) for node in taken if not of_self(node) or node.attr not in own]
    found = [name for name in found if name != "os._exit"]  # Python's own, and documented
    return [*found, *(line for line in modules if "._" in line or "class_cache" in line)]


def of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def test_nothing_else_of_ray_or_optuna_is_private() -> None:
    known = Path(ray_internals.__file__)
    uses = {str(path.relative_to(PACKAGE)): private_uses(path) for path in PACKAGE.rglob("*.py") if path != known}
    assert private_uses(known)
    assert {path: names for path, names in uses.items() if names} == {}
