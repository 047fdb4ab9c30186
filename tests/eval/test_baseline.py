"""The TF-IDF baseline: above chance where characters help, chance where they cannot."""

from __future__ import annotations

import pytest

from f2llm.eval.baseline import evaluate_chance, evaluate_tfidf
from f2llm.eval.tasks import build_task
from tests.eval.fakes import example
from tests.eval.test_evaluate import WORDS, tasks


def test_structure_is_that_of_a_model_without_dimensions() -> None:
    scores = evaluate_tfidf(tasks())[0]
    assert scores["name"] == "tfidf"
    assert set(scores) == {"name", "tasks", "macro", "by_language", "queries"}
    assert "by_dim" not in scores["tasks"]["names"]
    assert scores["tasks"]["names"]["score"] > 0.9
    assert scores["tasks"]["classes"]["score"] > 0.9


def test_queries_without_a_common_character_get_chance() -> None:
    rows = [example(f"{number}", word, lang="aaa") for number, word in enumerate(WORDS)]
    task = build_task("names", "retrieval", rows, [f"extra {word}" for word in WORDS], instruction=None, symmetric=True)
    accuracy = evaluate_tfidf([task])[0]["tasks"]["names"]["metrics"]["accuracy@1"]
    assert accuracy == pytest.approx(1 / 20)


def test_expanded_documents_are_found_through_training_queries() -> None:
    rows = [example(f"Ж{number}Ж", word, lang="rus_Cyrl") for number, word in enumerate(WORDS)]
    train = [example(f"Ж{number}", word, lang="bul_Cyrl") for number, word in enumerate(WORDS)]
    task = build_task("names", "retrieval", rows, instruction=None, symmetric=True)
    scores = evaluate_tfidf([task], {"names": train})[1]
    assert scores["name"] == "tfidf-expanded"
    assert scores["macro"] > 0.9
    assert evaluate_tfidf([task], {"names": train})[0]["macro"] < 0.5


def test_classification_learns_from_the_training_rows() -> None:
    def row(text: str, right: str) -> object:
        wrong = "sunny" if right == "rainy" else "rainy"
        return example(text, right, negatives=(wrong,), task_type="classification")

    train = [row(f"{word} zzz {n}", "sunny" if "e" in word else "rainy") for n, word in enumerate(WORDS)]
    held_out = [row(f"the {word}", "sunny" if "e" in word else "rainy") for word in WORDS]
    task = build_task("weather", "classification", held_out, instruction=None, symmetric=False)
    assert evaluate_tfidf([task], {"weather": train})[0]["macro"] == 1.0
    assert evaluate_tfidf([task])[0]["macro"] == 0.5


def test_chance_is_what_guessing_gives() -> None:
    scores = evaluate_chance(tasks())
    assert scores["name"] == "chance"
    assert scores["tasks"]["names"]["metrics"]["accuracy@1"] == pytest.approx(1 / 12)
    assert scores["tasks"]["moods"]["score"] == 0.5
    assert 0 < scores["tasks"]["classes"]["score"] < 0.5
