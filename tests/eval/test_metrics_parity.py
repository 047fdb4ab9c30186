"""The metrics of the training loop against mteb, scikit-learn and scipy on random inputs, ties by all their orders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from f2llm.eval import metrics

CUTS = [1, 3, 10]


def random_case(seed: int) -> tuple[np.ndarray, list[list[int]]]:
    """Scores without ties of 30 queries and 50 documents, and one to eight relevant documents a query."""
    generator = np.random.default_rng(seed)
    scores = np.stack([generator.permutation(50) for _ in range(30)]) / 50
    return scores, [sorted(generator.choice(50, generator.integers(1, 9), replace=False).tolist()) for _ in range(30)]


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_metrics_equal_those_of_mteb(seed: int) -> None:
    theirs = pytest.importorskip("mteb._evaluators.retrieval_metrics")
    scores, relevant = random_case(seed)
    run = {f"q{q}": {f"d{d}": float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    truth = {f"q{q}": {f"d{d}": 1 for d in columns} for q, columns in enumerate(relevant)}
    answer, reciprocal = theirs.calculate_retrieval_scores(run, truth, CUTS), theirs.mrr(truth, run, CUTS)
    found = metrics.places(scores, relevant)
    for k in CUTS:
        assert metrics.ndcg_at_k(found, relevant, k).mean() == pytest.approx(answer.ndcg[f"NDCG@{k}"], abs=1e-5)
        assert metrics.recall_at_k(found, relevant, k).mean() == pytest.approx(answer.recall[f"Recall@{k}"], abs=1e-5)
        np.testing.assert_allclose(metrics.mrr_at_k(found, relevant, k), reciprocal[f"MRR@{k}"])
    np.testing.assert_array_equal(metrics.accuracy_at_1(found, relevant), reciprocal["MRR@1"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=6), st.data(), st.sampled_from([1, 2, 3, 6]))
def test_ties_count_as_the_mean_over_their_orders(scores: list[int], data: st.DataObject, k: int) -> None:
    columns = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    orders = {tuple(sorted(order, key=lambda d: -scores[d])) for order in permutations(range(len(scores)))}
    mrr = [next((1 / (n + 1) for n, d in enumerate(order[:k]) if d in columns), 0.0) for order in orders]
    recall = [len(columns & set(order[:k])) / len(columns) for order in orders]
    found = metrics.places(np.array([scores], dtype=float), [sorted(columns)])
    assert metrics.mrr_at_k(found, [sorted(columns)], k)[0] == pytest.approx(np.mean(mrr))
    assert metrics.recall_at_k(found, [sorted(columns)], k)[0] == pytest.approx(np.mean(recall))


def test_a_query_without_relevant_documents_gets_nothing() -> None:
    relevant: list[list[int]] = [[], [0]]
    found = metrics.places(np.array([[1.0, 0.0], [1.0, 0.0]]), relevant)
    np.testing.assert_array_equal(metrics.mrr_at_k(found, relevant), [0, 1])
    np.testing.assert_array_equal(metrics.recall_at_k(found, relevant), [0, 1])


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=40))
def test_mean_ranks_equal_scipy(values: list[float]) -> None:
    np.testing.assert_array_equal(metrics.mean_ranks(np.array(values)), rankdata(values))
