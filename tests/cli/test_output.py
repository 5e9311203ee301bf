"""Tables on a terminal of 80 columns, and what a suggested command and the environment say of store and cluster."""

import io
from argparse import Namespace

import pytest
from rich.console import Console

from sm_search.cli.main import build_parser
from sm_search.cli.output import Output
from sm_search.cli.parsing import ray_address, same_store

COLUMNS = (
    "trial",
    "state",
    "PSNR dB",
    "SSIM",
    "steps",
    "learning_rate",
    "p_uncond",
    "backbone.linear-basis.width",
    "x",
)
ROWS = [
    (f"{number:08x}", "complete, front", "60.65", "0.9987", "3000", "0.0003162", "0.1", "512", "y" * 60)
    for number in (1, 77)
]


def printed(width: int, is_terminal: bool = True, as_json: bool = False) -> str:
    output, file = Output(as_json), io.StringIO()
    output.stdout = Console(file=file, force_terminal=is_terminal, width=width, color_system=None, highlight=False)
    output.table("Study s", COLUMNS, ROWS)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 30])
def test_on_a_narrow_terminal_nothing_of_a_table_is_cut(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    for cell in {*COLUMNS, *(cell for row in ROWS for cell in row)}:
        assert cell in text, cell
    assert text.count("00000001") == text.count("(1 of ") * int(text.rpartition(" of ")[2][0])
    if width > 60 + len("00000001 complete, front "):
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_a_wide_or_piped_table_is_one() -> None:
    for text in (printed(200), printed(80, is_terminal=False)):
        assert "of" not in text
        assert text.count("00000001") == 1
        assert max(len(line.rstrip()) for line in text.splitlines()) > 150
    assert printed(80, as_json=True) == ""


def options(*more: str) -> Namespace:
    return build_parser().parse_args(["sweep", "--space", "s.yaml", "--data", "d", *more])


def test_a_suggested_command_finds_the_same_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SM_SEARCH_HOME", raising=False)
    assert same_store(options()) == ""
    assert same_store(options("--home", "my home")) == " --home 'my home'"
    told = same_store(options("--home", "h", "--tracking-uri", "http://h:5000"))
    assert told == " --home h --tracking-uri http://h:5000"
    monkeypatch.setenv("SM_SEARCH_HOME", "h")
    assert same_store(options("--home", "h")) == ""


@pytest.mark.parametrize(
    ("named", "given", "where", "told"),
    [
        (None, None, None, ""),
        (None, "auto", "auto", ""),
        ("10.0.0.1:6379", None, "10.0.0.1:6379", "runs on the cluster that RAY_ADDRESS=10.0.0.1:6379 names"),
        ("10.0.0.1:6379", "local", None, ""),
        ("10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.2:6379", ""),
        ("local", None, None, ""),
        ("http://h:8265", None, None, "RAY_ADDRESS=http://h:8265 is a jobs server: this runs here"),
    ],
)
def test_the_environment_names_a_cluster(
    named: str | None,
    given: str | None,
    where: str | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_address(options(*(["--ray-address", given] if given else [])), Output(False)) == where
    assert told in capsys.readouterr().err
