"""`sm-search demo`: the main job from nothing to an evaluated champion, by calling the other verbs."""

import argparse
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sm_search.cli import datasets, models, studies
from sm_search.cli.output import Output
from sm_search.cli.parsing import Adder, add_ray, add_store
from sm_search.config.errors import SettingsError

TEST_SCAN = "d30nm-fx25kHz-nd99"


def add_verbs(add: Adder) -> None:
    p = add("demo", demo, "All of it, small: simulate, sweep, promote, synthesize, evaluate; minutes on two cores.")
    p.add_argument("--space", metavar="FILE", help=argparse.SUPPRESS)
    p.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    add_ray(p)
    add_store(p)


def demo(options: Namespace, output: Output) -> dict[str, Any]:
    if options.tracking_uri and options.tracking_uri.startswith("sqlite"):
        raise SettingsError("--tracking-uri: the demo keeps its SQLite store in --home")
    return run_demo(options, output)


def run_demo(options: Namespace, output: Output) -> dict[str, Any]:
    """Simulate, sweep, promote, synthesise and evaluate; the last verb's result, with seconds per step."""
    from sm_search.search.session import ray_session
    from sm_search.search.space import SPACES, load_space
    from sm_search.search.study_folder import STUDY_FILE

    home: Path = options.home
    home.mkdir(parents=True, exist_ok=True)
    space_file = options.space or str(SPACES / "demo.yaml")
    study = load_space(space_file).study
    data, made = home / "data" / "demo", home / f"{TEST_SCAN}-synthesised.mdf"
    champion = "models:/sm-search@champion"
    seconds: dict[str, float] = {}

    def step(title: str, verb: Any, **values: Any) -> dict[str, Any]:
        output.progress(f"== {title}")
        begin = time.perf_counter()
        result = verb(Namespace(**{**vars(options), **values}), output)
        seconds[title] = round(time.perf_counter() - begin, 1)
        return result

    began = (home / "studies" / study / STUDY_FILE).exists()
    with ray_session(options.ray_address):
        step("simulate", datasets.simulate, preset="demo", config=None, phantom=None, on=None, out=str(data))
        arguments = {"space": space_file, "data": str(data), "storage": None, "dry_run": False, "warm_start": None}
        step("sweep", studies.sweep, resume=began, **arguments)
    gate = {"seeds": 3, "min_gain_db": -0.1, "rollback": False}
    step("promote", models.promote, study=study, data=str(data), name="sm-search", **gate)
    low = data / TEST_SCAN / "low.mdf"
    step("synthesize", models.synthesize, model=champion, input=str(low), output=str(made), seed=0, force=True)
    step("validate", datasets.validate, file=str(made))
    figure = home / "comparison.png"
    arguments = {"model": champion, "data": str(data), "split": "test", "figure": str(figure), "phantom": "shape"}
    evaluated = step("evaluate", models.evaluate, force=True, regression=False, noise_free=False, **arguments)
    step("report", studies.report, study=study, out=None, force=True)
    output.progress("seconds: " + ", ".join(f"{name} {value:g}" for name, value in seconds.items()))
    output.result(f"Look at {figure} and {home / f'{study}.html'}; compare all runs with `make ui`.")
    output.result(f"Synthesise: sm-search synthesize --model {champion} --input LOW.mdf --output HIGH.mdf")
    output.result(
        "The paper's data: sm-search simulate --preset paper-54 --out data/paper-54, then sm-search sweep "
        "--space search_spaces/paper.yaml --data data/paper-54"
    )
    return {**evaluated, "seconds": seconds, "synthesised": str(made), "figure": str(figure)}
