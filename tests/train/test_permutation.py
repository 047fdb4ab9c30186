"""The order that is computed place by place: every place once, no pattern, no cost that grows with n."""

import math
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.train.permutation import permuted


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100, 1023, 1024, 1025])
def test_every_place_once(n: int) -> None:
    assert sorted(permuted(np.arange(n), n, 0, "rows").tolist()) == list(range(n))


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1), st.text(max_size=8))
@settings(max_examples=100, deadline=None)
def test_every_place_once_whatever_the_key(n: int, seed: int, name: str) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(n), n, seed, name)), np.arange(n))


def test_a_place_does_not_depend_on_the_others() -> None:
    whole = permuted(np.arange(777), 777, 5)
    some = np.array([700, 3, 3, 0])
    assert np.array_equal(permuted(some, 777, 5), whole[some])
    assert permuted(np.arange(0), 777, 5).tolist() == permuted(np.arange(0), 0, 5).tolist() == []


def test_each_part_of_the_key_counts() -> None:
    keys = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), ("0", "a")]
    assert len({tuple(permuted(np.arange(50), 50, *key).tolist()) for key in keys}) == len(keys)


def test_places_outside_are_refused() -> None:
    for wrong in (-1, 10):
        with pytest.raises(ValueError):
            permuted(np.array([0, wrong]), 10, 0)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_few_places_are_about_equally_frequent(n: int) -> None:
    orders = Counter(tuple(permuted(np.arange(n), n, key).tolist()) for key in range(6000))
    assert len(orders) == math.factorial(n)
    assert chi_square(np.array(list(orders.values()))) < 1.5 * len(orders) + 10


def test_places_go_anywhere_and_neighbours_part() -> None:
    n, keys = 1000, 1000
    orders = np.stack([permuted(np.arange(n), n, "uniform", key) for key in range(keys)])
    first = np.bincount(orders[:, 0] // 50, minlength=20)
    assert chi_square(first) < 50  # 19 degrees of freedom: one time in 10^4
    distances = np.bincount((np.diff(orders, axis=1) % n).ravel(), minlength=n)[1:]
    assert chi_square(distances) < 1200  # 998 degrees of freedom
    assert abs(np.corrcoef(orders[0], np.arange(n))[0, 1]) < 0.15
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.15


def chi_square(counts: np.ndarray) -> float:
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_a_thousand_million_places_cost_nothing() -> None:
    n, positions = 10**9, np.arange(512) + 123_456_789
    permuted(positions, n, 0)
    seconds = []
    tracemalloc.start()
    for key in range(20):
        started = time.perf_counter()
        assert len(set(permuted(positions, n, key).tolist())) == 512
        seconds.append(time.perf_counter() - started)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(seconds) < 0.1
    assert peak < 1_000_000
