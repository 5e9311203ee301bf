"""A study is known at home and in its storage: one of them is enough to resume it, and to refuse its name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.search.space.space import Space
from sm_search.search.study.folder import STUDY_FILE, check_study, note_study, storage_folder, study_folder

SPACE = Space.model_validate({"study": "known", "training": {"steps": 500}, "schedule": {"eta_max": {"float": [0, 1]}}})


@pytest.fixture
def storage(tiny_dataset: Dataset, tmp_path: Path) -> str:
    """Of a study that began at `first`."""
    place = str(tmp_path / "storage")
    states = check_study(SPACE, tiny_dataset, tmp_path / "first", False, place)
    note_study(states, tiny_dataset, tmp_path / "first", place)
    return place


def test_home_and_storage_know_the_same(storage: str, tmp_path: Path) -> None:
    at_home = study_folder(tmp_path / "first", "known") / STUDY_FILE
    assert Path(storage_folder(storage, "known"), STUDY_FILE).read_bytes() == at_home.read_bytes()


@pytest.mark.parametrize(("home", "with_storage"), [("first", True), ("first", False), ("new", True)])
def test_either_is_enough(home: str, with_storage: bool, storage: str, tiny_dataset: Dataset, tmp_path: Path) -> None:
    place = storage if with_storage else None
    check_study(SPACE, tiny_dataset, tmp_path / home, True, place)
    with pytest.raises(
        InputError, match=r"exists in .*known; --resume continues it; .*`warm_start: \[known\]` learns from this one"
    ):
        check_study(SPACE, tiny_dataset, tmp_path / home, False, place)


def test_neither_is_nothing_to_resume(storage: str, tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to resume in .*new.* or .*other/studies/known"):
        check_study(SPACE, tiny_dataset, tmp_path / "new", True, f"{storage}/other")


def test_another_space_is_refused_by_what_the_storage_knows(
    storage: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    other = SPACE.model_copy(update={"seed": 1})
    with pytest.raises(InputError, match=r"seed was 0 and is 1: not the same study"):
        check_study(other, tiny_dataset, tmp_path / "new", True, storage)


def test_the_same_data_made_again_is_the_same_study(tiny_dataset: Dataset, storage: str, tmp_path: Path) -> None:
    """As an older version would have noted it, and as this one does."""
    again = replace(tiny_dataset, manifest=tiny_dataset.manifest.model_copy(update={"created": "2020-01-01T00:00:00"}))
    assert again.origin_hash() != tiny_dataset.origin_hash()
    check_study(SPACE, again, tmp_path / "first", True)
    noted = study_folder(tmp_path / "first", "known") / STUDY_FILE
    old = {**json.loads(noted.read_text()), "dataset_hash": tiny_dataset.known_hashes()[-1]}
    noted.write_text(json.dumps(old))
    check_study(SPACE, tiny_dataset, tmp_path / "first", True)
    noted.write_text(json.dumps({**old, "dataset_hash": "0" * 64}))
    with pytest.raises(InputError, match=r"dataset_hash was 000000000000 and is"):
        check_study(SPACE, tiny_dataset, tmp_path / "first", True)
