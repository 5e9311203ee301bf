"""Baselines, and methods compared with the truth."""

import dataclasses

import numpy as np
import pytest

from sm_search.data.dataset import Dataset
from sm_search.evaluation.baselines import BASELINES, Copy, Nearest, baselines
from sm_search.evaluation.comparison import compare, pair_quality
from sm_search.evaluation.metrics import MAX_PSNR_DB
from sm_search.physics.system_matrix import SystemMatrix

METHODS = tuple(BASELINES)


def test_nearest_gives_a_training_scan_back_exactly(tiny_dataset: Dataset) -> None:
    nearest = Nearest(tiny_dataset.pairs("train"))
    for pair in tiny_dataset.pairs("train"):
        assert nearest.nearest(pair.low).scan == pair.scan
        found = pair_quality(nearest.predict(pair.low), pair)
        assert (found.psnr_db_p10, found.nrmse_p90) == (MAX_PSNR_DB, 0)
        assert found.ssim_p10 == pytest.approx(1, rel=1e-12)


def test_nearest_does_not_look_at_the_concentration(tiny_dataset: Dataset) -> None:
    nearest = Nearest(tiny_dataset.pairs("train"))
    for pair in tiny_dataset.pairs("train"):
        stronger = dataclasses.replace(pair.low, values_CKN=1000 * pair.low.values_CKN)
        assert nearest.nearest(stronger).scan == pair.scan


def test_nearest_chooses_the_similar_particle(tiny_dataset: Dataset) -> None:
    """20 nm at 20 kHz lies nearer to 20 nm at 10 kHz than to 30 nm at 30 kHz."""
    (pair,) = tiny_dataset.pairs("validation")
    assert Nearest(tiny_dataset.pairs("train")).nearest(pair.low).scan.core_diameter_nm == 20


def test_copy_is_the_condition_itself(tiny_dataset: Dataset) -> None:
    (pair,) = tiny_dataset.pairs("test")
    assert Copy().predict(pair.low) is pair.low
    assert pair_quality(Copy().predict(pair.low), pair).psnr_db_mean < 60


def test_compare_has_a_row_for_every_method_and_scan(tiny_dataset: Dataset) -> None:
    class Truth:
        def predict(self, low: SystemMatrix) -> SystemMatrix:
            return next(pair.high for pair in tiny_dataset.pairs("train") if pair.low.tracer == low.tracer)

    rows = compare({**baselines(tiny_dataset), "truth": Truth()}, tiny_dataset, "train")
    scans = [scan.id for scan in tiny_dataset.settings.scans("train")]
    assert [(row.scan, row.method) for row in rows] == [(s, m) for s in scans for m in (*METHODS, "truth")]
    exact = {
        method: {row.quality.psnr_db_mean for row in rows if row.method == method} for method in (*METHODS, "truth")
    }
    assert exact["nearest"] == exact["truth"] == {MAX_PSNR_DB}
    assert min(exact["physicist"]) > 80 > max(exact["copy"])


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_answers_with_a_matrix_like_the_condition_and_leaves_it_alone(
    tiny_dataset: Dataset, name: str
) -> None:
    """The contract of every baseline; also on a scan that it was fitted without, and the same at every call."""
    method = BASELINES[name](tiny_dataset, list(tiny_dataset.pairs("train")))
    (pair,) = tiny_dataset.pairs("test")
    given = pair.low.values_CKN.copy()
    made = method.predict(pair.low)
    assert made.values_CKN.shape == pair.low.values_CKN.shape
    assert (made.mixing_orders, made.grid, made.unit) == (pair.low.mixing_orders, pair.low.grid, pair.low.unit)
    assert np.isfinite(made.values_CKN).all()
    assert np.array_equal(method.predict(pair.low).values_CKN, made.values_CKN)
    assert np.array_equal(pair.low.values_CKN, given)
