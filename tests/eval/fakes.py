"""A fake embedder and small sets of examples for the tests of the evaluation."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from f2llm.core.types import Example


@dataclass
class Stats:
    truncated: int = 0
    tokens: int = 0
    seconds: float = 0.0


class FakeEmbedder:
    """Hashes character trigrams into `dims` buckets; counts what it is asked to encode."""

    def __init__(self, dims: int = 64) -> None:
        self.dims, self.matryoshka_dims = dims, [8, 16, dims]
        self.last_stats = Stats()
        self.calls: list[list[str]] = []
        self.broken = False

    def encode(self, texts: Sequence[str], *, prompt: str = "", **_: object) -> np.ndarray:
        self.calls.append([prompt + text for text in texts])
        self.last_stats = Stats(0, sum(len(text) + 1 for text in texts), 0.5)
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        for row, text in enumerate(texts):
            for start in range(max(1, len(text) - 2)):
                vectors[row, zlib.crc32(text[start : start + 3].encode()) % self.dims] += 1
        if self.broken:
            vectors[0, 0] = np.nan
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def encode_query(self, texts: Sequence[str], *, instruction: str | None = None, **_: object) -> np.ndarray:
        return self.encode(texts, prompt=f"Instruct: {instruction}\nQuery: " if instruction else "")

    def encode_document(self, texts: Sequence[str], **_: object) -> np.ndarray:
        return self.encode(texts)


def example(query: str, positive: str, *, lang: str = "eng_Latn", **fields: object) -> Example:
    """An Example with the fields that a test does not care about filled in."""
    defaults = {
        "id": f"{lang}:{query}",
        "negatives": (),
        "task_type": "retrieval",
        "source": "s",
        "doc_lang": "eng_Latn",
    }
    return Example(query=query, positive=positive, query_lang=lang, **(defaults | fields))  # type: ignore[arg-type]
