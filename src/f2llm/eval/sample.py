"""A quick score of weights that are still training: a small fixed sample of the retrieval tasks, on a time budget.

`sample_tasks` draws queries evenly over languages, and documents to search; `SampleScorer` embeds them with whatever
embeds and compares. Cost: eleven short texts a query (or as many as there are), tokenised once; the similarities are
nothing beside that. Limit: the sample has fewer documents than the final evaluation, so its scores are higher; they
are comparable along a run and between runs on the same data and seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, DataError, ModelError
from f2llm.eval import metrics
from f2llm.eval.metrics import Floats
from f2llm.eval.scores import retrieval_values
from f2llm.eval.tasks import EvalTask
from f2llm.model.vectors import Vectors, normalize
from f2llm.text.prompts import query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

T = TypeVar("T")
Texts = Sequence[NDArray[np.integer]]
Embed = Callable[[Texts], Vectors]
DOCUMENTS = 10  # a query, in a task's sample
SLICE_TOKENS = 8192  # embedded between two looks at the clock
PER_LANGUAGE = ("ndcg@10", "accuracy@1")


def sample_tasks(tasks: Sequence[EvalTask], queries: int, seed: int) -> list[EvalTask]:
    """At most `queries` queries of retrieval `tasks`, each task with the documents that answer them and some more.

    Every language gets one query, then every one a second, as long as it has any; a language takes turns among its
    tasks. A task's documents are the answers of its queries and others, 10 times as many as the queries or all.
    """
    generator = np.random.default_rng(seed)
    found: list[list[int]] = [[] for _ in tasks]
    for task, query in _evenly(tasks, generator)[:queries]:
        found[task].append(query)
    return [_cut(task, sorted(rows), generator) for task, rows in zip(tasks, found, strict=True) if rows]


def _evenly(tasks: Sequence[EvalTask], generator: np.random.Generator) -> list[tuple[int, int]]:
    """All queries (number of the task, of the query) in random order; languages alternate, in each of them tasks do."""
    by_language: dict[str, list[list[tuple[int, int]]]] = {}
    for number, task in enumerate(tasks):
        own: dict[str, list[tuple[int, int]]] = {}
        for query in generator.permutation(len(task.queries)).tolist():
            own.setdefault(task.query_langs[query], []).append((number, query))
        for language, queries in own.items():
            by_language.setdefault(language, []).append(queries)
    turns = [_alternate(_shuffled(by_language[language], generator)) for language in sorted(by_language)]
    return _alternate(_shuffled(turns, generator))


def _shuffled(entries: Sequence[T], generator: np.random.Generator) -> list[T]:
    return [entries[place] for place in generator.permutation(len(entries))]


def _alternate(lists: Sequence[Sequence[T]]) -> list[T]:
    """The first entry of each list, then the second of each that has one, and so on."""
    return [entry for turn in zip_longest(*lists) for entry in turn if entry is not None]


def _cut(task: EvalTask, rows: Sequence[int], generator: np.random.Generator) -> EvalTask:
    """The task with the queries `rows`, their answers, and other documents that the generator draws."""
    answers = {document for row in rows for document in task.relevant[row]}
    others = [document for document in range(len(task.documents)) if document not in answers]
    more = min(len(others), max(0, DOCUMENTS * len(rows) - len(answers)))
    kept = sorted([*answers, *generator.choice(others, more, replace=False).tolist()] if more else answers)
    place = {document: number for number, document in enumerate(kept)}
    return replace(
        task,
        queries=tuple(task.queries[row] for row in rows),
        query_langs=tuple(task.query_langs[row] for row in rows),
        documents=tuple(task.documents[document] for document in kept),
        relevant=tuple(tuple(place[document] for document in task.relevant[row]) for row in rows),
    )


class SampleScorer:
    """Scores vectors on retrieval tasks, documents first, then the queries of one language after the other.

    Languages that the budget leaves out come first the next time. `instructions=False` leaves the tasks' instructions
    away, for stage 1, which trains without.
    """

    def __init__(self, tasks: Sequence[EvalTask], tokenizer: Tokenizer, *, instructions: bool) -> None:
        if not tasks:
            raise DataError("no retrieval source has a held-out row; raise clean.held_out_fraction")
        self.tasks = tasks
        self.documents = [_arrays(tokenizer.encode(task.documents)) for task in tasks]
        prompts = [query_prompt(task.instruction) if instructions else "" for task in tasks]
        texts = [
            with_prompt(query, prompt) for task, prompt in zip(tasks, prompts, strict=True) for query in task.queries
        ]
        self.queries = _arrays(tokenizer.encode(texts))
        self.langs = np.array([lang for task in tasks for lang in task.query_langs])
        self.task_of = np.repeat(np.arange(len(tasks)), [len(task.queries) for task in tasks])
        self.relevant = [documents for task in tasks for documents in task.relevant]
        self.waiting = np.argsort(self.langs, kind="stable").tolist()
        self.newest: dict[str, Floats] = {}

    def __call__(self, embed: Embed, seconds: float) -> dict[str, Any]:
        """Scores within about `seconds`, the means over languages; ConfigError where the documents take as long.

        `by_language` has the queries of this call, `left_out` is the number of the others. All other means take each
        query's newest value, so that they do not jump with what fits into the budget.
        """
        deadline = time.monotonic() + seconds
        documents, done = self._documents(embed, deadline, seconds), list[int]()
        for part in _slices(self.queries, self.waiting):
            self._measure(part, _unit(embed([self.queries[query] for query in part])), documents)
            done += part
            if time.monotonic() > deadline:
                break
        self.waiting = self.waiting[len(done) :] + done
        return self._summary(np.array(done))

    def _documents(self, embed: Embed, deadline: float, seconds: float) -> list[Vectors]:
        """Unit vectors of every task's documents."""
        found = []
        for texts in self.documents:
            parts = []
            for part in _slices(texts, range(len(texts))):
                parts.append(_unit(embed([texts[document] for document in part])))
                if time.monotonic() > deadline:
                    total = sum(map(len, self.documents))
                    raise ConfigError(
                        f"embedding its {total:,} documents takes longer than {seconds:g} s; raise "
                        f"training.evaluation_seconds or lower training.evaluation_queries"
                    )
            found.append(np.concatenate(parts))
        return found

    def _measure(self, part: Sequence[int], Q_ND: Vectors, documents: Sequence[Vectors]) -> None:
        """Every measure of the queries `part`, whose vectors are `Q_ND`."""
        rows = np.array(part)
        for task in np.unique(self.task_of[rows]).tolist():
            own = np.flatnonzero(self.task_of[rows] == task)
            relevant = [self.relevant[query] for query in rows[own]]
            for name, values in _values(Q_ND[own] @ documents[task].T, relevant).items():
                self.newest.setdefault(name, np.full(len(self.queries), np.nan))[rows[own]] = values

    def _summary(self, done: NDArray[np.integer]) -> dict[str, Any]:
        known = np.flatnonzero(~np.isnan(self.newest[PER_LANGUAGE[0]]))
        here = {name: metrics.mean_by_language(self.newest[name][done], self.langs[done]) for name in PER_LANGUAGE}
        counts = {language: count for language, (count, _) in here[PER_LANGUAGE[0]].items()}
        by_source = {}
        for number, task in enumerate(self.tasks):
            if len(own := known[self.task_of[known] == number]):
                by_source[task.name] = {name: self._mean(name, own) for name in PER_LANGUAGE}
        return {
            **{name: self._mean(name, known) for name in self.newest},
            "by_language": {
                language: {**{name: here[name][language][1] for name in PER_LANGUAGE}, "queries": count}
                for language, count in counts.items()
            },
            "by_source": by_source,
            "left_out": len(self.queries) - len(done),
        }

    def _mean(self, name: str, queries: NDArray[np.integer]) -> float:
        """Mean over languages of the newest values of `queries`, each language counting the same."""
        found = metrics.mean_by_language(self.newest[name][queries], self.langs[queries])
        return metrics.macro({language: score for language, (_, score) in found.items()})


def _values(cosines_BN: Floats, relevant: Sequence[Sequence[int]]) -> dict[str, Floats]:
    """The measures of the final evaluation, and two more, one value per query."""
    found = metrics.places(cosines_BN, relevant)
    return {
        **retrieval_values(cosines_BN, relevant),
        "recall@10": metrics.recall_at_k(found, relevant),
        "mrr@10": metrics.mrr_at_k(found, relevant),
    }


def _arrays(ids: Sequence[Sequence[int]]) -> list[NDArray[np.integer]]:
    return [np.array(text, dtype=np.uint32) for text in ids]


def _unit(vectors_ND: Vectors) -> Vectors:
    if not np.isfinite(vectors_ND).all():
        raise ModelError("the model gives vectors that are not finite")
    return normalize(vectors_ND)


def _slices(texts: Texts, order: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive entries of `order`, whose texts have about SLICE_TOKENS tokens together (or one longer text)."""
    part, tokens = list[int](), 0
    for place in order:
        if part and tokens + len(texts[place]) > SLICE_TOKENS:
            yield part
            part, tokens = [], 0
        part.append(place)
        tokens += len(texts[place])
    if part:
        yield part
