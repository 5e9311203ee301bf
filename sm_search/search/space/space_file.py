"""The file of a search space: read, and refused in one line where some point of it would be no legal setting."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from sm_search.config.base import Settings
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import SettingsError
from sm_search.config.loading import Location, YamlDocument, parse_settings, read_yaml
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings, UNetSettings
from sm_search.evaluation.scores import DIRECTIONS, METRICS
from sm_search.search.space.ranges import LEAVES
from sm_search.search.space.resolved_settings import as_schedule, sampler_branches
from sm_search.search.space.space import STUDY_NAME, STUDY_RULE, Space
from sm_search.search.space.tree import Tree, examples, parameters_of

_PACKAGE = Path(__file__).parents[2]
_INSTALLED, _CHECKOUT = _PACKAGE / "search_spaces", _PACKAGE.parent / "search_spaces"
SPACES = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""The spaces that ship: inside the package where a wheel was installed, beside it in a checkout."""
LIKE_A_RANGE = 0.75
"""How near a key must be to a kind of range to be one that is misspelled; no setting's name is that near."""


def space_names() -> list[str]:
    """The names of the spaces that ship."""
    return sorted(file.stem for file in SPACES.glob("*.yaml"))


def find_space(name_or_path: str | Path) -> Path:
    """The file of a space: of one that ships by its name, such as `paper`, of any other by its path.

    Raises:
        SettingsError: it is neither.
    """
    if str(name_or_path) in space_names():
        return SPACES / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if not path.exists():
        raise SettingsError(f"{path}: is no file, and no search space that ships, which are {', '.join(space_names())}")
    return path


def load_space(name_or_path: str | Path) -> Space:
    """Read and check a search space: every end of every range must be a legal setting.

    Args:
        name_or_path: as of `find_space`.

    Raises:
        SettingsError: one line with file, line, key, value and rule.
    """
    path = find_space(name_or_path)
    document = read_yaml(path)
    if "study" not in document.tree and not STUDY_NAME.fullmatch(path.stem):
        raise SettingsError(f"{path}: has no `study`, and its own name {path.stem!r} is none: it takes {STUDY_RULE}")
    document.tree.setdefault("study", path.stem)
    _name_objectives(document)
    space = parse_settings(document.tree, Space, document)
    _check_tree(space.training, TrainingSettings, document, ("training",))
    _check_branches(space.schedule, document)
    _check_tree(space.schedule, ScheduleSettings, document, ("schedule",))
    parameters = parameters_of(space.outer_tree())
    key = "first" if "first" in document.tree else "initial_points"
    for index, point in enumerate(space.initial_points):
        for name, value in point.items():
            if name not in parameters:
                fault: str | None = f"not a searched parameter; there are {', '.join(sorted(parameters)) or 'none'}"
            else:
                fault = parameters[name].fault(value)
            if fault:
                where = document.where((key, index, name))
                raise SettingsError(f"{where}: {key}.{index}.{name}: {value!r}: {fault}")
    return space


def require_data(space: Space, data: DatasetSettings, file: str | Path) -> None:
    """Refuse what some trial may take and the dataset does not have: training scans, a channel, mirrored pairs, a
    grid that suits the network.

    Raises:
        SettingsError: one line with the space's file, the number and the limit.
    """
    try:
        for example in examples(space.training):
            data.scans("train", example.get("scans"))
            data.require_channels(example.get("receive_channels", (0,)))
            data.require_mirrors(example.get("augmentation", "none"))
            backbone = parse_settings(example, TrainingSettings, "training").backbone
            if isinstance(backbone, UNetSettings):
                backbone.require_grid(*reversed(data.grid.size))
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from None


def _name_objectives(document: YamlDocument) -> None:
    """`metric` may list several objectives, or give each its direction: the first is the metric."""
    given = document.tree.get("metric")
    if not isinstance(given, list | dict):
        return
    for key, name in enumerate(given):
        fault = None
        if not isinstance(name, str) or name not in (DIRECTIONS if key else METRICS):
            fault = f"must be one of {', '.join(DIRECTIONS)}, the first of the list none of the costs"
        elif list(given).count(name) > 1:
            fault = "appears twice"
        elif isinstance(given, dict) and given[name] != DIRECTIONS[name]:
            fault = f"its direction is {DIRECTIONS[name]}, not {given[name]!r}"
        if fault:
            where = document.where(("metric", name if isinstance(given, dict) else key))
            raise SettingsError(f"{where}: metric: {name!r}: {fault}")
    if not given:
        raise SettingsError(f"{document.where(('metric',))}: metric: needs at least one objective")
    document.tree["metric"], document.tree["further_objectives"] = next(iter(given)), list(given)[1:]


def _check_tree(tree: Tree, cls: type[Settings], document: YamlDocument, at: Location) -> None:
    """Check the tree's shape, then every sample of every leaf in place of that leaf, all others at their first."""
    _check_shape(tree, document, at)
    for example in examples(tree):
        parse_settings(as_schedule(example) if cls is ScheduleSettings else example, cls, document, at)


def _check_branches(tree: Tree, document: YamlDocument) -> None:
    """A schedule branches under `sampler` only, and what a branch sets does not stand outside it as well."""
    if "one_of" in tree:
        raise SettingsError(f"{document.where(('schedule',))}: schedule: one_of belongs under schedule.sampler")
    _check_shape(tree, document, ("schedule",))
    for index, branch in enumerate(sampler_branches(tree)):
        place = ("schedule", "sampler", "one_of", index)
        if not isinstance(branch, Mapping) or "sampler" not in branch:
            continue
        for example in examples(branch):
            parse_settings(as_schedule(example), ScheduleSettings, document, place)
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
