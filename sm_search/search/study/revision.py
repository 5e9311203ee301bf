"""What of a study may change while it goes on: its budget and its ranges may, what it asks may not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sm_search.config.errors import SettingsError
from sm_search.search.space.ranges import LEAVES
from sm_search.search.space.space import Space
from sm_search.search.space.tree import fixed_values, parameters_of, without_priors

FREE = ("trials", "minutes", "cost", "cost_per_hour", "stop", "confirm", "regression")
"""Of the budget, what does not change the value of a trial."""
RULES = ("minutes", "cost", "cost_per_hour", "stop")
"""Of these, what may have ended a search, which takes no further trial then."""


@dataclass(frozen=True)
class Revision:
    """A later state of a study.

    Attributes:
        space: from then on.
        changes: what is different from before, in words.
        search: number of the search that goes by it; several revisions may share one.
    """

    space: Space
    changes: tuple[str, ...]
    search: int = 1


def revised(before: Revision, space: Space, *, has_ended: bool = False) -> Revision | None:
    """The revision that makes a study's state `before` into `space`; None where nothing changed.

    Args:
        has_ended: the study's search came to its end, so that it takes another to go on by other rules.

    Raises:
        SettingsError: the study would ask another question, so that earlier trials say nothing about it.
    """
    old = before.space
    for name, was in _question(old).items():
        now = _question(space)[name]
        if now != was:
            raise SettingsError(
                f"study {space.study!r}: {name} was {_short(was)} and is {_short(now)}: not the same study: its "
                "trials would mean something else; another `study` name or --home begins a new one, and with "
                f"`warm_start: [{space.study}]` with the best of these trials"
            )
    searched = _changed(_tree(old), _tree(space))
    if not searched and old.outer_tree() != space.outer_tree():
        searched = ["what a branch fixes"]
    searched += [f"constraints.{change}" for change in _changed(old.constraints, space.constraints)]
    searched += [f"search.{change}" for change in _changed(old.search.model_dump(), space.search.model_dump())]
    if old.initial_points != space.initial_points:
        searched.append("initial_points")
    # It is often given on the command line of the first start alone.
    searched += [f"warm_start: {study}" for study in space.warm_start if study not in old.warm_start]
    if space.mode == "two-level" and old.schedule != space.schedule:
        searched.append("priors of the schedule")
    if old.budget.trials != space.budget.trials:
        searched.append(f"budget.trials: {old.budget.trials} → {space.budget.trials}")
    was, now = (each.budget.model_dump(mode="json", exclude_none=True) for each in (old, space))
    free = [name for name in FREE[1:] if was.get(name) != now.get(name)]
    changes = [*searched, *(f"budget.{name}: {_short(was.get(name))} → {_short(now.get(name))}" for name in free)]
    if not changes:
        return None
    is_another = bool(searched) or (has_ended and any(name in RULES for name in free))
    return Revision(space, tuple(changes), before.search + is_another)


def _question(space: Space) -> dict[str, Any]:
    budget = space.budget.model_dump(mode="json", exclude=set(FREE))
    question = {"mode": space.mode, "objectives": space.objectives(), "seed": space.seed}
    question |= {"training.steps": space.training_steps()}
    question |= {f"budget.{name}": value for name, value in budget.items()}
    # In two levels a trial's value is that of its best schedule.
    return question if space.mode == "joint" else {**question, "schedule": without_priors(space.schedule)}


def _tree(space: Space) -> dict[str, Any]:
    """Ranges and fixed values by name."""
    ranges = {
        name: leaf.model_dump(mode="json", by_alias=True) for name, leaf in parameters_of(space.outer_tree()).items()
    }
    return {**fixed_values(space.outer_tree()), **ranges}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys((*old, *new))
    return [
        f"{name}: {_short(old.get(name, 'not there'))} → {_short(new.get(name, 'not there'))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _short(value: Any) -> str:
    kind = next((name for name in LEAVES if isinstance(value, Mapping) and name in value), None)
    if kind is not None:
        more = "".join(
            f", {name}: {each}" for name, each in value.items() if name != kind and each not in (False, None, 1)
        )
        return f"{{{kind}: {value[kind]}{more}}}"
    text = "none" if value is None else _flow(value)
    return text if len(text) <= 160 else f"{text[:160]}…"


def _flow(value: Any) -> str:
    """As one would write it in the space's file."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_flow(each)}' for name, each in value.items())}}}"
    return str(value)
