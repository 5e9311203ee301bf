"""Trees of settings whose leaves may be ranges: how a search suggests from them, and what they hold.

A value in the tree is taken as it is, unless it is a mapping with one of these keys:

    {float: [low, high], log: true, step: s}     a real number
    {int: [low, high], log: true, step: s}       a whole number, both ends included
    {choice: [a, b, c]}                          one of the values
    {one_of: [{…}, {…}]}                         one of several subtrees, whose own ranges exist only in that branch

The first three take a `prior`, where the best value is expected, with a `confidence` of low, medium or high.
A parameter is named by its path, such as `backbone.width`.
"""

import math
from collections.abc import Mapping
from typing import Any

from sm_search.config.loading import parse_settings
from sm_search.search.space.ranges import LEAVES, Branch, Range, Suggester

Tree = Any


def suggest(trial: Suggester, tree: Tree, path: str = "") -> Tree:
    """The tree with every range replaced by what `trial` suggests for it."""
    leaf = leaf_of(tree)
    if leaf is not None:
        return leaf.suggest(trial, path)
    if isinstance(tree, Mapping):
        if "one_of" in tree:
            branches = branches_of(tree)
            chosen = trial.suggest_categorical(path, list(branches))
            return suggest(trial, branches[chosen], f"{path}.{chosen}")
        return {key: suggest(trial, value, f"{path}.{key}" if path else key) for key, value in tree.items()}
    return tree


class Recorded:
    """A `Suggester` that answers from recorded parameters."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float:
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int:
        return self.params[name]

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.params[name]


def parameter_names(tree: Tree, path: str = "") -> list[str]:
    """Names of all parameters of a tree, those of every branch included."""
    return list(parameters_of(tree, path))


def parameters_of(tree: Tree, path: str = "") -> dict[str, Range]:
    """All parameters of a tree by name; that of a `one_of` is the choice of its branch."""
    leaf = leaf_of(tree)
    if leaf is not None:
        return {path: leaf}
    if not isinstance(tree, Mapping):
        return {}
    if "one_of" in tree:
        branches = branches_of(tree)
        parameters: dict[str, Range] = {path: Branch(choice=tuple(branches))}
    else:
        branches, parameters = dict(tree), {}
    for key, value in branches.items():
        parameters |= parameters_of(value, f"{path}.{key}" if path else str(key))
    return parameters


def fixed_values(tree: Tree, path: str = "") -> dict[str, Any]:
    """What a tree does not search, by name; of a `one_of` nothing, since it is fixed in one branch only."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    if leaf_of(tree) is not None or "one_of" in tree:
        return {}
    fixed: dict[str, Any] = {}
    for key, value in tree.items():
        fixed |= fixed_values(value, f"{path}.{key}" if path else str(key))
    return fixed


def has_prior(tree: Tree) -> bool:
    """Whether a range of the tree has a prior."""
    if isinstance(tree, Mapping):
        is_range = any(key in tree for key in LEAVES)
        return "prior" in tree if is_range else any(map(has_prior, tree.values()))
    return isinstance(tree, list) and any(map(has_prior, tree))


def without_priors(tree: Tree) -> Tree:
    """The same ranges: a prior says where to look first, not what is asked."""
    if isinstance(tree, Mapping):
        dropped = ("prior", "confidence") if any(key in tree for key in LEAVES) else ()
        return {key: without_priors(value) for key, value in tree.items() if key not in dropped}
    return [without_priors(value) for value in tree] if isinstance(tree, list) else tree


def grid_size(tree: Tree, number: int) -> int:
    """Points of the grid over a tree with `number` values of each range of real numbers."""
    leaf = leaf_of(tree)
    if leaf is not None:
        return len(leaf.grid(number))
    if not isinstance(tree, Mapping):
        return 1
    if "one_of" in tree:
        return sum(grid_size(branch, number) for branch in tree["one_of"])
    return math.prod(grid_size(value, number) for value in tree.values())


def grid_point(tree: Tree, number: int, index: int, path: str = "") -> dict[str, Any]:
    """The parameters of point `index` of that grid by name."""
    leaf = leaf_of(tree)
    if leaf is not None:
        return {path: leaf.grid(number)[index]}
    point: dict[str, Any] = {}
    if not isinstance(tree, Mapping):
        return point
    if "one_of" in tree:
        for name, branch in branches_of(tree).items():
            size = grid_size(branch, number)
            if index < size:
                return {path: name, **grid_point(branch, number, index, f"{path}.{name}")}
            index -= size
    for key, value in tree.items():
        index, here = divmod(index, grid_size(value, number))
        point |= grid_point(value, number, here, f"{path}.{key}" if path else str(key))
    return point


def examples(tree: Tree) -> list[Tree]:
    """Resolved trees that together show every sample of every leaf and every branch."""
    leaf = leaf_of(tree)
    if leaf is not None:
        return leaf.samples()
    if not isinstance(tree, Mapping):
        return [tree]
    if "one_of" in tree:
        return [example for branch in tree["one_of"] for example in examples(branch)]
    options = {key: examples(value) for key, value in tree.items()}
    base = {key: values[0] for key, values in options.items()}
    return [base] + [{**base, key: value} for key, values in options.items() for value in values[1:]]


def leaf_of(tree: Tree) -> Range | None:
    """The range that a tree is, or None."""
    if isinstance(tree, Mapping):
        for key, cls in LEAVES.items():
            if key in tree:
                return parse_settings(dict(tree), cls, "space")
    return None


def branches_of(tree: Mapping[str, Any]) -> dict[str, Tree]:
    """The branches of a `one_of` by name: each its first plain text (such as its backbone), or its number.

    Where two would have the same name, all of them take their number as well.
    """
    values = [branch.values() if isinstance(branch, Mapping) else [branch] for branch in tree["one_of"]]
    texts = [next((value for value in each if isinstance(value, str)), "") for each in values]
    names = [
        text if text and texts.count(text) == 1 else f"{text}-{index}" if text else str(index)
        for index, text in enumerate(texts)
    ]
    return dict(zip(names, tree["one_of"], strict=True))
