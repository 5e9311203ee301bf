"""What a study may ask for: its metric, further objectives, and which way each is better.

The qualities among them are computed by `sm_search.evaluation.validation.QUALITIES`.
"""

from typing import TYPE_CHECKING, Literal

DIRECTIONS: dict[str, Literal["max", "min"]] = {
    "val_psnr_db": "max",
    "val_ssim": "max",
    "val_crps": "min",
    "evaluations": "min",
}
"""Every objective, in one line each: those of which more is better are qualities, the others costs."""
METRICS = tuple(name for name, direction in DIRECTIONS.items() if direction == "max")

if TYPE_CHECKING:  # a type checker wants the names in the source; the settings that use these types check values
    Metric = str
    Objective = str
else:
    Metric = Literal[METRICS]
    """What decides: ASHA, the inner search and the ranking go by it."""
    Objective = Literal[tuple(DIRECTIONS)]
CONSTRAINABLE = (*DIRECTIONS, "val_spread_error")
"""What a constraint may be about: all that a trial reports of its schedule."""
