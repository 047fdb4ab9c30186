"""Batches: one source each, every row once a pass, the shares that were asked for, and only (seed, step) decides."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import ConfigError, DataError
from f2llm.data.store import TokenStore
from f2llm.train.sampler import (
    BatchSampler,
    Draw,
    Mixture,
    draw_rows,
    held_out_counts,
    held_out_rows,
    mixture_shares,
)

SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1)
LANGUAGES = {"english": {"en": 1.0}, "mixed": {"en": 0.5, "sw": 0.3, "yo": 0.2}, "swahili": {"sw": 0.9, "yo": 0.1}}
COUNTS = {"english": 1000, "mixed": 100, "swahili": 10}


def drawn(sampler: BatchSampler, first: int, last: int) -> list[Draw]:
    return [sampler.draw(step) for step in range(first, last)]


@given(SIZES, st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_each_row_once_an_epoch(sizes: dict[str, int], batch: int, seed: int) -> None:
    sampler = BatchSampler(sizes, batch, seed)
    for epoch in (0, 1):
        seen: Counter[tuple[str, int]] = Counter()
        for draw in drawn(sampler, epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch):
            assert 1 <= len(draw.rows) <= batch
            assert draw.epoch == epoch
            seen.update((draw.source, int(row)) for row in draw.rows)
        assert seen == Counter({(source, row): 1 for source, size in sizes.items() for row in range(size)})


def test_a_draw_depends_on_the_step_alone() -> None:
    sampler, fresh = BatchSampler({"a": 30, "b": 7}, 4, 3), BatchSampler({"a": 30, "b": 7}, 4, 3)
    expected = drawn(sampler, 0, 25)
    for step in (24, 0, 11):
        for number in (step, np.int64(step)):
            again = fresh.draw(number)
            assert (again.source, again.epoch) == (expected[step].source, expected[step].epoch)
            assert np.array_equal(again.rows, expected[step].rows)


def test_epochs_and_seeds_differ() -> None:
    sampler, other = BatchSampler({"a": 64}, 64, 0), BatchSampler({"a": 64}, 64, 1)
    orders = [sampler.draw(0).rows, sampler.draw(1).rows, other.draw(0).rows]
    assert len({tuple(rows.tolist()) for rows in orders}) == 3


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_another_source_leaves_the_batches_of_a_source_alone(alpha: float) -> None:
    alone = BatchSampler({"a": 90}, 8, 0, mixture=Mixture(alpha))
    beside = BatchSampler({"a": 90, "b": 400}, 8, 0, mixture=Mixture(alpha))
    passes = 3 * alone.steps_per_epoch
    first = [(draw.epoch, draw.rows.tolist()) for draw in drawn(alone, 0, passes)]
    second = [
        (draw.epoch, draw.rows.tolist())
        for draw in drawn(beside, 0, 5 * beside.steps_per_epoch)
        if draw.source == "a" and draw.epoch < 3
    ]
    assert sorted(first) == sorted(second)


def test_another_source_leaves_the_rows_and_negatives_of_a_source_alone(store: TokenStore) -> None:
    alone, beside = BatchSampler({"pairs": 90}, 8, 0), BatchSampler({"pairs": 90, "groups": 40}, 8, 0)
    first = [draw_rows(store, draw, 3, seed=0) for draw in drawn(alone, 0, alone.steps_per_epoch)]
    draws = drawn(beside, 0, beside.steps_per_epoch)
    second = [draw_rows(store, draw, 3, seed=0) for draw in draws if draw.source == "pairs"]
    assert sorted(rows.tolist() for rows in first) == sorted(rows.tolist() for rows in second)


def test_negatives_are_the_rows_own_and_differ_between_epochs(store: TokenStore) -> None:
    sampler = BatchSampler({"pairs": 90}, 90, 0)
    table = store.rows["pairs"]
    chosen: dict[int, list[tuple[int, ...]]] = {}
    for epoch in (0, 1):
        draw = sampler.draw(epoch)
        rows = draw_rows(store, draw, 3, seed=0)
        for row, values in zip(draw.rows, rows, strict=True):
            assert values[:2].tolist() == table[row, :2].tolist()
            assert set(values[2:]) <= set(table[row, 2:].tolist())
            chosen.setdefault(int(row), []).append(tuple(values[2:]))
    assert sum(a != b for a, b in chosen.values()) > 45


def test_a_rows_negatives_do_not_depend_on_its_batch(store: TokenStore) -> None:
    whole = draw_rows(store, Draw("pairs", 2, np.arange(90)), 3, seed=0)
    part = draw_rows(store, Draw("pairs", 2, np.array([70, 3, 12])), 3, seed=0)
    assert np.array_equal(part, whole[[70, 3, 12]])


def test_absent_negatives_stay_absent(store: TokenStore) -> None:
    rows = draw_rows(store, BatchSampler({"yes": 20}, 20, 0).draw(0), 3, seed=0)
    assert (rows[:, 2] >= 0).all()
    assert (rows[:, 3:] == -1).all()


def test_nothing_to_train_on_is_told() -> None:
    with pytest.raises(DataError, match="no source has a row"):
        BatchSampler({"a": 0}, 4, 0)


# Mixtures


@given(SIZES, st.integers(1, 9), st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_flatter_mixture_still_covers_every_row(sizes: dict[str, int], batch: int, alpha: float, seed: int) -> None:
    sampler = BatchSampler(sizes, batch, seed, mixture=Mixture(alpha))
    assert sum(sampler.per_epoch.values()) == sampler.steps_per_epoch == sum(sampler.batches.values())
    assert min(sampler.per_epoch.values()) >= 1
    epochs = 2 * max(-(-sampler.batches[source] // count) for source, count in sampler.per_epoch.items())
    seen: Counter[tuple[str, int, int]] = Counter()
    for draw in drawn(sampler, 0, epochs * sampler.steps_per_epoch):
        seen.update((draw.source, draw.epoch, int(row)) for row in draw.rows)
    assert set(seen.values()) == {1}, "a row comes once a pass"
    for source, size in sizes.items():
        whole = epochs * sampler.per_epoch[source] // sampler.batches[source]
        assert whole >= 2
        assert all((source, number, row) in seen for number in range(whole) for row in range(size))


def test_shares_follow_the_power_of_the_sizes() -> None:
    sizes = {"a": 10_000, "b": 100}
    shares = mixture_shares(sizes, Mixture(0.5), {})
    assert shares == pytest.approx({"a": 10 / 11, "b": 1 / 11})
    sampler = BatchSampler(sizes, 10, 0, mixture=Mixture(0.5))
    assert sampler.per_epoch == {"a": 918, "b": 92}
    assert BatchSampler(sizes, 10, 0, mixture=Mixture(1.0)).per_epoch == {"a": 1000, "b": 10}
    assert BatchSampler(sizes, 10, 0, mixture=Mixture(caps={"a": 1.0})).per_epoch == {"a": 1000, "b": 10}


def test_floors_and_caps_share_the_rest_in_proportion() -> None:
    sizes = {"a": 600, "b": 300, "c": 90, "d": 10, "none": 0}
    shares = mixture_shares(sizes, Mixture(floors={"d": 0.1}, caps={"a": 0.4}), {})
    assert shares == pytest.approx({"a": 0.4, "b": 0.5 * 300 / 390, "c": 0.5 * 90 / 390, "d": 0.1, "none": 0})
    sampler = BatchSampler(sizes, 10, 0, mixture=Mixture(floors={"d": 0.1}, caps={"a": 0.4, "c": 0.0}))
    assert sampler.per_epoch == {"a": 40, "b": 50, "c": 0, "d": 10}


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 0.2), st.floats(0.3, 1)), min_size=4, max_size=5),
    st.floats(0.1, 1),
)
@settings(max_examples=100, deadline=None)
def test_shares_keep_their_bounds_and_add_up(entries: list[tuple[int, float, float]], alpha: float) -> None:
    names = "abcde"[: len(entries)]
    sizes = {name: size for name, (size, _, _) in zip(names, entries, strict=True)}
    floors = {name: low for name, (_, low, _) in zip(names, entries, strict=True)}
    caps = {name: high for name, (_, _, high) in zip(names, entries, strict=True)}
    shares = mixture_shares(sizes, Mixture(alpha, floors, caps), {})
    assert sum(shares.values()) == pytest.approx(1)
    assert all(floors[name] - 1e-9 <= share <= caps[name] + 1e-9 for name, share in shares.items())
    scales = [
        share / sizes[name] ** alpha
        for name, share in shares.items()
        if floors[name] + 1e-9 < share < caps[name] - 1e-9
    ]
    assert scales == pytest.approx(scales[:1] * len(scales)), "what meets no bound keeps its proportions"


def language_share(shares: dict[str, float], tag: str) -> float:
    return sum(share * LANGUAGES[source].get(tag, 0) for source, share in shares.items())


def test_bounds_on_languages_hold() -> None:
    mixture = Mixture(0.5, language_floors={"sw": 0.4, "yo": 0.05}, language_caps={"en": 0.5})
    shares = mixture_shares(COUNTS, mixture, LANGUAGES)
    assert sum(shares.values()) == pytest.approx(1)
    assert language_share(shares, "sw") >= 0.4 - 1e-5
    assert language_share(shares, "yo") >= 0.05 - 1e-5
    assert language_share(shares, "en") == pytest.approx(0.5, abs=1e-5)


def test_a_language_floor_moves_no_more_than_it_must() -> None:
    met = mixture_shares(COUNTS, Mixture(language_floors={"sw": 0.01}), LANGUAGES)
    assert met == pytest.approx({name: size / 1110 for name, size in COUNTS.items()})
    raised = mixture_shares(COUNTS, Mixture(language_floors={"sw": 0.2}), LANGUAGES)
    assert language_share(raised, "sw") == pytest.approx(0.2, abs=1e-5)
    apart = {"a": {"en": 1.0}, "b": {"en": 1.0}, "c": {"sw": 1.0}, "d": {"sw": 1.0}}
    shares = mixture_shares({"a": 600, "b": 300, "c": 80, "d": 20}, Mixture(language_floors={"sw": 0.5}), apart)
    assert shares == pytest.approx({"a": 1 / 3, "b": 1 / 6, "c": 0.4, "d": 0.1}, abs=1e-5)


def test_bounds_on_languages_and_sources_hold_together() -> None:
    mixture = Mixture(floors={"english": 0.3}, caps={"swahili": 0.2}, language_floors={"sw": 0.3})
    shares = mixture_shares(COUNTS, mixture, LANGUAGES)
    assert shares["english"] >= 0.3 - 1e-9
    assert shares["swahili"] <= 0.2 + 1e-9
    assert language_share(shares, "sw") == pytest.approx(0.3, abs=1e-5)


@pytest.mark.parametrize(("seed", "tight"), [(seed, tight) for seed in range(5) for tight in (0.5, 0.999)])
def test_many_languages_reach_bounds_that_can_be_met(seed: int, tight: float) -> None:
    """Bounds derived from shares that exist, so an answer exists."""
    generator = np.random.default_rng(seed)
    names, tags = [f"s{i}" for i in range(60)], [f"l{i}" for i in range(25)]
    fractions = generator.dirichlet(np.full(len(tags), 0.05), len(names))
    languages = {
        name: dict(zip(tags, map(float, row), strict=True)) for name, row in zip(names, fractions, strict=True)
    }
    sizes = {name: int(size) for name, size in zip(names, 10 ** generator.uniform(1, 6, len(names)), strict=True)}
    possible = generator.dirichlet(np.ones(len(names))) @ fractions
    floors = {tag: float(share * tight) for tag, share in zip(tags[:20], possible[:20], strict=True)}
    caps = {tag: float(min(share / tight, 1)) for tag, share in zip(tags[15:], possible[15:], strict=True)}
    shares = mixture_shares(sizes, Mixture(0.7, language_floors=floors, language_caps=caps), languages)
    reached = dict(zip(tags, np.array(list(shares.values())) @ fractions, strict=True))
    assert all(reached[tag] >= floor - 1e-5 for tag, floor in floors.items())
    assert all(reached[tag] <= cap + 1e-5 for tag, cap in caps.items())


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ({"language_floors": {"yo": 0.3}}, "'yo' has floor 0.3, but at most 0.2 is reachable"),
        ({"language_caps": {"en": 0.1}, "floors": {"english": 0.4}}, "'en' has cap 0.1, but at least 0.4 is reachable"),
        ({"language_floors": {"en": 0.7, "sw": 0.6}}, "was reached beside the other bounds"),
        ({"language_floors": {"fr": 0.1}}, "no query is in language 'fr'"),
        ({"floors": {"english": 0.8, "mixed": 0.3}}, "'english' has floor 0.8, but the other floors leave 0.7"),
        ({"caps": {"english": 0.2, "mixed": 0.3, "swahili": 0.1}}, "'mixed' has cap 0.3, .* leave 0.7"),
        ({"floors": {"mixed": 0.5}, "caps": {"mixed": 0.4}}, "'mixed' has floor 0.5 above its cap 0.4"),
        ({"caps": {"absent": 0.4}}, "'absent', which is not a source"),
    ],
)
def test_bounds_that_cannot_be_met_are_told(mixture: dict[str, dict[str, float]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mixture_shares(COUNTS, Mixture(**mixture), LANGUAGES)  # type: ignore[arg-type]


def test_impossible_numbers_are_told() -> None:
    for wrong in ({"alpha": 0.0}, {"alpha": 1.5}, {"floors": {"a": -0.1}}, {"language_caps": {"en": 1.1}}):
        with pytest.raises(ConfigError, match="mixture"):
            Mixture(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no rows"):
        mixture_shares({"a": 5, "b": 0}, Mixture(floors={"b": 0.1}), {})


@pytest.mark.parametrize("steps", [0, 1, 37, 111, 250])
def test_the_plan_is_what_is_drawn(steps: int) -> None:
    sampler = BatchSampler({"a": 700, "b": 290, "c": 30}, 10, 4, mixture=Mixture(0.4), held_out={"a": 20})
    plan = sampler.planned(steps)
    counts = Counter(draw.source for draw in drawn(sampler, 0, steps))
    assert {source: entry["drawn"] for source, entry in plan.items()} == {source: counts[source] for source in "abc"}
    assert plan["a"]["rows"] == 680
    assert plan["b"]["batches"] == 29
    assert plan["c"]["passes"] == counts["c"] / 3
    assert plan["c"]["share"] == pytest.approx(counts["c"] / max(steps, 1))


# Held-out rows


@given(st.integers(2, 60), st.floats(0, 0.9), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_held_out_rows_never_train_and_all_others_do(size: int, fraction: float, batch: int, seed: int) -> None:
    held_out = held_out_counts({"a": size}, fraction, 20)
    sampler = BatchSampler({"a": size}, batch, seed, held_out=held_out)
    kept = held_out_rows(size, held_out["a"], seed, "a").tolist()
    assert len(set(kept)) == held_out["a"]
    for epoch in (0, 1):
        draws = drawn(sampler, epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        rows = [int(row) for draw in draws for row in draw.rows]
        assert sorted(rows + kept) == list(range(size))


def test_how_many_rows_are_held_out() -> None:
    sizes = {"empty": 0, "one": 1, "two": 2, "some": 150, "many": 10**6}
    assert held_out_counts(sizes, 0.01, 500) == {"empty": 0, "one": 0, "two": 1, "some": 2, "many": 500}
    assert held_out_counts({"a": 100}, 0.07, 500) == {"a": 7}
    assert held_out_counts({"a": 100}, 1e-9, 500) == {"a": 1}
    assert set(held_out_counts(sizes, 0.0, 500).values()) == {0}
    assert held_out_counts(sizes, 0.5, 0) == dict.fromkeys(sizes, 0)


def test_holding_out_everything_is_told() -> None:
    with pytest.raises(ConfigError, match="'a': all of its 5 rows are held out"):
        BatchSampler({"a": 5, "b": 5}, 2, 0, held_out={"a": 5})


# Size


def test_sixty_million_rows_start_at_once() -> None:
    generator = np.random.default_rng(0)
    weights = generator.pareto(1.2, 395) + 0.01
    sizes = {f"s{i}": int(size) + 1 for i, size in enumerate(60_000_000 * weights / weights.sum())}
    tracemalloc.start()
    started = time.perf_counter()
    sampler = BatchSampler(sizes, 512, 0, held_out=dict.fromkeys(sizes, 1) | {s: 0 for s, n in sizes.items() if n < 2})
    assert time.perf_counter() - started < 1, "shuffling so many rows takes longer"
    seconds = []
    for step in (0, 5, 100_000, 10**9):
        started = time.perf_counter()
        assert len(sampler.draw(step).rows) <= 512
        seconds.append(time.perf_counter() - started)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(seconds) < 0.1
    assert peak < 1_000_000
    assert sum(entry["drawn"] for entry in sampler.planned(200_000).values()) == 200_000
