"""Ranges: the leaves of a search space, what they ask of an Optuna trial, and which values they allow."""

import json
import math
from itertools import accumulate
from statistics import NormalDist
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from sm_search.config.base import Settings

ON_GRID = 1e-9
"""Relative tolerance for a number to lie on the grid of a quantised range."""
Confidence = Literal["low", "medium", "high"]
SPREADS: dict[Confidence, float] = {"low": 0.5, "medium": 0.25, "high": 0.125}
"""Standard deviation of a prior in lengths of the range, on the range's own scale: log-normal where that is `log`."""
LAST = math.nextafter(1.0, 0.0)
"""The last quantile below 1."""
WEIGHTS: dict[Confidence, float] = {"low": 2.0, "medium": 4.0, "high": 8.0}
"""How many times as likely as any other the expected value of a choice is."""


class Suggester(Protocol):
    """The part of an Optuna trial that a space asks for."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class Prior(Settings):
    """What a user expects of a parameter.

    Attributes:
        prior: where the best value is expected; None if nowhere in particular.
        confidence: how near the best one is to it.
    """

    prior: bool | int | float | str | None = None
    confidence: Confidence | None = None

    def fault(self, value: Any) -> str | None:
        """The rule that `value` breaks as a point of this range."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _legal(self) -> "Prior":
        if self.prior is None and self.confidence is not None:
            raise ValueError("confidence: is that of a prior, which is missing")
        if self.prior is not None and (fault := self.fault(self.prior)):
            raise ValueError(f"prior: {self.prior!r} {fault}")
        return self


class Numbers(Prior):
    """What ranges of numbers share: a normal prior on the range's own scale, cut off at its ends."""

    def position(self, value: Any) -> float:
        """Where on the range a value lies, from 0 to 1; the inverse of `at`."""
        raise NotImplementedError

    def at(self, quantile: float) -> Any:
        """The value below which lies this share of the range, `quantile` in [0, 1)."""
        raise NotImplementedError

    def expected(self, quantile: float) -> Any:
        """The value below which lies this share of the prior; of the range where there is none."""
        if self.prior is None:
            return self.at(quantile)
        normal = NormalDist(self.position(self.prior), SPREADS[self.confidence or "medium"])
        low, high = normal.cdf(0.0), normal.cdf(1.0)
        return self.at(min(max(normal.inv_cdf(low + quantile * (high - low)), 0.0), LAST))


class FloatRange(Numbers):
    ends: tuple[float, float] = Field(alias="float")
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "FloatRange":
        low, high = self.ends
        if not low < high:
            raise ValueError(f"float: needs low < high, not [{low:g}, {high:g}]")
        if self.log and (low <= 0 or self.step is not None):
            raise ValueError("log: needs low > 0 and no step")
        if self.step is not None and self.step > high - low:
            raise ValueError(f"step: {self.step:g} exceeds the range [{low:g}, {high:g}]")
        return self

    def suggest(self, trial: Suggester, name: str) -> Any:
        return trial.suggest_float(name, *self.ends, log=self.log, step=self.step)

    def at(self, quantile: float) -> float:
        low, high = self.ends
        if self.step is not None:
            value = low + self.step * math.floor(quantile * self._steps())
        else:
            value = low * (high / low) ** quantile if self.log else low + quantile * (high - low)
        return min(high, value)  # rounding may lead out of the range

    def position(self, value: Any) -> float:
        low, high = self.ends
        if self.step is not None:
            return (round((value - low) / self.step) + 0.5) / self._steps()
        return math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)

    def grid(self, number: int) -> list[float]:
        """Both ends and evenly spaced values between them; all values of a range with a step."""
        if self.step is not None:
            return [min(self.ends[1], self.ends[0] + self.step * index) for index in range(self._steps())]
        return [self.ends[0], *(self.at(index / (number - 1)) for index in range(1, number - 1)), self.ends[1]]

    def _steps(self) -> int:
        """Values of a range with a step."""
        assert self.step is not None
        return 1 + math.floor((self.ends[1] - self.ends[0]) / self.step + ON_GRID)

    def samples(self) -> list[Any]:
        return list(self.ends)

    def fault(self, value: Any) -> str | None:
        """The rule that `value` breaks as a point of this range."""
        low, high = self.ends
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            return f"must be a number in [{low:g}, {high:g}]"
        steps = (value - low) / self.step if self.step else 0.0
        if abs(steps - round(steps)) > ON_GRID * max(1.0, abs(steps)):
            return f"must be {low:g} plus a multiple of {self.step:g}"
        return None

    def read(self, text: str) -> Any:
        """The value that a tracking store holds as `text`; ValueError if it is no number."""
        return float(text)


class IntRange(Numbers):
    ends: tuple[int, int] = Field(alias="int")
    log: bool = False
    step: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "IntRange":
        low, high = self.ends
        if not low < high:
            raise ValueError(f"int: needs low < high, not [{low}, {high}]")
        if self.log and (low <= 0 or self.step != 1):
            raise ValueError("log: needs low > 0 and no step")
        if self.step > high - low:
            raise ValueError(f"step: {self.step} exceeds the range [{low}, {high}]")
        return self

    def suggest(self, trial: Suggester, name: str) -> Any:
        return trial.suggest_int(name, *self.ends, log=self.log, step=self.step)

    def at(self, quantile: float) -> int:
        low, high = self.ends
        if self.log:
            # Each whole number has the share of the logarithmic scale that rounds to it.
            return min(high, max(low, round((low - 0.5) * ((high + 0.5) / (low - 0.5)) ** quantile)))
        return low + self.step * math.floor(quantile * (1 + (high - low) // self.step))

    def position(self, value: Any) -> float:
        low, high = self.ends
        if self.log:
            return math.log(value / (low - 0.5)) / math.log((high + 0.5) / (low - 0.5))
        return ((value - low) // self.step + 0.5) / (1 + (high - low) // self.step)

    def grid(self, number: int) -> list[int]:
        """All values; of a logarithmic range as many as a range of real numbers has."""
        low, high = self.ends
        if not self.log:
            return list(range(low, high + 1, self.step))
        return sorted({round(low * (high / low) ** (index / (number - 1))) for index in range(number)})

    def samples(self) -> list[Any]:
        return list(self.ends)

    def fault(self, value: Any) -> str | None:
        """The rule that `value` breaks as a point of this range."""
        low, high = self.ends
        if isinstance(value, int) and not isinstance(value, bool) and value in range(low, high + 1, self.step):
            return None
        return f"must be a whole number in [{low}, {high}]" + (f" in steps of {self.step}" if self.step > 1 else "")

    def read(self, text: str) -> Any:
        """The value that a tracking store holds as `text`; ValueError if it is no whole number."""
        return int(text)


class Choice(Prior):
    choice: Annotated[tuple[bool | int | float | str | None, ...], Field(min_length=1)]

    def suggest(self, trial: Suggester, name: str) -> Any:
        return trial.suggest_categorical(name, list(self.choice))

    def at(self, quantile: float) -> Any:
        """The value at this share of the list, `quantile` in [0, 1)."""
        return self.choice[math.floor(quantile * len(self.choice))]

    def expected(self, quantile: float) -> Any:
        """The value at this share of the list where the prior has its weight, and each other the weight 1."""
        weights = [
            WEIGHTS[self.confidence or "medium"] if value == self.prior and type(value) is type(self.prior) else 1.0
            for value in self.choice
        ]
        return next(
            value
            for value, reached in zip(self.choice, accumulate(weights), strict=True)
            if quantile * sum(weights) < reached
        )

    def grid(self, number: int) -> list[Any]:
        """All values."""
        return list(self.choice)

    def samples(self) -> list[Any]:
        return list(self.choice)

    def fault(self, value: Any) -> str | None:
        """The rule that `value` breaks as a point of this choice."""
        # `True == 1` and `1 == 1.0`, but a setting takes only one of them.
        if any(value == known and type(value) is type(known) for known in self.choice):
            return None
        return f"must be one of {', '.join(map(repr, self.choice))}"

    def read(self, text: str) -> Any:
        """The value that a tracking store holds as `text`; ValueError if it is none of the choices."""
        for value in self.choice:
            if text == (value if isinstance(value, str) else json.dumps(value)):
                return value
        raise ValueError(self.fault(text))


class Branch(Choice):
    """The choice of a `one_of`: of one of its subtrees, by name."""


Range = FloatRange | IntRange | Choice
LEAVES: dict[str, type[Range]] = {"float": FloatRange, "int": IntRange, "choice": Choice}
