"""Images with every method's matrix."""

import dataclasses
from collections.abc import Mapping

import pytest

from sm_search.config.errors import SettingsError
from sm_search.data.dataset import Dataset
from sm_search.evaluation.baselines import Copy, Method, Nearest
from sm_search.evaluation.image_comparison import LOW, TRUE, ImageRow, images_of
from sm_search.physics.system_matrix import SystemMatrix


class Truth:
    def __init__(self, dataset: Dataset, amplitude: float = 1.0) -> None:
        self.high = next(iter(dataset.pairs("test"))).high
        self.amplitude = amplitude

    def predict(self, low: SystemMatrix) -> SystemMatrix:
        return dataclasses.replace(self.high, values_CKN=self.amplitude * self.high.values_CKN)


def images(methods: Mapping[str, Method], dataset: Dataset, phantom: str = "shape") -> dict[str, ImageRow]:
    (pair,) = dataset.pairs("test")
    estimates = {name: method.predict(pair.low) for name, method in methods.items()}
    return {row.method: row for row in images_of(estimates, pair, dataset.settings, phantom)}


def test_a_method_that_finds_the_truth_has_the_image_of_the_truth(tiny_dataset: Dataset) -> None:
    methods = {"truth": Truth(tiny_dataset), "nearest": Nearest(tiny_dataset.pairs("train")), "copy": Copy()}
    rows = images(methods, tiny_dataset)
    assert set(rows) == {TRUE, LOW, *methods}
    assert rows["truth"].psnr_db == rows[TRUE].psnr_db
    assert rows[TRUE].psnr_db > rows["nearest"].psnr_db > rows["copy"].psnr_db
    assert rows[TRUE].psnr_db > rows[LOW].psnr_db, "the high gradient resolves more"


def test_a_wrong_gain_costs_image_quality(tiny_dataset: Dataset) -> None:
    methods = {"right": Truth(tiny_dataset), "wrong": Truth(tiny_dataset, 3.0)}
    rows = images(methods, tiny_dataset)
    assert rows["wrong"].psnr_db < rows["right"].psnr_db - 1


def test_an_unknown_phantom_is_refused(tiny_dataset: Dataset) -> None:
    with pytest.raises(SettingsError, match="'nobody': does not exist"):
        images({}, tiny_dataset, "nobody")
