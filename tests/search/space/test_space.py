"""Search spaces: what is refused and in which words, and that suggestions become settings and back."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from sm_search.config.dataset_settings import preset
from sm_search.config.errors import SettingsError
from sm_search.config.model_settings import LinearBasisSettings, UNetSettings
from sm_search.search.space.resolved_settings import schedule_settings, training_settings
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import SPACES, load_space, require_data, space_names
from sm_search.search.space.tree import Recorded, fixed_values, parameter_names, parameters_of, suggest

BRANCHES = {
    "one_of": [
        {"backbone": "linear-basis", "width": {"int": [16, 64], "log": True}},
        {"backbone": "unet", "layers": {"int": [1, 2]}},
    ]
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_fixed_values_are_those_that_no_trial_varies() -> None:
    tree = {"steps": 9, "p_uncond": {"float": [0, 1]}, "backbone": {"backbone": "unet", "layers": {"int": [1, 2]}}}
    assert fixed_values(tree) == {"steps": 9, "backbone.backbone": "unet"}
    assert fixed_values({"backbone": BRANCHES, "diffusion": {"prediction": "v"}}) == {"diffusion.prediction": "v"}


def test_every_space_of_the_repository_loads_under_its_own_name() -> None:
    assert {"demo", "paper", "schedule"} <= set(space_names())
    for name in space_names():
        space = load_space(name)
        assert space == load_space(SPACES / f"{name}.yaml")
        assert space.study == name
        assert space.rungs()[-1] == space.training_steps()
        assert parameter_names({"training": space.training, "schedule": space.schedule})


def test_a_name_that_ships_is_that_space_and_anything_else_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text("study: mine\ntraining: {steps: 5000}\n")
    assert load_space("paper").study == "paper"
    assert load_space("./paper").study == load_space(tmp_path / "paper").study == "mine"
    with pytest.raises(SettingsError, match=r"^papers: is no file, and no search space that ships, .*, paper, "):
        load_space("papers")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("training:\n  learning_rat: 1e-3\n", 2, ["training.learning_rat", "'learning_rate'"]),
        ("schedule:\n  eta: {float: [0, 1]}\n", 2, ["schedule.eta", "unknown key 'eta'"]),
        ("training:\n  backbone: {backbone: unet, widht: 3}\n", 2, ["training.backbone.widht", "unknown key"]),
        ("buget: {trials: 3}\n", 1, ["buget", "'budget'"]),
        ("budget:\n  trials: 0\n", 2, ["budget.trials", "0", "greater than or equal to 1"]),
        ("training:\n  p_uncond: {float: [0.3, 0.1]}\n", 2, ["training.p_uncond", "low < high", "[0.3, 0.1]"]),
        ("training:\n  p_uncond: {float: [0.0, 1.5]}\n", 2, ["training.p_uncond", "1.5", "less than or equal to 1"]),
        ("training:\n  learning_rate: {float: [0, 1], log: true}\n", 2, ["learning_rate", "log: needs low > 0"]),
        ("training:\n  p_uncond: {flaot: [0, 1]}\n", 2, ["training.p_uncond.flaot", "'float'"]),
        ("training:\n  backbone: {one_off: [{backbone: unet}]}\n", 2, ["training.backbone.one_off", "'one_of'"]),
        ("training:\n  batch_size: {int: [1, 8], stpe: 2}\n", 2, ["training.batch_size.stpe", "'step'"]),
        ("training:\n  batch_size: {int: [1, 8.5]}\n", 2, ["training.batch_size.int.1", "8.5"]),
        ("training:\n  batch_size: {choice: []}\n", 2, ["training.batch_size.choice", "at least 1"]),
        ("training:\n  batch_size: {choice: [32, 0]}\n", 2, ["training.batch_size", "0"]),
        ("schedule:\n  sampler: {choice: [ddim, dpm]}\n", 2, ["schedule.sampler", "'dpm'", "'ddim'"]),
        ("training:\n  backbone: {one_of: []}\n", 2, ["training.backbone", "one_of needs a list"]),
        ("training:\n  backbone:\n    one_of: [{backbone: unet}]\n    width: 3\n", 2, ["no other key"]),
        (
            "training:\n  backbone:\n    one_of:\n      - {backbone: unet, layers: {int: [1, 99]}}\n",
            2,
            ["training.backbone.layers", "99"],
        ),
        ("training:\n  steps: {int: [10, 20]}\n", 2, ["training.steps", "budget, not a parameter"]),
        ("training: {steps: 10}\nbudget: {first_rung: 20}\n", 2, ["first_rung = 20", "training.steps = 10"]),
        ("training:\n  p_uncond: {float: [0, 1]}\nfirst:\n  - {p_uncon: 0.1}\n", 4, ["p_uncon", "p_uncond"]),
        ("training:\n  p_uncond: {float: [0, 0.5]}\nfirst:\n  - {p_uncond: 0.7}\n", 4, ["first.0.p_uncond", "0.7"]),
        ("training:\n  batch_size: {choice: [1, 2]}\nfirst:\n  - {batch_size: 3}\n", 4, ["first.0.batch_size", "3"]),
        ("schedule:\n  w_min: one\n", 2, ["schedule.w_min", "'one'", "must be a number"]),
        ("schedule:\n  w_min: {choice: [0.5, one]}\n", 2, ["schedule.w_min", "'one'", "must be a number"]),
        ("seed: 1\nschedule:\n  one_of: [{steps: 1}]\n", 2, ["schedule: one_of belongs under schedule.sampler"]),
        (
            "schedule:\n  steps: 4\n  sampler:\n    one_of:\n      - {sampler: ddim, steps: 2}\n      - ddpm\n",
            5,
            ["schedule.sampler.one_of.0.steps", "schedule.steps too"],
        ),
        (
            "schedule:\n  sampler:\n    one_of:\n      - {sampler: ddim, stps: 2}\n",
            4,
            ["schedule.sampler.one_of.0.stps", "unknown key 'stps'", "'steps'"],
        ),
        ("study: ../elsewhere\n", 1, ["study", "../elsewhere"]),
        ("mode: both\n", 1, ["mode", "'both'", "'joint'"]),
        ("seed: 1\nmetric: [val_psnr_db, val_psn]\n", 2, ["metric", "'val_psn'", "evaluations"]),
        ("seed: 1\nmetric: [evaluations, val_ssim]\n", 2, ["'evaluations'", "the first of the list none of the costs"]),
        ("metric:\n  val_ssim: max\n  evaluations: max\n", 3, ["'evaluations'", "its direction is min, not 'max'"]),
        ("metric: [val_ssim, val_ssim]\n", 1, ["'val_ssim'", "appears twice"]),
        ("budget:\n  confirm: {best: 0}\n", 2, ["budget.confirm.best", "0", "greater than or equal to 1"]),
        ("training: {seed: {int: [0, 3]}}\nbudget: {confirm: {}}\n", 2, ["training.seed must be one number"]),
        ("study: a\nwarm_start: [b, a]\n", 2, ["'a' is this study itself"]),
        ("training:\n  p_uncond: {float: [0, 0.1], step: 0.2}\n", 2, ["training.p_uncond", "0.2 exceeds the range"]),
        ("resources:\n  cpus: 2\n  threads: 3\n", 3, ["resources.threads", "3 exceeds cpus = 2"]),
        ("resources:\n  cpus: 0.5\n  threads: 2\n", 3, ["resources.threads", "2 exceeds cpus = 0.5"]),
        ("resources:\n  cpus: 1\n  gpus: all\n", 3, ["resources.gpus", "'all'", "'auto'"]),
        ("resources:\n  gpus: -1\n", 2, ["resources.gpus", "-1", "greater than or equal to 0"]),
        (
            "training:\n  p_uncond: {float: [0, 0.5], step: 0.1}\nfirst:\n  - {p_uncond: 0.25}\n",
            4,
            ["first.0.p_uncond", "0.25", "0 plus a multiple of 0.1"],
        ),
    ],
)
def test_an_error_names_file_line_key_value_and_rule(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_space(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("resources", ["{cpus: 2, threads: 2}", "{cpus: 0.5, threads: 1}", "{gpus: auto}"])
def test_legal_resources(tmp_path: Path, resources: str) -> None:
    space = load_space(written(tmp_path, f"resources: {resources}\n"))
    assert Space.model_validate_json(space.model_dump_json()) == space


def test_a_range_whose_other_end_is_illegal_in_a_branch_is_refused(tmp_path: Path) -> None:
    text = "training:\n  backbone: {one_of: [{backbone: linear-basis, width: {int: [1, 64]}}, {backbone: unet}]}\n"
    with pytest.raises(SettingsError, match="width"):
        load_space(written(tmp_path, text))


@pytest.mark.parametrize("mode", ["two-level", "joint"])
def test_suggested_parameters_give_the_same_settings_when_recorded(mode: str) -> None:
    space = Space(
        study="s",
        mode=mode,
        training={"backbone": BRANCHES, "p_uncond": {"float": [0.0, 0.4], "step": 0.1}, "steps": 900},
        schedule={"steps": {"choice": [1, 4]}, "eta_max": {"float": [0.0, 0.2]}},
    )
    tree = space.outer_tree()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        suggested = suggest(trial, tree)
        assert suggest(Recorded(trial.params), tree) == suggested
        assert set(trial.params) <= set(parameter_names(tree))
        settings = training_settings(space, trial.params)
        assert settings.steps == 900
        chosen = suggested["training"] if mode == "joint" else suggested
        assert settings.backbone.model_dump()["backbone"] == chosen["backbone"]["backbone"]
        if isinstance(settings.backbone, LinearBasisSettings):
            assert settings.backbone.width == chosen["backbone"]["width"]
        else:
            assert isinstance(settings.backbone, UNetSettings)
            assert settings.backbone.layers == chosen["backbone"]["layers"]
        seen.add(settings.backbone.backbone)
    assert seen == {"linear-basis", "unet"}
    prefix = "training." if mode == "joint" else ""
    assert f"{prefix}backbone.unet.layers" in parameter_names(tree)
    assert ("schedule.eta_max" in parameter_names(tree)) is (mode == "joint")


@pytest.mark.parametrize("mode", ["two-level", "joint"])
def test_parameters_of_a_sampler_exist_in_its_branch_only(tmp_path: Path, mode: str) -> None:
    text = (
        f"mode: {mode}\nschedule:\n  w_min: {{float: [0.5, 1.0]}}\n  sampler:\n    one_of:\n"
        "      - {sampler: ddim, steps: {int: [1, 4]}}\n      - {sampler: paper, eta_max: {float: [0.1, 0.2]}}\n"
        "      - {choice: [ddpm]}\n      - dpmpp\n"
    )
    space = load_space(written(tmp_path, text))
    assert Space.model_validate_json(space.model_dump_json()) == space
    assert sorted(parameter_names(space.schedule)) == [
        "sampler", "sampler.2", "sampler.ddim.steps", "sampler.paper.eta_max", "w_min",
    ]  # fmt: skip
    study, seen = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), set()
    for _ in range(40):
        tree = {"schedule": space.schedule} if mode == "joint" else space.schedule
        chosen = suggest(study.ask(), tree)
        schedule = schedule_settings(chosen["schedule"] if mode == "joint" else chosen)
        assert (schedule.steps <= 4) is (schedule.sampler == "ddim")
        assert (schedule.eta_max >= 0.1) is (schedule.sampler == "paper")
        assert 0.5 <= schedule.w_min <= 1.0
        seen.add(schedule.sampler)
    assert seen == {"ddim", "paper", "ddpm", "dpmpp"}
    assert parameters_of(space.schedule)["sampler"].samples() == ["ddim", "paper", "2", "dpmpp"]


def test_branches_that_would_share_a_name_are_told_apart(tmp_path: Path) -> None:
    text = (
        "training:\n  backbone:\n    one_of:\n"
        "      - {backbone: unet, layers: 1}\n      - {backbone: unet, layers: {int: [2, 3]}}\n"
    )
    space = load_space(written(tmp_path, text))
    assert parameter_names(space.training) == ["backbone", "backbone.unet-1.layers"]
    layers = {
        training_settings(space, {"backbone": name, "backbone.unet-1.layers": 3}).backbone.layers
        for name in ("unet-0", "unet-1")
    }
    assert layers == {1, 3}


@pytest.mark.parametrize(
    ("steps", "first", "reduction", "rungs"),
    [(900, 300, 3, [300, 900]), (900, 100, 3, [100, 300, 900]), (100, 30, 3, [30, 90, 100]), (50, 50, 2, [50])],
)
def test_rungs_end_at_the_full_budget(steps: int, first: int, reduction: int, rungs: list[int]) -> None:
    budget = {"first_rung": first, "reduction": reduction}
    assert Space(study="s", training={"steps": steps}, budget=budget).rungs() == rungs


@pytest.mark.parametrize(
    ("values", "w_min", "w_max"),
    [
        ({"w_min": 1.0, "w_max": 0.9}, 1.0, 1.0),
        ({"w_min": 0.5, "w_max": 0.9}, 0.5, 0.9),
        ({"w_min": 1.2}, 1.2, 1.2),
        ({"w_max": 1.1}, 1.0, 1.1),
    ],
)
def test_w_max_is_lifted_to_w_min(values: dict[str, Any], w_min: float, w_max: float) -> None:
    schedule = schedule_settings(values)
    assert (schedule.w_min, schedule.w_max) == (w_min, w_max)


def test_the_hash_of_a_space_is_of_what_is_searched_and_not_of_the_budget() -> None:
    base = Space(study="s", training={"p_uncond": {"float": [0.0, 0.1]}})
    assert base.model_copy(update={"study": "t"}).space_hash() == base.space_hash()
    for change in (
        {"seed": 1},
        {"mode": "joint"},
        {"metric": "val_ssim"},
        {"training": {}},
        {"schedule": {"steps": 2}},
    ):
        assert base.model_copy(update=change).space_hash() != base.space_hash()


@pytest.mark.parametrize("text", ["[val_ssim, evaluations]", "{val_ssim: max, evaluations: min}"])
def test_several_objectives_are_the_metric_and_what_stands_beside_it(tmp_path: Path, text: str) -> None:
    space = load_space(written(tmp_path, f"metric: {text}\n"))
    assert (space.metric, space.further_objectives) == ("val_ssim", ("evaluations",))
    assert space.objectives() == {"val_ssim": "max", "evaluations": "min"}
    assert Space.model_validate_json(space.model_dump_json()) == space


def test_a_quantised_range_gives_only_values_of_its_grid() -> None:
    tree = {"p_uncond": {"float": [0.0, 0.3], "step": 0.1}, "batch_size": {"int": [8, 32], "step": 8}}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [suggest(study.ask(), tree) for _ in range(40)]
    assert {round(each["p_uncond"], 12) for each in seen} == {0.0, 0.1, 0.2, 0.3}
    assert {each["batch_size"] for each in seen} == {8, 16, 24, 32}


@pytest.mark.parametrize(
    ("leaf", "text", "value"),
    [
        ({"float": [0.0, 1.0]}, "0.25", 0.25),
        ({"int": [0, 8]}, "4", 4),
        ({"choice": ["ddim", "ddpm"]}, "ddpm", "ddpm"),
        ({"choice": [1, 4]}, "4", 4),
        ({"choice": [True, False]}, "true", True),
        ({"choice": [None, 4]}, "null", None),
    ],
)
def test_a_stored_text_is_read_as_the_value_it_was(leaf: Any, text: str, value: Any) -> None:
    read = parameters_of({"p": leaf})["p"].read(text)
    assert (read, type(read)) == (value, type(value))


def test_a_joint_space_searches_the_same_parameters_as_the_papers_own() -> None:
    joint, paper = load_space(SPACES / "joint.yaml"), load_space(SPACES / "paper.yaml")
    assert (joint.mode, joint.training, joint.schedule) == ("joint", paper.training, paper.schedule)
    both = {f"training.{name}" for name in parameter_names(paper.training)}
    both |= {f"schedule.{name}" for name in parameter_names(paper.schedule)}
    assert set(parameter_names(joint.outer_tree())) == both


@pytest.mark.parametrize("scans", ["12", "{choice: [2, 12]}", "{int: [2, 12]}", "{int: [2, 12], log: true}"])
def test_no_trial_may_ask_for_more_training_scans_than_there_are(tmp_path: Path, scans: str) -> None:
    dozen = preset("paper-12")
    require_data(load_space(written(tmp_path, "training:\n  steps: 900\n")), dozen, "my.yaml")
    require_data(load_space(written(tmp_path, f"training:\n  scans: {scans}\n")), dozen, "my.yaml")
    space = load_space(written(tmp_path, f"training:\n  scans: {scans.replace('12', '13')}\n"))
    with pytest.raises(SettingsError, match=r"^my.yaml: training.scans = 13: must be at most 12, the scans of "):
        require_data(space, dozen, "my.yaml")


def test_no_setting_at_all_may_be_one_of_the_choices(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, "training:\n  scans: {choice: [null, 4]}\n"))
    assert [training_settings(space, {"scans": scans}).scans for scans in (None, 4)] == [None, 4]


def test_a_network_that_the_grid_does_not_suit_is_refused_before_any_trial(tmp_path: Path) -> None:
    text = "training:\n  backbone: {backbone: unet, channels: [8, 8, 8, 8, 8], patch: {choice: [1, 4]}}\n"
    message = r"^my.yaml: backbone unet: a grid of 32 × 32 cannot be parted into 4 × 4 .*must be multiples of 64"
    with pytest.raises(SettingsError, match=message):
        require_data(load_space(written(tmp_path, text)), preset("paper-12"), "my.yaml")
    require_data(load_space(written(tmp_path, text.replace("[1, 4]", "[1, 2]"))), preset("paper-12"), "my.yaml")


@pytest.mark.parametrize("key", ["initial_points", "first"])
def test_initial_points_have_their_earlier_name_too(tmp_path: Path, key: str) -> None:
    text = f"training: {{learning_rate: {{float: [1e-4, 1e-3]}}}}\n{key}:\n  - {{learning_rate: VALUE}}\n"
    assert load_space(written(tmp_path, text.replace("VALUE", "2e-4"))).initial_points == ({"learning_rate": 2e-4},)
    with pytest.raises(SettingsError, match=rf"space.yaml:3: {key}.0.learning_rate: 0.5: must be a number in"):
        load_space(written(tmp_path, text.replace("VALUE", "0.5")))


def test_a_space_that_an_earlier_version_stored_reads_as_it_did() -> None:
    stored = {"study": "s", "beside": ["evaluations"], "first": [{"learning_rate": 2e-4}]}
    space = Space.model_validate_json(json.dumps(stored))
    assert list(space.objectives()) == ["val_psnr_db", "evaluations"]
    assert space.initial_points == ({"learning_rate": 2e-4},)
    assert Space.model_validate_json(space.model_dump_json()) == space


def test_a_file_whose_own_name_is_no_study_name_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "my space.yaml"
    path.write_text("training:\n  steps: 900\n")
    with pytest.raises(SettingsError, match=r"my space\.yaml: has no `study`, and its own name 'my space' is none"):
        load_space(path)
    path.write_text("study: mine\ntraining:\n  steps: 900\n")
    assert load_space(path).study == "mine"
