"""What README, docs/ and cluster/README show is accepted: spaces load, commands parse, files and links exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from sm_search.cli.main import build_parser
from sm_search.config.dataset_settings import DatasetSettings, preset_names
from sm_search.config.loading import load_settings
from sm_search.config.simulation_settings import FieldSettings
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import load_space, space_names
from sm_search.search.space.tree import parameter_names

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
FILES += [ROOT / "cluster/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
TEXT = "\n".join(PAGES.values())

WHOLE_LINES = TEXT.replace("\\\n", " ")
COMMANDS = re.findall(r"sm-search ([a-z-]+ --[^'`\n]*)", WHOLE_LINES)
YAML = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
PYTEST = re.findall(r"^    .*\bpytest (.*)", WHOLE_LINES, re.MULTILINE) + re.findall(r"`[^`\n]*pytest\s([^`]+)`", TEXT)
LINKS = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]
NAMED = [
    (page, name)
    for page, text in PAGES.items()
    if page != "CHANGELOG.md"  # which tells of what was
    for name in re.findall(r"`((?:sm_search|search_spaces|tests|cluster|docs)/[\w./-]*)`", text)
]
MAX_IMAGE_BYTES = 150_000


def test_the_search_space_loads(tmp_path: Path) -> None:
    (text,) = (text for text in YAML if text.startswith("study:"))
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    space = load_space(path)
    assert space.study == "my-study"
    assert {"learning_rate", "p_uncond", "backbone"} <= set(parameter_names(space.outer_tree()))
    keys = set(Space.model_fields) - {"seed", "mode", "further_objectives"}
    assert set(re.findall(r"^(\w+):", text, re.MULTILINE)) == keys


def test_the_dataset_loads_and_its_defaults_are_what_the_comments_say(tmp_path: Path) -> None:
    (text,) = (text for text in YAML if text.startswith("name:"))
    path = tmp_path / "dataset.yaml"
    path.write_text(text, encoding="utf-8")
    settings = load_settings(path, DatasetSettings)
    assert settings.low == FieldSettings(gradient_t_per_m=(0.1, 0.1), drive_mt=(2.0, 2.0))
    assert len(settings.scans("train")) == 64
    assert settings.receive.low_pass_khz == 1000


def test_the_page_of_search_spaces_names_all_that_ship() -> None:
    (table,) = re.findall(r"\| `--space` \| for \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGES["docs/search-spaces.md"])
    assert set(re.findall(r"^\| `(\S+)`", table, re.MULTILINE)) == set(space_names())


def test_the_page_of_the_simulator_names_every_preset() -> None:
    for name in preset_names():
        assert f"`{name}`" in PAGES["docs/simulator.md"]


def test_every_yaml_block_is_a_space_or_a_dataset() -> None:
    assert sorted(text.split(":")[0] for text in YAML) == ["name", "study"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    options = build_parser().parse_args(shlex.split(command, comments=True))
    space, config = getattr(options, "space", None), getattr(options, "config", None)
    assert space is None or space in space_names() or (ROOT / space).is_file()
    assert config is None or config == "CONFIG.yaml", "the reader's own"


def test_commands_were_found() -> None:
    assert {command.split()[0] for command in COMMANDS} >= {
        "simulate",
        "train",
        "sweep",
        "promote",
        "evaluate",
        "synthesize",
        "reconstruct",
        "tune-schedule",
        "doctor",
    }


@pytest.mark.parametrize("command", PYTEST)
def test_benchmarks_that_are_named_exist(command: str) -> None:
    words = shlex.split(command, comments=True)
    (file,) = (word for word in words if word.startswith("tests/"))
    source = (ROOT / file).read_text(encoding="utf-8")
    wanted = words[words.index("-k") + 1] if "-k" in words else ""
    for word in set(wanted.split()) - {"and", "or", "not"}:
        assert word in source, f"-k {word} selects nothing in {file}"


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page: str, link: str) -> None:
    if re.match(r"https?://", link):
        return
    file, _, anchor = unquote(link).partition("#")
    target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
    assert target.exists(), f"{page}: {link}"
    if anchor:
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_files_that_are_named_exist(page: str, name: str) -> None:
    found = list(ROOT.glob(name.rstrip("/")))
    assert found, f"{page} names {name}"


def test_the_rooms_of_the_architecture_page_hold_the_files_to_open_first() -> None:
    rows = re.findall(r"^\| `([\w/]+/)` \| .* \| `(\w+\.py)` \|$", PAGES["docs/architecture.md"], re.MULTILINE)
    assert {room.split("/")[0] for room, _ in rows} == {
        path.parent.name for path in (ROOT / "sm_search").glob("*/__init__.py")
    }
    for room, file in rows:
        assert (ROOT / "sm_search" / room / file).is_file(), f"{room}{file}"


def test_the_tree_of_the_readme_is_the_tree() -> None:
    (tree,) = re.findall(r"^    sm_search/\n(?:    .*\n)+", PAGES["README.md"], re.MULTILINE)
    folders: dict[int, str] = {}
    shown = set()
    for line in tree.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        folders[indent] = name
        shown.add("".join(folders[i] for i in sorted(folders) if i <= indent))
    rooms = {
        f"sm_search/{path.name}{'/' if path.is_dir() else ''}"
        for path in (ROOT / "sm_search").iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    floors = {f"sm_search/search/{path.parent.name}/" for path in (ROOT / "sm_search/search").glob("*/__init__.py")}
    assert shown == rooms | floors | {"sm_search/", "search_spaces/", "cluster/", "docs/", "tests/"}


def test_every_file_of_docs_is_reached() -> None:
    linked = {((ROOT / page).parent / link.partition("#")[0]).resolve() for page, link in LINKS}
    for path in (path for path in (ROOT / "docs").rglob("*") if path.is_file() and path.suffix != ".pyc"):
        assert path in linked or f" {path.relative_to(ROOT)} " in TEXT, f"no page leads to {path}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs/images").iterdir()), ids=lambda path: path.name)
def test_pictures_are_small_and_whole(path: Path) -> None:
    assert path.stat().st_size < MAX_IMAGE_BYTES
    with Image.open(path) as picture:
        picture.load()
        assert min(picture.size) > 200


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_pipeline() -> None:
    result = subprocess.run(["shellcheck", ROOT / "docs/pipeline.sh"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", TEXT, re.MULTILINE)) <= targets
