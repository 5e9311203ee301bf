"""What the user sees: results on stdout, progress on stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sm_search.cli.streams import LastingConsole
from sm_search.config.errors import DataError, without_password

if TYPE_CHECKING:
    from sm_search.evaluation.comparison import Row

PIPED_WIDTH = 1000
GAP = 2
"""Spaces between two columns."""
KEY_COLUMNS = 2
"""The first of a table, which name a row: where a terminal is too narrow, they stand before the others once more."""
QUALITY_COLUMNS = (
    ("PSNR dB mean", "psnr_db_mean", ".1f"),
    ("median", "psnr_db_median", ".1f"),
    ("p10", "psnr_db_p10", ".1f"),
    ("SSIM mean", "ssim_mean", ".3f"),
    ("median", "ssim_median", ".3f"),
    ("p10", "ssim_p10", ".3f"),
    ("nRMSE mean", "nrmse_mean", ".3g"),
    ("median", "nrmse_median", ".3g"),
    ("p90", "nrmse_p90", ".3g"),
    ("gain error dB", "gain_error_db_mean", ".2f"),
)


class Output:
    """Prints for one verb; with `as_json` the only thing on stdout is the object that `main` writes.

    It keeps the stdout that it found, so that others may be kept from there.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.stderr = LastingConsole(stderr=True, highlight=False, soft_wrap=True)
        self.stdout = LastingConsole(file=sys.stdout, highlight=False, soft_wrap=True)

    def progress(self, line: str) -> None:
        self.stderr.print(without_password(line), markup=False)

    @contextmanager
    def counted(self, what: str) -> Iterator[Callable[[int, int, str], None]]:
        """Takes (done, total, name of what was done): a progress bar on a terminal, else a line each."""
        if not self.stderr.is_terminal:
            yield lambda done, total, name: self.progress(f"{what} {done}/{total} {name}")
            return
        with Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.stderr,
        ) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)

    @contextmanager
    def live_study(self) -> Iterator[Callable[[Any], None] | None]:
        """Takes each `search.recording.Progress` of a search and shows it as a table that stays in place; None where
        stderr is no terminal: there the lines of finished trials are all.
        """
        if not self.stderr.is_terminal:
            yield None
            return
        begin, before = time.monotonic(), -1
        with Live(console=self.stderr, refresh_per_second=2, transient=True) as live:

            def show(progress: Any) -> None:
                nonlocal before
                # Trials that ended before a study was resumed say nothing about its speed now.
                before = progress.ended if before < 0 else before
                live.update(study_table(progress, progress.ended - before, time.monotonic() - begin))

            yield show

    def error(self, line: str) -> None:
        self.stderr.print(f"error: {' '.join(line.split())}", markup=False)

    def result(self, line: str) -> None:
        if not self.as_json:
            self.stdout.print(line, markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        if self.as_json:
            return
        rows = [tuple(row) for row in rows]
        widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
        # A table that is piped is not for one terminal's width; on a terminal nothing of it is cut.
        parts = _parts(widths, self.stdout.width if self.stdout.is_terminal else PIPED_WIDTH)
        for number, part in enumerate(parts):
            heading = f"{title} ({number + 1} of {len(parts)})" if len(parts) > 1 else title
            table = Table(title=heading, title_justify="left", box=None, header_style="bold", pad_edge=False)
            for index in part:
                table.add_column(columns[index], justify="left" if index < KEY_COLUMNS else "right", no_wrap=True)
            for row in rows:
                table.add_row(*(row[index] for index in part))
            needed = sum(widths[index] + GAP for index in part)
            LastingConsole(file=self.stdout.file, highlight=False, width=max(needed, self.stdout.width)).print(table)

    def trials(self, told: dict[str, Any]) -> None:
        """The trials of a study, of which `told` is the result as JSON."""
        names = list(dict.fromkeys(name for trial in told["trials"] for name in trial["params"]))
        mean, deviation = f"{told['metric']}_mean", f"{told['metric']}_std"
        columns = [("PSNR dB", "val_psnr_db", ".2f"), ("SSIM", "val_ssim", ".4f")]
        asked = dict.fromkeys([told["metric"], *(told["front"][0]["objectives"] if told["front"] else ())])
        columns += [(name, name, ".4g") for name in asked if name not in ("val_psnr_db", "val_ssim")]
        if any(mean in trial["metrics"] for trial in told["trials"]):
            columns += [("mean over seeds", mean, ".4g"), ("±", deviation, ".2g")]
        columns.append(("steps", "training_step", ".0f"))
        on_front = {point["trial_id"] for point in told["front"]}
        rows = [
            (
                trial["trial_id"],
                ", ".join(_state(trial, on_front)),
                *(f"{trial['metrics'][key]:{form}}" if key in trial["metrics"] else "–" for _, key, form in columns),
                *(shown(trial["params"].get(name)) for name in names),
            )
            for trial in told["trials"]
        ]
        self.table(f"Study {told['study']}", ("trial", "state", *(title for title, _, _ in columns), *names), rows)
        self._front(told["front"])
        if told["repeated"]:
            self.result(f"{told['repeated']} suggestions repeated an earlier trial and were answered from the record.")

    def _front(self, front: Sequence[dict[str, Any]]) -> None:
        if front:
            title = "Pareto front: no other trial and schedule is as good in all of these"
            rows = [
                (
                    point["trial_id"],
                    (point["schedule"] or {}).get("sampler", "–"),
                    *(shown(value) for value in point["objectives"].values()),
                )
                for point in front
            ]
            self.table(title, ("trial", "sampler", *front[0]["objectives"]), rows)

    def quality_table(self, title: str, rows: "Sequence[Row]") -> None:
        columns = ["scan", "method", *(name for name, _, _ in QUALITY_COLUMNS)]
        self.table(
            title,
            columns,
            [
                [row.scan, row.method, *(f"{getattr(row.quality, key):{form}}" for _, key, form in QUALITY_COLUMNS)]
                for row in rows
            ],
        )


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each part of a table of which no part is wider than `room`: each begins with the key columns."""
    key = list(range(min(KEY_COLUMNS, len(widths))))
    parts: list[list[int]] = [[*key]]
    for index in range(len(key), len(widths)):
        if sum(widths[each] + GAP for each in (*parts[-1], index)) - GAP > room and len(parts[-1]) > len(key):
            parts.append([*key])
        parts[-1].append(index)
    return parts


def _state(trial: dict[str, Any], on_front: set[str]) -> list[str]:
    state = [trial["state"]]
    state += ["front"] if trial["trial_id"] in on_front else []
    return [*state, f"infeasible: {trial['infeasible']}"] if trial.get("infeasible") else state


def study_table(progress: Any, ended: int, seconds: float) -> Table:
    """Where a search stands, `ended` trials and `seconds` after this process began to search."""
    rate = ended / seconds if seconds else 0.0
    left = f"{(progress.trials - progress.ended) / rate / 60:.0f} min left" if rate else "time left unknown"
    best = "none yet" if progress.best is None else f"{progress.best:.4g}"
    title = f"{progress.ended}/{progress.trials} trials, best {progress.metric} {best}, {60 * rate:.1f}/min, {left}"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("running", "step", progress.metric):
        table.add_column(name, justify="left" if name == "running" else "right")
    for trial_id, step, value in progress.running:
        table.add_row(trial_id, str(step), "–" if value is None else f"{value:.4g}")
    return table


def shown(value: Any) -> str:
    """A setting's value in a table."""
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def require_free(target: str | Path | None, force: bool) -> None:
    """Refuse to overwrite, before any work is done for it."""
    if target is not None and not force and Path(target).exists():
        raise DataError(f"{target}: exists; use --force to overwrite it")
