"""What MLflow shows above a run: Markdown that says what the run is, how to read it, and what came out."""

from collections.abc import Mapping, Sequence

from sm_search.evaluation.scores import COSTS, SCORES, sign
from sm_search.tracking.names import SCHEDULE
from sm_search.tracking.records import RunRecord

SHOWN_TRIALS = 5
FIXED = "fixed."
"""Beginning of the names of a study's parameters that hold settings which are not searched."""
LISTED = ("val_psnr_db", "val_ssim", "training_step")
WAYS = {"max": "; more is better", "min": "; less is better", None: ""}
# A paragraph is one line: MLflow shows a line break as one.
READING = """
**How to read it.** The runs below this one are its trials, one trained model each. Tag `state`: `complete` was \
trained to the full budget, `pruned` was stopped early (its figures are those of its last rung), `failed` says why in \
`error.txt`, `interrupted` goes on when the study is resumed. Tags `study`, `backbone`, `split` and `state` filter the \
table, for example `tags.state = "complete"`.

| metric | what |
|---|---|
| `val_…` | means over all components of the validation scans, at each rung, by training step: |
{scores}
| `loss` | training loss, every 100 steps |
| `training_seconds`, `validation_seconds` | cost since the rung before |
{costs}

**Artifacts.** Here `report.html` (open it in the artifact view: which trial won, and why), `comparison.png` and \
`space.json`; with the best trial `synthesis/`, and after `sm-search promote` the comparison in `promotion/`.

**Models.** Each of the best trials has one, *Logged models* (*Registered models*, once promoted) on its page: its \
files, a request to try it with, and how to serve it. After `sm-search promote` the best is \
`models:/sm-search@champion` (the demo's `models:/sm-search-demo@champion`).
""".format(
    scores="\n".join(f"| `{name}` | {score.what}{WAYS[score.better]} |" for name, score in SCORES.items()),
    costs="\n".join(f"| `{name}` | {what} |" for name, what in COSTS.items()),
)


def study_note(study: str, params: Mapping[str, str], tags: Mapping[str, str], trials: Sequence[RunRecord] = ()) -> str:
    """The description of a study's run; with `trials` also the best of them."""
    metric = params.get("metric", "val_psnr_db")
    known = f"hash `{tags['dataset_hash'][:12]}`" if "dataset_hash" in tags else "still being simulated"
    data = f" on dataset `{tags['dataset']}` ({known})" if "dataset" in tags else ""
    extreme = "largest" if sign(metric) > 0 else "smallest"
    lines = [f"## Study `{study}`", "", f"Search for the {extreme} `{metric}`{data}; the test split is not read here."]
    whole = [trial for trial in trials if trial.state == "complete" and metric in trial.metrics]
    if whole:
        whole.sort(key=lambda trial: (not trial.may_win, -sign(metric) * trial.metrics[metric]))
        best = whole[:SHOWN_TRIALS]
        names = sorted({name for trial in best for name in trial.params})
        lines += ["", f"**Best of {len(trials)} trials**, {len(whole)} of them complete:", ""]
        lines += [_row(["trial", metric, *names, SCHEDULE]), _row(["---", "---:", *["---" for _ in names], "---"])]
        for trial in best:
            cells = [f"`{trial.trial_id}`", f"{trial.metrics[metric]:.4g}"]
            cells += [_short(trial.params.get(name)) for name in names]
            lines.append(_row([*cells, trial.tags.get(SCHEDULE, "–")]))
        fixed = {name: value for name, value in sorted(params.items()) if name.startswith(FIXED)}
        if fixed:
            shown = ", ".join(f"`{name.removeprefix(FIXED)}` {_short(value)}" for name, value in fixed.items())
            lines += ["", f"The same in all of them: {shown}."]
    return "\n".join(lines) + "\n" + READING


def trial_note(trial: RunRecord, state: str, schedule: str | None = None) -> str:
    """The description of a finished trial's run."""
    lines = [f"Trial `{trial.trial_id}` of study `{trial.study}`: **{state}**.", "", _row(["", ""]), "|---|---:|"]
    lines += [_row([f"`{name}`", f"{trial.metrics[name]:.4g}"]) for name in LISTED if name in trial.metrics]
    lines += [_row([f"`{name}`", _short(value)]) for name, value in sorted(trial.params.items())]
    lines += [_row(["sampling schedule", schedule])] if schedule else []
    return "\n".join(lines) + "\n"


def model_note(has_example: bool) -> str:
    """The description of a stored model: how to use it."""
    lines = [
        "High-gradient system matrices from low-gradient ones. From files, where `sm-search` is installed: "
        "`sm-search synthesize --model runs:/RUN_ID/checkpoint --input low.mdf --output high.mdf`, with the source "
        "run's id. Over HTTP: `mlflow models serve`, as `docs/mlflow.md` shows; `served_model.py` under "
        "*Artifacts* states the request."
    ]
    if has_example:
        lines.append(
            "`serving_input_example.json` under *Artifacts* is a request: `curl -H 'Content-Type: application/json' "
            "--data @serving_input_example.json http://127.0.0.1:5001/invocations`. It is the x-channel of a training "
            "scan, each component to a thousandth of its maximum."
        )
    return "\n\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: str | None) -> str:
    if value is None:
        return "–"
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value.replace("|", "\\|")
