"""Hostile files for every reader: `python reader_fuzz.py KIND EXAMPLES FOLDER` in a process with little memory.

A reader may accept what it is given or refuse it with an InputError. Anything else ends the process with a status that
is not 0: another exception, a signal, more than 3 GiB, or more than 20 s for one file.
"""

import json
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sm_search.config.errors import InputError

MEMORY = 3 << 30
SECONDS = 20
MAX_MESSAGE = 2100
HEADER = 4096
"""Where an HDF5 file, a JSON and a safetensors file keep what the rest depends on."""

Read = Callable[[Path], object]

# Where (biased to the header), what, and how: overwritten, inserted, removed, repeated, cut off.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "bit", "insert", "remove", "repeat", "cut"]),
        st.one_of(st.integers(0, HEADER), st.integers(0, 1 << 24)),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from(
                [b"\xff" * 8, b"\x00" * 8, b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"{", b"[", b'"', b"\\"]
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([1e308, -1, 0, 2**63, "1e999", "../../x", "\u0000", [], {}, [[]] * 9]),
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
TOKENS = st.sampled_from(
    [
        *("a: ", "- ", "&a ", "*a", "!!python/object/apply:os.system ", "!!binary ", "<<: ", "{", "}", "[", "]", "? "),
        *("|\n", "\n", "  ", "\t", "'", '"', "0x1f", "1e999", ".nan", ".inf", "2025-01-31", "1_0:0", "---\n"),
        *("%YAML 9\n", "name: x\n", "grid: ", "size: ", "splits: ", "train: ", "training: ", "float: ", "one_of: "),
    ]
)


def edited(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    data = bytearray(content)
    for how, where, what in edits:
        at = where % max(1, len(data))
        if how == "set":
            data[at : at + len(what)] = what
        elif how == "bit" and data:
            data[at] ^= 1 << (what[0] % 8)
        elif how == "insert":
            data[at:at] = what
        elif how == "remove":
            del data[at : at + len(what)]
        elif how == "repeat":
            data[at:at] = data[at : at + 64 * len(what)]
        elif how == "cut":
            del data[at:]
    return bytes(data)


def replaced(tree: Any, seed: int, values: list[Any]) -> Any:
    """`tree` with some of its values replaced, wherever `seed` leads."""
    choose = random.Random(seed)
    root = json.loads(json.dumps(tree))
    for value in values:
        node = root
        while isinstance(node, dict | list) and node:
            key = choose.choice(list(node)) if isinstance(node, dict) else choose.randrange(len(node))
            if choose.random() < 0.3 or not isinstance(node[key], dict | list) or not node[key]:
                node[key] = value
                break
            node = node[key]
    return root


def readers(kind: str) -> list[Read]:
    """What reads a file of this kind."""
    if kind in ("mdf", "measurement"):
        from sm_search.data.mdf_reading import read_field, read_mdf
        from sm_search.data.mdf_validation import validate_mdf
        from sm_search.data.measurement import read_measurement

        def everything(path: Path) -> object:
            return read_mdf(path).values_CKN.sum()

        reader: list[Read] = [everything] if kind == "mdf" else [read_measurement]
        return [*reader, validate_mdf, lambda path: read_field(path, "/time")]
    if kind == "yaml":
        from sm_search.config.dataset_settings import DatasetSettings
        from sm_search.config.loading import load_settings
        from sm_search.config.run_settings import RunSettings
        from sm_search.search.space.space_file import load_space

        return [
            lambda path: load_settings(path, DatasetSettings),
            lambda path: load_settings(path, RunSettings),
            load_space,
        ]
    from sm_search.diffusion.checkpoint import load_checkpoint

    return [lambda path: load_checkpoint(path.parent)]


def run(kind: str, examples: int, folder: Path) -> int:
    """Read that many hostile versions of the files in `folder`; how many there were."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    target_name = {"weights": "model.safetensors", "checkpoint": "checkpoint.json"}.get(kind)
    originals = [(folder / name).read_bytes() for name in names if target_name in (None, name)]
    target = folder / (target_name or f".hostile{Path(names[0]).suffix}")
    read, tried = readers(kind), 0

    def attempt(content: bytes) -> None:
        nonlocal tried
        tried += 1
        target.write_bytes(content)
        for each in read:
            signal.alarm(SECONDS)
            try:
                each(target)
            except InputError as error:
                if not str(error).isprintable() or len(str(error)) > MAX_MESSAGE:
                    raise RuntimeError(f"not one short line: {str(error)[:500]!r}") from error
            finally:
                signal.alarm(0)

    common = settings(
        max_examples=examples // 2,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )

    @common
    @given(st.sampled_from(originals), EDITS)
    def damaged(content: bytes, edits: list[tuple[str, int, bytes]]) -> None:
        attempt(edited(content, edits))

    @common
    @given(st.sampled_from(originals), st.integers(0, 1 << 32), st.lists(JSON, min_size=1, max_size=3))
    def absurd_values(content: bytes, seed: int, values: list[Any]) -> None:
        attempt(json.dumps(replaced(json.loads(content), seed, values)).encode("utf-8", "surrogatepass"))

    @common
    @given(st.lists(st.one_of(TOKENS, st.text(max_size=5)), max_size=60))
    def absurd_text(parts: list[str]) -> None:
        attempt("".join(parts).encode("utf-8", "surrogatepass"))

    damaged()
    if kind == "checkpoint":
        absurd_values()
    elif kind == "yaml":
        absurd_text()
    else:
        damaged()
    return tried


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    print(run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
