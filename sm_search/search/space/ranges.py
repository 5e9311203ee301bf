"""Ranges: the leaves of a search space, what they ask of an Optuna trial, and which values they allow."""

import json
from typing import Annotated, Any, Protocol

from pydantic import Field, model_validator

from sm_search.config.base import Settings

ON_GRID = 1e-9
"""Relative tolerance for a number to lie on the grid of a quantised range."""


class Suggester(Protocol):
    """The part of an Optuna trial that a space asks for."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class FloatRange(Settings):
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


class IntRange(Settings):
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


class Choice(Settings):
    choice: Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]

    def suggest(self, trial: Suggester, name: str) -> Any:
        return trial.suggest_categorical(name, list(self.choice))

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
