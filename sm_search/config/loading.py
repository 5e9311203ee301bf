"""YAML files to settings, with errors that name file, line, key, value and rule."""

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sm_search.config.base import Settings
from sm_search.config.errors import SettingsError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

SettingsT = TypeVar("SettingsT", bound=Settings)
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads `1e-3` as a float: YAML 1.1 asks for the dot, and nobody writes it."""


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class YamlDocument:
    """One parsed YAML file.

    Attributes:
        source: the name used in messages.
        tree: plain dicts, lists and scalars.
        lines: 1-based line of each value, by its path from the root.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.lines: dict[Location, int] = {}
        if len(text.encode()) > MAX_BYTES:
            raise SettingsError(f"{source}: larger than {MAX_BYTES} bytes, the limit for a settings file")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise SettingsError(f"{source}: is empty")
            self._index(node, (), 0, set())
            self.tree: Any = loader.construct_document(node)  # type: ignore[no-untyped-call]
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SettingsError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from None
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
        if not isinstance(self.tree, dict):
            raise SettingsError(f"{source}: must hold a mapping of keys to values, not {type(self.tree).__name__}")

    def _index(self, node: yaml.Node, path: Location, depth: int, seen: set[int]) -> None:
        line = node.start_mark.line + 1
        if id(node) in seen:
            raise SettingsError(f"{self.source}:{line}: anchors and aliases (&, *) are not allowed here")
        if depth > MAX_DEPTH:
            raise SettingsError(f"{self.source}:{line}: nested deeper than {MAX_DEPTH} levels")
        seen.add(id(node))
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key_node, value_node in node.value:
                key = str(key_node.value)
                if key in keys:
                    raise SettingsError(f"{self.source}:{key_node.start_mark.line + 1}: key {key!r} appears twice")
                keys.add(key)
                self.lines[(*path, key)] = key_node.start_mark.line + 1
                self._index(value_node, (*path, key), depth + 1, seen)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._index(item, (*path, index), depth + 1, seen)

    def where(self, path: Location) -> str:
        """`file:line` of the value at `path`, or of its nearest known ancestor."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.source}:{self.lines.get(path, 1)}"


def read_yaml(path: str | Path) -> YamlDocument:
    """Parse a YAML file safely: bounded size and depth, no aliases, no duplicate keys."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SettingsError(f"{path}: {size} bytes, larger than {MAX_BYTES}, the limit for a settings file")
        return YamlDocument(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8 text") from None


def load_settings(path: str | Path, cls: type[SettingsT]) -> SettingsT:
    """Read a YAML file into `cls`.

    Raises:
        SettingsError: one line naming file, line, key, value and rule; an unknown key also names the nearest allowed one.
    """
    document = read_yaml(path)
    return parse_settings(document.tree, cls, document)


def parse_settings(tree: Any, cls: type[SettingsT], document: YamlDocument | str, at: Location = ()) -> SettingsT:
    """Check plain values against `cls`; `document` (or a source name) and the path `at` are for messages only."""
    try:
        # JSON mode: a YAML list is a legal tuple, and still no number is a legal string.
        return cls.model_validate_json(json.dumps(tree, allow_nan=True))
    except ValidationError as error:
        raise SettingsError(_message(error, cls, document, at)) from None
    except TypeError as error:
        source = document if isinstance(document, str) else document.where(at)
        raise SettingsError(f"{source}: {error}") from None


def _message(error: ValidationError, cls: type[Settings], document: YamlDocument | str, at: Location) -> str:
    first = error.errors(include_url=False)[0]
    # A wrong key explains more than a missing one: it is usually why the right one is missing.
    for detail in error.errors(include_url=False):
        if detail["type"] == "extra_forbidden":
            first = detail
            break
    location: Location = (*at, *first["loc"])
    where = document if isinstance(document, str) else document.where(location)
    name = ".".join(str(part) for part in location) or "(top level)"
    return f"{where}: {name}: {_rule(first, cls)}"


def _rule(detail: ErrorDetails, cls: type[Settings]) -> str:
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        allowed = allowed_keys(cls, detail["loc"][:-1])
        nearest = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"allowed: {', '.join(sorted(allowed))}"
        return f"unknown key {key!r}; {hint}"
    if detail["type"] == "missing":
        return "this key is required"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):
        return message
    return f"{detail['input']!r}: {message[0].lower()}{message[1:]}"


def allowed_keys(cls: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    """Keys allowed at `location` below `cls`, following nested settings classes, lists, mappings and unions."""
    candidates: list[Any] = [cls]
    for part in location:
        following: list[Any] = []
        for annotation in candidates:
            if isinstance(annotation, type) and issubclass(annotation, Settings):
                field = annotation.model_fields.get(str(part))
                following += _unwrap(field.annotation) if field else [annotation]
            else:
                following.append(annotation)
        candidates = following
    return [
        key
        for annotation in candidates
        if isinstance(annotation, type) and issubclass(annotation, Settings)
        for key in annotation.model_fields
    ]


def _unwrap(annotation: Any) -> list[Any]:
    """All settings classes named inside a type such as `tuple[A, ...]`, `dict[str, A]` or `A | B`."""
    arguments = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and not arguments:
        return [annotation]
    return [found for argument in arguments if argument is not Ellipsis for found in _unwrap(argument)]
