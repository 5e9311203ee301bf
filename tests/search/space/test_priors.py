"""Ranges by quantile, the priors on them, and what a prior does to the identity of a study."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from sm_search.config.base import content_hash
from sm_search.config.errors import SettingsError
from sm_search.search.space.prior import expected_values, trust
from sm_search.search.space.ranges import SPREADS, Choice, FloatRange, IntRange
from sm_search.search.space.space import Space
from sm_search.search.space.space_file import load_space
from sm_search.search.space.tree import grid_point, grid_size, parameters_of

QUANTILES = [(index + 0.5) / 1000 for index in range(1000)]
RANGES = [
    {"float": [0.5, 2.0]},
    {"float": [1e-4, 1e-1], "log": True},
    {"float": [0.0, 0.3], "step": 0.1},
    {"int": [1, 4]},
    {"int": [8, 32], "step": 8},
    {"int": [1, 100], "log": True},
    {"choice": ["a", "b", 4]},
]


def leaf_of(tree: dict[str, Any]) -> Any:
    return parameters_of({"p": tree})["p"]


@pytest.mark.parametrize("tree", RANGES)
def test_a_value_at_a_quantile_is_legal_and_lies_there(tree: dict[str, Any]) -> None:
    leaf = leaf_of(tree)
    values = [leaf.at(quantile) for quantile in (0.0, *QUANTILES, 1 - 1e-16)]
    assert all(leaf.fault(value) is None for value in values)
    assert values[0] == leaf.samples()[0]
    if not isinstance(leaf, Choice):
        assert values == sorted(values)
        assert all(leaf.at(leaf.position(value)) == pytest.approx(value) for value in values)
    if isinstance(leaf, Choice | IntRange) and not getattr(leaf, "log", False):
        counts = {value: values[1:-1].count(value) for value in values}
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("confidence", SPREADS)
def test_a_prior_on_a_logarithmic_range_is_log_normal(confidence: str) -> None:
    leaf = leaf_of({"float": [1e-4, 1e0], "log": True, "prior": 1e-2, "confidence": confidence})
    assert isinstance(leaf, FloatRange)
    values = [leaf.expected(quantile) for quantile in QUANTILES]
    assert statistics.median(values) == pytest.approx(1e-2, rel=0.01)
    # The quartiles of a normal distribution lie 0.6745 deviations out, nearer where the ends of the range cut it off.
    normal = statistics.NormalDist(0.5, SPREADS[confidence])  # type: ignore[index]
    inside = normal.cdf(1.0) - normal.cdf(0.0)
    quartile = normal.inv_cdf(normal.cdf(0.0) + 0.75 * inside)
    assert leaf.expected(0.75) == pytest.approx(10 ** (-4 + 4 * quartile))


def test_without_a_prior_nothing_is_expected() -> None:
    for tree in RANGES:
        leaf = leaf_of(tree)
        assert [leaf.expected(quantile) for quantile in QUANTILES] == [leaf.at(quantile) for quantile in QUANTILES]
    assert expected_values({"p": RANGES[0]}, 0, 0, 100) == {}


def test_a_choice_expects_its_value_as_many_times_as_its_confidence_says() -> None:
    leaf = leaf_of({"choice": [False, True, 1], "prior": True, "confidence": "high"})
    drawn = [leaf.expected(quantile) for quantile in QUANTILES]
    assert [sum(each is value for each in drawn) for value in (False, True, 1)] == pytest.approx([100, 800, 100], abs=2)


def test_trust_in_a_prior_is_half_after_a_tenth_of_the_trials() -> None:
    assert [trust(index, 200) for index in (0, 20, 180)] == pytest.approx([1.0, 0.5, 0.1])
    tree = {"a": {"float": [0.0, 1.0], "prior": 0.5}, "b": {"float": [0.0, 1.0]}}
    followed = [expected_values(tree, 1, index, 200) for index in range(2000)]
    assert all(set(each) <= {"a"} for each in followed)
    expectation = sum(trust(index, 200) for index in range(2000))
    assert sum(map(bool, followed)) == pytest.approx(expectation, abs=3 * expectation**0.5)


def test_a_grid_counts_each_branch_with_its_own_ranges() -> None:
    tree = {
        "steps": 9,
        "rate": {"float": [1e-4, 1e-2], "log": True},
        "net": {"one_of": [{"kind": "a", "width": {"choice": [1, 2]}}, {"kind": "b", "depth": {"int": [1, 3]}}]},
    }
    points = [grid_point(tree, 3, index) for index in range(grid_size(tree, 3))]
    assert len(points) == len({tuple(sorted(map(str, point.items()))) for point in points}) == 3 * (2 + 3)
    assert sorted({point["rate"] for point in points}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert {tuple(point) for point in points} == {("rate", "net", "net.a.width"), ("rate", "net", "net.b.depth")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {p_uncond: {float: [0, 0.5], prior: 0.7}}", "prior: 0.7 must be a number in [0, 0.5]"),
        ("training: {p_uncond: {float: [0, 0.5], confidence: high}}", "confidence: is that of a prior"),
        ("training: {mean: {choice: [none, kernel-ridge], prior: both}}", "prior: 'both' must be one of"),
        ("training: {p_uncond: {float: [0, 0.5], prior: 0.1, confidence: sure}}", "'low', 'medium' or 'high'"),
        ("search: {sampler: bohb}", "search.sampler"),
        ("search: {sampler: cmaes}\nmetric: [val_psnr_db, evaluations]", "cmaes seeks one objective"),
        ("search: {sampler: grid}\ntraining: {p_uncond: {float: [0, 0.5], prior: 0.1}}", "knows no prior"),
    ],
)
def test_what_no_algorithm_can_follow_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"study: s\n{text}\n")
    with pytest.raises(SettingsError) as refused:
        load_space(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_prior_changes_how_a_study_searches_but_not_what_it_asks() -> None:
    def space(leaf: dict[str, Any], **more: Any) -> Space:
        return Space(study="s", training={"p_uncond": leaf}, **more)

    plain = space({"float": [0.0, 0.5]})
    told = space({"float": [0.0, 0.5], "prior": 0.1})
    assert told.question_hash() == plain.question_hash()
    assert told.space_hash() != plain.space_hash()
    assert space({"float": [0.0, 0.5]}, search={"sampler": "gp"}).space_hash() != plain.space_hash()
    # As before there was a choice: older studies can be resumed.
    assert plain.space_hash() == content_hash([plain.question_hash(), 0])
