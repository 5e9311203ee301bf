"""Studies side by side: one self-contained HTML page with their best, their curves against time, their parameters."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sm_search.config.errors import InputError, TrackingError
from sm_search.evaluation.metrics import METRIC_DEFINITION
from sm_search.evaluation.scores import sign
from sm_search.report.evidence import ABSENT
from sm_search.report.page import best_so_far, chart, document, ended_in_order, number_text
from sm_search.report.spend import Spend
from sm_search.tracking.names import ENDED, INFEASIBLE, SCHEDULE
from sm_search.tracking.records import RunRecord, best_trials, metric_history, study_runs
from sm_search.tracking.store import Store

SAME_DATA = "dataset_hash"
LONG = 20
"""Characters from which a cell of a table has lines."""
WORDS = ' class="words"'


@dataclass(frozen=True)
class Compared:
    """A study and what is compared of it.

    Attributes:
        ended: its rated trials in the order of their end; the parts of `curve` belong to them.
        curve: (minutes since the first trial began, best metric at the full budget) when each of them had ended.
        training_seconds: of all trials.
        better: 1 where more of the metric is better, −1 where less is.
    """

    name: str
    parent: RunRecord
    trials: Sequence[RunRecord]
    best: RunRecord
    curve: Sequence[tuple[float, float | None]]
    training_seconds: float
    better: int

    def minutes_to(self, value: float) -> float | None:
        """When a trial at the full budget was as good as this; None if none was."""
        reached = (minutes for minutes, best in self.curve if best is not None and self.better * (best - value) >= 0)
        return next(reached, None)


def comparison_page(store: Store, studies: Sequence[str]) -> str:
    """The HTML of a page that compares studies with the same metric.

    Raises:
        TrackingError: there is no such study, or it has no complete trial.
        InputError: a study is named twice, or two of them have another metric.
    """
    if len(set(studies)) < len(studies):
        raise InputError(f"--study {' --study '.join(studies)}: a study is compared with others, not with itself")
    metrics = {study: study_runs(store, study)[0].params.get("metric", "val_psnr_db") for study in studies}
    if len(set(metrics.values())) > 1:
        each = ", ".join(f"{study} by {metric}" for study, metric in metrics.items())
        raise InputError(f"studies are compared by one metric, and these were decided {each}")
    metric = metrics[studies[0]]
    compared = [_read(store, study, metric) for study in studies]
    title = f"{', '.join(studies[:-1])} and {studies[-1]}"
    return document(
        title,
        [
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{html.escape(_verdict(compared, metric))}</p>",
            f'<p class="note">{html.escape(METRIC_DEFINITION)}</p>',
            _table("study", [each.name for each in compared], _summary(compared, metric)),
            "<h2>Best against time</h2>",
            chart(_curves(compared, metric, by_work=False), first=True),
            "<h2>Best against training</h2>",
            "<p>The same over the training steps of all trials that had ended: what remains of a difference there is "
            "not due to how many ran at once, or on what.</p>",
            chart(_curves(compared, metric, by_work=True)),
            "<h2>The best trials' parameters</h2>",
            "<p>In brackets what the study's trials took; a row in which the best differ is marked.</p>",
            _table("parameter", [each.name for each in compared], _parameters(compared), mark_differing=True),
        ],
    )


def _read(store: Store, study: str, metric: str) -> Compared:
    parent, trials = study_runs(store, study)
    best = best_trials(store, study, metric)
    if not best:
        raise TrackingError(f"study {study!r}: has no trial at the full budget yet")
    ended, begin = ended_in_order(trials, metric)
    minutes = [((trial.ended_ms or 0) - begin) / 60_000 for trial in ended]
    seconds = sum(value for trial in trials for _, value in metric_history(store, trial.run_id, "training_seconds"))
    curve = list(zip(minutes, best_so_far(ended, metric), strict=True))
    return Compared(study, parent, trials, best[0], curve, seconds, sign(metric))


def _verdict(compared: Sequence[Compared], metric: str) -> str:
    """Who is ahead and by how much, when it had what the others end with, and what is not alike."""
    text = [f"No trial of {each.name} kept its constraints." for each in compared if not each.best.may_win]
    ranked = [each for each in compared if each.best.may_win]
    ranked.sort(key=lambda each: -each.better * each.best.metrics[metric])
    if ranked:
        is_ahead = "has the better best trial" if len(ranked) > 1 else "has one that did"
        text.append(f"{ranked[0].name} {is_ahead}: {metric} {ranked[0].best.metrics[metric]:.4g}.")
        text += [_behind(ranked[0], other, metric) for other in ranked[1:]]
    if len({each.parent.tags.get(SAME_DATA) for each in compared}) > 1:
        text.append("They are of different datasets, so that the values do not say which search is better.")
    if len({_full_budget(each) for each in compared}) > 1:
        text.append("Their full budgets differ.")
    return " ".join(text)


def _behind(first: Compared, other: Compared, metric: str) -> str:
    value = other.best.metrics[metric]
    behind = f"{abs(first.best.metrics[metric] - value):.2g} {'less' if first.better > 0 else 'more'}"
    text = f"{other.name} has {value:.4g}, {behind}."
    had, took = first.minutes_to(value), other.minutes_to(value)
    if had is not None and took is not None:
        text += f" {first.name} had as much after {had:.3g} min, {other.name} after {took:.3g}."
    return text


def _full_budget(each: Compared) -> float:
    return each.best.metrics.get("training_step", 0.0)


def _summary(compared: Sequence[Compared], metric: str) -> list[tuple[str, list[str]]]:
    def cells(of: str) -> list[str]:
        return [number_text(each.best.metrics.get(of)) for each in compared]

    infeasible = [sum(INFEASIBLE in trial.tags for trial in each.trials) for each in compared]
    spends = [Spend.of(each.parent, each.trials, metric) for each in compared]
    rows = [
        ("trials", [str(len(each.trials)) for each in compared]),
        ("to the full budget", [str(sum(t.state == "complete" for t in each.trials)) for each in compared]),
        ("of these infeasible", [str(count or ABSENT) for count in infeasible]),
        ("its search ended because", [each.parent.tags.get(ENDED, ABSENT) for each in compared]),
        (f"best {metric}", [_best(each, metric) for each in compared]),
        ("its mean over seeds", cells(f"{metric}_mean")),
        ("its schedule", [each.best.tags.get(SCHEDULE, ABSENT) for each in compared]),
        ("minutes to it", [number_text(each.minutes_to(each.best.metrics[metric])) for each in compared]),
        ("minutes in all", [number_text(each.curve[-1][0]) for each in compared]),
        ("training seconds in all", [number_text(each.training_seconds) for each in compared]),
        ("spent", [spend.in_words() if spend else ABSENT for spend in spends]),
        ("for its gain over its first trial", [(spend and spend.of_gain_in_words()) or ABSENT for spend in spends]),
    ]
    return [(name, values) for name, values in rows if set(values) != {ABSENT}]


def _best(each: Compared, metric: str) -> str:
    return number_text(each.best.metrics[metric]) + ("" if each.best.may_win else " (infeasible)")


def _parameters(compared: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Of each parameter the best trial's value, and the values of all trials in brackets."""
    names = sorted({name for each in compared for trial in each.trials for name in trial.params})
    return [(name, [_taken(each, name) for each in compared]) for name in names]


def _taken(each: Compared, name: str) -> str:
    values = sorted({trial.params[name] for trial in each.trials if name in trial.params})
    if not values:
        return ABSENT
    try:
        numbers = sorted(map(float, values))
        taken = f"{number_text(numbers[0])} … {number_text(numbers[-1])}" if len(numbers) > 1 else ""
    except ValueError:
        taken = ", ".join(values) if len(values) > 1 else ""
    best = number_text(each.best.params.get(name))
    return f"{best} [{taken}]" if taken else best


def _table(
    corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], mark_differing: bool = False
) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (corner, *columns))
    body = ""
    for name, values in rows:
        differs = mark_differing and len({value.partition(" [")[0] for value in values}) > 1
        cells = "".join(f"<td{WORDS if len(cell) > LONG else ''}>{html.escape(cell)}</td>" for cell in (name, *values))
        body += f"<tr{' class=best' if differs else ''}>{cells}</tr>"
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _curves(compared: Sequence[Compared], metric: str, *, by_work: bool) -> go.Figure:
    figure = go.Figure()
    for each in compared:
        where: list[float] = [minutes for minutes, _ in each.curve]
        if by_work:
            ended, _ = ended_in_order(each.trials, metric)
            steps = [trial.metrics.get("training_step", 0.0) for trial in ended]
            where = [sum(steps[: index + 1]) for index in range(len(steps))]
        best = [value for _, value in each.curve]
        figure.add_scatter(x=where, y=best, mode="lines+markers", line={"shape": "hv"}, name=each.name)
    title = "training steps of ended trials" if by_work else "minutes since the first trial began"
    return figure.update_layout(xaxis_title=title, yaxis_title=metric)
