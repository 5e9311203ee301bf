"""The inner level: the sampling schedule, searched on frozen weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from sm_search.config.errors import DivergenceError
from sm_search.config.model import DiffusionSettings, ScheduleSettings
from sm_search.diffusion.denoiser import Denoiser
from sm_search.evaluation.metrics import psnr_db, ssim
from sm_search.search.space import Tree, parameter_names, schedule_settings, suggest
from sm_search.search.validation import Validation

optuna.logging.set_verbosity(optuna.logging.WARNING)


UNPERTURBED = {"eta_max": 0.0, "w_min": 1.0, "w_max": 1.0}
"""The condition as it is, at every step."""


@dataclass(frozen=True)
class ScheduleTrial:
    """One schedule that was tried, with its metric on the inner search's images; None if it diverged."""

    params: dict[str, Any]
    schedule: ScheduleSettings
    value: float | None


@dataclass(frozen=True)
class ScheduleSearch:
    """What an inner search found: the best schedule, its metrics on all images, and every schedule tried."""

    best: ScheduleSettings
    metrics: dict[str, float]
    trials: tuple[ScheduleTrial, ...]


def _best(tried: Sequence[ScheduleTrial]) -> ScheduleSettings:
    finite = [trial for trial in tried if trial.value is not None]
    if not finite:
        raise DivergenceError(f"none of {len(tried)} schedules stayed within the finite numbers")
    return max(finite, key=lambda trial: trial.value or 0.0).schedule


def base_schedule(tree: Tree) -> ScheduleSettings:
    """The schedule of the early rungs: the tree's fixed values, and the defaults for what is searched."""
    fixed = {key: value for key, value in tree.items() if not parameter_names(value)}
    return schedule_settings(fixed)


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
) -> ScheduleSearch:
    """Search `tree` with `trials` schedules on `images` validation images; the result is measured on all of them.

    The base schedule is tried first, so the search never returns anything that looks worse than it; and at the end the
    best one without noise or weight on the condition, so that one sees what the paper's decay does.

    Raises:
        DivergenceError: not one schedule stayed finite.
    """
    subset = validation.subset(images)
    score = psnr_db if metric == "val_psnr_db" else ssim
    tried: list[ScheduleTrial] = []

    def value_of(schedule: ScheduleSettings) -> float | None:
        try:
            estimates = subset.estimates(denoiser, diffusion, schedule, device)
        except DivergenceError:
            return None
        return float(score(estimates, subset.targets).mean())

    base = base_schedule(tree)
    tried.append(ScheduleTrial({}, base, value_of(base)))
    if parameter_names(tree):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        for _ in range(trials):
            trial = study.ask()
            schedule = schedule_settings(suggest(trial, tree))
            known = [earlier.value for earlier in tried if earlier.schedule == schedule]
            value = known[0] if known else value_of(schedule)
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
            tried.append(ScheduleTrial(dict(trial.params), schedule, value))
        plain = _best(tried).model_copy(update=UNPERTURBED)
        if all(earlier.schedule != plain for earlier in tried):
            tried.append(ScheduleTrial({}, plain, value_of(plain)))
    best = _best(tried)
    return ScheduleSearch(best, validation.metrics(denoiser, diffusion, best, device), tuple(tried))
