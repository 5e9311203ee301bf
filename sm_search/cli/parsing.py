"""What the parsers of the verbs share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sm_search.api.defaults import HOME_VARIABLE, default_home
from sm_search.cli.output import Output

Verb = Callable[[argparse.Namespace, Output], dict[str, Any]]
Adder = Callable[[str, Verb, str], argparse.ArgumentParser]
"""Adds a verb: its name, what it calls, and one sentence about it."""
RAY_HELP = "Ray cluster (`auto` on its head); default: this machine"


def add_ray(p: argparse.ArgumentParser) -> None:
    p.add_argument("--ray-address", metavar="ADDRESS", help=RAY_HELP)


def add_store(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--home",
        type=Path,
        default=default_home(),
        metavar="DIR",
        help=f"local state (default ${HOME_VARIABLE} or outputs)",
    )
    p.add_argument("--tracking-uri", metavar="URI", help="MLflow server (default: SQLite in the home folder)")
