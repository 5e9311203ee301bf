"""Promotion of really trained models on a real dataset through the gate."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from sm_search.config.errors import InputError, TrackingError
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import SETTINGS_FILE
from sm_search.evaluation.baselines import Copy, baselines
from sm_search.evaluation.comparison import compare
from sm_search.synthesis import load_synthesiser
from sm_search.tracking import promotion
from sm_search.tracking.champion import model_aliases
from sm_search.tracking.gate import Score, checks
from sm_search.tracking.promotion import promote
from sm_search.tracking.registry import version_tags
from sm_search.tracking.store import Store
from tests.tracking.conftest import add_study


def score(psnr_db: float) -> Score:
    return Score(psnr_db=psnr_db, ssim=0.5, nrmse=0.5, gain_error_db=1.0)


@pytest.mark.parametrize(
    ("model", "copy", "champion", "least", "short"),
    [
        (30.0, 29.9, None, -0.1, []),
        (30.0, 30.0, None, -0.1, ["test: PSNR 30.00 dB is +0.00 dB against the 30.00 of copy; must be above 0"]),
        (30.0, 20.0, 30.1, -0.1, []),
        (30.0, 20.0, 30.2, -0.1, ["test: PSNR 30.00 dB is -0.20 dB against the 30.20 of champion; must be at least"]),
        (30.0, 20.0, 29.5, 1.0, ["is +0.50 dB against the 29.50 of champion; must be at least +1 dB"]),
        (10.0, 20.0, 30.0, -0.1, ["copy", "champion"]),
    ],
)
def test_the_rule(model: float, copy: float, champion: float | None, least: float, short: list[str]) -> None:
    scores = {"model": score(model), "copy": score(copy), "kernel-ridge": score(99.0)}
    if champion is not None:
        scores["champion"] = score(champion)
    failed = [str(check) for check in checks("test", scores, least + 1e-9 * (least < 0) - 2e-9) if not check.passed]
    assert len(failed) == len(short)
    for said, expected in zip(failed, short, strict=True):
        assert expected in said


@pytest.fixture
def only_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the baselines that take a while and do not gate."""
    monkeypatch.setattr(promotion, "baselines", lambda dataset: {"copy": Copy()})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are read, in order."""
    seen: list[str] = []
    pairs = Dataset.pairs

    def watched(dataset: Dataset, split: str) -> Any:
        seen.append(split)
        return pairs(dataset, split)

    monkeypatch.setattr(Dataset, "pairs", watched)
    return seen


def test_the_first_model_becomes_champion_and_its_version_tells_the_whole_comparison(
    store: Store, study: str, tiny_dataset: Dataset, good_model: Path, tmp_path: Path
) -> None:
    run_id = add_study(store, study, good_model)
    done = promote(store, study, tiny_dataset, f"model-{study}", seeds=2)
    assert (done.version, done.champion, done.run_id, done.shortfalls) == (1, None, run_id, [])
    assert model_aliases(store, f"model-{study}") == {"champion": 1}

    # By hand: the mean over two seeds, and a baseline.
    rows = [compare({"m": load_synthesiser(good_model, seed=seed)}, tiny_dataset, "test")[0] for seed in (0, 1)]
    both = [row.quality.psnr_db_mean for row in rows]
    assert done.scores["test"]["model"].psnr_db == pytest.approx(sum(both) / 2)
    assert done.scores["test"]["model"].psnr_db_spread == pytest.approx(abs(both[0] - both[1]) / 2)
    (copied,) = compare({"copy": baselines(tiny_dataset)["copy"]}, tiny_dataset, "validation")
    assert done.scores["validation"]["copy"].psnr_db == copied.quality.psnr_db_mean
    assert {split: list(scores) for split, scores in done.scores.items()} == {
        split: ["model", "copy", "nearest", "kernel-ridge", "physicist"] for split in ("validation", "test")
    }

    tags = version_tags(store, f"model-{study}", 1)
    assert tags["gate"] == "passed"
    assert float(tags["test_psnr_db.model"]) == pytest.approx(sum(both) / 2, abs=1e-4)
    assert tags["dataset_hash"] == tiny_dataset.content_hash()
    file = store.client.download_artifacts(run_id, f"promotion/model-{study}-version-1.json", str(tmp_path))
    stored = json.loads(Path(file).read_text())
    assert stored["passed"] is True
    assert stored["scores"]["test"]["model"] == done.scores["test"]["model"].model_dump()
    page = Path(store.client.download_artifacts(run_id, f"promotion/model-{study}-version-1.md", str(tmp_path)))
    assert f"| test | model | {done.scores['test']['model'].psnr_db:.2f} |" in page.read_text()
    assert store.client.get_model_version(f"model-{study}", "1").description == page.read_text()


@pytest.mark.usefixtures("only_copy")
def test_a_worse_model_stays_challenger_and_the_test_split_stays_unread(
    store: Store, study: str, tiny_dataset: Dataset, good_model: Path, poor_model: Path, reads: list[str]
) -> None:
    name = f"model-{study}"
    add_study(store, study, good_model)
    promote(store, study, tiny_dataset, name, seeds=1)
    reads.clear()
    add_study(store, f"{study}-poor", poor_model)
    done = promote(store, f"{study}-poor", tiny_dataset, name, seeds=1)
    (shortfall,) = [said for said in done.shortfalls if "of champion" in said]
    assert shortfall.startswith(f"validation: PSNR {done.scores['validation']['model'].psnr_db:.2f} dB is -")
    assert "test" not in reads
    assert model_aliases(store, name) == {"champion": 1, "challenger": 2}
    assert "must be at least -0.1 dB" in version_tags(store, name, 2)["gate"]
    # With a tolerance of its own it would pass there, and then it is shown the test split.
    promote(store, f"{study}-poor", tiny_dataset, name, seeds=1, least_gain_db=-100.0)
    assert reads.count("test") >= 1


@pytest.mark.usefixtures("only_copy")
def test_the_test_split_is_read_once_in_the_life_of_a_version(
    store: Store, study: str, tiny_dataset: Dataset, good_model: Path, poor_model: Path, reads: list[str]
) -> None:
    name, count = f"model-{study}", f"test_reads.{tiny_dataset.content_hash()[:12]}"
    add_study(store, study, good_model)
    first = promote(store, study, tiny_dataset, name, seeds=1)
    assert version_tags(store, name, 1)[count] == "1"
    once = reads.count("test")
    assert once >= 1
    # Again: it is champion already, and nothing is read or registered.
    reads.clear()
    again = promote(store, study, tiny_dataset, name, seeds=1)
    assert (again.version, again.scores, reads) == (1, {}, [])
    # As the champion of another comparison its figures come from the record.
    add_study(store, f"{study}-2", poor_model)
    other = promote(store, f"{study}-2", tiny_dataset, name, seeds=1, least_gain_db=-200.0)
    assert other.scores["test"]["champion"] == first.scores["test"]["model"]
    assert version_tags(store, name, 1)[count] == "1"
    # And a version that lost its place is compared by its record, too.
    reads.clear()
    back = promote(store, study, tiny_dataset, name, seeds=1)
    assert (back.version, back.champion) == (1, 2)
    assert back.scores["test"]["model"] == first.scores["test"]["model"]
    assert "test" not in reads
    assert model_aliases(store, name) == {"champion": 1, "previous": 2}


@pytest.mark.usefixtures("only_copy")
def test_a_look_at_the_test_split_that_was_cut_off_is_counted(
    store: Store, study: str, tiny_dataset: Dataset, good_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, count = f"model-{study}", f"test_reads.{tiny_dataset.content_hash()[:12]}"
    add_study(store, study, good_model)
    scores = promotion._scores

    def cut_off(checkpoint: Path, dataset: Dataset, split: str, *more: Any) -> Any:
        if split == "test":
            raise KeyboardInterrupt
        return scores(checkpoint, dataset, split, *more)

    with monkeypatch.context() as dying:
        dying.setattr(promotion, "_scores", cut_off)
        with pytest.raises(KeyboardInterrupt):
            promote(store, study, tiny_dataset, name, seeds=1)
    assert model_aliases(store, name) == {"challenger": 1}
    promote(store, study, tiny_dataset, name, seeds=1)
    assert version_tags(store, name, 1)[count] == "2"


def test_another_dataset_and_an_unknown_study_are_refused(
    store: Store, study: str, tiny_dataset: Dataset, good_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(good_model, other)
    info = json.loads((other / SETTINGS_FILE).read_text())
    (other / SETTINGS_FILE).write_text(json.dumps({**info, "dataset_hash": "0" * 64}))
    add_study(store, study, other)
    with pytest.raises(InputError, match=rf"is not the dataset of study '{study}': its hash is .*the model's 0000"):
        promote(store, study, tiny_dataset, f"model-{study}")
    with pytest.raises(TrackingError, match="not found"):
        model_aliases(store, f"model-{study}")
    with pytest.raises(TrackingError, match="study 'nobody': not in"):
        promote(store, "nobody", tiny_dataset)


@pytest.mark.usefixtures("only_copy")
def test_a_champion_for_other_scans_cannot_be_compared(
    store: Store, study: str, tiny_dataset: Dataset, good_model: Path, poor_model: Path, tmp_path: Path
) -> None:
    """Which it says by its own refusal; the champion stays."""
    other = tmp_path / "other"
    shutil.copytree(good_model, other)
    add_study(store, study, other)
    promote(store, study, tiny_dataset, f"model-{study}", seeds=1)
    (logged,) = store.client.search_model_versions(f"name = 'model-{study}'")
    info = Path(unquote(urlsplit(logged.source).path))
    stored = info / "artifacts" / "checkpoint" / SETTINGS_FILE
    settings = json.loads(stored.read_text())
    original = stored.read_bytes()
    stored.write_text(json.dumps({**settings, "low": {**settings["low"], "drive_mt": 3.0}}))
    add_study(store, f"{study}-2", poor_model)
    with pytest.raises(InputError, match=r"/1: cannot be compared on .*drive_mt is .*another --name"):
        promote(store, f"{study}-2", tiny_dataset, f"model-{study}", seeds=1)
    assert model_aliases(store, f"model-{study}") == {"champion": 1, "challenger": 2}
    stored.write_bytes(original)
    assert asdict(promote(store, study, tiny_dataset, f"model-{study}"))["version"] == 1
