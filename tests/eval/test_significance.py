"""The paired bootstrap against a closed form, against all resamples of five pairs, and under the null hypothesis."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from f2llm.core.errors import DataError
from f2llm.eval.results import Run, TaskResult
from f2llm.eval.significance import compare_runs, holm, paired_bootstrap, paired_t, stratified_bootstrap


@pytest.mark.parametrize(("ones", "size"), [(3, 20), (30, 100), (2, 12)])
def test_differences_of_one_and_zero_are_binomial(ones: int, size: int) -> None:
    a = np.array([1.0] * ones + [0.0] * (size - ones))
    found = paired_bootstrap(a, np.zeros(size), draws=20_000)
    share = ones / size
    assert found.difference == pytest.approx(share)
    assert found.low == pytest.approx(binom.ppf(0.025, size, share) / size, abs=1.01 / size)
    assert found.high == pytest.approx(binom.ppf(0.975, size, share) / size, abs=1.01 / size)
    assert found.p == pytest.approx(2 * binom.pmf(0, size, share), abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_five_pairs_equal_all_their_resamples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(0.3, 1, 5), generator.normal(0, 1, 5)
    means = np.array([np.mean(chosen) for chosen in product(a - b, repeat=5)])
    found = paired_bootstrap(a, b, draws=100_000)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    assert found.p == pytest.approx(2 * min((means <= 0).mean(), (means >= 0).mean()), abs=0.01)


def test_a_constant_difference_is_certain_and_none_is_none() -> None:
    found = paired_bootstrap([0.5, 0.7, 0.9], [0.25, 0.45, 0.65], draws=999)
    assert found == pytest.approx((0.25, 0.25, 0.25, 0.002))
    assert paired_bootstrap([0.5, 0.7], [0.5, 0.7]) == (0, 0, 0, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30), st.integers(0, 5))
def test_exchanging_the_models_mirrors_the_answer(pairs: list[tuple[float, float]], seed: int) -> None:
    a, b = zip(*pairs, strict=True)
    one, other = paired_bootstrap(a, b, 500, seed), paired_bootstrap(b, a, 500, seed)
    assert [one.difference, one.low, one.high] == pytest.approx([-other.difference, -other.high, -other.low])
    assert one.p == other.p
    assert one == paired_bootstrap(a, b, 500, seed)


def test_equal_models_are_told_apart_as_rarely_as_they_should_be() -> None:
    generator = np.random.default_rng(0)
    runs = [paired_bootstrap(*generator.normal(0, 1, (2, 80)), draws=400).p < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(runs) < 0.1


def test_tasks_count_the_same_however_many_queries_they_have() -> None:
    small, large = np.array([1.0, 0.0, 1.0, 1.0]), np.zeros(400)
    found = stratified_bootstrap([(small, small * 0), (large, large)])
    assert found.difference == pytest.approx(0.375)
    assert 0.1 < found.low < 0.375 < found.high <= 0.5


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]])])
def test_what_is_not_paired_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="paired scores"):
        paired_bootstrap(a, b)


def test_students_interval_by_hand() -> None:
    found = paired_t([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    reach = 4.302652729911275 / 3**0.5  # the quantile of two degrees of freedom, a standard deviation of 1
    assert found == pytest.approx((2.0, 2.0 - reach, 2.0 + reach))
    assert paired_t([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="equally long"):
        paired_t([1.0, 2.0], [1.0])


def test_students_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.5, 1.0, (2000, 3))
    found = [paired_t(row, [0.0] * 3) for row in draws]
    inside = np.mean([interval is not None and interval[1] <= 0.5 <= interval[2] for interval in found])
    assert inside == pytest.approx(0.95, abs=0.015)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def run(label: str, **tasks: TaskResult) -> Run:
    return Run(label=label, model=label, model_digest="d", dims=None, precision="float32", tasks=tasks)


def task(score: float, queries: int = 0, languages: int = 0) -> TaskResult:
    values = np.random.default_rng(queries + languages).normal(0, 0.1, queries + languages)
    return TaskResult(
        model="m", model_digest="d", task="t", task_type="Retrieval", revision="1", split="test", main_score=score,
        scores_by_query={f"q{n}": score + value for n, value in enumerate(values[:queries])},
        scores_by_language={f"l{n}": score + value for n, value in enumerate(values[queries:])},
    )  # fmt: skip


def test_queries_are_drawn_where_they_are_there_else_languages() -> None:
    a = run("a", one=task(0.6, queries=50, languages=9), two=task(0.5, languages=9))
    b = run("b", one=task(0.5, queries=50, languages=9), two=task(0.5, languages=9), only_b=task(0.1))
    overall, one, two = compare_runs(a, b, draws=500)
    assert [(test.task, test.unit, test.pairs) for test in (overall, one, two)] == [
        (None, "queries and languages", 59), ("one", "queries", 50), ("two", "languages", 9),
    ]  # fmt: skip
    assert overall.difference == pytest.approx(0.05)
    assert (one.clear, two.clear) == (True, False)
    assert one.p_corrected == pytest.approx(2 * one.p)


def test_tasks_are_drawn_where_one_has_no_pairs_and_few_tasks_have_no_test() -> None:
    a = run("a", **{f"t{n}": task(0.5 + n / 100) for n in range(6)})
    b = run("b", **{f"t{n}": task(0.4) for n in range(6)})
    (overall,) = compare_runs(a, b, draws=500)
    assert (overall.unit, overall.pairs, overall.difference) == ("tasks", 6, pytest.approx(0.125))
    assert compare_runs(run("a", one=task(0.5)), run("b", one=task(0.4))) == []
    with pytest.raises(DataError, match="no task in common"):
        compare_runs(run("a", one=task(0.5)), run("b", two=task(0.4)))
