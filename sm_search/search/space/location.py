"""Where settings lie in a space: the way back from what a trial was to the point that would be it again."""

from collections.abc import Mapping
from typing import Any

from sm_search.config.base import Settings
from sm_search.config.errors import SettingsError
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.search.space.ranges import Choice, Range
from sm_search.search.space.resolved_settings import schedule_settings, training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.tree import Recorded, Tree, branches_of, leaf_of, suggest

Located = dict[str, Any]
"""Parameters by name."""


def located(space: Space, earlier: Space, params: Mapping[str, Any]) -> Located | None:
    """The point of a space at which a trial has the very settings that it has at `params` of an earlier space.

    A parameter that was added takes the value that was fixed before, or the setting's default; one that was fixed drops
    out. None where the space does not hold those settings any more.
    """
    settings = _settings(earlier, params)
    values = _values(settings["training"])
    tree: Any = space.training
    if space.mode == "joint":
        values, tree = {"training": values, "schedule": _values(settings["schedule"])}, space.outer_tree()
    point = _locate(tree, values, "", {})
    try:
        if point is None or _settings(space, point) != settings:
            return None
    except (SettingsError, KeyError):
        return None
    # As it was written before: 1 and 1.0 are the same number, but not the same text in MLflow.
    return {name: params[name] if params.get(name) == value else value for name, value in point.items()}


def _settings(space: Space, params: Mapping[str, Any]) -> dict[str, Settings]:
    """All that makes a trial what it is."""
    found: dict[str, Settings] = {"training": training_settings(space, params)}
    if space.mode == "joint":
        found["schedule"] = schedule_settings(suggest(Recorded(params), space.outer_tree())["schedule"])
    return found


def _values(settings: TrainingSettings | ScheduleSettings | Settings) -> dict[str, Any]:
    """The settings as a tree without ranges; a dump leaves out what is at its default and came later."""
    defaults = {name: type(settings).model_fields[name].default for name in settings.added}
    return {**defaults, **settings.model_dump(mode="json")}


def _locate(tree: Tree, values: Any, path: str, around: Mapping[str, Any]) -> Located | None:
    leaf = leaf_of(tree)
    if leaf is not None:
        found = _as_in(leaf, values)
        return None if leaf.fault(found) else {path: found}
    if not isinstance(tree, Mapping):
        return {} if tree == values else None
    if "one_of" in tree:
        # A branch under `schedule.sampler` sets what stands beside it.
        inner = values if isinstance(values, Mapping) else around
        for name, branch in branches_of(tree).items():
            point = _locate(branch, inner, f"{path}.{name}", {})
            if point is not None:
                return {path: name, **point}
        return None
    if not isinstance(values, Mapping):
        return None
    whole: Located = {}
    for key, branch in tree.items():
        if key not in values:
            return None
        point = _locate(branch, values[key], f"{path}.{key}" if path else str(key), values)
        if point is None:
            return None
        whole |= point
    return whole


def _as_in(leaf: Range, value: Any) -> Any:
    """A setting's value as the leaf writes it: a setting that is a real number makes 1.0 of a choice's 1."""
    if isinstance(leaf, Choice):
        same = (known for known in leaf.choice if known == value and isinstance(known, bool) == isinstance(value, bool))
        return next(same, value)
    return value
