"""The metrics against scikit-learn and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from f2llm.eval import metrics


def random_case(seed: int, levels: int) -> tuple[np.ndarray, list[list[int]]]:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, size=(40, 60)) / levels
    relevant = [sorted(generator.choice(60, size=generator.integers(1, 15), replace=False).tolist()) for _ in range(40)]
    return scores, relevant


@pytest.mark.parametrize("levels", [2, 5, 10**4])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_ndcg_equals_sklearn_with_and_without_ties(levels: int, k: int) -> None:
    scores, relevant = random_case(levels, levels)
    truth = np.zeros_like(scores)
    for row, columns in enumerate(relevant):
        truth[row, columns] = 1
    ours = metrics.ndcg_at_k(metrics.places(scores, relevant), relevant, k)
    theirs = [ndcg_score(truth[[row]], scores[[row]], k=k) for row in range(len(scores))]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_ndcg_with_one_relevant_document_each() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    relevant = [[0], [1], [2]]
    found = metrics.places(scores, relevant)
    np.testing.assert_allclose(metrics.ndcg_at_k(found, relevant, 2), [1, 1 / np.log2(3), 0])
    np.testing.assert_allclose(metrics.accuracy_at_1(found, relevant), [1, 0, 0])


def test_a_collapsed_model_gets_chance() -> None:
    scores = np.full((3, 100), 0.5) + np.linspace(0, 1e-8, 100)
    relevant = [[0], [50], [98, 99]]
    found = metrics.places(scores, relevant)
    np.testing.assert_allclose(metrics.accuracy_at_1(found, relevant), [0.01, 0.01, 0.02])
    assert (metrics.ndcg_at_k(found, relevant) < 0.06).all()


def test_accuracy_at_1_shares_a_tie() -> None:
    relevant = [[0, 2], [1]]
    found = metrics.places(np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]), relevant)
    np.testing.assert_allclose(metrics.accuracy_at_1(found, relevant), [2 / 3, 0])


def test_pair_accuracy() -> None:
    values = metrics.pair_accuracy(np.array([0.9, 0.1, 0.5]), np.array([0.1, 0.9, 0.5]))
    np.testing.assert_array_equal(values, [1, 0, 0.5])


def test_means_count_every_language_the_same() -> None:
    found = metrics.mean_by_language(np.array([1.0, 1.0, 1.0, 0.0]), ["b", "b", "b", "a"])
    assert found == {"a": (1, 0.0), "b": (3, 1.0)}
    assert metrics.mean_over_tasks([{"a": 0.0, "b": 1.0}, {"b": 0.5}]) == {"a": 0.0, "b": 0.75}
    assert metrics.macro({"a": 0.0, "b": 0.75}) == 0.375
    assert metrics.macro({}) == 0.0
