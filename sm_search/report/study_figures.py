"""Figures of a whole study: what matters, what trials cost, what they trade, how far seeds spread."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sm_search.evaluation.scores import DIRECTIONS, sign
from sm_search.tracking.records import RunRecord, metric_history
from sm_search.tracking.store import Store

COSTS = {"training_seconds": "training", "validation_seconds": "validation and schedule search"}
FRONT, BEATEN = {"color": "#1a7f37", "width": 2}, "#8c959f"


def trial_costs(store: Store, trials: Sequence[RunRecord]) -> dict[str, dict[str, float]]:
    """Seconds of each trial, summed over its rungs, by run and kind."""
    return {
        trial.run_id: {name: sum(value for _, value in metric_history(store, trial.run_id, name)) for name in COSTS}
        for trial in trials
    }


def cost_figure(trials: Sequence[RunRecord], costs: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Seconds of each trial in the order of their start."""
    figure = go.Figure()
    names = [f"{trial.trial_id} ({trial.state})" for trial in trials]
    for name, title in COSTS.items():
        figure.add_bar(x=names, y=[costs[trial.run_id][name] for trial in trials], name=title)
    return figure.update_layout(barmode="stack", yaxis_title="seconds", xaxis={"showticklabels": len(trials) <= 24})


def importance_figure(shares: Mapping[str, float]) -> go.Figure:
    """Share of the metric's variance by parameter, the largest on top."""
    names = list(shares)[::-1]
    figure = go.Figure(go.Bar(x=[shares[name] for name in names], y=names, orientation="h"))
    return figure.update_layout(xaxis_title="share of the variance", yaxis={"automargin": True})


def objectives_of(parent: RunRecord) -> dict[str, str]:
    """Further objectives of a study beside its metric, with their directions; empty where it has one only."""
    found = {name.removeprefix("objectives."): value for name, value in parent.params.items()}
    metric = parent.params.get("metric")
    return {name: found[name] for name in DIRECTIONS if name in found and name != metric}


def front_figure(points: Sequence[Mapping[str, Any]], metric: str, other: str) -> go.Figure:
    """What a study found over another objective; the Pareto front of all objectives is joined.

    Args:
        points: `FRONT_FILE` of the study.
    """
    figure = go.Figure()
    for on_front, title in ((False, "beaten by another"), (True, "Pareto front")):
        shown = [point for point in points if point["on_front"] == on_front]
        shown.sort(key=lambda point: point["objectives"][other])
        figure.add_scatter(
            x=[point["objectives"][other] for point in shown],
            y=[point["objectives"][metric] for point in shown],
            text=[point["trial_id"] for point in shown],
            mode="lines+markers" if on_front else "markers",
            marker={"size": 10, "color": FRONT["color"]} if on_front else {"size": 7, "color": BEATEN},
            line={**FRONT, "dash": "dot"},
            name=title,
        )
    return figure.update_layout(xaxis_title=other, yaxis_title=metric)


def evaluations_figure(schedules: Sequence[Mapping[str, Any]], metric: str) -> go.Figure | None:
    """What the best trial's schedules reach for how many network evaluations; None if only one number was tried."""
    tried = [each for each in schedules if "evaluations" in each and each["value"] is not None]
    if len({each["evaluations"] for each in tried}) < 2:
        return None
    better = sign(metric)
    tried.sort(key=lambda each: (each["evaluations"], -better * each["value"]))
    front: list[Mapping[str, Any]] = []
    for each in tried:
        if not front or better * each["value"] > better * front[-1]["value"]:
            front.append(each)
    figure = go.Figure()
    for shown, mode, title in (
        (tried, "markers", "schedule"),
        (front, "lines+markers", "the best for as many or fewer"),
    ):
        x, y = [str(each["evaluations"]) for each in shown], [each["value"] for each in shown]
        color = FRONT["color"] if mode != "markers" else BEATEN
        figure.add_scatter(
            x=x, y=y, mode=mode, name=title, line={**FRONT, "shape": "hv"}, marker={"size": 8, "color": color}
        )
    # The mean alone costs 0, which has no place on a logarithmic axis.
    return figure.update_layout(xaxis={"title": "network evaluations an image", "type": "category"}, yaxis_title=metric)


def seeds_section(store: Store, trials: Sequence[RunRecord], metric: str) -> str:
    """The best trials with other seeds; empty if the study did not ask for that."""
    mean, deviation = f"{metric}_mean", f"{metric}_std"
    confirmed = sorted((t for t in trials if mean in t.metrics), key=lambda t: -sign(metric) * t.metrics[mean])
    if not confirmed:
        return ""
    rows = ""
    for trial in confirmed:
        values = [f"{value:.4g}" for _, value in metric_history(store, trial.run_id, f"seed_{metric}")]
        spread = f"{trial.metrics[mean]:.4g} ± {trial.metrics[deviation]:.2g}"
        cells = [trial.trial_id or "", ", ".join(values), spread]
        rows += f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
    return (
        "<h2>The best with other seeds</h2>"
        f"<p>{html.escape(metric)} of each training, the search's own first; mean and sample standard deviation. The "
        "study's best trial is the one with the best mean.</p>"
        f'<div class="wide"><table><tr><th>trial</th><th>with each seed</th><th>mean</th></tr>{rows}</table></div>'
    )
