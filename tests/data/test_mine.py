"""Mining against brute force, and its promises: no known positive, the ceiling, the margin, the full number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.types import Example, TaskType
from f2llm.data import mine_search
from f2llm.data.keys import fold, stable_hash
from f2llm.data.mine import mine
from f2llm.data.ngrams import ngram_encoder


def row(query: str, positive: str, **changes: Any) -> Example:
    fields: dict[str, Any] = {
        "id": f"{query}>{positive}", "negatives": (), "task_type": "retrieval", "source": "s",
        "query_lang": "eng_Latn", "doc_lang": "eng_Latn",
    }  # fmt: skip
    return Example(query=query, positive=positive, **fields | changes)


def random_encoder(texts: list[str]) -> NDArray[np.float32]:
    """A vector per text from its hash, in a narrow cone so that the ceiling and the margin bite."""
    vectors = [np.random.default_rng(stable_hash(fold(text))).normal(0.7, 1, 6) for text in texts]
    return np.array(vectors, np.float32).reshape(len(texts), 6)


def cosine(a: str, b: str) -> float:
    x, y = random_encoder([a, b]).astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def known_positives(rows: list[Example], own: Example) -> set[str]:
    """All positives of all queries that have this row's positive, and the query itself."""
    queries = {fold(other.query) for other in rows if fold(other.positive) == fold(own.positive)}
    return {fold(other.positive) for other in rows if fold(other.query) in queries} | {fold(own.query)}


def reference(rows: list[Example], own: Example, anchor: str, rules: dict[str, Any]) -> list[str]:
    """The mined negatives of one row, without top-up, by brute force."""
    corpus = {fold(other.positive): other.positive for other in reversed(rows)}
    languages = {(fold(other.positive), other.doc_lang) for other in rows}
    allowed = {key for key in corpus if (key, own.doc_lang) in languages} - known_positives(rows, own)
    if own.task_type == "clustering":
        allowed -= {fold(t) for other in rows if other.label == own.label for t in (other.query, other.positive)}
    start = own.query if anchor == "query" else own.positive
    ranked = sorted(allowed, key=lambda key: -cosine(start, corpus[key]))[rules["skip_top"] : rules["top_k"]]
    positive = cosine(start, own.positive)
    limit = min(rules["max_score"], positive - (1 - rules["relative_margin"]) * abs(positive))
    return [key for key in ranked if cosine(start, corpus[key]) < limit][: rules["per_query"]]


texts = st.sampled_from([f"t{index}" for index in range(14)] + ["T1", " t2"])


@st.composite
def sources(draw: st.DrawFn) -> list[Example]:
    kind: TaskType = draw(st.sampled_from(["retrieval", "clustering"]))
    labels = st.sampled_from(["x", "y", "z"]) if kind == "clustering" else st.none()
    langs = st.sampled_from(["eng_Latn", "deu_Latn"])
    built = st.builds(row, texts, texts, task_type=st.just(kind), label=labels, doc_lang=langs)
    return draw(st.lists(built, min_size=1, max_size=25))


@settings(max_examples=60, deadline=None)
@given(rows=sources(), anchor=st.sampled_from(["query", "positive"]), skip=st.integers(0, 2), blocks=st.integers(1, 50))
def test_mining_equals_the_reference(rows: list[Example], anchor: Any, skip: int, blocks: int) -> None:
    rules = {"per_query": 4, "skip_top": skip, "top_k": 6, "max_score": 0.8, "relative_margin": 0.95}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mine_search, "BLOCK_SCORES", blocks)
        patch.setattr(mine_search, "_WINDOW_ROWS", 1 + blocks % 20)
        mined, report = mine(rows, random_encoder, anchor=anchor, **rules)
    assert [(m.id, m.query, m.positive) for m in mined] == [(r.id, r.query, r.positive) for r in rows]
    expected = [reference(rows, own, anchor, rules) for own in rows]
    assert report.mined == sum(map(len, expected)) == report.negative_scores.sum()
    assert report.positive_scores.sum() == report.rows == len(rows)
    assert report.topped_up == sum(len(m.negatives) for m in mined) - report.mined
    for own, found, wanted in zip(rows, mined, expected, strict=True):
        negatives = [fold(text) for text in found.negatives]
        assert negatives[: len(wanted)] == wanted
        assert len(set(negatives)) == len(negatives) <= rules["per_query"]
        assert not set(negatives) & known_positives(rows, own)
        same_label = {fold(other.positive) for other in rows if other.label == own.label}
        assert own.task_type != "clustering" or not set(negatives) & same_label


def test_top_up_respects_the_ceiling_and_the_skipped_ranks() -> None:
    vectors = {"q": 0.0, "p": 0.3, "close": 0.2, "next": 0.4, "far": 1.4, "farther": 1.5}  # angles in radians

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return np.array([[np.cos(vectors[text]), np.sin(vectors[text])] for text in texts], np.float32)

    rows = [row("q", "p"), *(row(name, name, doc_lang="eng_Latn") for name in list(vectors)[2:])]
    mined, report = mine(rows, encode, per_query=4, skip_top=2, top_k=3, max_score=0.95)
    assert set(mined[0].negatives) == {"far", "farther"}, "`close` and `next` are skipped as the two nearest"
    assert (report.rows_short, report.rows_topped_up) == (5, sum(len(m.negatives) > 1 for m in mined))


def test_top_up_goes_to_other_languages_only_when_it_must() -> None:
    rows = [row(f"q{i}", f"d{i}", doc_lang="deu_Latn" if i < 3 else "eng_Latn") for i in range(30)]
    mined, report = mine(rows, random_encoder, per_query=5, skip_top=0, max_score=1.0)
    german = {f"d{i}" for i in range(3)}
    for own in mined:
        others = german - {own.positive}
        assert len(own.negatives) == 5
        assert others <= set(own.negatives) if own.doc_lang == "deu_Latn" else not others & set(own.negatives)
    assert report.rows_short == 0
    again, _ = mine(rows, random_encoder, per_query=5, skip_top=0, max_score=1.0)
    assert again == mined, "deterministic"
    other, _ = mine(rows, random_encoder, per_query=5, skip_top=0, max_score=1.0, seed=1)
    assert other != mined
    across, _ = mine(rows, random_encoder, per_query=5, skip_top=0, max_score=1.0, same_language=False)
    assert any(set(own.negatives) & german for own in across[3:])


def test_given_negatives_come_first() -> None:
    rows = [row("q", "p", negatives=("n1", "P", "n1 ", "q", "other")), row("q", "other"), row("x", "y"), row("z", "w")]
    mined, report = mine(rows, random_encoder, per_query=6, skip_top=0)
    assert mined[0].negatives[0] == "n1"
    assert set(mined[0].negatives[1:]) <= {"y", "w"}, "other is a positive of the same query"
    assert report.given == 1
    mined, report = mine([row("q", "p", negatives=("a", "P", "c"))], random_encoder, per_query=2)
    assert mined[0].negatives == ("a", "P"), "who brings enough is believed"
    assert (report.given, report.rows_searched) == (2, 0)


def test_query_encoder_is_used_for_queries() -> None:
    seen: list[str] = []

    def queries(texts: list[str]) -> NDArray[np.float32]:
        seen.extend(texts)
        return random_encoder(texts)

    mine([row("q1", "p1"), row("q2", "p2"), row("q1", "p3")], random_encoder, encode_query=queries)
    assert seen == ["q1", "q2"], "each distinct query once"


def test_classification_keeps_its_negative() -> None:
    rows = [row("a", "good", negatives=("bad",), task_type="classification")]
    mined, report = mine(rows, random_encoder)
    assert mined == rows
    assert report.to_json()["given"] == 1
    assert mine([], random_encoder)[0] == []


def test_what_is_no_source() -> None:
    with pytest.raises(DataError, match="clustering, retrieval"):
        mine([row("a", "b"), row("c", "d", task_type="clustering", label="x")], random_encoder)
    with pytest.raises(DataError, match=r"the encoder gave an array \[1, 2\] for 2 texts"):
        mine([row("a", "b"), row("c", "d")], lambda texts: np.ones((1, 2), np.float32))


def test_clustering_without_a_label_keeps_what_it_brings() -> None:
    rows = [row("a", "b", task_type="clustering", negatives=("c",)), row("d", "e", task_type="clustering", label="x")]
    rows += [row(f"q{i}", f"p{i}", task_type="clustering", label="y") for i in range(3)]
    mined, report = mine(rows, random_encoder, skip_top=0)
    assert mined[0] == rows[0]
    assert set(mined[1].negatives) == {"p0", "p1", "p2"}, "whose class is not known is nobody's negative"
    assert report.rows_searched == 4


def test_report() -> None:
    _, report = mine([row(f"q{i}", f"d{i}") for i in range(40)], random_encoder, per_query=8)
    data = report.to_json()
    assert len(data["score_bins"]) == len(data["negative_scores"]) + 1 == len(data["positive_scores"]) + 1
    assert sum(data["positive_scores"]) == data["rows"] == 40
    assert report.summary().startswith("40 rows: ")
    assert data["share_short"] == report.rows_short / 40
    _, long = mine([row("q" * 999, "p" * 999), row("q", "p")], random_encoder)
    assert all(len(sample[name]) <= 240 for sample in long.samples for name in ("query", "positive"))


matrices = st.integers(1, 6).flatmap(
    lambda rows: st.integers(1, 90).flatmap(
        lambda documents: st.lists(
            st.sampled_from([-np.inf, -0.5, -0.25, 0.0, 0.125, 0.5, 1.0]),
            min_size=rows * documents, max_size=rows * documents,
        ).map(lambda flat: np.array(flat, np.float32).reshape(rows, documents))
    )
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(matrices, st.integers(1, 12))
def test_the_best_are_those_of_a_stable_sort(S_BN: NDArray[np.float32], count: int) -> None:
    found, scores = mine_search.best(S_BN, count)
    order = np.argsort(-S_BN, axis=1, kind="stable")[:, :count]
    wanted = np.take_along_axis(S_BN, order, 1)
    assert np.array_equal(scores, wanted)
    assert np.array_equal(found[wanted > -2], order[wanted > -2])


@settings(max_examples=100, deadline=None)
@given(matrices, st.data())
def test_draws_go_round_the_pool_once(S_BN: NDArray[np.float32], data: st.DataObject) -> None:
    rows, documents = S_BN.shape
    chosen = np.array(data.draw(st.lists(st.integers(0, rows - 1), unique=True)), np.int64)
    start = np.array([data.draw(st.integers(0, documents - 1)) for _ in chosen], np.int64)
    need = np.array([data.draw(st.integers(1, 5)) for _ in chosen], np.int64)
    row, rank, document = mine_search.draw(S_BN, chosen, start, need, 0.5)
    for place, own in enumerate(chosen.tolist()):
        allowed = (S_BN[own] < 0.5) & np.isfinite(S_BN[own])
        wanted = [d for d in np.roll(np.arange(documents), -start[place]).tolist() if allowed[d]][: need[place]]
        found = dict(zip(rank[row == own].tolist(), document[row == own].tolist(), strict=True))
        assert [found[index] for index in range(len(found))] == wanted


def test_popular_texts_cost_no_squares() -> None:
    """A query with very many positives, and a positive of very many queries, each with another positive."""
    rows = [row("thanks", f"answer {i}") for i in range(3000)]
    rows += [pair for i in range(3000) for pair in (row(f"q{i}", "yes"), row(f"q{i}", f"own {i}"))]
    mined, _ = mine(rows, ngram_encoder(32), per_query=3, skip_top=0, max_score=1.0)
    assert all(not text.startswith("answer") for own in mined[:3000] for text in own.negatives)
    assert all(text.startswith("answer") for own in mined[3000::2] for text in own.negatives)
    assert all(text not in ("yes", own.positive) for own in mined[3001::2] for text in own.negatives)


def test_ngrams() -> None:
    encode = ngram_encoder(64)
    V_ND = encode(["Portuguese Escudo", "portuguese escudo", "Portuguese Guinea Escudo", "日本", "", "a\ud800"])
    assert V_ND.shape == (6, 64)
    assert V_ND.dtype == np.float32
    assert np.allclose(np.linalg.norm(V_ND, axis=1), 1, atol=1e-6)
    assert V_ND[0] @ V_ND[1] == pytest.approx(1)
    assert V_ND[0] @ V_ND[2] > 0.5 > V_ND[0] @ V_ND[3]
    assert encode([]).shape == (0, 64)


@given(st.lists(st.text(max_size=12), max_size=8))
def test_an_ngram_vector_depends_on_its_text_alone(texts: list[str]) -> None:
    encode = ngram_encoder(32)
    together = encode(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(encode([text])[0], vector)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) or not vector.any()
