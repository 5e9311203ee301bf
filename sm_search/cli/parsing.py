"""What the parsers of the verbs share."""

import argparse
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sm_search.api.defaults import HOME_VARIABLE, default_home
from sm_search.cli.output import Output

Verb = Callable[[argparse.Namespace, Output], dict[str, Any]]
Adder = Callable[[str, Verb, str], argparse.ArgumentParser]
"""Adds a verb: its name, what it calls, and one sentence about it."""
RAY_VARIABLE = "RAY_ADDRESS"
RAY_HELP = f"Ray cluster (`auto` on its head); default: ${RAY_VARIABLE}, or this machine"


def place(text: str) -> str:
    """A path or a URI as the user means it: in `--out=~/x` and in quotes a shell leaves the `~` to us."""
    return os.path.expanduser(text)


def folder(text: str) -> Path:
    return Path(place(text))


def add_ray(p: argparse.ArgumentParser) -> None:
    p.add_argument("--ray-address", metavar="ADDRESS", help=RAY_HELP)


def add_store(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--home",
        type=folder,
        default=default_home(),
        metavar="DIR",
        help=f"local state (default ${HOME_VARIABLE} or outputs)",
    )
    p.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow server (default: $MLFLOW_TRACKING_URI, or SQLite in the home folder)",
    )


def ray_address(options: argparse.Namespace, output: Output) -> str | None:
    """Where the work runs: --ray-address, or what RAY_ADDRESS names, as Ray's own programs take it; None is here.

    That the environment decides is told. A jobs server is no place to run but to submit to, which must be asked for.
    """
    named = os.environ.get(RAY_VARIABLE)
    if options.ray_address or not named or named == "local":
        return None if options.ray_address in (None, "local") else str(options.ray_address)
    if named.startswith(("http://", "https://")):
        output.progress(f"note: {RAY_VARIABLE}={named} is a jobs server: this runs here; `sweep --ray-address` submits")
        return None
    output.progress(f"note: runs on the cluster that {RAY_VARIABLE}={named} names; --ray-address local runs here")
    return named


def same_store(options: argparse.Namespace) -> str:
    """What a command that we suggest must add to find the same store: nothing, or its options with a space before."""
    home = [] if options.home == default_home() else ["--home", str(options.home)]
    server = ["--tracking-uri", options.tracking_uri] if options.tracking_uri else []
    return "".join(f" {shlex.quote(word)}" for word in (*home, *server))
