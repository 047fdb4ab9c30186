"""Evaluation tasks made from the held-out rows of a source.

Retrieval: each distinct query against all positives of the held-out rows plus whatever documents the caller adds (the
source's training positives), so the corpus is as large as it is in use. Clustering: the anchors with their labels.
Classification: the right label text against the wrong one. Cost: one pass over the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from f2llm.core.errors import DataError
from f2llm.core.types import Example, TaskType


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One task. `queries` and `query_langs` run in parallel, and so do, by kind:

    retrieval: `relevant` (indices into `documents`, the corpus); clustering: `labels`; classification: `pairs`
    (index of the right and of the wrong label text in `documents`). Queries carry the instruction, documents do not.
    """

    name: str
    kind: TaskType
    instruction: str | None
    symmetric: bool
    queries: tuple[str, ...]
    query_langs: tuple[str, ...]
    documents: tuple[str, ...] = ()
    relevant: tuple[tuple[int, ...], ...] = ()
    labels: tuple[str, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()


def build_task(
    name: str,
    kind: TaskType,
    held_out: Sequence[Example],
    corpus_extra: Iterable[str] = (),
    *,
    instruction: str | None,
    symmetric: bool,
) -> EvalTask:
    """Make a task of `held_out`; DataError where a row lacks what its kind needs, or where there is no row."""
    if not held_out:
        raise DataError(f"source {name!r} has no held-out row to evaluate; raise clean.held_out_fraction")
    if kind == "retrieval":
        return _retrieval(name, held_out, corpus_extra, instruction, symmetric)
    if kind == "clustering":
        return _clustering(name, held_out, instruction, symmetric)
    return _classification(name, held_out, instruction, symmetric)


def _retrieval(
    name: str, rows: Sequence[Example], extra: Iterable[str], instruction: str | None, symmetric: bool
) -> EvalTask:
    corpus = {text: index for index, text in enumerate(dict.fromkeys([*(row.positive for row in rows), *extra]))}
    positives: dict[str, set[int]] = {}
    for row in rows:
        positives.setdefault(row.query, set()).add(corpus[row.positive])
    queries = list(dict.fromkeys((row.query, row.query_lang) for row in rows))
    return EvalTask(
        name=name, kind="retrieval", instruction=instruction, symmetric=symmetric,
        queries=tuple(text for text, _ in queries), query_langs=tuple(lang for _, lang in queries),
        documents=tuple(corpus), relevant=tuple(tuple(sorted(positives[text])) for text, _ in queries),
    )  # fmt: skip


def _clustering(name: str, rows: Sequence[Example], instruction: str | None, symmetric: bool) -> EvalTask:
    texts: dict[tuple[str, str, str], None] = {}
    for row in rows:
        if row.label is None:
            raise DataError(f"source {name!r}, row {row.id!r}: clustering needs a label, and label is empty")
        texts[row.query, row.query_lang, row.label] = None
    return EvalTask(
        name=name, kind="clustering", instruction=instruction, symmetric=symmetric,
        queries=tuple(text for text, _, _ in texts), query_langs=tuple(lang for _, lang, _ in texts),
        labels=tuple(label for _, _, label in texts),
    )  # fmt: skip


def _classification(name: str, rows: Sequence[Example], instruction: str | None, symmetric: bool) -> EvalTask:
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        if not row.negatives:
            raise DataError(f"source {name!r}, row {row.id!r}: classification needs the wrong label as a negative")
        found[row.query, row.query_lang] = row.positive, row.negatives[0]
    documents = {text: index for index, text in enumerate(dict.fromkeys(t for pair in found.values() for t in pair))}
    return EvalTask(
        name=name, kind="classification", instruction=instruction, symmetric=symmetric,
        queries=tuple(text for text, _ in found), query_langs=tuple(lang for _, lang in found),
        documents=tuple(documents), pairs=tuple((documents[good], documents[bad]) for good, bad in found.values()),
    )  # fmt: skip
