"""What a finished study publishes: the best model's synthesised matrices, the comparison figures and the report."""

import json
import tempfile
from pathlib import Path

from sm_search.config.errors import TrackingError
from sm_search.data.dataset import Dataset
from sm_search.evaluation.baselines import Method, baselines
from sm_search.evaluation.comparison import compare_estimates
from sm_search.report.evidence import Evidence
from sm_search.report.figures import comparison_figure, save_figure
from sm_search.report.page import study_page
from sm_search.search.single_training import regression_network
from sm_search.synthesis import load_synthesiser, synthesise_file
from sm_search.tracking.names import SCHEDULES_FILE
from sm_search.tracking.records import best_trials, download_study_file, read_study_text, read_trial_text
from sm_search.tracking.registry import download_model
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store

FIGURE_FILE = "comparison.png"
QUALITY_FILE = "validation_quality.json"


def publish_study(store: Store, study: str, metric: str, dataset: Dataset, *, regression: bool = False) -> Path:
    """Synthesise the validation scans with the best model; its trial gets files and figures, the study the page.

    Args:
        regression: train a regression network of the best model's backbone and budget as one more baseline.

    Returns:
        The folder of the best model's checkpoint, local to this process.
    """
    log = StudyLog.attach(store, study)
    best = best_trials(store, study, metric)[0]
    trial_id = best.trial_id or ""
    checkpoint = download_model(store, f"runs:/{best.run_id}/checkpoint")
    synthesiser = load_synthesiser(checkpoint)
    methods: dict[str, Method] = {**baselines(dataset)}
    if regression:
        methods["regression"] = regression_network(synthesiser.checkpoint.info.training, dataset)
    with tempfile.TemporaryDirectory() as name:
        folder, figures, rows = Path(name), [], []
        for pair in dataset.pairs("validation"):
            target = folder / "synthesis" / pair.scan.id
            target.mkdir(parents=True)
            made = synthesise_file(
                synthesiser,
                dataset.file(pair.scan, "low"),
                target / "high.mdf",
                model=f"runs:/{best.run_id}/checkpoint",
                extrapolate=True,  # the dataset's own split, shown beside the truth
            ).matrix
            figures.append(target / FIGURE_FILE)
            save_figure(comparison_figure(pair.high, pair.low, made, f"{pair.scan.id} (validation)"), figures[-1])
            estimates = {method: each.predict(pair.low) for method, each in methods.items()}
            rows += compare_estimates({**estimates, "model": made}, pair, pair, dataset.settings.channels)
        log.log_folder(trial_id, folder / "synthesis", "synthesis")
        quality = [row.as_dict() for row in rows]
        evidence = Evidence(figures, quality, json.loads(read_trial_text(store, best, SCHEDULES_FILE)))
        page = folder / "report.html"
        page.write_text(study_page(store, study, metric, evidence), encoding="utf-8")
        log.log_file(None, page)
        log.log_file(None, figures[0])
        log.log_text(None, json.dumps(quality, indent=1), QUALITY_FILE)
    return checkpoint


def published_evidence(store: Store, study: str, metric: str, folder: Path) -> Evidence:
    """What a study published, its figure downloaded below `folder`; empty if it has not come so far."""
    target = folder / study
    target.mkdir(parents=True, exist_ok=True)
    try:
        return Evidence(
            figures=[download_study_file(store, study, FIGURE_FILE, target)],
            quality=json.loads(read_study_text(store, study, QUALITY_FILE)),
            schedules=json.loads(read_trial_text(store, best_trials(store, study, metric)[0], SCHEDULES_FILE)),
        )
    except TrackingError:
        return Evidence()
