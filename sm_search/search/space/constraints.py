"""Constraints: bounds within which a trial must end, and a schedule must lie, to win."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
ONE_END = re.compile(rf"(<=|>=)\s*({NUMBER})")
BOTH_ENDS = re.compile(rf"({NUMBER})\s*\.\.\s*({NUMBER})")
RULE = "must be '<= NUMBER', '>= NUMBER' or 'LOW..HIGH', both ends allowed"

NO_CONSTRAINTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Bounds:
    """What a number must lie between, both ends included."""

    low: float = -math.inf
    high: float = math.inf

    @staticmethod
    def of(text: str) -> "Bounds":
        """From a constraint as it is written.

        Raises:
            ValueError: it breaks the rule in the message.
        """
        text = text.strip()
        if both := BOTH_ENDS.fullmatch(text):
            bounds = Bounds(float(both[1]), float(both[2]))
        elif one := ONE_END.fullmatch(text):
            bounds = Bounds(high=float(one[2])) if one[1] == "<=" else Bounds(low=float(one[2]))
        else:
            raise ValueError(f"{text!r}: {RULE}")
        if bounds.low > bounds.high:
            raise ValueError(f"{text!r}: needs LOW <= HIGH")
        return bounds

    def violation(self, value: float) -> float:
        """How far outside a value is, in parts of the bound that it breaks; 0 or less inside, 1 for no number.

        In parts, since Optuna adds up the violations of several constraints, whatever their units.
        """
        if math.isnan(value):
            return 1.0
        ends = ((self.low - value, self.low), (value - self.high, self.high))
        return max(beyond / (abs(end) or 1.0) for beyond, end in ends if math.isfinite(end))


def violations(constraints: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, float]:
    """By constraint. What was not measured, such as a score that an earlier revision did not ask for, is outside."""
    return {name: Bounds.of(text).violation(float(metrics.get(name, math.nan))) for name, text in constraints.items()}


def broken(constraints: Mapping[str, str], metrics: Mapping[str, float]) -> str | None:
    """What of the constraints is broken, in words; None for nothing."""
    told = [
        f"{name} {_shown(metrics.get(name))}, which must be {constraints[name].strip()}"
        for name, violation in violations(constraints, metrics).items()
        if violation > 0
    ]
    return "; ".join(told) or None


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{float(value):.4g}"
