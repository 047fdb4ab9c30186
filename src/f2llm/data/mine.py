"""Hard negatives by the paper's rule: rank window, score ceiling, margin to the positive (F2LLM v1, section 3.2).

The corpus of a source is its distinct positives. A row searches the documents in its positive's language
(`same_language`), all known positives of its query left out; of the ranks `skip_top` to `top_k` it keeps the documents
that score below `max_score` and below `relative_margin` times the positive's score, and takes the first `per_query`.
Negatives that a row brings along come first; a row that is still short is topped up at random, with documents that
are no known positive (in its own language first, then in any) and score below the ceiling where a score is known.

`anchor` says whose neighbours are the hard negatives: those of the query (the paper), or of the positive. The second is
for encoders that cannot compare query and document: of a name in Amharic and one in English, character n-grams know
nothing, but they know which English names look alike.

Scores are computed in blocks of rows, never as a whole matrix, and vectors of one language at a time: memory is
4 * dims bytes per document of the largest language (and per distinct query, where queries are the anchors) plus
100 MB. 150,000 rows of short names in 330 languages take 10 to 20 s with `ngram_encoder` on two cores, so the rows that
share a positive are not mined together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.log import Bar
from f2llm.core.types import Example
from f2llm.data.keys import fold

Encode = Callable[[list[str]], NDArray[np.float32]]
Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]
_BLOCK_SCORES = 4_000_000  # scores held at a time: 16 MB, and three times that for ranking them
_BINS = np.round(np.arange(-1.0, 1.0001, 0.05), 2)


@dataclass
class MineReport:
    """What the mining found; scores are cosines, counted in bins of 0.05 from -1 to 1."""

    rows: int = 0
    given: int = 0
    mined: int = 0
    topped_up: int = 0
    rows_topped_up: int = 0
    rows_short: int = 0
    positive_scores: Ints = field(default_factory=lambda: np.zeros(len(_BINS) - 1, np.int64))
    negative_scores: Ints = field(default_factory=lambda: np.zeros(len(_BINS) - 1, np.int64))

    def to_json(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return counts | {
            "share_topped_up": self.rows_topped_up / max(self.rows, 1),
            "score_bins": _BINS.tolist(),
            "positive_scores": self.positive_scores.tolist(),
            "negative_scores": self.negative_scores.tolist(),
        }

    def summary(self) -> str:
        share = self.rows_topped_up / max(self.rows, 1)
        text = f"{self.rows:,} rows: {self.mined:,} negatives mined, {self.given:,} given, {self.topped_up:,} at random"
        return f"{text} ({share:.0%} of the rows needed some; {self.rows_short:,} stay short)"


@dataclass(frozen=True)
class _Rules:
    per_query: int
    skip_top: int
    top_k: int
    max_score: float
    relative_margin: float


def mine(
    examples: Sequence[Example],
    encode: Encode,
    *,
    per_query: int = 24,
    skip_top: int = 5,
    top_k: int = 100,
    max_score: float = 0.8,
    relative_margin: float = 0.95,
    same_language: bool = True,
    anchor: Literal["query", "positive"] = "query",
    encode_query: Encode | None = None,
    seed: int = 0,
) -> tuple[list[Example], MineReport]:
    """Give each row `per_query` hard negatives; returns the rows in their order and a report.

    `examples` are the training rows of one source. `encode` maps N texts to vectors [N, D]; `encode_query` is used for
    queries where it differs. Clustering rows take negatives of other labels only; classification keeps what it has.
    """
    report = MineReport(rows=len(examples))
    kinds = {example.task_type for example in examples}
    if len(kinds) > 1:
        raise DataError(f"a source has one task type, but these rows have {', '.join(sorted(kinds))}; split the source")
    if kinds <= {"classification"}:
        report.given = sum(len(example.negatives) for example in examples)
        return list(examples), report
    rules = _Rules(per_query, skip_top, top_k, max_score, relative_margin)
    corpus, generator = _Corpus(examples), np.random.default_rng(seed)
    chosen: list[tuple[str, ...]] = [()] * len(examples)
    with Bar("mine", len(examples)) as bar:
        for rows in corpus.parts(same_language):
            part = _Part(corpus, rows, rules, generator, report)
            part.encode(encode, encode_query or encode, anchor)
            for row, negatives in part.negatives():
                chosen[row] = negatives
            bar.advance(len(rows))
    mined = [replace(example, negatives=texts) for example, texts in zip(examples, chosen, strict=True)]
    return mined, report


class _Corpus:
    """The distinct positives of a source (equal when `fold` is), and which of them a row must not be given.

    Known positives of a row: the positives of every query that has this row's positive, its own text, and for
    clustering all documents that carry the row's label.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.ids: dict[str, int] = {}
        self.texts: list[str] = []
        self.positive = np.array([self._id(example.positive) for example in examples], np.int64)
        queries = [fold(example.query) for example in examples]
        self.own = np.array([self.ids.get(query, -1) for query in queries], np.int64)
        self.known = _known_positives(queries, self.positive.tolist(), len(self.texts))
        self.label, self.has_label = self._labels()

    def _id(self, text: str) -> int:
        key = fold(text)
        if key not in self.ids:
            self.ids[key] = len(self.texts)
            self.texts.append(text)
        return self.ids[key]

    def _labels(self) -> tuple[Ints | None, NDArray[np.bool_]]:
        """Label of each row, and a table [labels, documents] of the labels that each document's text carries."""
        if self.examples[0].task_type != "clustering":
            return None, np.zeros((0, len(self.texts)), np.bool_)
        missing = next((example.id for example in self.examples if example.label is None), None)
        if missing is not None:
            raise DataError(f"row {missing!r} of a clustering source has no label")
        names: dict[str | None, int] = {}
        label = np.array([names.setdefault(example.label, len(names)) for example in self.examples], np.int64)
        table = np.zeros((len(names), len(self.texts)), np.bool_)
        table[label, self.positive] = True
        as_query = self.own >= 0
        table[label[as_query], self.own[as_query]] = True
        return label, table

    def parts(self, same_language: bool) -> list[Ints]:
        """Rows that search the same documents."""
        by_language: dict[str, list[int]] = defaultdict(list)
        for row, example in enumerate(self.examples):
            by_language[example.doc_lang if same_language else ""].append(row)
        return [np.array(by_language[lang], np.int64) for lang in sorted(by_language)]

    def forbidden(self, row: int) -> Ints:
        """Documents that are known positives of a row, without those that only share its label."""
        extra = [self.own[row]] if self.own[row] >= 0 else []
        given = [self.ids[key] for key in map(fold, self.examples[row].negatives) if key in self.ids]
        return np.concatenate([self.known[self.positive[row]], np.array(extra + given, np.int64)])

    def given(self, row: int, limit: int) -> tuple[str, ...]:
        """The negatives that a row brings along, without known positives and repetitions."""
        if not self.examples[row].negatives:
            return ()
        wrong = {*self.known[self.positive[row]].tolist(), int(self.own[row])}
        distinct = {fold(text): text for text in reversed(self.examples[row].negatives)}
        query = fold(self.examples[row].query)
        kept = [text for key, text in distinct.items() if key != query and self.ids.get(key, -2) not in wrong]
        return tuple(reversed(kept))[:limit]


def _known_positives(queries: list[str], positives: list[int], documents: int) -> list[Ints]:
    """For each document: the positives of all queries that have it as a positive."""
    of_query: dict[str, set[int]] = defaultdict(set)
    queries_of: list[set[str]] = [set() for _ in range(documents)]
    for query, positive in zip(queries, positives, strict=True):
        of_query[query].add(positive)
        queries_of[positive].add(query)
    return [np.array(sorted(set().union(*map(of_query.__getitem__, asking))), np.int64) for asking in queries_of]


class _Part:
    """Rows of a source that search the same documents: the positives of these rows."""

    def __init__(
        self, corpus: _Corpus, rows: Ints, rules: _Rules, generator: np.random.Generator, report: MineReport
    ) -> None:
        self.corpus, self.rows, self.rules, self.generator, self.report = corpus, rows, rules, generator, report
        self.documents = np.unique(corpus.positive[rows])
        self.local = np.full(len(corpus.texts), -1, np.int64)
        self.local[self.documents] = np.arange(len(self.documents))

    def encode(self, encode: Encode, encode_query: Encode, anchor: str) -> None:
        """Vectors of the documents, and for each row the index of its anchor's vector."""
        self.documents_ND = _unit(encode([self.corpus.texts[index] for index in self.documents]))
        if anchor == "positive":
            self.anchors_MD, self.anchor = self.documents_ND, self.local[self.corpus.positive[self.rows]]
            return
        queries = [self.corpus.examples[row].query for row in self.rows]
        distinct = {query: index for index, query in enumerate(dict.fromkeys(queries))}
        self.anchors_MD = _unit(encode_query(list(distinct)))
        self.anchor = np.array([distinct[query] for query in queries], np.int64)

    def negatives(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Each row with its negatives, block by block."""
        step = max(1, _BLOCK_SCORES // len(self.documents))
        for start in range(0, len(self.rows), step):
            yield from self._block(self.rows[start : start + step], self.anchor[start : start + step])

    def _block(self, rows: Ints, anchors: Ints) -> Iterator[tuple[int, tuple[str, ...]]]:
        S_BN = self.anchors_MD[anchors] @ self.documents_ND.T
        positive_B = S_BN[np.arange(len(rows)), self.local[self.corpus.positive[rows]]]
        S_BN[self._excluded(rows)] = -np.inf
        limit_B = np.minimum(self.rules.max_score, positive_B - (1 - self.rules.relative_margin) * np.abs(positive_B))
        given = [self.corpus.given(row, self.rules.per_query) for row in rows]
        need_B = self.rules.per_query - np.array([len(texts) for texts in given], np.int64)
        best_BK, taken_BK = self._ranked(S_BN, limit_B, need_B)
        self.report.positive_scores += _histogram(positive_B)
        self.report.negative_scores += _histogram(np.take_along_axis(S_BN, best_BK, 1)[taken_BK])
        for index, row in enumerate(rows.tolist()):
            mined = best_BK[index][taken_BK[index]]
            S_BN[index, best_BK[index, : self.rules.skip_top]] = -np.inf  # too near the query to be drawn at random
            extra = self._random(row, S_BN[index], mined, need_B[index] - len(mined))
            found = [*self.documents[mined].tolist(), *extra]
            texts = given[index] + tuple(self.corpus.texts[document] for document in found)
            self._count(len(given[index]), len(mined), len(extra), len(texts))
            yield row, texts

    def _excluded(self, rows: Ints) -> NDArray[np.bool_]:
        """[B, N]: which documents of the part are known positives of which row."""
        forbidden = [self.corpus.forbidden(row) for row in rows.tolist()]
        places = self.local[np.concatenate(forbidden)]
        owners = np.repeat(np.arange(len(rows)), [len(documents) for documents in forbidden])
        if self.corpus.label is None:
            excluded_BN = np.zeros((len(rows), len(self.documents)), np.bool_)
        else:
            excluded_BN = self.corpus.has_label[np.ix_(self.corpus.label[rows], self.documents)]
        excluded_BN[owners[places >= 0], places[places >= 0]] = True
        return excluded_BN

    def _ranked(self, S_BN: Vectors, limit_B: Vectors, need_B: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The `top_k` best documents, best first, and which of them each row takes."""
        count = min(self.rules.top_k, S_BN.shape[1])
        best_BK = np.argpartition(-S_BN, count - 1, axis=1)[:, :count]
        scores_BK = np.take_along_axis(S_BN, best_BK, 1)
        order_BK = np.argsort(-scores_BK, axis=1, kind="stable")
        best_BK, scores_BK = np.take_along_axis(best_BK, order_BK, 1), np.take_along_axis(scores_BK, order_BK, 1)
        allowed_BK = (scores_BK < limit_B[:, None]) & np.isfinite(scores_BK)
        allowed_BK[:, : self.rules.skip_top] = False
        return best_BK, allowed_BK & (np.cumsum(allowed_BK, axis=1) <= need_B[:, None])

    def _random(self, row: int, scores_N: Vectors, taken: Ints, need: int) -> list[int]:
        """Documents drawn at random for a row that is short: of its own language, then of any."""
        if need <= 0:
            return []
        allowed_N = np.isfinite(scores_N) & (scores_N < self.rules.max_score)
        allowed_N[taken] = False
        drawn = self._draw(self.documents[allowed_N], need)
        if len(drawn) < need and len(self.documents) < len(self.corpus.texts):
            allowed = np.ones(len(self.corpus.texts), np.bool_)
            if self.corpus.label is not None:
                allowed &= ~self.corpus.has_label[self.corpus.label[row]]
            allowed[self.corpus.forbidden(row)] = False
            allowed[self.documents] = False  # these had their turn
            drawn += self._draw(np.flatnonzero(allowed), need - len(drawn))
        return drawn

    def _draw(self, documents: Ints, count: int) -> list[int]:
        drawn: list[int] = self.generator.choice(documents, min(count, len(documents)), replace=False).tolist()
        return drawn

    def _count(self, given: int, mined: int, random: int, total: int) -> None:
        self.report.given += given
        self.report.mined += mined
        self.report.topped_up += random
        self.report.rows_topped_up += random > 0
        self.report.rows_short += total < self.rules.per_query


def _unit(V_ND: Vectors) -> Vectors:
    norms = np.linalg.norm(V_ND, axis=1, keepdims=True)
    return (V_ND / np.where(norms == 0, 1, norms)).astype(np.float32, copy=False)


def _histogram(scores: Vectors) -> Ints:
    return np.histogram(np.clip(scores, -1, 1), _BINS)[0].astype(np.int64)
