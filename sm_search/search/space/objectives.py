"""The types of a space's objectives; `sm_search.evaluation.scores` lists them."""

from typing import TYPE_CHECKING, Literal

from sm_search.evaluation.scores import COSTS, DIRECTIONS, METRICS, SCORES

CONSTRAINABLE = (*SCORES, *COSTS)

if TYPE_CHECKING:  # a type checker wants the names in the source; the settings that use these types check values
    Metric = str
    Objective = str
else:
    Metric = Literal[METRICS]
    """What decides: ASHA, the inner search and the ranking go by it."""
    Objective = Literal[tuple(DIRECTIONS)]
