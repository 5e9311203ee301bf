"""What the report says of the best model: its quality beside the baselines, and what the schedule does."""

from typing import Any

import pytest

from sm_search.report.evidence import decay_verdict, quality_section, schedule_slices, slices


def tried(value: float | None, **schedule: Any) -> dict[str, Any]:
    base = {"eta_max": 0.0, "gamma": 1.0, "w_min": 1.0, "w_max": 1.0, "sigma": 1.0, "steps": 4, "sampler": "ddim"}
    return {"schedule": {**base, **schedule}, "value": value}


@pytest.mark.parametrize(
    ("with_decay", "words"), [(31.0, "with it 31 (+1): here the paper's decay helps"), (29.5, "does not help")]
)
def test_the_verdict_compares_the_best_of_both_kinds(with_decay: float, words: str) -> None:
    schedules = [
        tried(30.0),
        tried(20.0),
        tried(with_decay, eta_max=0.1),
        tried(10.0, w_min=0.5),
        tried(None, eta_max=9),
    ]
    verdict = decay_verdict(schedules)
    assert verdict.startswith(
        "The best of 2 schedules without decay of the condition reached 30, the best of 2 with it"
    )
    assert words.replace("\\", "") in verdict


def test_nothing_is_claimed_without_both_kinds() -> None:
    assert "nothing can be said" in decay_verdict([tried(30.0), tried(20.0)])
    assert "nothing can be said" in decay_verdict([tried(30.0, eta_max=0.1), tried(None)])


def test_a_slice_for_each_parameter_that_varies() -> None:
    figure = schedule_slices([tried(1.0), tried(2.0, eta_max=0.2, sampler="ddpm"), tried(None, steps=9)], "val_psnr_db")
    assert figure is not None
    assert [title.text for title in figure.layout.annotations] == ["eta_max", "sampler"]
    assert list(figure.data[0].x) == [0.0, 0.2]
    assert list(figure.data[0].y) == [1.0, 2.0]
    assert schedule_slices([tried(1.0), tried(2.0)], "val_psnr_db") is None
    assert slices({"a": [1, 1]}, [0.0, 1.0], "m") is None


def test_the_table_marks_the_model_and_escapes_what_it_shows() -> None:
    row = {"psnr_db_mean": 12.34, "ssim_mean": 0.5, "nrmse_mean": 0.1, "gain_error_db_mean": 1.0}
    page = quality_section([{"scan": "<b>", "method": "nearest", **row}, {"scan": "s", "method": "model", **row}])
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("12.3") == 2
    assert page.count('class="best"') == 1
    assert quality_section([]) == ""
