"""What a local task holds, in the columns that mteb's task classes read, and how a part of a source is drawn.

Rows are drawn by a hash of what names them, never by position or by a generator: the same rows come out on every
machine, and in parallel sources the same rows in every language. The text of a row that is drawn keeps its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

Row = TypeVar("Row")
Columns = dict[str, list[str] | list[int] | list[float]]
"""Column -> values, as a `datasets.Dataset` is made of."""
Splits = dict[str, Columns]
"""Split -> columns; all tasks have `test`, classification has `train` too."""


@dataclass(frozen=True)
class Search:
    """Queries and documents by id, the relevant documents of each query and, to rerank, its candidates."""

    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, dict[str, int]]
    candidates: dict[str, list[str]] | None = None


def order(name: Hashable) -> bytes:
    """Where a row stands in the drawing; `name` is what tells it from others: a number, an id or its text."""
    return blake2b(repr(name).encode(), digest_size=8).digest()


def drawn(rows: Sequence[Row], most: int, name: Callable[[Row], Hashable]) -> list[Row]:
    """At most `most` of the rows, in their order."""
    chosen = sorted(range(len(rows)), key=lambda index: order(name(rows[index])))[:most]
    return [rows[index] for index in sorted(chosen)]


def bitext(pairs: Sequence[tuple[str, str]], most: int) -> Splits:
    """Aligned sentences, drawn by line number; a sentence that comes twice would be a wrong answer to itself."""
    first, second = list[str](), list[str]()
    seen: set[str] = set()
    for _, (left, right) in drawn(list(enumerate(pairs)), most, lambda line: line[0]):
        if left.strip() and right.strip() and not {left, right} & seen:
            first.append(left)
            second.append(right)
            seen.update((left, right))
    return {"test": {"sentence1": first, "sentence2": second}}


def scored(rows: Sequence[tuple[str, str, float]], most: int) -> Splits:
    """Pairs with a score of how alike they are, drawn by row number."""
    pairs = [row for _, row in drawn(list(enumerate(rows)), most, lambda row: row[0])]
    first, second, scores = ([row[column] for row in pairs] for column in range(3))
    return {"test": {"sentence1": first, "sentence2": second, "score": scores}}  # type: ignore[dict-item]


def judged(rows: Sequence[tuple[str, str, int]], most: int) -> Splits:
    """Pairs with 1 (same meaning, entailment) or 0, drawn by row number."""
    pairs = [row for _, row in drawn(list(enumerate(rows)), most, lambda row: row[0])]
    first, second, labels = ([row[column] for row in pairs] for column in range(3))
    return {"test": {"sentence1": first, "sentence2": second, "labels": labels}}  # type: ignore[dict-item]


def classes(rows: Iterable[tuple[str, str]], train: int, test: int, held: Iterable[tuple[str, str]] = ()) -> Splits:
    """(text, label) as texts to learn from and texts to classify, at most `train` and `test` of each label.

    The test texts are drawn from `held` where there are such; without them from `rows`, of which a label gives at most
    half to `train`. A text that comes twice counts once; one with two labels, or that is in `held` too, goes.
    """
    known, others = _by_label(rows), _by_label(held)
    apart = {text for texts in others.values() for text in texts}
    labels = sorted(known)
    found: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for number, label in enumerate(labels):
        texts = sorted((text for text in known[label] if text not in apart), key=order)
        taught = texts[: train if others else min(train, len(texts) // 2)]
        asked = sorted(others.get(label, []), key=order) if others else texts[len(taught) :]
        for split, chosen in (("train", taught), ("test", asked[:test])):
            found[split][0].extend(chosen)
            found[split][1].extend([number] * len(chosen))
    return {split: {"text": texts, "label": numbers} for split, (texts, numbers) in found.items()}


def clusters(rows: Iterable[tuple[str, str]], most: int) -> Splits:
    """(text, label) as texts to cluster, at most `most` of each label."""
    by_label = _by_label(rows)
    pairs = [(text, label) for label in sorted(by_label) for text in sorted(by_label[label], key=order)[:most]]
    return {"test": {"sentences": [text for text, _ in pairs], "labels": [label for _, label in pairs]}}


def _by_label(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    labels: dict[str, set[str]] = defaultdict(set)
    for text, label in rows:
        if text.strip():
            labels[text.strip()].add(label)
    found: dict[str, list[str]] = defaultdict(list)
    for text, own in labels.items():
        if len(own) == 1:
            found[next(iter(own))].append(text)
    return found


@dataclass
class SearchParts:
    """Collects a `Search`: equal texts are one query or one document, so that no right answer counts as wrong."""

    queries: dict[str, str] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    relevant: dict[str, dict[str, int]] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)

    def document(self, text: str) -> str:
        """The id of a document, which is added where it is new."""
        return self.documents.setdefault(text, f"d{len(self.documents)}")

    def query(self, text: str, document: str, candidates: Iterable[str] = ()) -> None:
        """Add a question with a document that answers it and with documents to rank beside it."""
        name, right = self.queries.setdefault(text, f"q{len(self.queries)}"), self.document(document)
        self.relevant.setdefault(name, {})[right] = 1
        ranked = self.candidates.setdefault(name, [])
        ranked += [one for one in dict.fromkeys([right, *map(self.document, candidates)]) if one not in ranked]

    def search(self, *, rerank: bool = False) -> Search:
        """The task; to `rerank`, questions whose candidates are all right are left out, for nothing is to be told."""
        asked = {
            name: text
            for text, name in self.queries.items()
            if not rerank or len(self.candidates[name]) > len(self.relevant[name])
        }
        return Search(
            queries=asked,
            documents={name: text for text, name in self.documents.items()},
            relevant={name: self.relevant[name] for name in asked},
            candidates={name: sorted(self.candidates[name], key=order) for name in asked} if rerank else None,
        )


Content = Splits | Search


def is_empty(content: Content) -> bool:
    """Whether a part that mteb needs has no row."""
    if isinstance(content, Search):
        return not content.queries or not content.documents
    return any(not values for columns in content.values() for values in columns.values())


Subsets = Mapping[str, tuple[str, ...]]
"""mteb's subset -> the tags of its languages (`eng-Latn`, `python-Code`)."""
