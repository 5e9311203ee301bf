"""The settings at a point of a space."""

from collections.abc import Mapping
from typing import Any

from sm_search.config.loading import parse_settings
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.search.space.space import Space
from sm_search.search.space.tree import Recorded, Tree, suggest


def training_settings(space: Space, params: Mapping[str, Any]) -> TrainingSettings:
    """The training settings of an outer trial."""
    tree = suggest(Recorded(params), space.outer_tree())
    return parse_settings(tree["training"] if space.mode == "joint" else tree, TrainingSettings, "training")


def schedule_settings(tree: Tree) -> ScheduleSettings:
    """Resolved values as a schedule; w_max is searched as it is, and lifted to w_min where it falls below."""
    return parse_settings(as_schedule(tree), ScheduleSettings, "schedule")


def schedule_branches(tree: Tree) -> list[Tree]:
    """The trees without branches that a schedule's tree holds: one for each branch under `sampler`, or itself."""
    return [_merged({**tree, "sampler": branch}) for branch in sampler_branches(tree)] or [tree]


def sampler_branches(tree: Tree) -> list[Tree]:
    """The branches under `sampler` as the tree has them."""
    sampler = tree.get("sampler")
    return list(sampler["one_of"]) if isinstance(sampler, Mapping) and "one_of" in sampler else []


def _merged(values: Mapping[str, Any]) -> dict[str, Any]:
    """A branch under `sampler`, which names the sampler and its parameters, as a part of the whole."""
    sampler = values.get("sampler")
    return {**values, **sampler} if isinstance(sampler, Mapping) and "sampler" in sampler else dict(values)


def as_schedule(values: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved values by the names of `ScheduleSettings`, w_max no less than w_min."""
    values = _merged(values)
    ends = [values.get("w_min"), values.get("w_max", ScheduleSettings().w_max)]
    # What is no number is for the settings to refuse.
    if all(isinstance(end, int | float) for end in ends):
        return {**values, "w_max": max(ends)}
    return values
