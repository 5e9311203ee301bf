"""What a report shows of a study's best model: figures, quality beside the baselines, schedules tried."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sm_search.config.model_settings import ScheduleSettings
from sm_search.search.schedule.base_schedule import UNPERTURBED

QUALITY = (
    ("PSNR dB", "psnr_db_mean", ".1f"),
    ("SSIM", "ssim_mean", ".3f"),
    ("nRMSE", "nrmse_mean", ".3g"),
    ("gain error dB", "gain_error_db_mean", ".2f"),
)
SLICE_COLUMNS = 4
ABSENT = "–"
"""In a column, where a parameter does not exist."""
LEAST_GAIN = 1e-3
"""Share of the value below which two schedules count as equally good."""
SCHEDULE_PARAMETERS = ("eta_max", "gamma", "w_min", "w_max", "sigma", "steps", "sampler", "guidance", "samples")


@dataclass(frozen=True)
class Evidence:
    """What is published with a study.

    Attributes:
        figures: comparison figures.
        quality: one row for each validation scan and method, as `Row` in JSON.
        schedules: what the inner search of the best trial tried, as `ScheduleTrial` in JSON.
    """

    figures: Sequence[Path] = ()
    quality: Sequence[Mapping[str, Any]] = ()
    schedules: Sequence[Mapping[str, Any]] = ()


def quality_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best model beside every baseline, on the validation scans."""
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("scan", "method", *(name for name, _, _ in QUALITY)))
    body = ""
    for row in rows:
        cells = [str(row["scan"]), str(row["method"]), *(f"{row[key]:{form}}" for _, key, form in QUALITY)]
        mark = ' class="best"' if row["method"] == "model" else ""
        body += f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
    return (
        "<h2>The best model and the baselines</h2>"
        "<p>On the validation scans, x-channel, means over components. <code>nearest</code> is also the leak audit: it "
        "is the training scan whose condition is closest, so a scan that it nearly meets tells nothing about a model. "
        "<code>physicist</code> is told the simulator that made the data.</p>"
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    )


def decay_verdict(schedules: Sequence[Mapping[str, Any]], better: int) -> str:
    """Whether perturbing the condition (paper, Algorithm 2) helps: the best such schedule against itself without, and
    where that does not decay, the best that does against the best of all.

    Args:
        better: 1 where a larger value is better, −1 where a smaller one is.
    """
    tried = [each for each in schedules if each["value"] is not None]
    perturbed = [each for each in tried if any(each["schedule"][name] != value for name, value in UNPERTURBED.items())]
    if not perturbed:
        none = "No schedule with noise or weight on the condition was good enough to be measured to the end."
        return none + _best_decay(schedules, better)
    best = max(perturbed, key=lambda each: better * float(each["value"]))
    shape = ("gamma", "sigma", *UNPERTURBED)
    twin = {name: value for name, value in best["schedule"].items() if name not in shape}
    plain = [
        float(each["value"])
        for each in tried
        if each not in perturbed and twin == {k: v for k, v in each["schedule"].items() if k not in shape}
    ]
    if not plain:
        return "The best schedule with noise or weight on the condition was not tried without."
    what = "the paper's decay" if _is_decay(best["schedule"]) else "a constant weight on the condition"
    helps = _helps(best["value"], plain[0], better)
    verdict = (
        f"The best schedule with noise or weight on the condition reached {float(best['value']):.4g}, the same without "
        f"{plain[0]:.4g} ({float(best['value']) - plain[0]:+.2g}): here {what} {helps}."
    )
    return verdict if _is_decay(best["schedule"]) else verdict + _best_decay(schedules, better)


def _best_decay(schedules: Sequence[Mapping[str, Any]], better: int) -> str:
    """How far the best schedule whose noise or weight changes along the sampling is from the best of all."""
    known = [(value, _is_decay(each["schedule"])) for each in schedules if (value := _estimate(each)) is not None]
    best_of = max if better > 0 else min
    decaying = best_of((value for value, is_decay in known if is_decay), default=None)
    if decaying is None:
        return ""
    best = best_of(value for value, _ in known)
    return (
        f" Of those in which one of the two changes along several steps, the best is at {decaying:.4g} "
        f"({decaying - best:+.2g} to the best of all): here the paper's decay {_helps(decaying, best, better)}."
    )


def _is_decay(schedule: Mapping[str, Any]) -> bool:
    return bool(schedule["eta_max"] > 0 or schedule["w_min"] != schedule["w_max"])


def _helps(value: float, without: float, better: int) -> str:
    if abs(value - without) <= LEAST_GAIN * abs(without):
        return "makes no difference that counts"
    return "helps" if better * (value - without) > 0 else "does not help"


def _estimate(tried: Mapping[str, Any]) -> float | None:
    """What a schedule's value is, or is expected to be. Earlier versions estimated nothing."""
    value: float | None = tried.get("estimate", tried["value"])
    return value


def schedule_slices(schedules: Sequence[Mapping[str, Any]], metric: str) -> go.Figure | None:
    """The metric over each schedule parameter that was varied, of the schedules in which it does something; hollow
    where the metric is estimated from the first images. None if no parameter was varied.
    """
    estimates = [_estimate(each) for each in schedules]
    tried = [each for each, estimate in zip(schedules, estimates, strict=True) if estimate is not None]
    unused = [ScheduleSettings.model_validate(each["schedule"]).unused() for each in tried]
    columns = {
        name: [None if name in idle else each["schedule"][name] for each, idle in zip(tried, unused, strict=True)]
        for name in SCHEDULE_PARAMETERS
    }
    hollow = [each["value"] is None for each in tried]
    return slices(columns, [estimate for estimate in estimates if estimate is not None], metric, hollow)


def slices(
    columns: Mapping[str, Sequence[Any]], values: Sequence[float], metric: str, hollow: Sequence[bool] = ()
) -> go.Figure | None:
    """One small scatter plot for each column that takes more than one value; None if none does.

    Args:
        columns: by name, with None where there is nothing to show.
        hollow: which points are drawn as rings.
    """
    varied = {name: column for name, column in columns.items() if len({*column} - {None}) > 1}
    if not varied:
        return None
    rows = -(-len(varied) // SLICE_COLUMNS)
    figure = make_subplots(rows=rows, cols=SLICE_COLUMNS, shared_yaxes=True, subplot_titles=list(varied))
    for index, column in enumerate(varied.values()):
        shown = [i for i, value in enumerate(column) if value is not None]
        place = {"row": index // SLICE_COLUMNS + 1, "col": index % SLICE_COLUMNS + 1}
        figure.add_scatter(
            x=[column[i] for i in shown],
            y=[values[i] for i in shown],
            mode="markers",
            marker={
                "size": 7,
                "color": shown,
                "colorscale": "Viridis",
                "cmin": 0,
                "cmax": len(values) - 1,
                "symbol": ["circle-open" if hollow and hollow[i] else "circle" for i in shown],
            },
            showlegend=False,
            **place,
        )
        if any(isinstance(value, str) and value != ABSENT for value in column):
            # Else a number among the names, as of a branch without one, makes the axis one of numbers.
            figure.update_xaxes(type="category", **place)
    return figure.update_yaxes(title_text=metric, col=1).update_annotations(font_size=12)  # narrow pages hold four
