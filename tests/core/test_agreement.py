"""Agreement of two groupings: equal to scikit-learn, fair to chance, each language by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import homogeneity_score, v_measure_score

from f2llm.core import agreement


def test_v_measure_equals_sklearn_and_skips_small_languages() -> None:
    generator = np.random.default_rng(0)
    labels = [str(value) for value in generator.integers(0, 4, 60)]
    clusters = generator.integers(0, 5, 60)
    langs = ["big"] * 40 + ["one_label"] * 16 + ["tiny"] * 4
    labels[40:56] = ["3"] * 16
    found = agreement.clusters_by_language(labels, clusters, langs, agreement.v_measure)
    assert list(found) == ["big"]
    assert found["big"] == (40, pytest.approx(v_measure_score(labels[:40], clusters[:40])))


def test_v_measure_rewards_chance_on_few_texts_and_ami_does_not() -> None:
    generator = np.random.default_rng(0)
    draws = [(generator.integers(0, 8, 10), generator.integers(0, 8, 10)) for _ in range(200)]
    assert np.mean([agreement.v_measure(*draw) for draw in draws]) > 0.5
    assert abs(np.mean([agreement.adjusted_mutual_information(*draw) for draw in draws])) < 0.03


@pytest.mark.parametrize(
    ("labels", "clusters"), [("aabb", "0011"), ("aaaa", "0000"), ("aabb", "0000"), ("aaaa", "0123")]
)
def test_v_measure_at_its_ends(labels: str, clusters: str) -> None:
    assert agreement.v_measure(list(labels), list(clusters)) == pytest.approx(
        v_measure_score(list(labels), list(clusters))
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=60))
def test_v_measure_equals_sklearn(pairs: list[tuple[int, int]]) -> None:
    labels, clusters = zip(*pairs, strict=True)
    assert agreement.v_measure(labels, clusters) == pytest.approx(v_measure_score(labels, clusters), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=60))
def test_explained_is_the_homogeneity_but_nothing_where_there_is_nothing_to_explain(
    pairs: list[tuple[int, int]],
) -> None:
    labels, clusters = zip(*pairs, strict=True)
    expected = homogeneity_score(labels, clusters) if len(set(labels)) > 1 else 0.0
    assert agreement.explained(labels, clusters) == pytest.approx(expected, abs=1e-9)
