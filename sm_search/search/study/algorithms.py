"""The search algorithms: for each the points that it gives itself, and the Optuna sampler that suggests the others."""

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler

from sm_search.config.streams import stream, stream_seed
from sm_search.search.space.prior import expected_values
from sm_search.search.space.space import Sampler, Space
from sm_search.search.space.tree import Tree, grid_point, grid_size, parameters_of

MOST_OF_A_GRID = 100_000
"""Points of a grid that are tried of one with more of them."""

Points = Callable[[int], Mapping[str, Any] | None]
"""The parameters of the n-th suggestion, from 0; none of those that are left out is fixed. None where there is none."""


def no_points(index: int) -> None:
    """All is left to the sampler, as before there was a choice."""


@dataclass(frozen=True)
class Algorithm:
    """How the trials of a study are suggested.

    Attributes:
        points: what is given.
        sampler: suggests what is not; None for a search that ends with the points.
        is_list: the points are listed, each once, and those that are known already are left out.
    """

    points: Points
    sampler: BaseSampler | None = None
    is_list: bool = False


@dataclass(frozen=True)
class QuasiRandom:
    """Points that fill the space, or its priors, evenly (Sobol, scrambled): the first `number`, or no end of them."""

    tree: Tree
    seed: int
    number: int | None = None

    def __call__(self, index: int) -> Mapping[str, Any] | None:
        leaves = parameters_of(self.tree)
        if not leaves or (self.number is not None and index >= self.number):
            return None
        from scipy.stats import qmc  # takes a second, which `importance` and its report need not wait for

        sobol = qmc.Sobol(len(leaves), rng=stream_seed(self.seed, "quasi-random") % 2**32)
        quantiles = (sobol.fast_forward(index) if index else sobol).random()[0].tolist()
        return {name: leaf.expected(u) for (name, leaf), u in zip(leaves.items(), quantiles, strict=True)}


@dataclass(frozen=True)
class Random:
    """Independent points of the space, or of its priors."""

    tree: Tree
    seed: int

    def __call__(self, index: int) -> Mapping[str, Any]:
        leaves, draws = parameters_of(self.tree), stream(self.seed, "random", index)
        return {name: leaf.expected(draws.random()) for name, leaf in leaves.items()}


class Grid:
    """All points of a grid in random order."""

    def __init__(self, tree: Tree, seed: int, number: int) -> None:
        self.tree = tree
        self.number = number
        size = grid_size(tree, number)
        self.order = random.Random(seed).sample(range(size), min(size, MOST_OF_A_GRID))

    def __call__(self, index: int) -> Mapping[str, Any] | None:
        return grid_point(self.tree, self.number, self.order[index]) if index < len(self.order) else None


@dataclass(frozen=True)
class Suggested:
    """A quasi-random start, then only what a prior is worth by and by."""

    start: QuasiRandom
    trials: int

    def __call__(self, index: int) -> Mapping[str, Any] | None:
        return self.start(index) or expected_values(self.start.tree, self.start.seed, index, self.trials) or None


def _suggested(make: Callable[[int], BaseSampler]) -> Callable[[Space], Algorithm]:
    def algorithm(space: Space) -> Algorithm:
        start = QuasiRandom(space.outer_tree(), space.seed, space.search.startup)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return Algorithm(Suggested(start, space.budget.trials), make(space.seed))

    return algorithm


def _tpe(seed: int) -> BaseSampler:
    # The liar: a trial that runs counts as bad, so that workers side by side do not all try the same.
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=1)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=1)


def _cmaes(seed: int) -> BaseSampler:
    return CmaEsSampler(seed=seed, consider_pruned_trials=True, warn_independent_sampling=False)


ALGORITHMS: Mapping[Sampler, Callable[[Space], Algorithm]] = {
    "tpe": _suggested(_tpe),
    "gp": _suggested(_gp),
    "cmaes": _suggested(_cmaes),
    "random": lambda space: Algorithm(Random(space.outer_tree(), space.seed)),
    "qmc": lambda space: Algorithm(QuasiRandom(space.outer_tree(), space.seed)),
    "grid": lambda space: Algorithm(Grid(space.outer_tree(), space.seed, space.search.grid), is_list=True),
}
