"""The schedule of a checkpoint folder, tuned without a store."""

from pathlib import Path
from typing import Any

import pytest

from sm_search.config.errors import InputError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import load_checkpoint
from sm_search.search.schedule.base_schedule import untrained_guidance
from sm_search.search.schedule.inner_search import ScheduleSearch
from sm_search.search.schedule.tune_schedule import tune_model_schedule
from sm_search.search.space.space_file import SPACES, load_space
from sm_search.tracking.store import Store
from sm_search.training import Trainer, make_checkpoint, training_images

SPACE = """
schedule: {steps: {choice: [1, 2]}, eta_max: {float: [0.0, 0.5]}, guidance: {choice: [1.0, 1.5]}}
budget: {schedules: 2, images: 4}
"""


@pytest.fixture(scope="module")
def model(trainer: Trainer, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, models = training_images(tiny_dataset, "train", (0,), trainer.settings.mean)
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(trainer, tiny_dataset, models, ScheduleSettings(), {}).save(folder)
    return folder


@pytest.fixture
def space(tmp_path: Path) -> str:
    (tmp_path / "space.yaml").write_text(SPACE)
    return str(tmp_path / "space.yaml")


def no_store() -> Store:
    raise AssertionError("a folder needs no store")


def tuned(model: Path, dataset: Dataset, said: list[str], **changes: Any) -> ScheduleSearch:
    return tune_model_schedule(str(model), dataset, store=no_store, announce=said.append, **changes)


def test_a_folder_becomes_a_folder_with_the_best_schedule(
    model: Path, tiny_dataset: Dataset, space: str, tmp_path: Path
) -> None:
    said: list[str] = []
    found = tuned(model, tiny_dataset, said, space_file=space, schedules=6, out=tmp_path / "tuned")
    assert said == [], "trained with p_uncond = 0.1"
    assert 7 <= len(found.trials) <= 9
    made, before = load_checkpoint(tmp_path / "tuned"), load_checkpoint(model)
    assert made.info.schedule == found.best
    assert made.info.metrics == found.metrics
    assert made.info.model_copy(update={"schedule": before.info.schedule, "metrics": {}}) == before.info
    assert len(tuned(model, tiny_dataset, said, space_file=space).trials) >= 41


def test_a_schedule_is_tuned_for_the_image_of_a_phantom(model: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    head = "metric: val_image_psnr_db\nconstraints: {val_image_psnr_db: '>= 500'}\n"
    (tmp_path / "image.yaml").write_text(head + SPACE)
    found = tuned(model, tiny_dataset, [], space_file=str(tmp_path / "image.yaml"), schedules=6)
    best = max(trial.value for trial in found.trials if trial.value is not None)
    assert found.metrics["val_image_psnr_db"] == pytest.approx(best, abs=1e-3), "one scan, which all were rated on"
    assert len({trial.metrics["val_image_psnr_db"] for trial in found.trials}) > 3


def test_what_cannot_be_tuned_is_refused(
    model: Path, tiny_dataset: Dataset, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="is the model itself"):
        tuned(model, tiny_dataset, [], space_file=space, out=model / "." / ".." / model.name)
    (tmp_path / "fixed.yaml").write_text("schedule: {steps: 2}\n")
    with pytest.raises(InputError, match=r"fixed\.yaml: schedule: has no parameter"):
        tuned(model, tiny_dataset, [], space_file=str(tmp_path / "fixed.yaml"))
    monkeypatch.setattr(Dataset, "known_hashes", lambda _: ("another",))
    with pytest.raises(InputError, match=f"{model}: was trained on another dataset"):
        tuned(model, tiny_dataset, [], space_file=space)


def test_the_shipped_space_holds_every_schedule_parameter() -> None:
    assert set(load_space(SPACES / "schedule.yaml").schedule) == set(ScheduleSettings.model_fields)


def test_guidance_without_a_trained_null_condition_is_warned_of() -> None:
    assert untrained_guidance(0.1, 2.0) is None
    assert untrained_guidance(0.0, 1.0) is None
    assert "guidance is 2.0" in (untrained_guidance(0.0, 2.0) or "")
    assert "guidance is searched" in (untrained_guidance(0.0, {"choice": [1.0, 2.0]}) or "")
