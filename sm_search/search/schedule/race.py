"""A race of schedules: measured on a few images first, and only what looks promising there on more, up to all.

All see the same images in the same order with the same noise, so that differences count.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import DiffusionSettings, ScheduleSettings
from sm_search.evaluation.evaluation_cost import EvaluationCost
from sm_search.evaluation.scores import sign
from sm_search.evaluation.validation import Scores, Validation
from sm_search.search.pareto import pareto_front
from sm_search.search.space.constraints import NO_CONSTRAINTS, violations

ASKED_AT_ONCE = 2
"""Schedules of one race. More would be faster and are worse: TPE learns nothing within it (docs/search-results.md)."""
FEWEST_IMAGES = 8
CERTAIN = 2.0
"""Standard errors of the paired difference to the incumbent by which a schedule must be worse to be dropped at once."""
COMPARED = ("val_psnr_db", "val_ssim", "val_crps")
"""Scores of which a front keeps whatever is best in one, beside those that a study asks for."""
Measure = Callable[[Sequence[ScheduleSettings], int, int], Scores]
"""Scores schedules on the images from one number to another."""


@dataclass(frozen=True)
class ScheduleTrial:
    """One schedule that was tried.

    Attributes:
        state: `dropped` is one that did not look promising on the first images.
        images: how many it was measured on.
        evaluations: of the network, for each image.
        metrics: all scores, means over these images; empty if it diverged.
        value: the metric of the search on all its images; None if it was dropped or diverged.
        estimate: what is to be expected of `value`: the best schedule's, and the mean difference to it on the images
            that both were measured on; its own mean while none was measured to the end; None if it diverged.
    """

    params: dict[str, Any]
    schedule: ScheduleSettings
    state: Literal["complete", "dropped", "diverged"]
    images: int
    evaluations: int
    metrics: dict[str, float]
    value: float | None
    estimate: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the parameters: they are in the schedule."""
        return {
            "schedule": self.schedule.model_dump(mode="json"),
            "value": self.value,
            "estimate": self.estimate,
            "state": self.state,
            "images": self.images,
            "evaluations": self.evaluations,
            "metrics": self.metrics,
        }


class Race:
    """Schedules on the same images in the same order, and the scores of each, image by image."""

    def __init__(
        self,
        measure: Measure,
        metric: str,
        images: int,
        diffusion: DiffusionSettings,
        further: Sequence[str] = (),
        constraints: Mapping[str, str] = NO_CONSTRAINTS,
        cost: EvaluationCost | None = None,
    ) -> None:
        """Args:
        further: scores of which the best are kept, beside `metric` and those of `COMPARED`.
        cost: of an evaluation, where a constraint may be about it.
        """
        self.measure, self.metric, self.images, self.timesteps = measure, metric, images, diffusion.timesteps
        self.compared = tuple(dict.fromkeys((metric, *further, *COMPARED)))
        self.constraints, self.cost = constraints, cost
        self.scores: dict[ScheduleSettings, dict[str, NDArray[np.float64]]] = {}

    def run(self, schedules: Sequence[ScheduleSettings]) -> None:
        """Measure new schedules, each as far as it looks promising. Cost doubles from rung to rung."""
        alive = list(schedules)
        for until in rungs(self.images):
            self._measure(alive, until)
            alive = [schedule for schedule in alive if self._is_finite(schedule)]
            if until < self.images:
                alive = self._promising(alive, until)

    def finish(self, schedules: Sequence[ScheduleSettings]) -> None:
        """Measure schedules on all images, whatever they look like."""
        self._measure(schedules, self.images)

    def is_finished(self, schedule: ScheduleSettings) -> bool:
        return schedule in self.scores and (self._measured(schedule) == self.images or not self._is_finite(schedule))

    def best(self, tried: int, without: Sequence[ScheduleSettings] = ()) -> ScheduleSettings:
        """The best of the schedules measured on all images, `without` some.

        Raises:
            DivergenceError: none of the `tried` schedules is finite.
        """
        finished = [schedule for schedule in self.finished() if schedule not in without]
        if not finished:
            raise DivergenceError(f"none of {tried} schedules stayed within the finite numbers")
        return self.best_of(finished)

    def best_of(self, finished: Sequence[ScheduleSettings]) -> ScheduleSettings:
        return max(finished, key=lambda schedule: self._rank(schedule, self.images))

    def finished(self) -> list[ScheduleSettings]:
        """The schedules measured on all images that stayed finite."""
        return [s for s in self.scores if self._measured(s) == self.images and self._is_finite(s)]

    def best_in_words(self) -> str:
        try:
            return f"best {self._mean(self.best(0), self.metric, self.images):.4g}"
        except DivergenceError:
            return "all diverged"

    def trial(self, params: dict[str, Any], schedule: ScheduleSettings) -> ScheduleTrial:
        """A schedule as it stands in the race."""
        images, is_finite = self._measured(schedule), self._is_finite(schedule)
        metrics = {name: self._mean(schedule, name, images) for name in self.scores[schedule]} if is_finite else {}
        state: Literal["complete", "dropped", "diverged"] = (
            "diverged" if not is_finite else "complete" if images == self.images else "dropped"
        )
        value = metrics[self.metric] if state == "complete" else None
        evaluations, estimate = schedule.evaluations(self.timesteps), self._estimate(schedule, images)
        return ScheduleTrial(params, schedule, state, images, evaluations, metrics, value, estimate)

    def _estimate(self, schedule: ScheduleSettings, images: int) -> float | None:
        if not self._is_finite(schedule):
            return None
        finished = self.finished()
        if not finished:
            return self._mean(schedule, self.metric, images)
        best = self.best_of(finished)
        ahead = self._mean(schedule, self.metric, images) - self._mean(best, self.metric, images)
        return self._mean(best, self.metric, self.images) + ahead

    def _measure(self, schedules: Sequence[ScheduleSettings], until: int) -> None:
        """Measure schedules up to image `until`, from where each is."""
        for begin in sorted({self._measured(schedule) for schedule in schedules}):
            here = [schedule for schedule in schedules if self._measured(schedule) == begin]
            if begin == until:
                continue
            scores = self.measure(here, begin, until)
            for s, schedule in enumerate(here):
                earlier = self.scores.get(schedule, {})
                self.scores[schedule] = {
                    name: np.concatenate([earlier.get(name, values[s, :0]), values[s]])
                    for name, values in scores.items()
                }

    def _promising(self, schedules: Sequence[ScheduleSettings], images: int) -> list[ScheduleSettings]:
        """The better half, less what is certainly worse than the incumbent; and whatever no other beats in the
        scores that are compared and evaluations together.
        """
        if not schedules:
            return []
        field = [s for s in self.scores if self._measured(s) >= images and self._is_finite(s)]
        ranked = sorted(schedules, key=lambda schedule: self._rank(schedule, images), reverse=True)
        incumbent = max(field, key=lambda schedule: self._rank(schedule, images))
        half = [s for s in ranked[: math.ceil(len(ranked) / 2)] if not self._is_surely_worse(s, incumbent, images)]
        unbeaten = pareto_front([self._objectives(schedule, images) for schedule in field])
        kept = {*half, *(s for s, is_unbeaten in zip(field, unbeaten, strict=True) if is_unbeaten)}
        return [schedule for schedule in schedules if schedule in kept]

    def _is_surely_worse(self, schedule: ScheduleSettings, incumbent: ScheduleSettings, images: int) -> bool:
        difference = self.scores[schedule][self.metric][:images] - self.scores[incumbent][self.metric][:images]
        ahead = sign(self.metric) * difference.mean()
        return bool(ahead + CERTAIN * difference.std(ddof=1) / math.sqrt(images) < 0)

    def violations(self, schedule: ScheduleSettings, images: int | None = None) -> dict[str, float]:
        """How far a schedule is outside of each constraint, on its first images, by default all that it has."""
        scores, images = self.scores[schedule], images or self._measured(schedule)
        known = {name: self._mean(schedule, name, images) for name in self.constraints if name in scores}
        evaluations = schedule.evaluations(self.timesteps)
        known |= self.cost.of(evaluations) if self.cost else {"evaluations": float(evaluations)}
        # What a schedule cannot change, such as the seconds of training, is for the outer level.
        return violations({name: text for name, text in self.constraints.items() if name in known}, known)

    def _rank(self, schedule: ScheduleSettings, images: int) -> tuple[float, float]:
        """Larger is better: first by how far it is outside of its constraints, then by the metric."""
        outside = sum(max(0.0, each) for each in self.violations(schedule, images).values())
        return -outside, sign(self.metric) * self._mean(schedule, self.metric, images)

    def _objectives(self, schedule: ScheduleSettings, images: int) -> tuple[float, ...]:
        """To be maximised."""
        means = {name: self._mean(schedule, name, images) for name in self.compared if name in self.scores[schedule]}
        return to_maximise(means, schedule.evaluations(self.timesteps))

    def _measured(self, schedule: ScheduleSettings) -> int:
        return len(self.scores[schedule][self.metric]) if schedule in self.scores else 0

    def _mean(self, schedule: ScheduleSettings, name: str, images: int) -> float:
        return float(self.scores[schedule][name][:images].mean())

    def _is_finite(self, schedule: ScheduleSettings) -> bool:
        return bool(np.isfinite(self.scores[schedule][self.metric]).all())


def to_maximise(scores: Mapping[str, float], evaluations: int) -> tuple[float, ...]:
    """What a front compares of a schedule, more always better."""
    return (*(sign(name) * score for name, score in scores.items()), -float(evaluations))


def rungs(images: int) -> list[int]:
    """Images after which a race looks around: all, half of them, and so on while there are enough."""
    counts = [images]
    while counts[0] >= 2 * FEWEST_IMAGES:
        counts.insert(0, counts[0] // 2)
    return counts


def search_images(validation: Validation, images: int) -> Validation:
    """The images that a search looks at, in the order in which a race looks at them."""
    return validation.subset(images).spread_out()
