"""`sm-search VERB`: the parser, the exit status and the output rules.

Every verb prints its result on stdout (`--json`: one object) and its progress on stderr. Exit status: 0 done, 2 bad
usage or bad input (one line, no traceback), 1 our own fault, 130 interrupted.
"""

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Sequence

from sm_search import __version__
from sm_search.cli import cluster, datasets, demo, imaging, models, studies
from sm_search.cli.output import Output
from sm_search.cli.parsing import Verb
from sm_search.cli.signals import interruptible
from sm_search.cli.streams import is_utf8, secure_streams, silence
from sm_search.config.errors import InputError, SmSearchError, without_password


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    secure_streams()
    options = build_parser().parse_args(arguments)
    output = Output(as_json=options.json)
    try:
        # Libraries print on stdout too, such as Ray what became of a node: only `output` may write there.
        with interruptible(), contextlib.redirect_stdout(sys.stderr):
            result = options.call(options, output)
    except InputError as error:
        output.error(str(error))
        return 2
    except SmSearchError as error:
        output.error(str(error))
        return 1
    except KeyboardInterrupt as interrupt:
        output.error(str(interrupt) or "interrupted")
        return 130
    except Exception:
        sys.stderr.write(without_password(traceback.format_exc()))
        output.error("this is a fault of sm-search, not of your input")
        return 1
    if options.json:
        _print_object(result)
    return int(result.get("exit_status", 0))


def _print_object(result: object) -> None:
    try:
        sys.stdout.write(json.dumps(result, ensure_ascii=not is_utf8(sys.stdout.encoding)) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="sm-search", description="Search for models that synthesise MPI system matrices."
    )
    parser.add_argument("--version", action="version", version=f"sm-search {__version__}")
    verb_parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, run: Verb, about: str) -> argparse.ArgumentParser:
        added = verb_parsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        added.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        added.set_defaults(call=run)
        return added

    for module in (datasets, studies, models, imaging, cluster, demo):
        module.add_verbs(add)
    return parser
