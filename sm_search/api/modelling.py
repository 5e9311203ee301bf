"""Models: trained, loaded, and what they synthesise."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search.api.defaults import Announce, opened_store, silent
from sm_search.config.errors import DataError

if TYPE_CHECKING:
    from sm_search.config.model_settings import ScheduleSettings
    from sm_search.config.run_settings import RunSettings
    from sm_search.data.dataset import Dataset
    from sm_search.physics.system_matrix import SystemMatrix
    from sm_search.search.leave_one_out import LeftOut
    from sm_search.synthesis import Synthesis, Synthesiser


def train(
    settings: "RunSettings | str | Path | Mapping[str, Any] | None",
    dataset: "Dataset",
    out: str | Path,
    *,
    force: bool = False,
    announce: Announce = silent,
    base: "Synthesiser | None" = None,
) -> "Synthesiser":
    """Train one model without a search, into the checkpoint folder `out`; an interrupted call resumes.

    Args:
        settings: training and schedule, as the file of `train --config` says them; None for the defaults, or with a
            `base` for its own settings and a short run.
        force: train again what is finished.
        base: a model to go on from, such as one of simulated scans on a few measured pairs.

    Returns:
        The model; `checkpoint.info.metrics` are those of the validation split.
    """
    from sm_search.search.single_training import train_single

    asked, start = _run_settings(settings, base), None if base is None else base.checkpoint
    train_single(asked, dataset, Path(out), force, announce, start)
    return load_model(str(out))


def leave_one_out(
    settings: "RunSettings | str | Path | Mapping[str, Any] | None",
    dataset: "Dataset",
    base: "Synthesiser",
    *,
    announce: Announce = silent,
) -> "list[LeftOut]":
    """What the pairs of a dataset add to a model: each training and validation pair in turn is left out, and rated with
    the model as it is and as it becomes by 1, 3, 10 and all others. Nothing is written.

    Args:
        settings, base: as of `train`.
    """
    from sm_search.search import leave_one_out

    asked = _run_settings(settings, base)
    return list(leave_one_out.leave_one_out(asked, dataset, base.checkpoint, announce))


def _run_settings(
    settings: "RunSettings | str | Path | Mapping[str, Any] | None", base: "Synthesiser | None"
) -> "RunSettings":
    from sm_search.config.loading import load_settings, parse_settings
    from sm_search.config.run_settings import RunSettings
    from sm_search.search.single_training import fine_tuning_settings

    if settings is None:
        return RunSettings() if base is None else fine_tuning_settings(base.checkpoint)
    if isinstance(settings, Mapping):
        return parse_settings(settings, RunSettings, "training settings")
    return settings if isinstance(settings, RunSettings) else load_settings(settings, RunSettings)


def load_model(
    uri: str | Path,
    *,
    seed: int = 0,
    schedule: "ScheduleSettings | None" = None,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
) -> "Synthesiser":
    """A model by `models:/NAME@champion`, `models:/NAME/VERSION`, `runs:/RUN_ID/checkpoint`, or its folder.

    Args:
        seed: of the sampling noise; same seed, same result.
        schedule: replaces the model's own.
    """
    from sm_search.synthesis import load_synthesiser

    if Path(uri).is_dir():
        return load_synthesiser(uri, schedule, seed)
    from sm_search.tracking.registry import download_model

    return load_synthesiser(download_model(opened_store(home, tracking_uri), str(uri)), schedule, seed)


def synthesize(model: "Synthesiser", low: "SystemMatrix", *, extrapolate: bool = False) -> "Synthesis":
    """The high-gradient matrix of a low-gradient one, and how far to trust it.

    Args:
        extrapolate: also for a condition that is unlike the training scans.

    Returns:
        `matrix.values_CKN` in the unit of `low`, with the expected error of each component, the deviation of each
        value where the model draws, and the distance of `low` from the training scans; `in_words()`
        says them in one line, and `outside` why it had to be extrapolated.

    Raises:
        DataError: `low` is unlike what the model was trained for; the message says in what.
    """
    outside = model.outside(low)
    if outside and not extrapolate:
        raise DataError(f"{outside}; extrapolate=True does it anyway")
    return dataclasses.replace(model.synthesise(low, model.draws), outside=outside)


def synthesize_file(
    model: str,
    source: str | Path,
    target: str | Path,
    *,
    seed: int = 0,
    force: bool = False,
    extrapolate: bool = False,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
) -> "tuple[Synthesis, str]":
    """`synthesize` from MDF file to MDF file, which says how it was made.

    Args:
        model: as of `load_model`.
        force: overwrite the target.

    Returns:
        What was made, and the name of the model in the file, in which an alias has become a version.
    """
    from sm_search.synthesis import load_synthesiser, synthesise_file
    from sm_search.tracking.registry import describe_model, download_model

    store = opened_store(home, tracking_uri)
    synthesiser = load_synthesiser(download_model(store, model), seed=seed)
    name = describe_model(store, model)
    made = synthesise_file(synthesiser, source, target, model=name, overwrite=force, extrapolate=extrapolate)
    return made, name
