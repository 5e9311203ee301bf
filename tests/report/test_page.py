"""The report of a study: all trials, nothing loaded from elsewhere, nothing executed that somebody typed."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from sm_search.config.errors import TrackingError
from sm_search.report.evidence import Evidence
from sm_search.report.page import study_page
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store, open_store

HOSTILE = '</pre></script><script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("home"))


def fill(store: Store, study: str, text: str) -> None:
    """A study of three trials: complete, pruned and failed."""
    log = StudyLog.open(store, study, tags={"dataset": text}, params={"metric": "val_psnr_db", "note": text})
    rows = (("a", [20.0, 30.0], "complete", 1e-3), ("b", [10.0], "pruned", 1e-1), ("c", [], "failed", 1.0))
    for trial_id, values, state, rate in rows:
        log.start_trial(trial_id, {"learning_rate": rate, "backbone": text, "blocks": 4})
        for index, value in enumerate(values):
            step = 10 * (index + 1)
            log.log_metrics(trial_id, step, {"val_psnr_db": value, "val_ssim": 0.5, "training_step": step})
        log.finish_trial(trial_id, state)  # type: ignore[arg-type]
    log.finish()


class Elements(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("figures") / "scan" / "comparison.png"
    path.parent.mkdir()
    Image.new("RGB", (4, 4), "red").save(path)
    return path


@pytest.fixture(scope="module")
def benign(store: Store, figure: Path) -> Elements:
    fill(store, "benign", "linear-basis")
    return Elements(study_page(store, "benign", "val_psnr_db", Evidence(figures=[figure])))


@pytest.fixture(scope="module")
def hostile(store: Store, figure: Path) -> Elements:
    fill(store, "hostile", HOSTILE)
    return Elements(study_page(store, "hostile", "val_psnr_db", Evidence(figures=[figure])))


def test_the_page_shows_every_trial_and_the_best_first(benign: Elements) -> None:
    assert "3 trials, 1 to the full budget. Best: trial a with val_psnr_db = 30 " in benign.text
    assert benign.count("tr") == 4
    for word in ("Its settings: ", "complete", "pruned", "failed", "learning_rate", "linear-basis", "10·log10(4/MSE)"):
        assert word in benign.text
    best = [attributes for tag, attributes in benign.elements if tag == "tr" and attributes.get("class") == "best"]
    assert len(best) == 1
    assert benign.count("img") == 1
    assert benign.text.index("Trials") < benign.text.index("History") < benign.text.index("Settings and versions")


def test_the_table_ranks_trials_as_the_study_does(store: Store) -> None:
    """A confirmed trial by its mean over seeds before all others, equal ones by their id, stopped ones below."""
    log = StudyLog.open(store, "ranked")
    several = {"seeds": 3.0, "val_psnr_db_std": 0.5}
    rows = [
        ("e", "complete", {"val_psnr_db": 31.0, "val_psnr_db_mean": 28.0, **several}),
        ("f", "complete", {"val_psnr_db": 29.0, "val_psnr_db_mean": 29.0, **several}),
        ("d", "complete", {"val_psnr_db": 30.0}),
        ("c", "complete", {"val_psnr_db": 30.0}),
        ("a", "failed", {}),
        ("b", "pruned", {"val_psnr_db": 40.0}),
    ]
    for trial_id, state, metrics in rows:
        log.start_trial(trial_id)
        log.log_metrics(trial_id, 10, metrics)
        log.finish_trial(trial_id, state)  # type: ignore[arg-type]
    log.finish()
    page = study_page(store, "ranked", "val_psnr_db")
    table = page[page.index("<h2>Trials") :].partition("</table>")[0]
    assert re.findall(r"<tr(?: class=\"best\")?><td>(\w)</td>", table) == ["f", "e", "c", "d", "b", "a"]
    assert '<tr class="best"><td>f</td>' in table


def test_the_page_loads_nothing_from_elsewhere(benign: Elements) -> None:
    for tag, attributes in benign.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
        assert "@import" not in (attributes.get("style") or "")
    assert benign.count("link") == benign.count("iframe") == 0
    charts = [script for script in benign.scripts if "Plotly.newPlot" in script and len(script) < 100_000]
    assert len(charts) == 4


def test_what_somebody_typed_is_shown_and_never_run(benign: Elements, hostile: Elements) -> None:
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in benign.elements]
    assert HOSTILE in hostile.text
    for _, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert not any("<script>alert" in script for script in hostile.scripts)


def test_a_study_without_a_complete_trial_says_so(store: Store) -> None:
    log = StudyLog.open(store, "empty", params={"metric": "val_psnr_db"})
    log.finish("failed")
    with pytest.raises(TrackingError, match="none of its 0 trials was trained to the full budget yet"):
        study_page(store, "empty", "val_psnr_db")
