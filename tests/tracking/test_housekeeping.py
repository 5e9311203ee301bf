"""What `gc` lists and deletes, on a real store with real files."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sm_search.cli.main import main
from sm_search.config.errors import TrackingError
from sm_search.tracking.champion import model_aliases
from sm_search.tracking.housekeeping import plan_removals, registered_runs, remove
from sm_search.tracking.logged_models import log_model, logged_models
from sm_search.tracking.records import study_runs
from sm_search.tracking.registry import download_model, register
from sm_search.tracking.runs import StudyLog
from sm_search.tracking.store import Store


@pytest.fixture
def ended(store: Store, study: str, checkpoint: Path) -> StudyLog:
    """A study of trials a (best) to d, each with checkpoint, synthesis and a figure; e was pruned."""
    log = StudyLog.open(store, study, params={"metric": "val_psnr_db"})
    for index, trial in enumerate("abcde"):
        log.start_trial(trial)
        log.log_metrics(trial, 1, {"val_psnr_db": 40.0 - index})
        for folder in ("checkpoint", "synthesis/scan"):
            log.log_folder(trial, checkpoint, folder)
        log.log_text(trial, "a figure", "comparison.png")
        log.finish_trial(trial, "pruned" if trial == "e" else "complete")
    log.finish()
    return log


def files(store: Store, run_id: str, folder: str | None = None) -> set[str]:
    """The run's own files, without those of its model."""
    own = get_artifact_repository(store.client.get_run(run_id).info.artifact_uri)
    found: set[str] = set()
    for item in own.list_artifacts(folder):
        found |= files(store, run_id, item.path) if item.is_dir else {item.path}
    return found


def everything(store: Store, study: str) -> dict[str, set[str]]:
    return {trial.trial_id or "": files(store, trial.run_id) for trial in study_runs(store, study)[1]}


def test_only_what_is_old_low_ranking_and_unregistered_goes(
    store: Store, study: str, ended: StudyLog, checkpoint: Path
) -> None:
    runs = {trial.trial_id: trial.run_id for trial in study_runs(store, study)[1]}
    register(store, runs["d"], checkpoint, f"model-{study}")
    before = everything(store, study)
    assert plan_removals(store, keep_best=1, older_than_days=1, study=study) == []
    plan = plan_removals(store, keep_best=1, older_than_days=0, study=study)
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert [(r.trial_id, r.folder, r.rank, r.size_bytes) for r in plan] == [
        ("b", "checkpoint", 2, size),
        ("b", "synthesis", 2, size),
        ("c", "checkpoint", 3, size),
        ("c", "synthesis", 3, size),
        ("e", "checkpoint", None, size),
        ("e", "synthesis", None, size),
    ]
    assert everything(store, study) == before, "a plan changes nothing"
    for removal in plan:
        remove(store, removal)
    kept = {trial: {"comparison.png"} if trial in "bce" else names for trial, names in before.items()}
    assert everything(store, study) == kept
    fetched = download_model(store, f"models:/model-{study}@challenger")
    assert {path.name for path in fetched.iterdir()} == {path.name for path in checkpoint.iterdir()}
    assert plan_removals(store, keep_best=1, older_than_days=0, study=study) == []


def test_what_was_registered_after_the_plan_stays(store: Store, study: str, ended: StudyLog, checkpoint: Path) -> None:
    removal = plan_removals(store, keep_best=3, older_than_days=0, study=study)[0]
    register(store, removal.run_id, checkpoint, f"model-{study}")
    assert removal.run_id in registered_runs(store)
    with pytest.raises(TrackingError, match=r"trial .d. of .*: was registered meanwhile; kept"):
        remove(store, removal)
    assert "checkpoint/checkpoint.json" in files(store, removal.run_id)
    assert model_aliases(store, f"model-{study}") == {"challenger": 1}


def test_a_study_that_may_go_on_is_left_alone(store: Store, study: str, ended: StudyLog) -> None:
    StudyLog.open(store, study)
    assert plan_removals(store, keep_best=0, older_than_days=0, study=study) == []


def test_the_verb_deletes_only_when_told_to(
    store: Store, study: str, home: Path, ended: StudyLog, capsys: pytest.CaptureFixture[str]
) -> None:
    def gc(*more: str) -> tuple[int, str]:
        arguments = ["gc", "--home", str(home), "--study", study, "--older-than-days", "0", *more]
        return main(arguments), capsys.readouterr().out

    before = everything(store, study)
    status, said = gc()
    assert (status, everything(store, study)) == (0, before)
    assert "4 folders, 0.0 MB; --delete removes them" in said
    status, said = gc("--delete", "--json")
    assert status == 0
    assert '"deleted": true' in said
    after = everything(store, study)
    assert {trial for trial in before if after[trial] != before[trial]} == {"d", "e"}
    assert gc("--keep-best", "-1")[0] == 2
    assert main(["gc", "--home", str(home), "--study", "nobody"]) == 2


def test_an_old_model_goes_with_all_its_files(store: Store, study: str, checkpoint: Path) -> None:
    log = StudyLog.open(store, study, params={"metric": "val_psnr_db"})
    models = {}
    for trial, value in (("best", 40.0), ("other", 30.0)):
        run_id = log.start_trial(trial)
        log.log_metrics(trial, 1, {"val_psnr_db": value})
        models[trial] = log_model(store, run_id, checkpoint)
        log.finish_trial(trial, "complete")
    log.finish()
    (removal,) = plan_removals(store, keep_best=1, older_than_days=0, study=study)
    assert (removal.trial_id, removal.folder) == ("other", "checkpoint")
    assert removal.size_bytes > sum(path.stat().st_size for path in checkpoint.iterdir())
    remove(store, removal)
    assert logged_models(store, removal.run_id) == []
    folder = Path(unquote(urlsplit(models["other"].artifact_location).path))
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert plan_removals(store, keep_best=1, older_than_days=0, study=study) == []
    (kept,) = logged_models(store, models["best"].source_run_id)
    assert kept.model_id == models["best"].model_id
    assert download_model(store, f"runs:/{kept.source_run_id}/checkpoint").is_dir()
