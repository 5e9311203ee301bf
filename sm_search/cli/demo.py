"""`sm-search demo`: the main job from nothing to an evaluated champion, by the commands that a user would type."""

import argparse
import shlex
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sm_search.cli.output import Output
from sm_search.cli.parsing import Adder, add_ray, add_store, place, ray_address, same_store
from sm_search.config.errors import SettingsError

MODEL = "sm-search-demo"
"""Registered model, apart from those of real studies, which need not beat it."""


def add_verbs(add: Adder) -> None:
    p = add("demo", demo, "All of it, small: simulate, sweep, promote, synthesize, evaluate; minutes on two cores.")
    p.add_argument("--space", type=place, metavar="SPACE", help=argparse.SUPPRESS)
    p.add_argument("--preset", default="demo", metavar="NAME", help=argparse.SUPPRESS)
    p.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    add_ray(p)
    add_store(p)


def demo(options: Namespace, output: Output) -> dict[str, Any]:
    """Simulate, sweep, promote, synthesise and evaluate; the last verb's result, with seconds per step."""
    from sm_search.cli.main import build_parser  # which adds this verb too
    from sm_search.compute.session import ray_session
    from sm_search.config.dataset_settings import preset
    from sm_search.search.space.space_file import load_space
    from sm_search.search.study.folder import STUDY_FILE

    if options.tracking_uri and options.tracking_uri.startswith("sqlite"):
        raise SettingsError("--tracking-uri: the demo keeps its SQLite store in --home")
    home: Path = options.home
    home.mkdir(parents=True, exist_ok=True)
    space = options.space or "demo"
    study = load_space(space).study
    settings = preset(options.preset)
    scan = settings.scans("test")[0].id
    unseen = [split for split in settings.splits if split not in ("train", "validation")]
    data, made, figure = home / "data" / "demo", home / f"{scan}-synthesised.mdf", home / "comparison.png"
    champion = f"models:/{MODEL}@champion"
    store = ["--home", home, *(["--tracking-uri", options.tracking_uri] if options.tracking_uri else [])]
    seconds: dict[str, float] = {}

    def step(verb: str, *arguments: Any) -> dict[str, Any]:
        line = [verb, *map(str, arguments)]
        output.progress(f"== sm-search {shlex.join(line)}")
        begin = time.perf_counter()
        parsed = build_parser().parse_args(line)
        result: dict[str, Any] = parsed.call(parsed, output)
        seconds[verb] = round(time.perf_counter() - begin, 1)
        return result

    resume = ["--resume"] if (home / "studies" / study / STUDY_FILE).exists() else []
    with ray_session(ray_address(options, output)):
        step("simulate", "--preset", options.preset, "--out", data)
        step("sweep", "--space", space, "--data", data, *resume, *store)
    step("promote", "--study", study, "--data", data, "--name", MODEL, *store)
    low = data / scan / "low.mdf"
    step("synthesize", "--model", champion, "--input", low, "--output", made, "--force", *store)
    step("validate", made)
    wanted = ["--split", *unseen, "--figure", figure, "--force"]
    evaluated = step("evaluate", "--model", champion, "--data", data, *wanted, *store)
    step("report", "--study", study, *store)
    output.progress("seconds: " + ", ".join(f"{name} {value:g}" for name, value in seconds.items()))
    output.result(f"Look at {figure} and {home / f'{study}.html'}; compare all runs with `make ui`.")
    low_to_high = "--input LOW.mdf --output HIGH.mdf"
    output.result(f"Synthesise: sm-search synthesize --model {champion} {low_to_high}{same_store(options)}")
    output.result(
        "The paper's data: sm-search simulate --preset paper-54 --out data/paper-54, then sm-search sweep "
        "--space paper --data data/paper-54"
    )
    return {**evaluated, "seconds": seconds, "synthesised": str(made), "figure": str(figure)}
