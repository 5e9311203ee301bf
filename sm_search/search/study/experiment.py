"""A study's experiments under Ray Tune, its search and its confirmation: begun, or restored, and run to their end."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow.fs
from ray import tune
from ray.exceptions import OutOfMemoryError, RayError
from ray.train.constants import CHECKPOINT_DIR_NAME
from ray.tune.error import TuneError

from sm_search.compute.ray_internals import (
    has_begun,
    replace_callbacks,
    trials_of,
    use_waiting_workers,
    withhold_credentials,
)
from sm_search.compute.session import interrupted_gently
from sm_search.config.errors import DataError
from sm_search.data.storage import absolute
from sm_search.search.study.earlier_names import know_earlier_names, trial_id
from sm_search.search.study.outside_fault import OutsideFault
from sm_search.search.study.recording import Recorder
from sm_search.search.study.replacing_files import replacing_files
from sm_search.search.study.snapshots import settle_snapshots
from sm_search.search.study.study import Study, stopped
from sm_search.search.study.trial import TrialContext

TRIAL_RETRIES = 3

withhold_credentials()
use_waiting_workers()


@dataclass(frozen=True)
class Experiment:
    """What Ray Tune is to run, under which name.

    Attributes:
        function: a function trainable of parameters and a `TrialContext`.
        param_space: what Tune itself varies.
    """

    name: str
    study: Study
    function: Any
    callbacks: Sequence[tune.Callback]
    stopper: tune.Stopper | None = None
    param_space: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, **options: Any) -> tune.Tuner:
        """A tuner for it; `options` are those of `tune.TuneConfig`."""
        # All checkpoints of a trial are kept, one a rung: to delete the last but one would, for a moment, leave Tune's
        # snapshot of the study with a checkpoint that is gone, and a death in that moment would cost the trial.
        return tune.Tuner(
            self._trainable(),
            param_space=dict(self.param_space),
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self.study.space.resources.concurrent,
                reuse_actors=True,
                trial_name_creator=trial_id,
                trial_dirname_creator=trial_id,
                **options,
            ),
            run_config=tune.RunConfig(
                name=self.name,
                storage_path=self.study.place,
                storage_filesystem=self._files(),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
                callbacks=[OutsideFault(), *self.callbacks],
                stop=self.stopper,
            ),
        )

    def restore(self) -> tune.Tuner | None:
        """A tuner that continues it; None if it was not begun, or died before its first snapshot."""
        path = f"{self.study.place}/{self.name}"
        if not tune.Tuner.can_restore(path, storage_filesystem=self._files()):
            return None
        know_earlier_names()
        if not settle_snapshots(path, self._files()):
            return None
        tuner = tune.Tuner.restore(
            path,
            self._trainable(),
            resume_unfinished=True,
            resume_errored=True,
            param_space=dict(self.param_space),
            storage_filesystem=self._files(),
        )
        replace_callbacks(tuner, [OutsideFault(), *self.callbacks], self.stopper)
        return tuner

    def _trainable(self) -> Any:
        study, asked = self.study, self.study.space.resources
        data, place = absolute(study.dataset.location), absolute(study.place)
        context = TrialContext(study.space.model_dump_json(), data, study.dataset.content_hash(), place)
        resources = {"cpu": asked.cpus, "gpu": asked.gpu_share}
        # By value: `tune.with_parameters` puts it into Ray's store, and when the store's node leaves, Ray ends a driver
        # that has something there without a word.
        return tune.with_resources(partial(self.function, context=context), resources)

    def _files(self) -> pyarrow.fs.FileSystem | None:
        """None for a URI, which Ray resolves; objects in S3 appear whole anyway."""
        return None if "://" in self.study.place else replacing_files()


def fit(tuner: tune.Tuner, study: Study, recorder: Recorder | None = None) -> list[tune.Result]:
    """Run a tuner to its end; the results of its trials, without those that still waited when the time was up.

    Each has its settings, which Ray gives only where something was reported.

    Raises:
        InputError: the disk is full, or Ray went away, or the simulation of the data stalled, or data are damaged.
    """
    try:
        # Ray tells of dead workers and nodes on stdout, which belongs to our result; `Recorder` tells it in one line.
        with contextlib.redirect_stdout(io.StringIO()), interrupted_gently():
            results = tuner.fit()
    except DataError as error:
        raise stopped(study.name, str(error)) from None
    except (TuneError, RayError) as error:
        if recorder is not None and recorder.disk_fault:
            raise stopped(study.name, f"a trial could not write: {recorder.disk_fault}") from None
        if isinstance(error, RayError):
            raise stopped(study.name, f"Ray went away: {str(error).splitlines()[0]}") from None
        raise
    except RuntimeError as error:  # Tune knows no worker that Ray kills while it is asked for something
        if not isinstance(error.__cause__, OutOfMemoryError):
            raise
        reason = "the machine's memory is full, and Ray killed a worker; ask for more `resources.cpus` a trial"
        raise stopped(study.name, reason) from None
    return [result for result, _ in begun_results(results)]


def begun_results(results: tune.ResultGrid) -> list[tuple[tune.Result, bool]]:
    """The results of trials that were begun, each with its settings, and whether it ended."""
    begun = []
    for result, trial in zip(results, trials_of(results), strict=True):
        if has_begun(trial) or result.error:
            result.metrics = {"config": trial.config, **(result.metrics or {})}
            _add_last_checkpoint(result)
            begun.append((result, trial.is_finished()))
    return begun


def _add_last_checkpoint(result: tune.Result) -> None:
    """Where a search ends just as a trial reports, Tune has the report and has not yet noted the checkpoint that was
    stored before it.
    """
    metrics = result.metrics or {}
    if (name := metrics.get(CHECKPOINT_DIR_NAME)) is None:
        return
    path = f"{result.path}/{name}"
    if result.checkpoint is None or result.checkpoint.path != path:
        result.checkpoint = tune.Checkpoint(path, result.filesystem)
        result.best_checkpoints = [*(result.best_checkpoints or ()), (result.checkpoint, metrics)]
