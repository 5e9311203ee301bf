"""Search spaces: YAML trees of settings whose leaves may be ranges, and their resolution by an Optuna trial.

A value in the tree is taken as it is, unless it is a mapping with one of these keys:

    {float: [low, high], log: true, step: s}     a real number
    {int: [low, high], log: true, step: s}       a whole number, both ends included
    {choice: [a, b, c]}                          one of the values
    {one_of: [{…}, {…}]}                         one of several subtrees, whose own ranges exist only in that branch

A parameter is named by its path, such as `backbone.width`.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sm_search.config.base import Settings, content_hash
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import SettingsError
from sm_search.config.loading import Location, YamlDocument, parse_settings, read_yaml
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.search.space.ranges import LEAVES, Branch, Range, Suggester

SPACES = Path(__file__).parents[3] / "search_spaces"
Tree = Any
Metric = Literal["val_psnr_db", "val_ssim"]
Objective = Literal["val_psnr_db", "val_ssim", "evaluations"]
DIRECTIONS: dict[str, Literal["max", "min"]] = {"val_psnr_db": "max", "val_ssim": "max", "evaluations": "min"}

LIKE_A_RANGE = 0.75
"""How near a key must be to a kind of range to be one that is misspelled; no setting's name is that near."""


class Confirm(Settings):
    """The best trials of a finished search trained again with other seeds, so that the winner is not a lucky one.

    Attributes:
        best: trials that are trained again, or as many as came to their end.
        seeds: further trainings of each, beside the search's own.
    """

    best: Annotated[int, Field(ge=1)] = 3
    seeds: Annotated[int, Field(ge=1)] = 2


class Budget(Settings):
    """What a study may spend.

    Attributes:
        trials: outer trials.
        first_rung: training steps before ASHA may stop a trial.
        reduction: ASHA keeps one trial in `reduction` at each rung; rungs lie at first_rung·reduction^n.
        schedules: inner trials, each sampling the validation images on frozen weights.
        images: validation images that the inner search looks at (the result is on all of them).
        minutes: wall-clock limit of the search, after which no new trial starts and running ones stop.
        confirm: what comes after the search.
        regression: train a regression network of the best trial's backbone and budget, as a baseline of the report.
    """

    trials: Annotated[int, Field(ge=1)] = 8
    first_rung: Annotated[int, Field(ge=1)] = 500
    reduction: Annotated[int, Field(ge=2)] = 3
    schedules: Annotated[int, Field(ge=0)] = 24
    images: Annotated[int, Field(ge=1)] = 96
    minutes: Annotated[float, Field(gt=0)] | None = None
    confirm: Confirm | None = None
    regression: bool = False


class Resources(Settings):
    """Of one trial.

    Attributes:
        gpus: the share of a GPU; `auto` is measured before the search, see `search.placement`.
        threads: of torch; no more than `cpus`, or trials side by side would crowd a node.
        concurrent: how many run at once (none: as many as fit).
    """

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = 0
    threads: Annotated[int, Field(ge=1)] = 1
    concurrent: Annotated[int, Field(ge=1)] | None = None

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
        metric: validation metric that is maximised; it decides what ASHA stops and what the inner search looks for.
        beside: further objectives of the outer level; the study then has a Pareto front. In YAML they follow the
            metric: `metric: [val_psnr_db, evaluations]`.
        training, schedule: trees of `TrainingSettings` and `ScheduleSettings`.
        first: points tried before the sampler's own, as parameter names to values.
        warm_start: earlier studies to learn from.
    """

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0)] = 0
    mode: Literal["two-level", "joint"] = "two-level"
    metric: Metric = "val_psnr_db"
    beside: tuple[Objective, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict)
    schedule: dict[str, Any] = Field(default_factory=dict)
    first: tuple[dict[str, Any], ...] = ()
    warm_start: tuple[str, ...] = ()
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

    def objectives(self) -> dict[str, Literal["max", "min"]]:
        """All objectives with their direction, the metric first."""
        return {name: DIRECTIONS[name] for name in (self.metric, *self.beside)}

    def question_hash(self) -> str:
        """Hash of what is searched for what: where it is equal, so is the meaning of a trial's value."""
        return content_hash([self.mode, self.objectives(), self.training, self.schedule])

    def space_hash(self) -> str:
        """Hash of what is searched, budgets aside."""
        return content_hash([self.question_hash(), self.seed])


def suggest(trial: Suggester, tree: Tree, path: str = "") -> Tree:
    """The tree with every range replaced by what `trial` suggests for it."""
    leaf = _leaf(tree)
    if leaf is not None:
        return leaf.suggest(trial, path)
    if isinstance(tree, Mapping):
        if "one_of" in tree:
            branches = _branches(tree)
            chosen = trial.suggest_categorical(path, list(branches))
            return suggest(trial, branches[chosen], f"{path}.{chosen}")
        return {key: suggest(trial, value, f"{path}.{key}" if path else key) for key, value in tree.items()}
    return tree


class Recorded:
    """A `Suggester` that answers from recorded parameters."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float:
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int:
        return self.params[name]

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.params[name]


def training_settings(space: Space, params: Mapping[str, Any]) -> TrainingSettings:
    """The training settings of an outer trial."""
    tree = suggest(Recorded(params), space.outer_tree())
    return parse_settings(tree["training"] if space.mode == "joint" else tree, TrainingSettings, "training")


def require_scans(space: Space, data: DatasetSettings, file: str | Path) -> None:
    """Refuse a number of training scans that some trial may take and the dataset does not have.

    Raises:
        SettingsError: one line with the space's file, the number and the limit.
    """
    try:
        for example in _examples(space.training):
            data.scans("train", example.get("scans"))
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from None


def schedule_settings(tree: Tree) -> ScheduleSettings:
    """Resolved values as a schedule; w_max is searched as it is and lifted to w_min where it falls below."""
    return parse_settings(_as_schedule(tree), ScheduleSettings, "schedule")


def schedule_branches(tree: Tree) -> list[Tree]:
    """The trees without branches that a schedule's tree holds: one for each branch under `sampler`, or itself."""
    return [_merged({**tree, "sampler": branch}) for branch in _sampler_branches(tree)] or [tree]


def _sampler_branches(tree: Tree) -> list[Tree]:
    sampler = tree.get("sampler")
    return list(sampler["one_of"]) if isinstance(sampler, Mapping) and "one_of" in sampler else []


def _merged(values: Mapping[str, Any]) -> dict[str, Any]:
    """A branch under `sampler`, which names the sampler and its parameters, as a part of the whole."""
    sampler = values.get("sampler")
    return {**values, **sampler} if isinstance(sampler, Mapping) and "sampler" in sampler else dict(values)


def _as_schedule(values: Mapping[str, Any]) -> dict[str, Any]:
    values = _merged(values)
    ends = [values.get("w_min"), values.get("w_max", ScheduleSettings().w_max)]
    # What is no number is for the settings to refuse.
    if all(isinstance(end, int | float) for end in ends):
        return {**values, "w_max": max(ends)}
    return values


def load_space(path: str | Path) -> Space:
    """Read and check a search space: every end of every range must be a legal setting.

    Raises:
        SettingsError: one line with file, line, key, value and rule.
    """
    document = read_yaml(path)
    document.tree.setdefault("study", Path(path).stem)
    _name_objectives(document)
    space = parse_settings(document.tree, Space, document)
    _check_tree(space.training, TrainingSettings, document, ("training",))
    _check_branches(space.schedule, document)
    _check_tree(space.schedule, ScheduleSettings, document, ("schedule",))
    parameters = parameters_of(space.outer_tree())
    for index, point in enumerate(space.first):
        for name, value in point.items():
            if name not in parameters:
                fault: str | None = f"not a searched parameter; there are {', '.join(sorted(parameters)) or 'none'}"
            else:
                fault = parameters[name].fault(value)
            if fault:
                where = document.where(("first", index, name))
                raise SettingsError(f"{where}: first.{index}.{name}: {value!r}: {fault}")
    return space


def _name_objectives(document: YamlDocument) -> None:
    """`metric` may list several objectives, or give each its direction: the first is the metric, the rest is beside."""
    given = document.tree.get("metric")
    if not isinstance(given, list | dict):
        return
    for key, name in enumerate(given):
        fault = None
        if not isinstance(name, str) or name not in DIRECTIONS or (key == 0 and name == "evaluations"):
            fault = f"must be one of {', '.join(DIRECTIONS)}, the first of the list a quality"
        elif list(given).count(name) > 1:
            fault = "appears twice"
        elif isinstance(given, dict) and given[name] != DIRECTIONS[name]:
            fault = f"its direction is {DIRECTIONS[name]}, not {given[name]!r}"
        if fault:
            where = document.where(("metric", name if isinstance(given, dict) else key))
            raise SettingsError(f"{where}: metric: {name!r}: {fault}")
    if not given:
        raise SettingsError(f"{document.where(('metric',))}: metric: needs at least one objective")
    document.tree["metric"], document.tree["beside"] = next(iter(given)), list(given)[1:]


def parameter_names(tree: Tree, path: str = "") -> list[str]:
    """Names of all parameters of a tree, those of every branch included."""
    return list(parameters_of(tree, path))


def parameters_of(tree: Tree, path: str = "") -> dict[str, Range]:
    """All parameters of a tree by name; that of a `one_of` is the choice of its branch."""
    leaf = _leaf(tree)
    if leaf is not None:
        return {path: leaf}
    if not isinstance(tree, Mapping):
        return {}
    if "one_of" in tree:
        branches = _branches(tree)
        found: dict[str, Range] = {path: Branch(choice=tuple(branches))}
    else:
        branches, found = dict(tree), {}
    for key, value in branches.items():
        found |= parameters_of(value, f"{path}.{key}" if path else str(key))
    return found


def fixed_values(tree: Tree, path: str = "") -> dict[str, Any]:
    """What a tree does not search, by name; of a `one_of` nothing, since it is fixed in one branch only."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    if _leaf(tree) is not None or "one_of" in tree:
        return {}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= fixed_values(value, f"{path}.{key}" if path else str(key))
    return found


def _check_tree(tree: Tree, cls: type[Settings], document: YamlDocument, at: Location) -> None:
    """Check the tree's shape, then every sample of every leaf in place of that leaf, all others at their first."""
    _check_shape(tree, document, at)
    for example in _examples(tree):
        parse_settings(_as_schedule(example) if cls is ScheduleSettings else example, cls, document, at)


def _check_branches(tree: Tree, document: YamlDocument) -> None:
    """A schedule branches under `sampler` only, and what a branch sets does not stand beside it as well."""
    if "one_of" in tree:
        raise SettingsError(f"{document.where(('schedule',))}: schedule: one_of belongs under schedule.sampler")
    _check_shape(tree, document, ("schedule",))
    for index, branch in enumerate(_sampler_branches(tree)):
        place = ("schedule", "sampler", "one_of", index)
        if not isinstance(branch, Mapping) or "sampler" not in branch:
            continue
        for example in _examples(branch):
            parse_settings(_as_schedule(example), ScheduleSettings, document, place)
        if twice := [name for name in branch if name in tree and name != "sampler"]:
            where, path = document.where((*place, twice[0])), ".".join(map(str, (*place, twice[0])))
            raise SettingsError(f"{where}: {path}: is set for all samplers as schedule.{twice[0]} too")


def _check_shape(tree: Tree, document: YamlDocument, at: Location) -> None:
    if isinstance(tree, Mapping):
        keys = [key for key in (*LEAVES, "one_of") if key in tree]
        if keys and keys[0] in LEAVES:
            parse_settings(tree, LEAVES[keys[0]], document, at)
            return
        if keys and (len(tree) > 1 or not isinstance(tree["one_of"], list) or not tree["one_of"]):
            raise SettingsError(f"{document.where(at)}: {'.'.join(map(str, at))}: one_of needs a list and no other key")
        for key, value in tree.items():
            meant = difflib.get_close_matches(str(key), (*LEAVES, "one_of"), n=1, cutoff=LIKE_A_RANGE)
            if meant and key != meant[0]:
                where, path = document.where((*at, key)), ".".join(map(str, (*at, key)))
                raise SettingsError(f"{where}: {path}: no such kind of range; did you mean {meant[0]!r}?")
            _check_shape(value, document, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _check_shape(value, document, (*at, index))


def _examples(tree: Tree) -> list[Tree]:
    """Resolved trees that together show every sample of every leaf and every branch."""
    leaf = _leaf(tree)
    if leaf is not None:
        return leaf.samples()
    if not isinstance(tree, Mapping):
        return [tree]
    if "one_of" in tree:
        return [example for branch in tree["one_of"] for example in _examples(branch)]
    options = {key: _examples(value) for key, value in tree.items()}
    base = {key: values[0] for key, values in options.items()}
    return [base] + [{**base, key: value} for key, values in options.items() for value in values[1:]]


def _leaf(tree: Tree) -> Range | None:
    if isinstance(tree, Mapping):
        for key, cls in LEAVES.items():
            if key in tree:
                return parse_settings(dict(tree), cls, "space")
    return None


def _branches(tree: Mapping[str, Any]) -> dict[str, Tree]:
    """The branches of a `one_of` by name: each its first plain text (such as its backbone), or its number.

    Where two would have the same name, all of them take their number as well.
    """
    values = [branch.values() if isinstance(branch, Mapping) else [branch] for branch in tree["one_of"]]
    texts = [next((value for value in each if isinstance(value, str)), "") for each in values]
    names = [
        text if text and texts.count(text) == 1 else f"{text}-{index}" if text else str(index)
        for index, text in enumerate(texts)
    ]
    return dict(zip(names, tree["one_of"], strict=True))
