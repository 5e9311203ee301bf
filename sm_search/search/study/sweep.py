"""The sweep: Ray Tune, Optuna and ASHA over the outer level, every result in MLflow, resumable after any death.

It opens the study (`study.py`), builds or restores its search and runs it (`search.py`), confirms the best trials
(`confirmation.py`), and keeps the result (`result.py`).
"""

from dataclasses import replace
from pathlib import Path

from sm_search.config.errors import InputError
from sm_search.data.dataset import Dataset
from sm_search.evaluation.metrics import require_rateable
from sm_search.search.space.space import Space
from sm_search.search.study.confirmation import Confirmation
from sm_search.search.study.folder import note_study
from sm_search.search.study.recording import Announce, Watch
from sm_search.search.study.result import SweepResult, drop_checkpoints, keep, points
from sm_search.search.study.search import Search
from sm_search.search.study.study import open_log, open_study


def sweep(
    space: Space,
    data: str | Path,
    *,
    home: Path,
    tracking_uri: str | None = None,
    storage: str | None = None,
    resume: bool = False,
    while_simulating: bool = False,
    announce: Announce = lambda line: None,
    watch: Watch | None = None,
) -> SweepResult:
    """Run a study on the running Ray session, or continue it.

    Args:
        home: folder of the local state: `mlflow.db`, `artifacts/`, `studies/<name>/`.
        storage: folder or URI for Ray Tune's files, which every node must reach; by default under `home`.
        while_simulating: take a dataset that another process still simulates: each trial begins when its own files are
            there, and reports its full budget when all are.
        announce: called with one line for every finished trial.
        watch: called with where the search stands after each event.

    Raises:
        InputError: the study exists and `resume` is false, or it does not and `resume` is true, or its space or dataset
            is not the one it began with, or another process runs it, or not one trial came to its end, or the disk is
            full, or Ray went away, or a node of the session does not see data or storage, or the simulation stalled, or
            a file of the dataset is damaged, or every trial that a resumed study ran failed.
        TrackingError: MLflow does not take the result; it is kept, and a resumed study delivers it.
        KeyboardInterrupt: Ctrl-C, or SIGTERM in a `ray_session`; the study's runs are closed, as the message says.
    """
    dataset = Dataset.open(data, complete=not while_simulating)
    require_rateable(dataset.settings)
    with open_study(space, dataset, home, storage, tracking_uri, resume, announce) as study:
        with open_log(study) as log:
            search = Search(study, log, watch)
            search.run()
            if search.complete and dataset.missing():
                # A trial that came to its end saw all files; this process may not have looked since.
                dataset = Dataset.open(data)
                study = replace(study, dataset=dataset)
            confirmation = Confirmation(study, search.complete)
            confirmation.run()
            result = SweepResult(
                study=study.name,
                run_id=log.run_id,
                metric=study.space.metric,
                trials=tuple(confirmation.ranked(search.trials)),
                points=tuple(points(study.space, search.complete)),
                repeated=search.repeated,
                ended=search.ended,
            )
            keep(result, study, search.recorder, search.checkpoints)
            drop_checkpoints(search.results, {trial.trial_id for trial in result.kept})
            drop_checkpoints(confirmation.results)
        if not result.complete:
            reason = next((trial.error for trial in result.trials if trial.error), "the time budget was too short")
            raise InputError(f"study {study.name}: none of {len(result.trials)} trials came to its end: {reason}")
        errors = search.recorder.ended
        if errors and None not in errors:
            failed = f"each of the {len(errors)} trials that were run now failed"
            raise InputError(f"study {study.name!r}: {failed}: {errors[0]}")
        if while_simulating:
            note_study(study.states, dataset, home, storage)
    return result
