"""The contract of a search algorithm, held by each of `ALGORITHMS`, and what is special to some."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sm_search.search.space.space import Space
from sm_search.search.space.tree import Recorded, parameters_of, suggest
from sm_search.search.study.algorithms import ALGORITHMS, QuasiRandom
from sm_search.search.study.optuna_searcher import OptunaSearcher
from sm_search.search.study.warm_start import EarlierTrials, Observation

TRAINING = {
    "steps": 90,
    "learning_rate": {"float": [1e-3, 1e-2], "log": True},
    "p_uncond": {"float": [0.0, 0.5]},
    "share_at_end": {"float": [0.0, 1.0], "step": 0.25},
    "batch_size": {"int": [32, 256], "log": True},
    "backbone": {
        "one_of": [
            {"backbone": "linear-basis", "width": {"choice": [64, 128]}, "blocks": {"int": [1, 3]}},
            {"backbone": "unet", "layers": {"int": [1, 2]}},
        ]
    },
}
BOWL = {"steps": 90, "learning_rate": {"float": [1e-4, 1e-1], "log": True}, "p_uncond": {"float": [0.0, 1.0]}}


def make_space(sampler: str, training: Mapping[str, Any] = TRAINING, **search: Any) -> Space:
    budget = {"trials": 100, "first_rung": 10, "reduction": 3}
    given = {"study": "s", "seed": 3, "training": training, "budget": budget}
    return Space.model_validate({**given, "search": {"sampler": sampler, **search}})


def result(value: float, step: int = 90) -> dict[str, Any]:
    return {"val_psnr_db": value, "training_step": step}


def run(searcher: OptunaSearcher, trials: int, value: Any) -> list[dict[str, Any]]:
    """Trials one after the other; their parameters."""
    points = []
    for number in range(trials):
        point = searcher.suggest(str(number))
        assert isinstance(point, dict)
        points.append(point)
        searcher.on_trial_complete(str(number), result(value(point)))
    return points


def bowl(point: Mapping[str, Any]) -> float:
    return -((math.log10(point["learning_rate"]) + 2.5) ** 2) - (2 * (point["p_uncond"] - 0.3)) ** 2


@pytest.mark.parametrize("sampler", ALGORITHMS)
def test_suggestions_lie_in_the_space_and_differ_with_and_without_results(sampler: str) -> None:
    searcher = OptunaSearcher(make_space(sampler))
    leaves = parameters_of(TRAINING)
    points = run(searcher, 8, lambda point: point["p_uncond"])
    # As a hundred workers ask at once: no result comes between.
    points += [searcher.suggest(f"at once {number}") for number in range(12)]
    for point in points:
        assert all(leaves[name].fault(value) is None for name, value in point.items())
        resolved = suggest(Recorded(point), TRAINING)
        assert set(resolved["backbone"]) >= {"backbone"}
    assert len({tuple(sorted(map(str, point.items()))) for point in points}) == len(points)


@pytest.mark.parametrize("sampler", ALGORITHMS)
def test_the_same_seed_gives_the_same_suggestions_also_after_a_restart(sampler: str, tmp_path: Path) -> None:
    one, other = OptunaSearcher(make_space(sampler)), OptunaSearcher(make_space(sampler))
    assert run(one, 7, bowl) == run(other, 7, bowl)
    one.save(str(tmp_path / "searcher"))
    restored = OptunaSearcher(make_space(sampler))
    restored.restore(str(tmp_path / "searcher"))
    assert [restored.suggest(name) for name in "abc"] == [other.suggest(name) for name in "abc"]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_it_learns(sampler: str) -> None:
    """Of a smooth bowl, more than the same number of independent points finds."""
    learned = max(map(bowl, run(OptunaSearcher(make_space(sampler, BOWL)), 30, bowl)))
    drawn = max(map(bowl, run(OptunaSearcher(make_space("random", BOWL)), 30, bowl)))
    assert learned > drawn


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_the_start_is_bounded_however_many_workers_ask_at_once(sampler: str) -> None:
    space = make_space(sampler, BOWL, startup=4)
    asked = [OptunaSearcher(space).suggest(str(number)) for number in range(1)]
    searcher = OptunaSearcher(space)
    points = [searcher.suggest(str(number)) for number in range(16)]
    start = [QuasiRandom(BOWL, space.seed)(index) for index in range(16)]
    assert points[:4] == start[:4]
    assert asked == points[:1]
    assert all(point not in start for point in points[4:])


def test_the_liar_keeps_workers_apart_before_the_first_result() -> None:
    """The suggestions of TPE while all trials still run fill both halves of each parameter's range."""
    searcher = OptunaSearcher(make_space("tpe", BOWL, startup=4))
    points = [searcher.suggest(str(number)) for number in range(36)][4:]
    for name, middle in (("learning_rate", math.sqrt(1e-4 * 1e-1)), ("p_uncond", 0.5)):
        assert 10 <= sum(point[name] < middle for point in points if isinstance(point, dict)) <= 22


def test_quasi_random_points_fill_each_range_evenly() -> None:
    """Of the first 2^m points of a Sobol sequence one lies in each of 2^m equal parts of every parameter's range."""
    searcher = OptunaSearcher(make_space("qmc", BOWL))
    points = [searcher.suggest(str(number)) for number in range(16)]
    for name, leaf in parameters_of(BOWL).items():
        parts = sorted(math.floor(16 * leaf.position(point[name])) for point in points if isinstance(point, dict))
        assert parts == list(range(16))


def test_a_grid_is_tried_whole_each_point_once_and_ends_the_search() -> None:
    searcher = OptunaSearcher(make_space("grid", grid=2))
    # The ends of two ranges and of a logarithmic one of whole numbers, five steps, and 2·3 + 2 ways to a backbone.
    size = 2 * 2 * 5 * 2 * (2 * 3 + 2)
    points = [searcher.suggest(str(number)) for number in range(size + 1)]
    assert points.pop() == OptunaSearcher.FINISHED
    assert len({tuple(sorted(map(str, point.items()))) for point in points if isinstance(point, dict)}) == size


def test_a_grid_that_a_revision_widened_is_tried_whole_without_what_is_known() -> None:
    """121 points are known, more than a sampler may repeat itself, and 11 are new."""
    before = {"steps": 90, "batch_size": {"int": [1, 11]}, "scans": {"int": [10, 20]}}
    points = run(OptunaSearcher(make_space("grid", before)), 11 * 11, lambda point: 30.0)
    known = EarlierTrials(tuple(Observation(point, (30.0,), ()) for point in points))
    wider = OptunaSearcher(make_space("grid", {**before, "batch_size": {"int": [1, 12]}}), known)
    more = [wider.suggest(str(number)) for number in range(11 + 1)]
    assert more.pop() == OptunaSearcher.FINISHED
    assert sorted(point["scans"] for point in more if isinstance(point, dict)) == list(range(10, 21))
    assert {point["batch_size"] for point in more if isinstance(point, dict)} == {12}
    assert wider.repeated == 0


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_prior_is_where_the_search_begins(sampler: str) -> None:
    expected = {**BOWL, "learning_rate": {**BOWL["learning_rate"], "prior": 3e-3, "confidence": "high"}}  # type: ignore[dict-item]
    near = []
    for training in (BOWL, expected):
        searcher = OptunaSearcher(make_space(sampler, training, startup=16))
        points = [searcher.suggest(str(number)) for number in range(16)]
        near.append(sum(1e-3 < point["learning_rate"] < 1e-2 for point in points if isinstance(point, dict)))
    # A third of the range, and for `high` 0.82 of the prior.
    assert near[0] <= 10
    assert near[1] >= 11


def test_a_wrong_prior_is_left_by_and_by() -> None:
    wrong = {**BOWL, "learning_rate": {**BOWL["learning_rate"], "prior": 1e-1, "confidence": "high"}}  # type: ignore[dict-item]
    points = run(OptunaSearcher(make_space("tpe", wrong)), 60, bowl)
    off = [abs(math.log10(point["learning_rate"]) + 2.5) for point in points]
    assert min(off[:5]) > 0.5
    assert min(off[40:]) < 0.1
