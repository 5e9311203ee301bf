"""The inner level: the sampling schedule, searched on frozen weights.

Schedules are asked for in batches. Each batch is a race: measured on a few images first, and only what looks promising
there on more, up to all. All see the same images in the same order with the same noise, so that differences count.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from sm_search.config.errors import DivergenceError
from sm_search.config.model_settings import DiffusionSettings, ScheduleSettings
from sm_search.diffusion.denoiser import Denoiser
from sm_search.evaluation.validation import ScheduleScorer, Scores, Validation
from sm_search.search.space.ranges import Branch
from sm_search.search.space.space import (
    Tree,
    parameter_names,
    parameters_of,
    schedule_branches,
    schedule_settings,
    suggest,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)

UNPERTURBED = {"eta_max": 0.0, "w_min": 1.0, "w_max": 1.0}
"""The condition as it is, at every step."""
ASKED_AT_ONCE = 2
"""A few more to a batch would be faster and are worse: TPE learns nothing within it (docs/results.md)."""
STARTUP_SCHEDULES = 9
"""Drawn at random before TPE suggests; what is asked for first is among them."""
REPEATS_BEFORE_RANDOM = 1
"""Races in a row without a schedule that is new, after which they are drawn at random: TPE may insist on the best."""
MOST_REPEATS = 32
"""Races in a row without a schedule that is new, after which a space counts as exhausted."""
FEWEST_IMAGES = 8
CERTAIN = 2.0
"""Standard errors of the paired difference to the best by which a schedule must be worse to be dropped at once."""

Measure = Callable[[Sequence[ScheduleSettings], int, int], Scores]
"""Scores schedules on the images from one number to another."""
Progress = Callable[[int, int, str], None]
"""Called with schedules done, schedules in all, and the best value so far in words."""


@dataclass(frozen=True)
class ScheduleTrial:
    """One schedule that was tried.

    Attributes:
        state: `dropped` is one that did not look promising on the first images.
        images: how many it was measured on.
        evaluations: of the network, for each image.
        metrics: PSNR and SSIM, means over these images; empty if it diverged.
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


@dataclass(frozen=True)
class ScheduleSearch:
    """What an inner search found.

    Attributes:
        best: the best schedule by the metric, and its `metrics` on all validation images.
        trials: every schedule tried, in order.
        front: of the schedules measured to the end those that no other one beats in PSNR, SSIM and number of network
            evaluations together, the fewest evaluations first.
    """

    best: ScheduleSettings
    metrics: dict[str, float]
    trials: tuple[ScheduleTrial, ...]
    front: tuple[ScheduleTrial, ...]


def early_schedules(tree: Tree) -> list[ScheduleSettings]:
    """Those of whose better one the early rungs judge: the base, and the base in the fewest steps of the space.

    Models differ in which of the two suits them, so that one alone would rank them by that.
    """
    base = base_schedule(tree)
    leaf = parameters_of(_base_branch(tree).get("steps"), "steps").get("steps")
    allowed = [steps for steps in (1, *leaf.samples()) if steps > 0 and leaf.fault(steps) is None] if leaf else []
    fewest = base.model_copy(update={"steps": min(allowed, default=base.steps)})
    return list(dict.fromkeys([base.essential(), fewest.essential()]))


def base_schedule(tree: Tree) -> ScheduleSettings:
    """The tree's fixed values, and for what is searched the allowed value that is nearest to the default."""
    defaults, branch = ScheduleSettings().model_dump(), _base_branch(tree)
    values = dict(branch)
    for name, value in branch.items():
        leaf = parameters_of(value, name).get(name)
        if leaf is None:
            continue
        if isinstance(leaf, Branch):
            del values[name]
            continue
        default, samples = defaults[name], leaf.samples()
        if leaf.fault(default) is None:
            values[name] = default
        elif isinstance(default, str | bool):
            values[name] = samples[0]
        else:
            values[name] = min(samples, key=lambda sample: abs(sample - default))
    return schedule_settings(values)


def _base_branch(tree: Tree) -> Tree:
    """Of the branches under `sampler` that of the default one, or else the first."""
    branches = schedule_branches(tree)
    return next((each for each in branches if each.get("sampler") == ScheduleSettings().sampler), branches[0])


def search_schedule(
    denoiser: Denoiser,
    diffusion: DiffusionSettings,
    tree: Tree,
    validation: Validation,
    *,
    metric: str,
    trials: int,
    images: int,
    seed: int,
    device: str = "cpu",
    first: Sequence[Mapping[str, Any]] = (),
    asked_at_once: int = ASKED_AT_ONCE,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> ScheduleSearch:
    """Search `tree` with `trials` schedules on `images` validation images; the result is measured on all of them.

    Schedules that draw the same images count as one. Those of the early rungs are tried first, and to the end, so the
    search never returns anything that looks worse than they; and at the end the best of those with noise or weight on
    the condition is tried without, so that one sees what the paper's decay does, also where the best of all does
    without. That one is chosen only if the space holds it.

    Args:
        first: parameters of schedules to ask for before any other; they count as trials.
        asked_at_once: schedules of one race; the sampler learns from a race when it is over.
        measure: scores on `search_images(validation, images)`; None for one that computes them here.

    Raises:
        DivergenceError: not one schedule stayed finite.
    """
    subset = search_images(validation, images)
    race = Race(measure or ScheduleScorer(denoiser, diffusion, subset, device), metric, len(subset), diffusion)
    early = early_schedules(tree)
    tried: list[tuple[dict[str, Any], ScheduleSettings]] = [({}, schedule) for schedule in early]
    outside: list[ScheduleSettings] = []
    race.finish(early)
    if parameter_names(tree):
        study = optuna.create_study(direction="maximize", sampler=_sampler(seed))
        for params in first:
            study.enqueue_trial(dict(params))
        samplers, repeats = (study.sampler, optuna.samplers.RandomSampler(seed)), 0
        while (done := len(tried) - len(early)) < trials and repeats < MOST_REPEATS:
            study.sampler = samplers[repeats >= REPEATS_BEFORE_RANDOM]
            asked = [study.ask() for _ in range(min(asked_at_once, trials - done))]
            schedules = [schedule_settings(suggest(trial, tree)).essential() for trial in asked]
            new = [schedule for schedule in dict.fromkeys(schedules) if schedule not in race.known]
            race.run(new)
            repeats = 0 if new else repeats + 1
            for trial, schedule in zip(asked, schedules, strict=True):
                _tell(study, trial, race.trial(dict(trial.params), schedule))
                if schedule in new:
                    tried.append((dict(trial.params), schedule))
                    new.remove(schedule)
            if progress is not None:
                progress(len(tried) - len(early), trials, race.best_in_words())
        perturbed = [schedule for schedule in race.finished() if is_perturbed(schedule)]
        if perturbed:
            plain = race.best_of(perturbed).model_copy(update=UNPERTURBED).essential()
            if not race.is_finished(plain):
                race.finish([plain])
                tried.append(({}, plain))
                outside = [] if _admits_unperturbed(tree) else [plain]
    best = race.best(len(tried), outside)
    found = tuple(race.trial(params, schedule) for params, schedule in tried)
    metrics = validation.metrics(denoiser, diffusion, best, device)
    return ScheduleSearch(best, metrics, found, _front(found))


def _admits_unperturbed(tree: Tree) -> bool:
    """Whether a space holds schedules that leave the condition as it is."""
    return any(
        all(_admits(branch, name, value) for name, value in UNPERTURBED.items()) for branch in schedule_branches(tree)
    )


def _admits(branch: Tree, name: str, value: float) -> bool:
    leaves = parameters_of(branch[name], name) if name in branch else {}
    if leaves:
        return not any(leaf.fault(value) for leaf in leaves.values())
    return branch.get(name, value) == value


def is_perturbed(schedule: ScheduleSettings) -> bool:
    """Whether it puts noise or weight on the condition."""
    return any(getattr(schedule, name) != value for name, value in UNPERTURBED.items())


def untrained_guidance(p_uncond: float, guidance: Any) -> str | None:
    """What to say where `guidance`, a value or a range, is used with a model that never saw the null condition."""
    if p_uncond > 0 or guidance == 1:
        return None
    shown = f"is {guidance}" if isinstance(guidance, int | float) else "is searched"
    return f"warning: schedule.guidance {shown}, but p_uncond was 0 in training: the null condition is untrained"


def search_images(validation: Validation, images: int) -> Validation:
    """The images that a search looks at, in the order in which a race looks at them."""
    return validation.subset(images).spread_out()


class Race:
    """Schedules on the same images in the same order, and what is known of each, image by image."""

    def __init__(self, measure: Measure, metric: str, images: int, diffusion: DiffusionSettings) -> None:
        self.measure, self.metric, self.images, self.timesteps = measure, metric, images, diffusion.timesteps
        self.known: dict[ScheduleSettings, dict[str, NDArray[np.float64]]] = {}

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
        return schedule in self.known and (self._seen(schedule) == self.images or not self._is_finite(schedule))

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
        return max(finished, key=lambda schedule: self._mean(schedule, self.metric, self.images))

    def finished(self) -> list[ScheduleSettings]:
        """The schedules measured on all images that stayed finite."""
        return [s for s in self.known if self._seen(s) == self.images and self._is_finite(s)]

    def best_in_words(self) -> str:
        try:
            return f"best {self._mean(self.best(0), self.metric, self.images):.4g}"
        except DivergenceError:
            return "all diverged"

    def trial(self, params: dict[str, Any], schedule: ScheduleSettings) -> ScheduleTrial:
        """What is known of a schedule."""
        seen, is_finite = self._seen(schedule), self._is_finite(schedule)
        metrics = {name: self._mean(schedule, name, seen) for name in self.known[schedule]} if is_finite else {}
        state: Literal["complete", "dropped", "diverged"] = (
            "diverged" if not is_finite else "complete" if seen == self.images else "dropped"
        )
        value = metrics[self.metric] if state == "complete" else None
        evaluations, estimate = schedule.evaluations(self.timesteps), self._estimate(schedule, seen)
        return ScheduleTrial(params, schedule, state, seen, evaluations, metrics, value, estimate)

    def _estimate(self, schedule: ScheduleSettings, seen: int) -> float | None:
        if not self._is_finite(schedule):
            return None
        finished = self.finished()
        if not finished:
            return self._mean(schedule, self.metric, seen)
        best = self.best_of(finished)
        ahead = self._mean(schedule, self.metric, seen) - self._mean(best, self.metric, seen)
        return self._mean(best, self.metric, self.images) + ahead

    def _measure(self, schedules: Sequence[ScheduleSettings], until: int) -> None:
        """Measure schedules up to image `until`, from where each is."""
        for begin in sorted({self._seen(schedule) for schedule in schedules}):
            here = [schedule for schedule in schedules if self._seen(schedule) == begin]
            if begin == until:
                continue
            scores = self.measure(here, begin, until)
            for s, schedule in enumerate(here):
                before = self.known.get(schedule, {})
                self.known[schedule] = {
                    name: np.concatenate([before.get(name, values[s, :0]), values[s]])
                    for name, values in scores.items()
                }

    def _promising(self, schedules: Sequence[ScheduleSettings], images: int) -> list[ScheduleSettings]:
        """The better half, less what is certainly worse than the best known; and whatever nothing known beats in
        PSNR, SSIM and evaluations together.
        """
        if not schedules:
            return []
        field = [s for s in self.known if self._seen(s) >= images and self._is_finite(s)]
        ranked = sorted(schedules, key=lambda schedule: -self._mean(schedule, self.metric, images))
        best = max(field, key=lambda schedule: self._mean(schedule, self.metric, images))
        half = [s for s in ranked[: math.ceil(len(ranked) / 2)] if not self._is_surely_worse(s, best, images)]
        unbeaten = pareto_front([self._objectives(schedule, images) for schedule in field])
        kept = {*half, *(s for s, is_unbeaten in zip(field, unbeaten, strict=True) if is_unbeaten)}
        return [schedule for schedule in schedules if schedule in kept]

    def _is_surely_worse(self, schedule: ScheduleSettings, best: ScheduleSettings, images: int) -> bool:
        difference = self.known[schedule][self.metric][:images] - self.known[best][self.metric][:images]
        return bool(difference.mean() + CERTAIN * difference.std(ddof=1) / math.sqrt(images) < 0)

    def _objectives(self, schedule: ScheduleSettings, images: int) -> tuple[float, ...]:
        """To be maximised."""
        scores = [self._mean(schedule, name, images) for name in self.known[schedule]]
        return (*scores, -schedule.evaluations(self.timesteps))

    def _seen(self, schedule: ScheduleSettings) -> int:
        return len(self.known[schedule][self.metric]) if schedule in self.known else 0

    def _mean(self, schedule: ScheduleSettings, name: str, images: int) -> float:
        return float(self.known[schedule][name][:images].mean())

    def _is_finite(self, schedule: ScheduleSettings) -> bool:
        return bool(np.isfinite(self.known[schedule][self.metric]).all())


def rungs(images: int) -> list[int]:
    """Images after which a race looks around: all, half of them, and so on while there are enough."""
    found = [images]
    while found[0] >= 2 * FEWEST_IMAGES:
        found.insert(0, found[0] // 2)
    return found


def pareto_front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other one beats: as large in every coordinate and larger in one."""
    if not points:
        return []
    values = np.array(points)
    at_least = np.all(values[:, None] >= values[None], axis=2)
    larger = np.any(values[:, None] > values[None], axis=2)
    return [not is_beaten for is_beaten in np.any(at_least & larger, axis=0)]


def _front(trials: Sequence[ScheduleTrial]) -> tuple[ScheduleTrial, ...]:
    complete = list({trial.schedule: trial for trial in trials if trial.state == "complete"}.values())
    unbeaten = pareto_front([(*trial.metrics.values(), -trial.evaluations) for trial in complete])
    front = [trial for trial, is_unbeaten in zip(complete, unbeaten, strict=True) if is_unbeaten]
    return tuple(sorted(front, key=lambda trial: trial.evaluations))


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # The liar: what is asked for and not yet told counts as bad, so that a batch is not the same twice.
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_SCHEDULES
        )


def _tell(study: optuna.Study, trial: optuna.Trial, found: ScheduleTrial) -> None:
    """What a schedule is worth; of one that was dropped, what is to be expected."""
    if found.state == "diverged":
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, found.estimate)
