"""Batches: one source each, every row once an epoch, and nothing but (seed, step) decides."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.data.store import TokenStore
from f2llm.train.sampler import BatchSampler, draw_rows


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_each_row_once_an_epoch(sizes: dict[str, int], batch: int, seed: int) -> None:
    sampler = BatchSampler(sizes, batch, seed)
    seen: Counter[tuple[str, int]] = Counter()
    for step in range(sampler.steps_per_epoch):
        draw = sampler.draw(step)
        assert 1 <= len(draw.rows) <= batch
        seen.update((draw.source, int(row)) for row in draw.rows)
    assert seen == Counter({(source, row): 1 for source, size in sizes.items() for row in range(size)})


def test_a_draw_depends_on_the_step_alone() -> None:
    sampler, fresh = BatchSampler({"a": 30, "b": 7}, 4, 3), BatchSampler({"a": 30, "b": 7}, 4, 3)
    expected = [sampler.draw(step) for step in range(25)]
    for step in (24, 0, 11):
        again = fresh.draw(step)
        assert (again.source, again.epoch) == (expected[step].source, expected[step].epoch)
        assert np.array_equal(again.rows, expected[step].rows)


def test_another_source_leaves_the_rows_and_negatives_of_a_source_alone(store: TokenStore) -> None:
    alone, beside = BatchSampler({"pairs": 90}, 8, 0), BatchSampler({"pairs": 90, "groups": 40}, 8, 0)
    first = [draw_rows(store, alone.draw(step), 3, seed=0) for step in range(alone.steps_per_epoch)]
    draws = [beside.draw(step) for step in range(beside.steps_per_epoch)]
    second = [draw_rows(store, draw, 3, seed=0) for draw in draws if draw.source == "pairs"]
    assert sorted(rows.tolist() for rows in first) == sorted(rows.tolist() for rows in second)


def test_negatives_are_the_rows_own_and_differ_between_epochs(store: TokenStore) -> None:
    sampler = BatchSampler({"pairs": 90}, 90, 0)
    table = store.rows["pairs"]
    chosen = {}
    for epoch in (0, 1):
        draw = sampler.draw(epoch)
        rows = draw_rows(store, draw, 3, seed=0)
        for row, values in zip(draw.rows, rows, strict=True):
            assert values[:2].tolist() == table[row, :2].tolist()
            assert set(values[2:]) <= set(table[row, 2:].tolist())
            chosen.setdefault(int(row), []).append(tuple(values[2:]))
    assert sum(a != b for a, b in chosen.values()) > 45


def test_absent_negatives_stay_absent(store: TokenStore) -> None:
    rows = draw_rows(store, BatchSampler({"yes": 20}, 20, 0).draw(0), 3, seed=0)
    assert (rows[:, 2] >= 0).all()
    assert (rows[:, 3:] == -1).all()
