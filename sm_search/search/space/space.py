"""A search space: what a study searches, for what objectives, on what budget."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from sm_search.config.base import Settings, content_hash
from sm_search.config.model_settings import TrainingSettings
from sm_search.evaluation.scores import DIRECTIONS, SCORES, Direction
from sm_search.search.space.constraints import Bounds
from sm_search.search.space.objectives import CONSTRAINABLE, Metric, Objective
from sm_search.search.space.tree import Tree, has_prior, without_priors

Sampler = Literal["tpe", "gp", "cmaes", "random", "qmc", "grid"]
STUDY_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
STUDY_RULE = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"


class Confirm(Settings):
    """The best trials of a finished search trained again with other seeds, so that the winner is not a lucky one.

    Attributes:
        best: trials that are trained again, or as many as came to their end.
        seeds: further trainings of each, besides the search's own.
    """

    best: Annotated[int, Field(ge=1)] = 3
    seeds: Annotated[int, Field(ge=1)] = 2


class Plateau(Settings):
    """No gain of more than `gain` in the metric over the last `trials` finished trials."""

    gain: Annotated[float, Field(ge=0)]
    trials: Annotated[int, Field(ge=1)]


class Stop(Settings):
    """When a search has found enough.

    Attributes:
        target: of the metric; a trial that has it, or better, at the full budget ends the search.
        plateau: a search that gains nothing more ends.
    """

    target: float | None = None
    plateau: Plateau | None = None


class Budget(Settings):
    """What a study may spend.

    Attributes:
        trials: outer trials.
        first_rung: training steps before ASHA may stop a trial.
        reduction: ASHA keeps one trial in `reduction` at each rung; rungs lie at first_rung·reduction^n.
        schedules: inner trials, each sampling the validation images on frozen weights.
        images: validation images that the inner search looks at (the result is on all of them).
        minutes: wall-clock limit of the search, after which no new trial starts and running ones stop.
        cost: of all trials, by `cost_per_hour`, over all resumes; after it no new trial starts and running ones stop.
        cost_per_hour: of what one trial takes of a node, by a label of the node, `NAME=VALUE`, or `*` for any other.
        stop: when the search ends before its trials are used up.
        confirm: what comes after the search.
        regression: train a regression network of the best trial's backbone and budget, as a baseline of the report.
    """

    trials: Annotated[int, Field(ge=1)] = 8
    first_rung: Annotated[int, Field(ge=1)] = 500
    reduction: Annotated[int, Field(ge=2)] = 3
    schedules: Annotated[int, Field(ge=0)] = 24
    images: Annotated[int, Field(ge=1)] = 96
    minutes: Annotated[float, Field(gt=0)] | None = None
    cost: Annotated[float, Field(gt=0)] | None = None
    cost_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    stop: Stop | None = None
    confirm: Confirm | None = None
    regression: bool = False

    @model_validator(mode="after")
    def _priced(self) -> "Budget":
        if self.cost is not None and not any(self.cost_per_hour.values()):
            raise ValueError("cost: needs cost_per_hour, what a trial costs in an hour")
        for name in self.cost_per_hour:
            if name != "*" and not all(name.partition("=")):
                raise ValueError(f"cost_per_hour: {name!r} must be a node's label, NAME=VALUE, or '*' for any other")
        return self


class Algorithm(Settings):
    """What suggests the trials of the outer level.

    Attributes:
        sampler: one of `ALGORITHMS` in `sm_search.search.study.algorithms`.
        startup: quasi-random trials, initial points among them, before `tpe`, `gp` or `cmaes` suggest: counted when
            they begin, so that more workers do not make more of them.
        grid: values of a range of real numbers where the sampler is `grid`.
    """

    sampler: Sampler = "tpe"
    startup: Annotated[int, Field(ge=0)] = 5
    grid: Annotated[int, Field(ge=2)] = 5


class Resources(Settings):
    """Of one trial.

    Attributes:
        gpus: the share of a GPU; `auto` is measured before the search, see `search/study/gpu_share.py`.
        threads: of torch; no more than `cpus`, or trials side by side would crowd a node.
        concurrent: how many run at once (none: as many as fit).
        cuda_graph: on a GPU, run the training steps as one CUDA graph; the results are the same.
    """

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = 0
    threads: Annotated[int, Field(ge=1)] = 1
    concurrent: Annotated[int, Field(ge=1)] | None = None
    cuda_graph: bool = False

    @field_validator("gpus", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            raise ValueError("must be a number or 'auto'")
        return value

    @model_validator(mode="after")
    def _threads_fit(self) -> "Resources":
        if self.threads > max(1, self.cpus):
            raise ValueError(f"threads: {self.threads} exceeds cpus = {self.cpus:g}, which a trial has for them")
        return self

    @property
    def gpu_share(self) -> float:
        """GPUs of one trial, where they are a number."""
        assert not isinstance(self.gpus, str), "gpus: auto is measured first"
        return self.gpus


class Space(Settings):
    """A study: what is searched, on what budget.

    Attributes:
        study: its name in MLflow and on disk.
        mode: `two-level` searches the schedule on frozen weights inside each trial; `joint` puts both in one space.
        metric: the score that decides: it says what ASHA stops and what the inner search looks for.
        further_objectives: of the outer level; the study then has a Pareto front. In YAML they follow the
            metric: `metric: [val_psnr_db, evaluations]`.
        constraints: of objectives, which a trial must keep to win: `evaluations: "<= 8"`, `val_ssim: "0.9..1"`.
        training, schedule: trees of `TrainingSettings` and `ScheduleSettings`.
        initial_points: tried before the sampler's own, as parameter names to values.
        warm_start: earlier studies to learn from.
        search: the algorithm of the outer level.
    """

    study: Annotated[str, Field(pattern=STUDY_NAME.pattern)]
    seed: Annotated[int, Field(ge=0)] = 0
    mode: Literal["two-level", "joint"] = "two-level"
    metric: Metric = "val_psnr_db"
    further_objectives: tuple[Objective, ...] = Field((), validation_alias=AliasChoices("further_objectives", "beside"))
    constraints: dict[str, str] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    schedule: dict[str, Any] = Field(default_factory=dict)
    initial_points: tuple[dict[str, Any], ...] = Field((), validation_alias=AliasChoices("initial_points", "first"))
    warm_start: tuple[str, ...] = ()
    search: Algorithm = Algorithm()
    budget: Budget = Budget()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _rungs(self) -> "Space":
        steps = self.training_steps()
        if self.budget.first_rung > steps:
            raise ValueError(f"budget.first_rung = {self.budget.first_rung} exceeds training.steps = {steps}")
        if self.budget.confirm and isinstance(self.training.get("seed"), Mapping):
            raise ValueError("budget.confirm trains with other seeds: training.seed must be one number")
        if self.study in self.warm_start:
            raise ValueError(f"warm_start: {self.study!r} is this study itself; `--resume` continues it")
        return self

    @field_validator("constraints")
    @classmethod
    def _legal(cls, constraints: dict[str, str]) -> dict[str, str]:
        for name, text in constraints.items():
            if name not in CONSTRAINABLE:
                raise ValueError(f"{name!r}: a constraint is about one of {', '.join(CONSTRAINABLE)}")
            Bounds.of(text)
        return constraints

    @model_validator(mode="after")
    def _algorithm_suits(self) -> "Space":
        sampler = self.search.sampler
        if sampler == "cmaes" and self.further_objectives:
            raise ValueError("search.sampler: cmaes seeks one objective; tpe and gp seek several")
        if sampler == "grid" and has_prior(self.outer_tree()):
            raise ValueError("search.sampler: a grid takes each value as often as any other, and knows no prior")
        return self

    def training_steps(self) -> int:
        """The full budget of a trial in training steps; a fixed value, so that rungs mean the same in every trial."""
        steps = self.training.get("steps", TrainingSettings().steps)
        if not isinstance(steps, int):
            raise ValueError("training.steps must be one number: it is the budget, not a parameter")
        return steps

    def rungs(self) -> list[int]:
        """Training steps at which a trial reports, the full budget last."""
        steps, rung, rungs = self.training_steps(), self.budget.first_rung, []
        while rung < steps:
            rungs.append(rung)
            rung *= self.budget.reduction
        return [*rungs, steps]

    def outer_tree(self) -> Tree:
        """What the outer level suggests."""
        return {"training": self.training, "schedule": self.schedule} if self.mode == "joint" else self.training

    def objectives(self) -> dict[str, Direction]:
        """All objectives with their direction, the metric first."""
        return {name: DIRECTIONS[name] for name in (self.metric, *self.further_objectives)}

    def asked(self) -> frozenset[str]:
        """The scores that it names, as objective or as constraint."""
        return frozenset(name for name in (*self.objectives(), *self.constraints) if name in SCORES)

    def question_hash(self) -> str:
        """Hash of what is searched for what: where it is equal, so is the meaning of a trial's value."""
        return content_hash([self.mode, self.objectives(), *map(without_priors, (self.training, self.schedule))])

    def space_hash(self) -> str:
        """Hash of what is searched and how, budgets aside."""
        # Studies from before there was a choice keep their hash.
        how = [] if self.search == Algorithm() else [self.search.model_dump()]
        told = [self.training, self.schedule] if has_prior([self.training, self.schedule]) else []
        return content_hash([self.question_hash(), self.seed, *how, *told])
