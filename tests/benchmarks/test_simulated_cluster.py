"""The simulated cluster keeps the books: its clock, its workers, and what each trial reports."""

import pytest

from sm_search.search.space.space import Space
from tests.benchmarks.simulated_cluster import RecordedTrials, recorded, recorded_space, replay


@pytest.fixture(scope="module")
def trials() -> RecordedTrials:
    return recorded()


def space_of(trials: int, **changes: object) -> Space:
    budget = {"trials": trials, "first_rung": 3, "reduction": 3}
    given = recorded_space().model_dump()
    return Space.model_validate({**given, "budget": budget, "search": {"sampler": "qmc"}, **changes})


def test_a_recorded_trial_reports_what_was_recorded(trials: RecordedTrials) -> None:
    metric, seconds = trials.look_up(trials.points)
    # The splines smooth a little: less than the trials differ by far.
    assert abs(metric - trials.metric_TS).mean() < 0.3 * trials.metric_TS.std()
    assert (seconds[:, 1:] >= seconds[:, :-1]).all()


def test_one_worker_is_busy_from_the_first_second_to_the_last(trials: RecordedTrials) -> None:
    space = space_of(12)
    told = replay(space, trials, 1)
    assert 12 * 3 <= told.steps < 12 * 81
    assert told.curve[-1][0] <= told.worker_seconds == pytest.approx(told.ended)
    assert [best for _, best in told.curve] == sorted(best for _, best in told.curve)


def test_more_workers_than_trials_take_as_long_as_the_longest_trial(trials: RecordedTrials) -> None:
    full = {"trials": 8, "first_rung": 81, "reduction": 3}
    told = replay(space_of(8, budget=full), trials, 100)
    assert told.steps == 8 * 81
    assert told.ended == max(when for when, _ in told.curve)
    assert told.ended < told.worker_seconds < 8 * told.ended


def test_the_same_seed_gives_the_same_study(trials: RecordedTrials) -> None:
    assert replay(space_of(12), trials, 4) == replay(space_of(12), trials, 4)
    assert replay(space_of(12), trials, 4) != replay(space_of(12, seed=1), trials, 4)
