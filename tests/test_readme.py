"""What README and cluster/README show is accepted: the search space loads, commands parse, make targets exist."""

import re
import shlex
from pathlib import Path

import pytest

from sm_search.cli.main import build_parser
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.loading import load_settings
from sm_search.config.simulation_settings import FieldSettings
from sm_search.search.space.space_file import load_space
from sm_search.search.space.tree import parameter_names

ROOT = Path(__file__).parents[1]
README, CLUSTER = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "cluster/README.md"))
COMMANDS = re.findall(
    r"sm-search ((?:simulate|sweep|promote|evaluate|synthesize|reconstruct) --[^'\n]*)",
    (README + CLUSTER).replace("\\\n", " "),
)
SPACE, DATASET = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def test_the_search_space_loads(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE, encoding="utf-8")
    space = load_space(path)
    assert space.study == "my-study"
    assert {"learning_rate", "p_uncond", "backbone"} <= set(parameter_names(space.outer_tree()))


def test_the_dataset_loads_and_its_defaults_are_what_the_comments_say(tmp_path: Path) -> None:
    path = tmp_path / "dataset.yaml"
    path.write_text(DATASET, encoding="utf-8")
    settings = load_settings(path, DatasetSettings)
    assert settings.low == FieldSettings(gradient_t_per_m=(0.1, 0.1), drive_mt=(2.0, 2.0))
    assert len(settings.scans("train")) == 64
    assert settings.receive.low_pass_khz == 1000


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    options = build_parser().parse_args(shlex.split(command))
    for name in ("space", "config"):
        file = getattr(options, name, None)
        assert file is None or (ROOT / file).is_file(), f"{file} is not in the checkout"


def test_commands_were_found() -> None:
    assert {command.split()[0] for command in COMMANDS} == {
        "simulate",
        "sweep",
        "promote",
        "evaluate",
        "synthesize",
        "reconstruct",
    }


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
