"""Scores of a fake embedder: the structure of scores.json, dimensions, instructions, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from f2llm.core.errors import ConfigError, ModelError
from f2llm.eval import evaluate as module
from f2llm.eval.evaluate import evaluate, nested_cosines
from f2llm.eval.tasks import EvalTask, build_task
from tests.eval.fakes import FakeEmbedder, example

WORDS = ["river", "mountain", "library", "teacher", "winter", "market", "garden", "bridge", "island", "forest"]


def tasks() -> list[EvalTask]:
    names = [
        example(word + ending, word, lang=lang) for word in WORDS for ending, lang in (("s", "aaa"), ("xyz", "bbb"))
    ]
    classes = [
        example(f"{word} {number}", "", lang="aaa", label=word, task_type="clustering")
        for word in WORDS[:3]
        for number in range(6)
    ]
    moods = [example(f"{word} so", word, lang="ccc", negatives=(WORDS[0],)) for word in WORDS[1:]]
    return [
        build_task("names", "retrieval", names, ["other", "thing"], instruction="Find the stem.", symmetric=True),
        build_task("classes", "clustering", classes, instruction="Group.", symmetric=True),
        build_task("moods", "classification", moods, instruction=None, symmetric=False),
    ]


def test_structure_and_averages() -> None:
    scores = json.loads(json.dumps(evaluate(FakeEmbedder(), tasks(), name="fake", dims=[8, 16, 999])))
    assert set(scores) == {"name", "tasks", "macro", "by_language", "by_dim", "tokens_per_second", "queries"}
    names = scores["tasks"]["names"]
    assert (names["kind"], names["metric"], set(names["metrics"])) == (
        "retrieval",
        "ndcg@10",
        {"ndcg@10", "accuracy@1"},
    )
    assert names["score"] == pytest.approx(np.mean([value["score"] for value in names["by_language"].values()]))
    assert names["by_language"]["aaa"]["n"] == 10
    assert list(names["by_dim"]) == ["8", "16", "64"]
    assert names["by_dim"]["64"] == names["score"]
    assert names["by_dim"]["8"] < names["score"]
    classes = scores["tasks"]["classes"]["score"]
    assert scores["by_language"]["aaa"] == pytest.approx((names["by_language"]["aaa"]["score"] + classes) / 2)
    assert scores["macro"] == pytest.approx(np.mean(list(scores["by_language"].values())))
    assert scores["by_dim"]["64"] == scores["macro"]
    assert scores["queries"] == 20 + 18 + 9


def test_instruction_goes_on_queries_only_and_each_text_is_encoded_once() -> None:
    embedder = FakeEmbedder()
    task = build_task(
        "names", "retrieval", [example("a", "b", lang="aaa"), example("a", "b", lang="bbb")],
        instruction="Find it.", symmetric=True,
    )  # fmt: skip
    scores = evaluate(embedder, [task], name="fake")
    assert embedder.calls == [["Instruct: Find it.\nQuery: a"], ["b"]]
    assert scores["tokens_per_second"] == pytest.approx((2 + 2) / 1.0)
    bare = FakeEmbedder()
    evaluate(bare, [task], name="fake", instructions=False)
    assert bare.calls == [["a"], ["b"]]


def test_blocks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(FakeEmbedder(), tasks(), name="fake")
    monkeypatch.setattr(module, "BLOCK_VALUES", 30)
    parts = evaluate(FakeEmbedder(), tasks(), name="fake")
    assert parts["tasks"]["names"]["by_language"] == whole["tasks"]["names"]["by_language"]


def test_nested_cosines_equal_truncation_and_renormalisation() -> None:
    generator = np.random.default_rng(0)
    queries, documents = generator.normal(size=(5, 32)), generator.normal(size=(7, 32))
    for dim, cosines in nested_cosines(queries.astype(np.float32), documents.astype(np.float32), [8, 16, 32]):
        q, d = queries[:, :dim], documents[:, :dim]
        expected = q @ d.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(d, axis=1)
        np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_retrieval_score_equals_sklearn() -> None:
    task, embedder = tasks()[0], FakeEmbedder()
    scores = evaluate(embedder, [task], name="fake")
    cosines = embedder.encode(task.queries) @ embedder.encode(task.documents).T
    truth = np.zeros_like(cosines)
    for row, columns in enumerate(task.relevant):
        truth[row, list(columns)] = 1
    assert scores["tasks"]["names"]["micro"] == pytest.approx(ndcg_score(truth, cosines.round(5), k=10), abs=1e-6)


def test_vectors_that_are_not_finite_are_a_model_error() -> None:
    embedder = FakeEmbedder()
    embedder.broken = True
    with pytest.raises(ModelError, match="not finite"):
        evaluate(embedder, tasks(), name="fake")


def test_nothing_to_evaluate_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        evaluate(FakeEmbedder(), [], name="fake")


def test_a_clustering_without_any_large_language_falls_back_to_all_texts() -> None:
    rows = [example(word, "", lang=f"l{number}", label=str(number % 2)) for number, word in enumerate(WORDS)]
    task = build_task("classes", "clustering", rows, instruction=None, symmetric=True)
    entry = evaluate(FakeEmbedder(), [task], name="fake")["tasks"]["classes"]
    assert entry["by_language"] == {}
    assert entry["score"] == entry["micro"]
