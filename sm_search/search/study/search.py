"""The search of a study: its searcher, scheduler and callbacks, begun or restored, and run to its end."""

from functools import partial
from pathlib import Path

from ray import tune
from ray.exceptions import RayActorError

from sm_search.compute.nodes import capacity
from sm_search.compute.ray_internals import scheduler, search_algorithm, set_time_budget
from sm_search.search.schedule.good_schedules import GoodSchedules
from sm_search.search.space.space import Space
from sm_search.search.space.tree import parameter_names
from sm_search.search.study.asha import make_asha
from sm_search.search.study.dashboard import JOURNAL_FILE, Mirror
from sm_search.search.study.earlier_searches import OUTSIDE_OF_SPACE, EarlierSearches, search_name
from sm_search.search.study.ending import Ending, EndWith, Spent
from sm_search.search.study.experiment import TRIAL_RETRIES, Experiment, fit
from sm_search.search.study.optuna_searcher import OptunaSearcher
from sm_search.search.study.recording import Recorder, Watch
from sm_search.search.study.study import Study
from sm_search.search.study.trial import run_trial
from sm_search.search.study.trial_summary import TrialSummary, ranked, summary
from sm_search.search.study.warm_start import earlier_trials
from sm_search.search.study.while_simulating import StallWatch
from sm_search.tracking.records import timed_history
from sm_search.tracking.runs import StudyLog


class Search:
    """A search and what came of it.

    Attributes:
        recorder: knows of which trials MLflow may lack something.
        results: as Ray Tune has them, of all trials that began.
        trials: their summaries, best first.
        repeated: suggestions that were answered from the record.
        ended: why it ended before its trials were used up; None if it did not.
    """

    def __init__(self, study: Study, log: StudyLog, watch: Watch | None) -> None:
        self.space = study.space
        self.study = study
        self.log = log
        self.watch = watch
        self.before = EarlierSearches(study)
        self.recorder: Recorder
        self.results: list[tune.Result] = []
        self.trials: list[TrialSummary] = []
        self.repeated = 0
        self.ended: str | None = None

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
        self.trials = ranked(self.space, [*self.before.trials, *(summary(each, self.space) for each in self.results)])
        self.results = [*self.before.results, *self.results]

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
        earlier = len(self.before.trials)
        self.recorder = Recorder(self.log, space, study.announce, self.watch, resumed=is_begun, earlier=earlier)
        mirror = Mirror(study.folder / JOURNAL_FILE, space, study.announce)
        spent = Spent(study.folder, space.budget.cost_per_hour)
        ending = Ending(space, spent, self.before.trials)
        callbacks: list[tune.Callback] = [GoodSchedules(study.place, space.metric), self.recorder, mirror, ending]
        if study.dataset.missing():
            callbacks.append(StallWatch(study.dataset))
        name = search_name(study.states[-1].search)
        experiment = Experiment(name, study, run_trial, callbacks, EndWith(ending))
        tuner = (self._restored(experiment) if is_begun else None) or self._begun(experiment)
        if tuner is None:
            return
        mirror.begin(search_algorithm(tuner).finished())
        self.results = fit(tuner, study, self.recorder)
        self.repeated = search_algorithm(tuner).repeated
        ending.settle(self.results)
        if ending.reason is not None:
            study.announce(f"the search ends: {ending.reason}")
        self.ended = ending.reason

    def _begun(self, experiment: Experiment) -> tune.Tuner | None:
        """None where the study has all its trials, from before it was revised."""
        space, study = self.space, self.study
        left = (space.budget.trials if parameter_names(space.outer_tree()) else 1) - len(self.before.trials)
        if left < 1:
            return None
        earlier = earlier_trials(study.store, space, study.dataset.known_hashes(), space.warm_start)
        if space.warm_start:
            observed, initial = len(earlier.observations), len(earlier.initial_points)
            self.log.log_metrics(None, 0, {"warm_observations": float(observed), "warm_guesses": float(initial)})
            study.announce(
                f"warm start from {', '.join(space.warm_start)}: {observed} finished trials as observations, "
                f"{initial} as initial points"
            )
        known = self.before.known(earlier)
        if self.before.trials:
            count = sum(trial.infeasible != OUTSIDE_OF_SPACE for trial in self.before.trials)
            study.announce(f"of {len(self.before.trials)} trials before the revision {count} count; {left} are left")
        fits = partial(capacity, space.resources.cpus, space.resources.gpu_share)
        tuner = experiment.begin(
            search_alg=OptunaSearcher(space, known, fits),
            scheduler=make_asha(space),
            num_samples=left,
            time_budget_s=_time_budget(space),
        )
        counted = [trial for trial in self.before.trials if trial.infeasible != OUTSIDE_OF_SPACE]
        reports = ((trial.trial_id, *report) for trial in counted for report in self.before.reports(trial))
        scheduler(tuner).remember(reports)
        return tuner

    def _restored(self, experiment: Experiment) -> tune.Tuner | None:
        """Its scheduler knows what the trials had reported; None if it was not begun."""
        tuner = experiment.restore()
        if tuner is not None:
            set_time_budget(tuner, _time_budget(self.space))
            stored, store = self.recorder.stored, self.study.store
            reports = sorted(
                (time_ms, trial_id, step, value)
                for trial_id, record in stored.items()
                for time_ms, step, value in timed_history(store, record.run_id, self.space.metric)
            )
            pruned = {trial_id for trial_id, record in stored.items() if record.state == "pruned"}
            scheduler(tuner).remember([report for _, *report in reports], pruned)
        return tuner


def _time_budget(space: Space) -> float | None:
    return 60 * space.budget.minutes if space.budget.minutes else None
