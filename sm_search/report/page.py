"""The report of a study: one self-contained HTML page."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from sm_search.config.errors import TrackingError
from sm_search.evaluation.metrics import METRIC_DEFINITION
from sm_search.evaluation.scores import DIRECTIONS, sign
from sm_search.report.evidence import (
    ABSENT,
    SLICE_COLUMNS,
    Evidence,
    decay_verdict,
    quality_section,
    schedule_slices,
    slices,
)
from sm_search.report.spend import Spend
from sm_search.report.study_figures import (
    COSTS,
    cost_figure,
    evaluations_figure,
    front_figure,
    importance_figure,
    objectives_of,
    seeds_section,
    trial_costs,
)
from sm_search.search.study.importance import Importance, parameter_importance
from sm_search.tracking.names import FRONT_FILE, INFEASIBLE, REVISION, SCHEDULE
from sm_search.tracking.records import RunRecord, best_trials, metric_history, read_study_text, study_runs
from sm_search.tracking.store import Store

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; color: #1b1f24; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.best { background: #e6f4ea; font-weight: 600; }
td.words { white-space: normal; min-width: 9rem; } img { max-width: 100%; } .note { color: #57606a; font-size: .9rem; }
pre { background: #f6f8fa; padding: .7rem; overflow-x: auto; }
"""
QUALITY_COLUMNS = ("val_psnr_db", "val_ssim")
COST_COLUMNS = ("evaluations", "training_step", "images_per_second")
MAX_LEGEND = 12
NO_EVIDENCE = Evidence()
LOG_AXIS_RATIO = 4.0
"""Largest over smallest value from which a parameter's axis is logarithmic."""


def study_page(store: Store, study: str, metric: str, evidence: Evidence = NO_EVIDENCE) -> str:
    """The HTML of a study's report."""
    parent, trials = study_runs(store, study)
    ranked = best_trials(store, study, metric, n=len(trials))
    best, costs = ranked[0], trial_costs(store, trials)
    importance = parameter_importance(store, study)
    parts = [
        f"<h1>Study {html.escape(study)}</h1>",
        f"<p>{len(trials)} trials, {sum(trial.state == 'complete' for trial in trials)} to the full budget. "
        f"Best: trial {html.escape(best.trial_id or '')} with {metric} = {best.metrics[metric]:.4g}"
        f"{_spread(best, metric)} on the validation split; the search did not read the test split.</p>",
        *_why(ranked, metric, importance, evidence.quality),
        f'<p class="note">{html.escape(METRIC_DEFINITION)}</p>',
        *_revisions(parent),
        "<h2>Trials</h2>",
        _trial_table(trials, ranked, metric, costs, [metric, *objectives_of(parent)]),
        seeds_section(store, trials, metric),
        "<h2>History</h2>",
        chart(_history(trials, metric), first=True),
        "<h2>Rungs</h2>",
        chart(_rungs(store, trials, metric)),
        *_fronts(store, parent, metric),
        "<h2>Cost</h2>",
        *_spend(parent, trials, metric),
        chart(cost_figure(trials, costs)),
        "<h2>Parameters</h2>",
        f"<p>Lines: brighter is a higher {html.escape(metric)}. Dots: whole trials, later ones brighter.</p>",
        chart(_parallel(trials, metric)),
        *([chart(over, height=480)] if (over := _trial_slices(trials, metric)) else []),
        *_importance(importance, metric),
        quality_section(evidence.quality),
        *_schedules(evidence, metric),
        *(["<h2>Best model beside truth and condition</h2>"] if evidence.figures else []),
        *(_image(path) for path in evidence.figures),
        "<h2>Settings and versions</h2>",
        f"<pre>{html.escape(json.dumps({'params': dict(parent.params), 'tags': _plain_tags(parent)}, indent=1))}</pre>",
    ]
    return document(f"Study {study}", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A page of these parts."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _why(
    ranked: Sequence[RunRecord],
    metric: str,
    importance: Importance | None,
    quality: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What the best trial is, how far ahead it is, and what made the difference, in sentences."""
    best, rest = ranked[0], [trial for trial in ranked[1:] if trial.may_win]
    best_of, worst_of = (max, min) if sign(metric) > 0 else (min, max)
    settings = [f"{name} {number_text(value)}" for name, value in sorted(best.params.items())]
    text = [f"Its settings: {', '.join(settings) or 'all fixed'}; its sampling: {best.tags.get(SCHEDULE, 'unknown')}."]
    if rest:
        others = [trial.metrics[metric] for trial in rest]
        text.append(f"The next best of the full budget has {best_of(others):.4g}, the worst {worst_of(others):.4g}.")
    for name, chosen in sorted(best.params.items()):
        if isinstance(_typed(chosen), str) and (without := [t for t in rest if t.params.get(name, chosen) != chosen]):
            value = best_of(trial.metrics[metric] for trial in without)
            text.append(f"The best with another {name} than {chosen} has {value:.4g}.")
    if importance and importance.first:
        text.append(f"Among these, {_said_of_first(importance)}.")
    elif importance:
        text.append(f"{importance.trials} trials are too few to say which parameter made the difference.")
    means = {
        method: sum(rows) / len(rows)
        for method in dict.fromkeys(str(row["method"]) for row in quality)
        if (rows := [float(row["psnr_db_mean"]) for row in quality if row["method"] == method])
    }
    if means:
        text.append("PSNR over the validation scans: " + ", ".join(f"{m} {v:.4g} dB" for m, v in means.items()) + ".")
    return [f"<p>{html.escape(' '.join(text))}</p>"]


def _spend(parent: RunRecord, trials: Sequence[RunRecord], metric: str) -> list[str]:
    """What the study took, and what its gain over its first whole trial cost, where it has ended."""
    spend = Spend.of(parent, trials, metric)
    if spend is None:
        return []
    told = f"The study took {spend.in_words()}, trials that were stopped or lost included"
    if per_gain := spend.of_gain_in_words():
        told += f": {per_gain} from its first whole trial, {spend.first:.4g}, to {spend.best:.4g}"
    return [f"<p>{html.escape(told)}.</p>"]


def _revisions(parent: RunRecord) -> list[str]:
    """What of the study was changed while it went on."""
    numbers = sorted(int(name.removeprefix(REVISION)) for name in parent.tags if name.startswith(REVISION))
    told = [f"<li>{html.escape(parent.tags[f'{REVISION}{number}'])}</li>" for number in numbers]
    return ["<h2>Revisions</h2>", f"<ol>{''.join(told)}</ol>"] if told else []


def _spread(best: RunRecord, metric: str) -> str:
    if f"{metric}_mean" not in best.metrics:
        return ""
    seeds, mean, deviation = (best.metrics[name] for name in ("seeds", f"{metric}_mean", f"{metric}_std"))
    return f" ({mean:.4g} ± {deviation:.2g} over {seeds:.0f} seeds)"


def _fronts(store: Store, parent: RunRecord, metric: str) -> list[str]:
    others = objectives_of(parent)
    try:
        points = json.loads(read_study_text(store, parent.study, FRONT_FILE)) if others else []
    except TrackingError:
        points = []  # the study has not ended
    if not points:
        return []
    directions = {metric: DIRECTIONS.get(metric, "max"), **others}
    named = " and ".join(f"{name} ({direction})" for name, direction in directions.items())
    about = f"A point is a trial with one of its schedules, by {named}; of a trial's schedules those that another of "
    about += "them beats in everything are left out."
    charts = [chart(front_figure(points, metric, other)) for other in others]
    return ["<h2>Pareto front</h2>", f"<p>{html.escape(about)}</p>", *charts]


def _said_of_first(importance: Importance) -> str:
    share = importance.shares[importance.first or ""]
    part = "most" if share > 0.5 else "the largest part"
    return (
        f"{importance.first} explains {part} of the differences ({100 * share:.0f} % of the variance by fANOVA; chance "
        f"alone orders trials as well as it does with probability {importance.chance:.2g})"
    )


def _importance(importance: Importance | None, metric: str) -> list[str]:
    if importance is None:
        return []
    head, trials = "<h2>Importance</h2>", f"the {importance.trials} trials at the full budget"
    if importance.first is None:
        about = f"Too few trials to say: for {trials}, fANOVA and a permutation test of how well each parameter alone "
        about += f"orders {metric} do not name the same parameter, or chance orders them as well."
        return [head, f"<p>{html.escape(about)}</p>"]
    about = f"Share of the variance of {metric} among {trials} that each parameter explains by itself (fANOVA). It is "
    about += (
        f"shown because a permutation test agrees: {_said_of_first(importance)}. The order of the others is a hint."
    )
    return [
        head,
        f"<p>{html.escape(about)}</p>",
        chart(importance_figure(importance.shares), height=120 + 28 * len(importance.shares)),
    ]


def _schedules(evidence: Evidence, metric: str) -> list[str]:
    figure = schedule_slices(evidence.schedules, metric)
    if figure is None:
        return []
    whole = sum(each["value"] is not None for each in evidence.schedules)
    about = (
        f"{len(evidence.schedules)} sampling schedules of the best trial, on frozen weights and shared noise, later "
        f"ones in lighter colours. The {whole} that looked promising on the first images were measured to the end: "
        "their values are means over the images that this search looks at, a part of the validation scans; those above "
        "are over all. The others are rings: what is to be expected of them from how far they were from the best on "
        "the images that they saw. A parameter's plot holds the schedules in which it does something: a single step, "
        f"for one, knows no γ. {decay_verdict(evidence.schedules, sign(metric))}"
    )
    height = 240 * -(-len(figure.layout.annotations) // SLICE_COLUMNS)
    price = evaluations_figure(evidence.schedules, metric)
    return [
        "<h2>What the sampling schedule does</h2>",
        f"<p>{html.escape(about)}</p>",
        chart(figure, height=height),
        *([chart(price)] if price else []),
    ]


def _trial_slices(trials: Sequence[RunRecord], metric: str) -> go.Figure | None:
    """The metric over each parameter, of the trials that reached the full budget."""
    whole = [trial for trial in trials if trial.state == "complete" and metric in trial.metrics]
    names = sorted({name for trial in whole for name in trial.params})
    columns = {name: [_typed(trial.params.get(name, ABSENT)) for trial in whole] for name in names}
    return slices(columns, [trial.metrics[metric] for trial in whole], metric)


def _typed(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _trial_table(
    trials: Sequence[RunRecord],
    ranked: Sequence[RunRecord],
    metric: str,
    costs: Mapping[str, Mapping[str, float]],
    objectives: Sequence[str],
) -> str:
    """All trials: those that are `ranked`, best first, then the rest."""
    params = sorted({name for trial in trials for name in trial.params})
    columns = [name for name in dict.fromkeys((*QUALITY_COLUMNS, *objectives)) if name not in COST_COLUMNS]
    quality = [name for name in columns if any(name in trial.metrics for trial in trials)]
    work = [name for name in COST_COLUMNS if any(name in trial.metrics for trial in trials)]
    cost = list(COSTS) if any(value for each in costs.values() for value in each.values()) else []
    schedule = [SCHEDULE] if any(SCHEDULE in trial.tags for trial in trials) else []
    titles = ("trial", "state", *quality, *schedule, *params, *work, *cost)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in titles)
    rows = []
    place = {trial.run_id: number for number, trial in enumerate(ranked)}

    def order(trial: RunRecord) -> tuple[int, float]:
        # The values of trials that were stopped early are of another budget, and stand below.
        value = trial.metrics.get(metric)
        return place.get(trial.run_id, len(ranked)), math.inf if value is None else -sign(metric) * value

    for trial in sorted(trials, key=order):
        state = trial.state or trial.status.lower()
        cells = [
            trial.trial_id or "",
            f"{state}, infeasible: {trial.tags[INFEASIBLE]}" if INFEASIBLE in trial.tags else state,
        ]
        cells += [number_text(trial.metrics.get(name)) for name in quality]
        cells += [trial.tags.get(name, "–") for name in schedule]
        cells += [number_text(trial.params.get(name)) for name in params]
        cells += [number_text(trial.metrics.get(name)) for name in work]
        cells += [number_text(costs[trial.run_id][name]) for name in cost]
        mark = ' class="best"' if trial.run_id == ranked[0].run_id else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def number_text(value: float | str | None) -> str:
    """A cell of a table: four digits of what is a number."""
    if value is None:
        return "–"
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return str(value)


def _history(trials: Sequence[RunRecord], metric: str) -> go.Figure:
    ended, begin = ended_in_order(trials, metric)
    minutes = [((trial.ended_ms or 0) - begin) / 60_000 for trial in ended]
    figure = go.Figure()
    names = [f"{trial.trial_id} ({trial.state})" for trial in ended]
    values = [trial.metrics[metric] for trial in ended]
    figure.add_scatter(x=minutes, y=values, mode="markers", text=names, name="trial", marker={"size": 9})
    best = best_so_far(ended, metric)
    figure.add_scatter(x=minutes, y=best, mode="lines", line={"shape": "hv"}, name="best so far")
    return figure.update_layout(xaxis_title="minutes", yaxis_title=metric)


def ended_in_order(trials: Sequence[RunRecord], metric: str) -> tuple[list[RunRecord], int]:
    """The rated trials in the order of their end, and when the first of them began, in Unix milliseconds."""
    ended = sorted((t for t in trials if t.ended_ms and metric in t.metrics), key=lambda trial: trial.ended_ms or 0)
    return ended, min((trial.started_ms for trial in ended), default=0)


def best_so_far(ended: Sequence[RunRecord], metric: str) -> list[float | None]:
    """The best metric at the full budget when each of the trials had ended; None before the first."""
    best: list[float | None] = []
    for trial in ended:
        known = best[-1] if best else None
        value = trial.metrics[metric] if trial.may_win else None
        better = max if sign(metric) > 0 else min
        best.append(better((each for each in (known, value) if each is not None), default=None))
    return best


def _rungs(store: Store, trials: Sequence[RunRecord], metric: str) -> go.Figure:
    figure = go.Figure()
    for trial in trials:
        points = metric_history(store, trial.run_id, metric)
        figure.add_scatter(
            x=[step for step, _ in points], y=[value for _, value in points], mode="lines+markers", name=trial.trial_id
        )
    shown = len(trials) <= MAX_LEGEND
    return figure.update_layout(xaxis_title="training step", yaxis_title=metric, showlegend=shown)


def _parallel(trials: Sequence[RunRecord], metric: str) -> go.Figure:
    rated = [trial for trial in trials if metric in trial.metrics and trial.state in ("complete", "pruned")]
    everywhere = [name for name in sorted({n for t in rated for n in t.params}) if all(name in t.params for t in rated)]
    ends = [name.rpartition(".")[2] for name in everywhere]
    # The first and the last label of a plot are cut where they are long.
    labels = [end if ends.count(end) == 1 else name for end, name in zip(ends, everywhere, strict=True)]
    dimensions = [
        _dimension(label, [trial.params[name] for trial in rated])
        for label, name in zip(labels, everywhere, strict=True)
    ]
    values = [trial.metrics[metric] for trial in rated]
    dimensions.append({"label": metric, "values": values, "tickformat": ".4~g"})
    room = min(0.2, 0.008 * max(map(len, dimensions[0].get("ticktext", [""]))))  # for the words left of the first axis
    line = {"color": values, "colorscale": "Viridis"}
    return go.Figure(go.Parcoords(dimensions=dimensions, line=line, domain={"x": (room, 1.0)}))


def _dimension(label: str, texts: Sequence[str]) -> dict[str, Any]:
    """An axis of the parallel plot: linear or logarithmic for numbers, one tick a value for words."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        words = sorted(set(texts))
        codes = [words.index(text) for text in texts]
        return {"label": label, "values": codes, "tickvals": list(range(len(words))), "ticktext": words}
    if values and min(values) > 0 and max(values) >= LOG_AXIS_RATIO * min(values):
        values = [math.log10(value) for value in values]
        low, high = min(values), max(values)
        ticks = [low + (high - low) * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        labels = [f"{math.pow(10, tick):.2g}" for tick in ticks]
        return {"label": label, "values": values, "tickvals": ticks, "ticktext": labels}
    return {"label": label, "values": values, "tickformat": ".4~g"}


def chart(figure: go.Figure, first: bool = False, height: int = 380) -> str:
    """A figure as a part of a page; the `first` one brings the library that draws them all."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 40, "t": 50, "b": 50},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
    )
    # The bar of buttons lies over the axis labels of a narrow page, and its logo is a link to the outside.
    options = {"responsive": True, "displayModeBar": False, "displaylogo": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=first, config=options))


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.parent.name)
    return f'<p><img alt="Components of {name}: high, low, synthesised, error" src="data:image/png;base64,{data}"></p>'


def _plain_tags(parent: RunRecord) -> dict[str, str]:
    return {name: value for name, value in parent.tags.items() if not name.startswith("mlflow.")}
