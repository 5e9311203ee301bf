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
MAX_SHOWN = 100

NAMED = re.compile(r"[a-z]\w*(?:\.\w+)*")
PLAIN_WORDS = {
    "missing": "this key is required",
    "union_tag_not_found": "key {discriminator} is required here",
    "union_tag_invalid": "'{tag}': must be one of {expected_tags}",
    "float_type": "{value}: must be a number",
    "float_parsing": "{value}: must be a number",
    "int_type": "{value}: must be a whole number",
    "int_parsing": "{value}: must be a whole number",
    "int_from_float": "{value}: must be a whole number",
    "tuple_type": "{value}: must be a list",
    "too_long": "{value}: needs at most {max_length} values, not {actual_length}",
    "too_short": "{value}: needs at least {min_length} values, not {actual_length}",
}
"""For what pydantic says in words of its own."""

SettingsT = TypeVar("SettingsT", bound=Settings)
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with two rules of YAML 1.2: `1e-3` is a float without a dot, and `2025-01-31` is a plain word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
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
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
                if node is None:
                    raise SettingsError(f"{source}: is empty")
                self._index(node, (), 0, set())
                self.tree: Any = loader.construct_document(node)
            finally:
                loader.dispose()
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SettingsError(f"{source}: is not valid YAML: {error}") from None
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
        SettingsError: one line naming file, line, key, value and rule; for an unknown key also the nearest allowed one.
    """
    document = read_yaml(path)
    return parse_settings(document.tree, cls, document)


def parse_settings(tree: Any, cls: type[SettingsT], document: YamlDocument | str, at: Location = ()) -> SettingsT:
    """Check plain values against `cls`; `document` (or a source name) and the path `at` are for messages only."""
    try:
        # JSON mode: a YAML list is a legal tuple, and still no number is a legal string.
        return cls.model_validate_json(json.dumps(tree, allow_nan=True))
    except ValidationError as error:
        raise SettingsError(_message(error, tree, cls, document, at)) from None
    except TypeError as error:
        source = document if isinstance(document, str) else document.where(at)
        raise SettingsError(f"{source}: {error}") from None


def _message(error: ValidationError, tree: Any, cls: type[Settings], document: YamlDocument | str, at: Location) -> str:
    details = error.errors(include_url=False)
    # A wrong key explains more than a missing one: it is usually why the right one is missing. Of the members of a
    # union, the one whose fault lies deepest is the one that was meant.
    wrong_keys = [detail for detail in details if detail["type"] == "extra_forbidden"]
    first = wrong_keys[0] if wrong_keys else max(details, key=lambda detail: _closeness(detail, tree))
    location = _typed_location(first, tree)
    location = (*at, *location, *_named_location(first["msg"], _value_at(tree, location)))
    where = document if isinstance(document, str) else document.where(location)
    name = ".".join(str(part) for part in location) or "(top level)"
    rule = _rule(first, cls)
    for known in (name, name.rpartition(".")[2]):
        rule = rule if known.isdigit() else rule.removeprefix(f"{known}: ")  # a place in a list may look like the value
    return f"{where}: {name}: {rule}"


def _closeness(detail: ErrorDetails, tree: Any) -> tuple[int, bool]:
    """How close a fault is to what was meant: a list is no failed number."""
    is_other_type = isinstance(detail["input"], list) and detail["type"].endswith("_type")
    return len(_typed_location(detail, tree)), not is_other_type


def _typed_location(detail: ErrorDetails, tree: Any) -> Location:
    """Where a fault is, without the tags that pydantic adds for a member of a union: nobody typed them as keys."""
    typed: list[str | int] = []
    location = detail["loc"]
    for position, part in enumerate(location):
        inside = isinstance(tree, dict) and part in tree
        inside = inside or (isinstance(tree, list) and isinstance(part, int) and part < len(tree))
        if inside or (detail["type"] == "missing" and position == len(location) - 1):
            typed.append(part)
            tree = tree[part] if inside else None
    return tuple(typed)


def _named_location(message: str, tree: Any) -> Location:
    """The first key that a rule between several keys names, such as `low.drive_mt`, if it is in the tree."""
    for word in NAMED.findall(message.removeprefix("Value error, ")):
        location = tuple(word.split("."))
        if _value_at(tree, location) is not None:
            return location
    return ()


def _value_at(tree: Any, location: Location) -> Any:
    for part in location:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _rule(detail: ErrorDetails, cls: type[Settings]) -> str:
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        allowed = allowed_keys(cls, detail["loc"][:-1])
        nearest = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"allowed: {', '.join(sorted(allowed))}"
        return f"unknown key {key!r}; {hint}"
    if detail["type"] in PLAIN_WORDS:
        return PLAIN_WORDS[detail["type"]].format(value=_shown(detail["input"]), **detail.get("ctx", {}))
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message if isinstance(detail["input"], dict) else f"{_shown(detail['input'])}: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def allowed_keys(cls: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    """Keys allowed at `location` below `cls`, following nested settings classes, lists, mappings and unions."""
    candidates = [cls]
    for part in location:
        fields = [field for each in candidates if (field := each.model_fields.get(str(part)))]
        if fields:
            candidates = [found for field in fields for found in _settings_classes(field.annotation)]
        else:
            # An index, a key of a mapping, or the tag of a union's member: the last leaves that member only.
            candidates = [each for each in candidates if _has_tag(each, part)] or candidates
    return [key for each in candidates for key in each.model_fields]


def _has_tag(cls: type[Settings], part: str | int) -> bool:
    return any(part in getattr(field.annotation, "__args__", ()) for field in cls.model_fields.values())


def _settings_classes(annotation: Any) -> list[type[Settings]]:
    """All settings classes named inside a type such as `tuple[A, ...]`, `dict[str, A]` or `A | B`."""
    arguments = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and not arguments:
        return [annotation] if issubclass(annotation, Settings) else []
    return [found for argument in arguments for found in _settings_classes(argument)]
