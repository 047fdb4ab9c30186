"""The funnel: codes, the shortlist beside plain NumPy, fusion; and what it finds of the exact result."""

from __future__ import annotations

import numpy as np
import pytest

from f2llm.apps import funnel
from f2llm.apps.funnel import Shortlist, cosines, fused, short_dims_of
from f2llm.model.precision import to_precision
from f2llm.model.vectors import Vectors, normalize, truncate


@pytest.fixture(scope="module")
def nested() -> Vectors:
    """Unit vectors whose first numbers carry most, as a matryoshka model's do."""
    return normalize(np.random.default_rng(0).normal(size=(3000, 64)) * 0.93 ** np.arange(64))


def test_codes_keep_the_direction(nested: Vectors) -> None:
    codes = to_precision(nested, "int8")
    assert (codes.dtype, np.abs(codes).max()) == (np.int8, 127)
    assert np.einsum("nd,nd->n", normalize(codes), nested).min() > 0.999
    np.testing.assert_array_equal(to_precision(np.zeros((2, 4), np.float32), "int8"), 0)


@pytest.mark.parametrize("block", [7, 65_536])
def test_the_shortlist_is_the_nearest_codes(nested: Vectors, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funnel, "_BLOCK", block)
    ids = np.arange(100, 100 + len(nested), dtype=np.uint64)
    codes = to_precision(truncate(nested, 16), "int8")
    shortlist = Shortlist.of(ids, codes)
    expected = np.argsort(-(normalize(codes) @ nested[7, :16]))[:20]
    assert set(shortlist.best(nested[7], 20).tolist()) == set(ids[expected].tolist())
    few = shortlist.best(nested[7], 5, allowed=ids[10:13])
    assert set(few.tolist()) == set(ids[10:13].tolist())
    assert len(shortlist.best(nested[7], 5, allowed=ids[:0])) == 0


def test_a_funnel_finds_nearly_all_of_the_exact_result(nested: Vectors) -> None:
    ids = np.arange(len(nested), dtype=np.uint64)
    shortlist = Shortlist.of(ids, to_precision(truncate(nested, 16), "int8"))
    stored, shares = nested.astype(np.float16), []
    for query in nested[:50]:
        candidates = shortlist.best(query, 100).astype(int)
        found = candidates[np.argsort(-cosines(query, stored[candidates]))[:10]]
        shares.append(len(set(found.tolist()) & set(np.argsort(-(nested @ query))[:10].tolist())) / 10)
    assert np.mean(shares) > 0.9


def test_short_dims_are_the_smallest_nested_ones_from_a_quarter_and_from_64() -> None:
    assert short_dims_of([8, 16, 32, 64, 128], 128) == 64
    assert short_dims_of([8, 16, 32, 64, 320], 320) == 320
    assert short_dims_of([8, 16, 32, 64, 128, 256, 320], 320) == 128
    assert short_dims_of([8, 16, 32, 48], 48) == 48
    assert short_dims_of([48], 40) == 40


def test_fusion_of_ranks() -> None:
    found = fused([[1, 2, 3], [3, 1]])
    assert list(found) == [1, 3, 2]
    assert found[1] == pytest.approx(1 / 61 + 1 / 62)
    assert fused([[], []]) == {}
