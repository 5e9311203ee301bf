"""A study goes on with another budget or other ranges, on what it knows already; with another question it does not."""

from pathlib import Path
from typing import Any

import pytest

from sm_search.config.errors import SettingsError
from sm_search.data.dataset import Dataset
from sm_search.search.space.location import located
from sm_search.search.space.resolved_settings import training_settings
from sm_search.search.space.space import Algorithm, Space
from sm_search.search.study.revision import Revision, revised
from sm_search.tracking.records import study_runs
from sm_search.tracking.store import open_store

BACKBONES = [
    {"backbone": "linear-basis", "coefficients": 8, "blocks": 1, "width": {"choice": [16, 32]}},
    {"backbone": "unet", "layers": {"int": [1, 2]}},
]
RATE = {"float": [1e-3, 3e-3]}
RATE_NAME, WIDTH = "learning_rate", "backbone.linear-basis.width"


def space(schedule: Any = None, budget: Any = None, **training: Any) -> Space:
    tree = {"steps": 40, "batch_size": 8, "backbone": {"one_of": BACKBONES}, "learning_rate": RATE, **training}
    return Space.model_validate(
        {
            "study": "grown",
            "training": tree,
            "schedule": schedule or {"eta_max": {"float": [0.0, 0.3]}},
            "budget": {"trials": 2, "first_rung": 20, "reduction": 2, "schedules": 2, "images": 4, **(budget or {})},
        }
    )


LINEAR = {"backbone": "linear-basis", WIDTH: 16, RATE_NAME: 0.002}
UNET = {"backbone": "unet", "backbone.unet.layers": 2, RATE_NAME: 0.001}


@pytest.mark.parametrize(
    ("now", "params", "found"),
    [
        (space(), LINEAR, LINEAR),
        (space(learning_rate={"float": [1e-4, 1e-2], "log": True}), UNET, UNET),
        (space(learning_rate={"float": [1.5e-3, 3e-3]}), LINEAR, LINEAR),
        (space(learning_rate={"float": [1.5e-3, 3e-3]}), UNET, None),
        (space(learning_rate=2e-3), LINEAR, {"backbone": "linear-basis", WIDTH: 16}),
        (space(learning_rate=2e-3), UNET, None),
        (space(p_uncond={"float": [0.0, 0.3]}), LINEAR, {**LINEAR, "p_uncond": 0.1}),
        (space(p_uncond={"float": [0.2, 0.3]}), LINEAR, None),
        (space(batch_size={"choice": [8, 16]}), UNET, {**UNET, "batch_size": 8}),
        (space(batch_size=16), UNET, None),
        (space(backbone={"one_of": BACKBONES[:1]}), LINEAR, LINEAR),
        (space(backbone={"one_of": BACKBONES[:1]}), UNET, None),
        (space(backbone=BACKBONES[0]), LINEAR, {"backbone.width": 16, RATE_NAME: 0.002}),
    ],
    ids=[
        "the same",
        "wider",
        "narrower",
        "cut off",
        "fixed",
        "fixed to another value",
        "added with its default",
        "added without it",
        "fixed before",
        "fixed anew",
        "branch left",
        "branch disabled",
        "one branch made the whole",
    ],
)
def test_a_trial_counts_where_the_space_still_holds_its_settings(
    now: Space, params: dict[str, Any], found: dict[str, Any] | None
) -> None:
    assert located(now, space(), params) == found
    if found is not None:
        assert training_settings(now, found) == training_settings(space(), params)


def test_in_joint_mode_the_schedule_is_a_part_of_the_point() -> None:
    before = space().model_copy(update={"mode": "joint"})
    after = space({"eta_max": {"float": [0.0, 0.5]}, "gamma": {"float": [0.5, 2.0]}}).model_copy(
        update={"mode": "joint"}
    )
    point = {f"training.{name}": value for name, value in LINEAR.items()} | {"schedule.eta_max": 0.1}
    assert located(after, before, point) == {**point, "schedule.gamma": 1.0}


def test_what_changed_is_told_and_a_new_search_begins_only_where_it_must() -> None:
    first = Revision(space(), ())
    assert revised(first, space()) is None
    longer = revised(first, space(budget={"minutes": 5.0}))
    assert longer == Revision(space(budget={"minutes": 5.0}), ("budget.minutes: none → 5.0",), search=1)
    # A search that came to its end takes no further trial, whatever the rule was.
    further = revised(longer, space(budget={"stop": {"target": 40.0}}), has_ended=True)
    assert further is not None
    assert further.search == 2
    assert further.changes == ("budget.minutes: 5.0 → none", "budget.stop: none → {target: 40.0}")
    wider = revised(longer, space(learning_rate={"float": [1e-4, 3e-3]}, budget={"trials": 5, "minutes": 5.0}))
    assert wider is not None
    assert wider.search == 2
    assert wider.changes == (
        "learning_rate: {float: [0.001, 0.003]} → {float: [0.0001, 0.003]}",
        "budget.trials: 2 → 5",
    )


def test_how_it_searches_may_change_as_well() -> None:
    starts = {"initial_points": ({RATE_NAME: 2e-3},), "warm_start": ("other",)}
    other = space().model_copy(update={"search": Algorithm(sampler="gp"), **starts})
    change = revised(Revision(space(), ()), other)
    assert change == Revision(other, ("search.sampler: tpe → gp", "initial_points", "warm_start: other"), search=2)
    again = other.model_copy(update={"warm_start": ()})
    assert revised(change, again) is None, "it is often given on the command line of the first start alone"


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (space().model_copy(update={"metric": "val_ssim"}), "objectives was"),
        (space().model_copy(update={"seed": 1}), "seed was 0 and is 1"),
        (space(steps=80), "training.steps was 40 and is 80"),
        (space(budget={"first_rung": 10}), "budget.first_rung was 20 and is 10"),
        (space({"eta_max": {"float": [0.0, 0.5]}}), "schedule was"),
    ],
    ids=["metric", "seed", "steps", "rungs", "schedule"],
)
def test_another_question_is_another_study(other: Space, what: str) -> None:
    with pytest.raises(SettingsError, match=f"study 'grown': {what}.*: not the same study"):
        revised(Revision(space(), ()), other)


TEXT = """
study: grown
seed: 1
training:
  steps: 40
  batch_size: 8
  backbone: {{backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}}
  learning_rate: {{float: [{low}, 3.0e-3]}}
  {more}
schedule: {{eta_max: {{float: [0.0, 0.3]}}}}
initial_points: [{{learning_rate: {low}}}, {{learning_rate: 2.0e-3}}]
budget: {{trials: {trials}, first_rung: 20, reduction: 2, schedules: 2, images: 4, cost_per_hour: {{"*": 2.0}}}}
resources: {{concurrent: 1, gpus: auto}}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_cpu")
def test_a_finished_study_goes_on_when_it_is_widened_and_its_trials_are_kept(
    run: Any, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    file, home = tmp_path / "space.yaml", tmp_path / "home"

    def sweep(*options: str, low: str = "1.0e-3", trials: int = 2, more: str = "") -> Any:
        file.write_text(TEXT.format(low=low, trials=trials, more=more))
        return run("sweep", "--space", file, "--data", tiny_dataset.folder, "--home", home, "--json", *options)

    first = sweep()
    assert first.status == 0, first.stderr
    known = {trial["trial_id"]: trial for trial in first.object["trials"]}

    more = sweep("--resume", low="1.5e-3", trials=4, more="p_uncond: {float: [0.0, 0.3]}")
    assert more.status == 0, more.stderr
    told = {trial["trial_id"]: trial for trial in more.object["trials"]}
    assert len(told) == 4
    assert known.keys() < told.keys()
    for name, trial in known.items():
        assert told[name]["metrics"] == trial["metrics"]
        cut_off = trial["params"]["learning_rate"] < 1.5e-3
        assert (told[name]["infeasible"] is not None) == cut_off
        assert ("p_uncond" in told[name]["params"]) != cut_off
    assert "of 2 trials before the revision 1 count; 2 are left" in more.stderr
    assert "trial 3/4" in more.stderr
    assert all(trial["params"]["learning_rate"] >= 1.5e-3 for name, trial in told.items() if name not in known)

    store = open_store(home)
    parent, runs = study_runs(store, "grown")
    assert {run.trial_id for run in runs} == told.keys()
    assert "learning_rate: {float: [0.001, 0.003]} → {float: [0.0015, 0.003]}" in parent.tags["revision.1"]
    assert [run.tags.get("infeasible") for run in runs].count("outside of the revised space") == 1
    assert parent.metrics["spent_cost"] == pytest.approx(2 * parent.metrics["spent_trial_hours"])
    assert run("report", "--study", "grown", "--home", home).status == 0
    page = (home / "grown.html").read_text()
    assert "<h2>Revisions</h2>" in page
    assert "trial-hours at a cost of" in page

    again = sweep("--resume", low="1.5e-3", trials=4, more="p_uncond: {float: [0.0, 0.3]}")
    assert again.status == 0, again.stderr
    assert again.object["trials"] == more.object["trials"]
