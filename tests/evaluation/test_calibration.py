"""The calibration check on errors that are known."""

import dataclasses

import numpy as np
import pytest

from sm_search.data.dataset import Dataset
from sm_search.evaluation.calibration import calibration


def test_errors_of_the_expected_size_have_ratio_one(tiny_dataset: Dataset) -> None:
    (pair,) = tiny_dataset.pairs("test")
    shape = pair.high.values_CKN.shape
    random = np.random.default_rng(0)
    expected_CK = np.tile(np.geomspace(1e-4, 1e-2, shape[1]), (2, 1))
    scale_CK1 = np.abs(pair.high.values_CKN).max(axis=2, keepdims=True)
    noise = random.normal(size=(*shape, 2)) @ [1, 1j] / np.sqrt(2)
    estimate = dataclasses.replace(
        pair.high, values_CKN=pair.high.values_CKN + scale_CK1 * expected_CK[:, :, None] * noise
    )
    found = calibration(estimate, expected_CK, pair)
    assert found.ratio == pytest.approx(1, rel=0.05)
    assert found.ratio_p10 < found.ratio < found.ratio_p90
    assert found.rank_correlation == 1
    assert calibration(estimate, expected_CK / 10, pair).ratio == pytest.approx(10 * found.ratio)
    assert calibration(estimate, expected_CK[:, ::-1], pair).rank_correlation == -1
