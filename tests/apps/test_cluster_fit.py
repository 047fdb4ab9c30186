"""k-means and HDBSCAN find planted groups, the same at each run, and survive rows that are all alike."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from f2llm.apps import cluster_count, cluster_fit
from f2llm.apps.cluster_count import Trial, choose, grid, silhouettes, smallest_within
from f2llm.apps.cluster_fit import NOISE, hdbscan, k_means
from f2llm.core.agreement import adjusted_mutual_information
from f2llm.model.vectors import normalize
from tests.apps.cluster_vectors import DIMS, planted


@pytest.mark.parametrize("full_rows", [10_000, 50])
def test_k_means_finds_planted_groups(full_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_fit, "FULL_ROWS", full_rows)  # the second time in mini-batches
    V_ND, truth = planted(4, 60)
    found, again = k_means(V_ND, 4, seed=3), k_means(V_ND, 4, seed=3)
    assert adjusted_mutual_information(truth, found.cluster) > 0.95
    assert found.sizes.tolist() == sorted(found.sizes.tolist(), reverse=True), "0 is the largest"
    own = np.einsum("nd,nd->n", V_ND, found.centres[found.cluster])
    np.testing.assert_allclose(found.distance, 1 - own, atol=1e-5)
    for name in ("cluster", "distance", "probability", "centres"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    V_ND, _ = planted(3, 40)
    whole = k_means(V_ND, 3)
    monkeypatch.setattr(cluster_fit, "BLOCK_VALUES", 30)
    parts = k_means(V_ND, 3)
    np.testing.assert_array_equal(whole.cluster, parts.cluster)
    np.testing.assert_allclose(whole.probability, parts.probability, atol=1e-5)


def test_a_row_between_two_clusters_is_uncertain() -> None:
    V_ND, _ = planted(2, 80, spread=0.15)
    between = normalize(np.eye(DIMS)[:1] + np.eye(DIMS)[1:2])
    found = k_means(np.vstack([V_ND, between]).astype(np.float32), 2)
    assert found.probability[-1] == pytest.approx(0.5, abs=0.35)
    assert np.median(found.probability[:-1]) > 0.99


def test_rows_that_are_all_alike_are_one_cluster() -> None:
    V_ND = np.tile(np.eye(DIMS, dtype=np.float32)[:1], (40, 1))
    found = k_means(V_ND, 3)
    assert found.cluster.tolist() == [0] * 40
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)
    dense = hdbscan(V_ND, 5)
    assert set(dense.cluster.tolist()) <= {0, NOISE}
    assert np.isfinite(dense.probability).all()


@pytest.mark.parametrize("full_rows", [10_000, 150])
def test_hdbscan_finds_dense_groups_and_noise(full_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_fit, "FULL_ROWS", full_rows)  # the second time from a sample, others by neighbours
    V_ND, truth = planted(3, 80, spread=0.05)
    stray = normalize(np.random.default_rng(1).normal(size=(30, DIMS)))
    found = hdbscan(np.vstack([V_ND, stray]), 10)
    inside = found.cluster[: len(V_ND)]
    assert len(found.centres) == 3
    assert (inside != NOISE).mean() > 0.8
    assert adjusted_mutual_information(truth[inside != NOISE], inside[inside != NOISE]) > 0.95
    assert (found.cluster[len(V_ND) :] == NOISE).sum() >= 15
    assert (found.probability[found.cluster == NOISE] == 0).all()


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_few_rows(rows: int) -> None:
    V_ND, _ = planted(1, 10)
    assert k_means(V_ND[:rows], 1).cluster.tolist() == [0] * rows
    found = hdbscan(V_ND[:rows], 5)
    assert found.cluster.tolist() == [NOISE] * rows
    assert len(found.centres) == 0


def test_silhouettes_equal_scikit_learn() -> None:
    V_ND, truth = planted(3, 30, spread=0.4)
    truth[0] = 3  # alone in its cluster
    expected = silhouette_samples(V_ND, truth, metric="cosine")
    np.testing.assert_allclose(silhouettes(V_ND, truth), expected, atol=1e-4)


def test_the_number_of_planted_groups_is_chosen() -> None:
    V_ND, _ = planted(5, 60, spread=0.12)
    found = choose(V_ND, len(V_ND), seed=1)
    assert found.clusters == 5
    assert found.reason.startswith("5 clusters: of ")
    assert "silhouette of 400 rows is highest for 5 (" in found.reason
    assert "no smaller number comes within" in found.reason
    best = next(trial for trial in found.trials if trial.clusters == 5)
    assert best.stability > 0.95
    assert found == choose(V_ND, len(V_ND), seed=1)


def test_of_numbers_that_differ_by_luck_alone_the_smallest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [Trial(k, s, 0.01, 0.8) for k, s in ((2, 0.1), (58, 0.201), (73, 0.2145), (91, 0.2141), (142, 0.2187))]
    assert [smallest_within(trials, error).clusters for error in (0, 0.0042, 0.0074, 0.02)] == [142, 73, 73, 58]
    monkeypatch.setattr(cluster_count, "grid", lambda rows: [entry.clusters for entry in trials])
    monkeypatch.setattr(
        cluster_count, "trial", lambda rows, number, seed: next(t for t in trials if t.clusters == number)
    )
    found = choose(np.eye(DIMS, dtype=np.float32), DIMS)
    assert (found.clusters, found.error) == (73, 0.01)
    assert "highest for 142 (0.219), and 73 is the smallest number (0.214) that is within 0.010 of it" in found.reason
    assert "the largest number that was tried" not in found.reason
    monkeypatch.setattr(cluster_count, "grid", lambda rows: [2, 142])
    assert "It is the largest number that was tried" in choose(np.eye(DIMS, dtype=np.float32), DIMS).reason


def test_texts_without_groups_are_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_count, "WEAK", 0.3)
    V_ND = normalize(np.random.default_rng(0).normal(size=(200, DIMS)))
    assert "no clearly separate groups" in choose(V_ND, len(V_ND)).reason


def test_the_grid() -> None:
    assert grid(15) == []
    assert grid(16) == [2]
    assert grid(10**6)[:6] == [2, 3, 4, 5, 6, 8]
    assert max(grid(10**6)) <= 150
    assert choose(np.eye(DIMS, dtype=np.float32), DIMS).clusters == 1
