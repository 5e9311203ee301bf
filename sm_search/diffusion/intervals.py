"""How far from a synthesised value the true one may lie, in units of the standard deviation of a model's draws.

The unit is as wrong as the network's draws are, and by another factor where the condition is noisy. Both are known from
scans that were not trained on, and go with the model. Farther from the training scans than those were nothing is known:
there intervals grow in proportion to the distance.
"""

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from sm_search.config.base import Settings

LEVELS = (0.5, 0.9)
"""What the intervals that are stated shall cover."""

SILENT_DB = 120.0
"""Above this, measurement noise is none."""

Factor = Annotated[float, Field(ge=0)]


class Intervals(Settings):
    """Half widths of the intervals of `LEVELS`: radii about a complex value, its component's amplitude given.

    Attributes:
        draws: over so many the standard deviation is taken.
        noise_db: what a condition's strongest component stood above its noise where they were fitted, rising; the last
            one stands for all quieter ones.
        factors: at each of these, for each of `LEVELS` the half width in standard deviations √(σ_real² + σ_imaginary²).
        distance: of the farthest scan that they were fitted to from the training scans (`TrainingDomain`); None where
            the model has no record of these.
    """

    draws: Annotated[int, Field(ge=2)]
    noise_db: Annotated[tuple[float, ...], Field(min_length=1)]
    factors: tuple[tuple[Factor, Factor], ...]
    distance: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.noise_db) != len(self.factors) or list(self.noise_db) != sorted(set(self.noise_db)):
            raise ValueError(f"noise_db = {self.noise_db}: must rise, and belong to {len(self.factors)} factors")
        return self

    def at(self, noise_db: float | None, distance: float | None) -> tuple[float, ...]:
        """The factors of a condition.

        Args:
            noise_db: what its strongest component stands above its noise; linear between the levels fitted. None, where
                no noise is known, is the quietest.
            distance: from the training scans; None where it is not known.
        """
        level = SILENT_DB if noise_db is None else noise_db
        wider = 1.0 if distance is None or self.distance is None else max(1.0, distance / self.distance)
        return tuple(wider * float(np.interp(level, self.noise_db, each)) for each in zip(*self.factors, strict=True))
