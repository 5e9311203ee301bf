"""What the report says of the best model: its quality beside the baselines, and what the schedule does."""

from typing import Any

import pytest

from sm_search.config.model_settings import ScheduleSettings
from sm_search.report.evidence import decay_verdict, quality_section, schedule_slices, slices


def tried(value: float | None, estimate: float | None = None, **schedule: Any) -> dict[str, Any]:
    given = ScheduleSettings(**{"steps": 4, **schedule}).model_dump(mode="json")
    return {"schedule": given, "value": value, "estimate": value if estimate is None else estimate}


@pytest.mark.parametrize(
    ("perturbed", "words"),
    [
        (
            31.0,
            "with noise or weight on the condition reached 31, the same without 30 (+1): here the paper's decay helps.",
        ),
        (30.003, "the same without 30 (+0.003): here the paper's decay makes no difference that counts."),
        (29.5, "reached 29.5, the same without 30 (-0.5): here the paper's decay does not help."),
    ],
)
def test_the_verdict_compares_the_best_with_its_own_twin(perturbed: float, words: str) -> None:
    """Another number of steps is another thing, however good or bad it was."""
    others = [tried(99.0, steps=1), tried(5.0, steps=2), tried(None), tried(10.0, w_min=0.5), tried(None, eta_max=9)]
    verdict = decay_verdict([*others, tried(30.0, gamma=2.0), tried(perturbed, eta_max=0.1, gamma=3.0)], 1)
    assert verdict.endswith(words)


def test_a_constant_weight_is_not_called_a_decay() -> None:
    verdict = decay_verdict([tried(30.0, steps=1), tried(31.0, steps=1, w_min=1.03, w_max=1.03)], 1)
    assert verdict.endswith("here a constant weight on the condition helps.")


def test_beside_a_constant_weight_the_best_decay_is_told_though_it_was_dropped() -> None:
    constant = [tried(30.0, steps=1), tried(30.001, steps=1, w_min=1.03, w_max=1.03)]
    decays = [tried(None, 29.0, eta_max=0.1), tried(None, 28.0, w_min=0.8, w_max=1.0)]
    words = (
        "changes along several steps, the best is at 29 (-1 to the best of all): here the paper's decay does not help."
    )
    assert decay_verdict([*constant, *decays], 1).endswith(words)
    assert decay_verdict([tried(30.0), *decays], 1).endswith(words)


def test_nothing_is_claimed_without_a_twin() -> None:
    assert "No schedule with noise or weight" in decay_verdict([tried(30.0), tried(20.0)], 1)
    assert "was not tried without" in decay_verdict([tried(30.0, eta_max=0.1), tried(40.0, steps=1), tried(None)], 1)


def test_a_slice_for_each_parameter_that_varies() -> None:
    figure = schedule_slices([tried(1.0), tried(2.0, eta_max=0.2, sampler="ddpm"), tried(None, steps=9)], "val_psnr_db")
    assert figure is not None
    assert [title.text for title in figure.layout.annotations] == ["eta_max", "sampler"], "what diverged is not shown"
    assert list(figure.data[0].x) == [0.0, 0.2]
    assert list(figure.data[0].y) == [1.0, 2.0]
    assert schedule_slices([tried(1.0), tried(2.0)], "val_psnr_db") is None
    assert slices({"a": [1, 1]}, [0.0, 1.0], "m") is None


def test_a_number_among_names_is_a_name_and_a_parameter_that_is_absent_is_none() -> None:
    figure = slices({"sampler": [2.0, "ddim", "ddpm"], "steps": [4.0, "–", 8.0]}, [1.0, 2.0, 3.0], "m")
    assert figure is not None
    assert figure.layout.xaxis.type == "category"
    assert figure.layout.xaxis2.type is None


def test_a_slice_shows_dropped_schedules_as_rings_and_only_where_the_parameter_acts() -> None:
    """A γ of a schedule without noise, or of one with a single step, is no evidence about γ."""
    noisy = {"eta_max": 0.1, "w_min": 0.8}
    figure = schedule_slices(
        [
            tried(4.0, steps=1, eta_max=0.1, gamma=3.0),
            tried(3.0, gamma=2.5),
            tried(2.0, **noisy, gamma=1.5),
            tried(None, 1.5, **noisy, gamma=0.5),
            tried(1.0, steps=0),
        ],
        "val_psnr_db",
    )
    assert figure is not None
    panels = {title.text: trace for title, trace in zip(figure.layout.annotations, figure.data, strict=True)}
    assert list(panels) == ["eta_max", "gamma", "w_min", "steps"]
    assert list(panels["gamma"].x) == [1.5, 0.5]
    assert list(panels["gamma"].y) == [2.0, 1.5]
    assert list(panels["gamma"].marker.symbol) == ["circle", "circle-open"]
    assert list(panels["gamma"].marker.color) == [2, 3], "colours tell the order among all"
    assert list(panels["eta_max"].x) == [0.0, 0.1, 0.1]
    assert list(panels["steps"].x) == [1, 4, 4, 4, 0]


def test_the_table_marks_the_model_and_escapes_what_it_shows() -> None:
    row = {"psnr_db_mean": 12.34, "ssim_mean": 0.5, "nrmse_mean": 0.1, "gain_error_db_mean": 1.0}
    page = quality_section([{"scan": "<b>", "method": "nearest", **row}, {"scan": "s", "method": "model", **row}])
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("12.3") == 2
    assert page.count('class="best"') == 1
    assert quality_section([]) == ""
