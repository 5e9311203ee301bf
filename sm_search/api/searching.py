"""Studies: run, continued, and what becomes of their models."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from sm_search.api.defaults import Announce, Progress, default_home, opened_store, silent

if TYPE_CHECKING:
    from sm_search.data.dataset import Dataset
    from sm_search.search.schedule.inner_search import ScheduleSearch
    from sm_search.search.space.space import Space
    from sm_search.search.study.recording import Watch
    from sm_search.search.study.result import SweepResult
    from sm_search.tracking.promotion import Promotion


def sweep(
    space: "Space | str | Path",
    dataset: "Dataset | str | Path",
    *,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
    ray_address: str | None = None,
    warm_start: Sequence[str] = (),
    resume: bool = False,
    while_simulating: bool = False,
    announce: Announce = silent,
    watch: "Watch | None" = None,
) -> "SweepResult":
    """Run a study, or continue it: trials under Ray Tune, Optuna and ASHA, every result in MLflow.

    Args:
        space: name of a search space that ships, or a YAML file.
        dataset: opened, or its folder or s3:// URI.
        storage: folder or URI that every node reaches, for Ray Tune's files.
        ray_address: a cluster; by default this machine.
        warm_start: earlier studies to learn from.
        while_simulating: the dataset is still being simulated: each trial begins when its scans are there.
        announce: is told of every finished trial.
        watch: is told where the search stands after each event.

    Returns:
        Its trials, the best first; `study_models` names their models.
    """
    from sm_search.compute.session import ray_session
    from sm_search.data.dataset import Dataset
    from sm_search.report.publication import publish_study
    from sm_search.search.study import sweep as search
    from sm_search.search.study.folder import check_study, study_exists

    home = Path(home) if home is not None else default_home()
    space, opened = study_parts(space, dataset, warm_start, complete=not while_simulating, announce=announce)
    # Before Ray is started, which takes a while.
    check_study(space, opened, home, resume, storage)
    store = opened_store(home, tracking_uri)
    try:
        with ray_session(ray_address):
            result = search.sweep(
                space,
                opened.location,
                home=home,
                tracking_uri=tracking_uri,
                storage=storage,
                resume=resume,
                while_simulating=while_simulating,
                announce=announce,
                watch=watch,
            )
    except KeyboardInterrupt as interrupt:
        if str(interrupt):
            raise
        begun = study_exists(space, home, storage)
        remedy = "`sweep --resume` continues it" if begun else "nothing of it was begun, the same command begins it"
        raise KeyboardInterrupt(f"study {space.study!r}: interrupted; {remedy}") from None
    try:
        if space.budget.regression:
            announce("training the regression network, a baseline of the report")
        opened = Dataset.open(opened.location)
        publish_study(store, space.study, space.metric, opened, regression=space.budget.regression)
    except KeyboardInterrupt:
        done = f"study {space.study!r}: interrupted after its search, before its report; `sweep --resume` makes that"
        raise KeyboardInterrupt(done) from None
    return result


def study_parts(
    space: "Space | str | Path",
    dataset: "Dataset | str | Path",
    warm_start: Sequence[str] = (),
    *,
    complete: bool = True,
    announce: Announce = silent,
) -> "tuple[Space, Dataset]":
    """What a study is about, checked: its space, and its dataset, which has enough scans for it.

    Args:
        complete: refuse a dataset of which files are missing.
    """
    from sm_search.data.dataset import Dataset
    from sm_search.evaluation.metrics import require_rateable
    from sm_search.search.space.space import Space
    from sm_search.search.space.space_file import load_space, require_data

    loaded = space if isinstance(space, Space) else load_space(space)
    if warm_start:
        loaded = loaded.model_validate({**loaded.model_dump(), "warm_start": (*loaded.warm_start, *warm_start)})
    opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset, complete=complete)
    require_rateable(opened.settings)
    require_data(loaded, opened.settings, loaded.study if isinstance(space, Space) else space)
    if opened.settings.channel_note:
        announce(opened.settings.channel_note)
    return loaded, opened


def study_models(study: str, *, home: str | Path | None = None, tracking_uri: str | None = None) -> list[str]:
    """The URIs of a study's best models, the best first, for `load_model`."""
    from sm_search.tracking.logged_models import MODEL_NAME_IN_RUN, logged_models
    from sm_search.tracking.records import best_of_study

    store = opened_store(home, tracking_uri)
    kept = takewhile(lambda record: logged_models(store, record.run_id), best_of_study(store, study))
    return [f"runs:/{record.run_id}/{MODEL_NAME_IN_RUN}" for record in kept]


def promote(
    study: str,
    dataset: "Dataset",
    *,
    name: str = "sm-search",
    seeds: int = 3,
    least_gain_db: float = -0.1,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    announce: Announce = silent,
) -> "Promotion":
    """Make the best model of a study `models:/NAME@champion`, if it passes the gate.

    Args:
        dataset: that of the study, on which the models are compared.
        seeds: sampling seeds to average over.
        least_gain_db: PSNR above the champion's that is asked for on validation and test.

    Returns:
        Its `shortfalls` say what it missed; without any it is champion.
    """
    from sm_search.tracking import promotion

    store = opened_store(home, tracking_uri)
    return promotion.promote(store, study, dataset, name, seeds=seeds, least_gain_db=least_gain_db, announce=announce)


def tune_schedule(
    model: str,
    dataset: "Dataset",
    *,
    space: str | Path | None = None,
    trials: int | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    announce: Announce = silent,
    progress: Progress | None = None,
) -> "ScheduleSearch":
    """Search the sampling schedule of a finished model; the result is stored with the run that the model came from.

    Args:
        model: as of `load_model`.
        space: name or file of the space whose schedule part is searched; default the study's, or `schedule`.
        trials: schedules to try; default the space's budget, at least 40.
        out: folder for a checkpoint with the best schedule.
        workers: tasks on Ray at once; default none, in this process.
    """
    from sm_search.evaluation.metrics import require_rateable
    from sm_search.search.schedule.tune_schedule import tune_model_schedule

    require_rateable(dataset.settings)
    return tune_model_schedule(
        model,
        dataset,
        store=lambda: opened_store(home, tracking_uri),
        space_file=space,
        schedules=trials,
        out=Path(out) if out else None,
        workers=workers,
        ray_address=ray_address,
        announce=announce,
        progress=progress,
    )
