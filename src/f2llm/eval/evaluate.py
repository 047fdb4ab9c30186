"""Score a model on evaluation tasks: one encoding pass per task, every matryoshka dimension from the same vectors.

The similarity at nested dimensions is a running sum of inner products, so all dimensions together cost about one
full product; it is computed in blocks of at most 4 million values. Clustering runs k-means once per dimension, over
all languages together. About two seconds for 5,000 queries against 2,000 documents and 5,000 texts to cluster, besides
the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.log import track
from f2llm.eval import metrics
from f2llm.eval.metrics import Floats
from f2llm.eval.scores import (
    METRIC,
    Outcome,
    k_means,
    model_entry,
    outcome_of_clusters,
    outcome_of_rows,
    retrieval_values,
)
from f2llm.eval.tasks import EvalTask
from f2llm.model.vectors import Vectors, truncate
from f2llm.text.prompts import query_prompt

if TYPE_CHECKING:
    from f2llm.model.embedder import Embedder

BLOCK_VALUES = 4_000_000


def evaluate(
    embedder: Embedder,
    tasks: Sequence[EvalTask],
    *,
    name: str,
    dims: Sequence[int] | None = None,
    instructions: bool = True,
) -> dict[str, Any]:
    """Score `embedder` on `tasks`; returns the content of scores.json.

    `dims` are the matryoshka dimensions to score (default: the model's own); the full one is always among them.
    `instructions=False` leaves the tasks' instructions away, for models of stage 1, which were trained without.
    ModelError where the model gives vectors that are not finite.
    """
    if not tasks:
        raise ConfigError("there is nothing to evaluate: no source has evaluate = true and held-out rows")
    clock = Clock(embedder)
    outcomes = {}
    for task in track(tasks, f"evaluate {name}"):
        queries = clock.encode(task.queries, query_prompt(task.instruction) if instructions else "")
        documents = clock.encode(task.documents) if task.documents else queries[:0]
        outcomes[task.name] = score_task(task, queries, documents, nested(dims or embedder.matryoshka_dims, queries))
    entry = model_entry(name, tasks, outcomes)
    return entry | {"tokens_per_second": clock.tokens / max(clock.seconds, 1e-9)}


class Clock:
    """Encodes each distinct text once and adds up the tokens and the seconds that it took."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.tokens, self.seconds = embedder, 0, 0.0

    def encode(self, texts: Sequence[str], prompt: str | None = None) -> Vectors:
        """Vectors [N, D] of queries (with `prompt`) or of documents (None)."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        if prompt is None:
            vectors = self.embedder.encode_document(list(distinct))
        else:
            vectors = self.embedder.encode(list(distinct), prompt=prompt)
        self.tokens += self.embedder.last_stats.tokens
        self.seconds += self.embedder.last_stats.seconds
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            text = list(distinct)[bad[0]]
            raise ModelError(
                f"the model gives a vector that is not finite for {len(bad)} texts, the first {text[:60]!r}"
            )
        return vectors[[distinct[text] for text in texts]]


def nested(dims: Sequence[int], vectors_ND: Vectors) -> list[int]:
    """The dimensions to score, ascending: those below the vectors' width, and that width."""
    full = int(vectors_ND.shape[1])
    return [*sorted({dim for dim in dims if 0 < dim < full}), full]


def score_task(task: EvalTask, Q_ND: Vectors, D_MD: Vectors, dims: Sequence[int]) -> dict[int | None, Outcome]:
    """Outcome of one task at each of `dims` (ascending)."""
    if task.kind == "clustering":
        labels = len(set(task.labels))
        return {dim: outcome_of_clusters(task, k_means(truncate(Q_ND, dim), labels)) for dim in dims}
    score = _retrieval if task.kind == "retrieval" else _classification
    return {
        dim: outcome_of_rows(values, task.query_langs, METRIC[task.kind])
        for dim, values in score(task, Q_ND, D_MD, dims).items()
    }


def lengths(vectors_ND: Floats) -> Floats:
    found: Floats = np.maximum(np.linalg.norm(vectors_ND, axis=1), 1e-12)
    return found


def _retrieval(task: EvalTask, Q_ND: Vectors, D_MD: Vectors, dims: Sequence[int]) -> dict[int, dict[str, Floats]]:
    rows = max(1, BLOCK_VALUES // len(D_MD))
    parts: dict[int, list[dict[str, Floats]]] = {dim: [] for dim in dims}
    for start in range(0, len(Q_ND), rows):
        relevant = task.relevant[start : start + rows]
        for dim, cosine in nested_cosines(Q_ND[start : start + rows], D_MD, dims):
            parts[dim].append(retrieval_values(cosine, relevant))
    return {dim: {k: np.concatenate([part[k] for part in found]) for k in found[0]} for dim, found in parts.items()}


def nested_cosines(Q_BD: Vectors, D_MD: Vectors, dims: Sequence[int]) -> Iterator[tuple[int, Floats]]:
    """Cosines [B, M] of the vectors truncated to each of `dims` (ascending), as a running sum over slices."""
    product, done = np.zeros((len(Q_BD), len(D_MD)), dtype=np.float32), 0
    for dim in dims:
        product += Q_BD[:, done:dim] @ D_MD[:, done:dim].T
        yield dim, product / lengths(Q_BD[:, :dim])[:, None] / lengths(D_MD[:, :dim])
        done = dim


def _classification(task: EvalTask, Q_ND: Vectors, D_MD: Vectors, dims: Sequence[int]) -> dict[int, dict[str, Floats]]:
    right, wrong = np.array(task.pairs).T
    found = {}
    for dim in dims:
        queries, documents = truncate(Q_ND, dim), truncate(D_MD, dim)
        cosines = [np.einsum("nd,nd->n", queries, documents[side]) for side in (right, wrong)]
        found[dim] = {"accuracy": metrics.pair_accuracy(*cosines)}
    return found
