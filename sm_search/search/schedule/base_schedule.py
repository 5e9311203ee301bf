"""The schedules of a space that need no search: what the early rungs judge by, and the condition left as it is."""

from typing import Any

from sm_search.config.model_settings import ScheduleSettings
from sm_search.search.space.ranges import Branch
from sm_search.search.space.resolved_settings import schedule_branches, schedule_settings
from sm_search.search.space.tree import Tree, parameters_of

UNPERTURBED = {"eta_max": 0.0, "w_min": 1.0, "w_max": 1.0}
"""The condition as it is, at every step."""


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


def is_perturbed(schedule: ScheduleSettings) -> bool:
    """Whether it puts noise or weight on the condition."""
    return any(getattr(schedule, name) != value for name, value in UNPERTURBED.items())


def admits_unperturbed(tree: Tree) -> bool:
    """Whether a space holds schedules that leave the condition as it is."""
    return any(
        all(_admits(branch, name, value) for name, value in UNPERTURBED.items()) for branch in schedule_branches(tree)
    )


def _admits(branch: Tree, name: str, value: float) -> bool:
    leaves = parameters_of(branch[name], name) if name in branch else {}
    if leaves:
        return not any(leaf.fault(value) for leaf in leaves.values())
    return branch.get(name, value) == value


def untrained_guidance(p_uncond: float, guidance: Any) -> str | None:
    """What to say where `guidance`, a value or a range, is used with a model that never saw the null condition."""
    if p_uncond > 0 or guidance == 1:
        return None
    shown = f"is {guidance}" if isinstance(guidance, int | float) else "is searched"
    return f"warning: schedule.guidance {shown}, but p_uncond was 0 in training: the null condition is untrained"
