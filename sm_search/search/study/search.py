"""The search of a study: its searcher, scheduler and callbacks, begun or restored, and run to its end."""

from functools import partial
from pathlib import Path

from ray import tune
from ray.exceptions import RayActorError

from sm_search.compute.nodes import capacity
from sm_search.compute.ray_internals import scheduler, search_algorithm
from sm_search.search.schedule.good_schedules import GoodSchedules
from sm_search.search.space.space import Space
from sm_search.search.space.tree import parameter_names
from sm_search.search.study.asha import make_asha
from sm_search.search.study.dashboard import JOURNAL_FILE, Mirror
from sm_search.search.study.experiment import TRIAL_RETRIES, Experiment, fit, trial_context
from sm_search.search.study.recording import Recorder, Watch
from sm_search.search.study.search_algorithm import OptunaSearcher
from sm_search.search.study.study import Study
from sm_search.search.study.trial import run_trial
from sm_search.search.study.trial_summary import TrialSummary, ranked, summary
from sm_search.search.study.warm_start import earlier_trials
from sm_search.search.study.while_simulating import StallWatch
from sm_search.tracking.records import metric_history
from sm_search.tracking.runs import StudyLog

SEARCH = "tune"


class Search:
    """A search and what came of it.

    Attributes:
        recorder: knows of which trials MLflow may lack something.
        results: as Ray Tune has them, of all trials that began.
        trials: their summaries, best first.
        repeated: suggestions that were answered from the record.
    """

    def __init__(self, space: Space, study: Study, log: StudyLog, watch: Watch | None) -> None:
        self.space = space
        self.study = study
        self.log = log
        self.watch = watch
        self.recorder: Recorder
        self.results: list[tune.Result] = []
        self.trials: list[TrialSummary] = []
        self.repeated = 0

    def run(self) -> None:
        """Run the search, or the rest of it where it was begun.

        Raises:
            InputError: the disk is full, or Ray went away, or the simulation of the data stalled.
        """
        self._attempt(is_begun=self.study.resume)
        for _ in range(TRIAL_RETRIES):
            if not any(isinstance(result.error, RayActorError) for result in self.results):
                break
            # Ray does not try again where a worker died while it was being prepared for its trial.
            self.study.announce("a worker died before its trial began: it is run again")
            self._attempt(is_begun=True)
        self.trials = ranked(self.space, [summary(result, self.space) for result in self.results])

    @property
    def complete(self) -> list[TrialSummary]:
        """Those that were trained to the end, best first."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def checkpoints(self) -> dict[str, tune.Checkpoint]:
        """The last one of each trial."""
        return {Path(result.path).name: result.checkpoint for result in self.results}

    def _attempt(self, *, is_begun: bool) -> None:
        space, study = self.space, self.study
        self.recorder = Recorder(self.log, space, study.announce, self.watch, resumed=is_begun)
        mirror = Mirror(study.folder / JOURNAL_FILE, space, study.announce)
        callbacks: list[tune.Callback] = [GoodSchedules(study.place, space.metric), self.recorder, mirror]
        if study.dataset.missing():
            callbacks.append(StallWatch(study.dataset))
        experiment = Experiment(SEARCH, study, run_trial, trial_context(space, study), space.resources, callbacks)
        tuner = (self._restored(experiment) if is_begun else None) or self._begun(experiment)
        mirror.begin(search_algorithm(tuner).finished())
        self.results = fit(tuner, study, self.recorder)
        self.repeated = search_algorithm(tuner).repeated

    def _begun(self, experiment: Experiment) -> tune.Tuner:
        space, study = self.space, self.study
        earlier = earlier_trials(study.store, space, study.dataset.known_hashes(), space.warm_start)
        if space.warm_start:
            observed, initial = len(earlier.observations), len(earlier.initial_points)
            self.log.log_metrics(None, 0, {"warm_observations": float(observed), "warm_guesses": float(initial)})
            study.announce(
                f"warm start from {', '.join(space.warm_start)}: {observed} finished trials as observations, "
                f"{initial} as initial points"
            )
        fits = partial(capacity, space.resources.cpus, space.resources.gpu_share)
        return experiment.begin(
            search_alg=OptunaSearcher(space, earlier, fits),
            scheduler=make_asha(space),
            num_samples=space.budget.trials if parameter_names(space.outer_tree()) else 1,
            time_budget_s=60 * space.budget.minutes if space.budget.minutes else None,
        )

    def _restored(self, experiment: Experiment) -> tune.Tuner | None:
        """Its scheduler knows what the trials had reported; None if it was not begun."""
        tuner = experiment.restore()
        if tuner is not None:
            for trial_id, record in self.recorder.stored.items():
                reports = metric_history(self.study.store, record.run_id, self.space.metric)
                scheduler(tuner).remember(trial_id, reports, stopped=record.state == "pruned")
        return tuner
