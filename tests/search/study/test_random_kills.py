"""A short campaign of random kills; the long one is run by hand (`random_kills.py`)."""

import random
from pathlib import Path

import pytest

from sm_search.data.dataset import Dataset
from tests.search.study.random_kills import Campaign, undisturbed

pytestmark = pytest.mark.slow
KILLS, SEED = 2, 3


def test_a_study_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    reference, span_s = undisturbed(tiny_dataset.folder, tmp_path / "undisturbed")
    campaign = Campaign(tiny_dataset.folder, tmp_path, reference, random.Random(SEED), span_s)
    campaign.study(KILLS)
    assert 1 <= sum(campaign.killed.values()) <= KILLS
