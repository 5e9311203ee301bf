"""How much of a search goes where its user expects the best: all at first, less and less as trials tell more."""

from typing import Any

from sm_search.config.streams import stream
from sm_search.search.space.tree import Tree, has_prior, parameters_of

TRUST = 0.1
"""Share of the trials after which a prior is trusted half; πBO (Hvarfner et al. 2022) weighs it by that, too."""


def trust(index: int, trials: int) -> float:
    """Probability β/(β + n) that suggestion n of a search follows the priors, with β = `TRUST` of all trials."""
    beta = max(1.0, TRUST * trials)
    return beta / (beta + index)


def expected_values(tree: Tree, seed: int, index: int, trials: int) -> dict[str, Any]:
    """What suggestion `index` takes from the priors: a value for each parameter that has one, or nothing."""
    if not has_prior(tree):
        return {}
    draws = stream(seed, "prior", index)
    if draws.random() >= trust(index, trials):
        return {}
    leaves = parameters_of(tree).items()
    return {name: leaf.expected(draws.random()) for name, leaf in leaves if leaf.prior is not None}
