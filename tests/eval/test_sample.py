"""The sample is even over languages and keeps every answer; the scorer is the evaluation on it, within its budget."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from f2llm.core.errors import ConfigError, DataError, ModelError
from f2llm.eval import sample
from f2llm.eval.evaluate import score_task
from f2llm.eval.sample import SampleScorer, sample_tasks
from f2llm.eval.tasks import EvalTask
from f2llm.text.prompts import query_prompt
from f2llm.text.tokenizer import Tokenizer

LANGUAGES = {"deu_Latn": 40, "eng_Latn": 25, "swa_Latn": 3, "yor_Latn": 1}
LONG = 1e9  # seconds


def make_task(name: str, seed: int, languages: dict[str, int] = LANGUAGES) -> EvalTask:
    generator = np.random.default_rng(seed)
    langs = [lang for lang, count in languages.items() for _ in range(count)]
    documents = tuple(f"{name} document {number}" for number in range(400))
    relevant = [tuple(sorted(generator.choice(400, generator.integers(1, 4), replace=False).tolist())) for _ in langs]
    return EvalTask(
        name=name, kind="retrieval", instruction=f"Find {name}.", symmetric=False,
        queries=tuple(f"{name} query {number} in {lang}" for number, lang in enumerate(langs)),
        query_langs=tuple(langs), documents=documents, relevant=tuple(relevant),
    )  # fmt: skip


TASKS = [make_task("one", 1), make_task("two", 2, {"deu_Latn": 30, "ibo_Latn": 2})]


def answers(task: EvalTask) -> dict[str, set[str]]:
    return {
        query: {task.documents[document] for document in found}
        for query, found in zip(task.queries, task.relevant, strict=True)
    }


def test_every_language_gets_one_query_before_any_gets_a_second() -> None:
    for queries in (3, 5, 9, 30):
        found = sample_tasks(TASKS, queries, 0)
        counts = Counter(lang for task in found for lang in task.query_langs)
        assert counts.total() == queries
        least = {lang: min(have, max(counts.values()) - 1) for lang, have in {**LANGUAGES, "ibo_Latn": 2}.items()}
        assert all(counts[lang] >= fewest for lang, fewest in least.items()), counts
    by_task = {task.name: Counter(task.query_langs)["deu_Latn"] for task in found}
    assert abs(by_task["one"] - by_task["two"]) <= 1, "and the tasks of a language take turns"


def test_answers_and_other_documents_are_kept() -> None:
    for task, whole in zip(sample_tasks(TASKS, 20, 0), TASKS, strict=True):
        expected = answers(whole)
        assert answers(task).items() <= expected.items()
        assert len(task.documents) == len(set(task.documents)) == 10 * len(task.queries)
        assert (task.name, task.instruction) == (whole.name, whole.instruction)
    assert [len(task.documents) for task in sample_tasks(TASKS, 10**6, 0)] == [400, 320], (
        "or all, where there are fewer"
    )


def test_the_seed_decides_the_sample() -> None:
    assert sample_tasks(TASKS, 20, 0) == sample_tasks(TASKS, 20, 0) != sample_tasks(TASKS, 20, 1)


class Encoder:
    """A random vector for each text, near to those of texts that share tokens with it; remembers what it was asked."""

    def __init__(self) -> None:
        self.table = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
        self.asked: list[list[bytes]] = []

    def __call__(self, texts: Any) -> Any:
        self.asked.append([text.tobytes() for text in texts])
        return np.stack([self.table[text].sum(axis=0) for text in texts])

    def encode(self, tokenizer: Tokenizer, texts: list[str]) -> Any:
        return np.stack([self.table[ids].sum(axis=0) for ids in tokenizer.encode(texts)])


@pytest.mark.parametrize("instructions", [False, True])
def test_the_scores_are_those_of_the_evaluation(instructions: bool, small_tokenizer: Tokenizer) -> None:
    encoder = Encoder()
    found = SampleScorer(TASKS, small_tokenizer, instructions=instructions)(encoder, LONG)
    by_task, pooled = {}, dict[str, list[tuple[int, float]]]()
    for task in TASKS:
        prompt = query_prompt(task.instruction) if instructions else ""
        queries = encoder.encode(small_tokenizer, [prompt + query for query in task.queries])
        documents = encoder.encode(small_tokenizer, list(task.documents))
        outcome = score_task(task, queries, documents, [queries.shape[1]])[queries.shape[1]]
        by_task[task.name] = {name: np.mean(list(outcome.languages(name).values())) for name in sample.PER_LANGUAGE}
        for lang, entry in outcome.by_language["ndcg@10"].items():
            pooled.setdefault(lang, []).append(entry)
    for name, scores in by_task.items():
        assert found["by_source"][name] == pytest.approx(scores)
    expected = {lang: sum(n * score for n, score in own) / sum(n for n, _ in own) for lang, own in pooled.items()}
    assert {lang: entry["ndcg@10"] for lang, entry in found["by_language"].items()} == pytest.approx(expected)
    assert found["ndcg@10"] == pytest.approx(np.mean(list(expected.values())))
    assert {lang: entry["queries"] for lang, entry in found["by_language"].items()} == {
        lang: sum(n for n, _ in own) for lang, own in pooled.items()
    }
    assert found["left_out"] == 0
    assert found["mrr@10"] >= found["accuracy@1"]
    assert found["recall@10"] > 0


class Clock:
    """A second passes between two looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, small_tokenizer: Tokenizer) -> SampleScorer:
    """All documents in one slice, then seven slices of queries, a second each."""
    monkeypatch.setattr(sample, "time", Clock())
    task = make_task("one", 1, {"deu_Latn": 3, "eng_Latn": 4})
    scorer = SampleScorer([task], small_tokenizer, instructions=True)
    scorer.queries = [np.arange(sample.SLICE_TOKENS) % 400 for _ in scorer.queries]
    return scorer


def test_languages_that_time_left_out_come_first_the_next_time(slow: SampleScorer) -> None:
    found = [slow(Encoder(), 4.5) for _ in range(3)]
    assert [{lang: entry["queries"] for lang, entry in each["by_language"].items()} for each in found] == [
        {"deu_Latn": 3, "eng_Latn": 1}, {"eng_Latn": 3, "deu_Latn": 1}, {"deu_Latn": 2, "eng_Latn": 2},
    ]  # fmt: skip
    assert [each["left_out"] for each in found] == [3, 3, 3]


def test_means_take_the_newest_value_of_what_is_left_out(slow: SampleScorer) -> None:
    whole = slow(Encoder(), LONG)
    again = slow(Encoder(), 3.5)
    assert again["left_out"] == 4
    assert again["ndcg@10"] == pytest.approx(whole["ndcg@10"])
    assert again["by_source"]["one"] == pytest.approx(whole["by_source"]["one"])


def test_documents_that_do_not_fit_are_told(slow: SampleScorer) -> None:
    asked = Encoder()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"400 documents takes longer than 0\.5 s; raise training\.evaluation_s"):
            slow(asked, 0.5)
    assert len(asked.asked) == 2
    assert slow(asked, LONG)["left_out"] == 0


def test_a_slice_holds_about_so_many_tokens(small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SLICE_TOKENS", 200)
    scorer, encoder = SampleScorer(TASKS, small_tokenizer, instructions=True), Encoder()
    scorer(encoder, LONG)
    tokens = [sum(len(text) // 4 for text in texts) for texts in encoder.asked]
    assert len(tokens) > 20
    assert max(tokens) <= 200
    assert sum(map(len, encoder.asked)) == sum(len(task.documents) + len(task.queries) for task in TASKS)


def test_what_cannot_be_scored_is_told(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no retrieval source has a held-out row"):
        SampleScorer([], small_tokenizer, instructions=True)
    scorer = SampleScorer(TASKS, small_tokenizer, instructions=True)
    with pytest.raises(ModelError, match="not finite"):
        scorer(lambda texts: np.full((len(texts), 4), np.nan, dtype=np.float32), LONG)
