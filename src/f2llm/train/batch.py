"""A training batch without padding: every distinct text once, sequences sorted by length, roles as indices.

Shape letters, here and in all of `train`:
  T tokens of the pack, N distinct texts (sequences), B queries (rows), K hard negatives, D embedding, R matryoshka dims
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from f2llm.data.store import TokenStore, union_ids


@dataclass(frozen=True)
class PackedBatch:
    """`text_ids` are indices of the store; `query`, `positive` and `negatives` are indices into the N texts."""

    source: str
    input_ids: Tensor  # int64 [T]
    cu_seqlens: list[int]  # N+1 offsets into input_ids
    text_ids: NDArray[np.int64]  # [N]
    query: Tensor  # int64 [B]
    positive: Tensor  # int64 [B]
    negatives: Tensor  # int64 [B, K], -1 where a row has fewer than K

    @property
    def tokens(self) -> int:
        return self.cu_seqlens[-1]

    def micro_batches(self, max_tokens: int) -> Iterator[tuple[slice, Tensor, list[int]]]:
        """Consecutive (texts, input_ids, cu_seqlens) of at most `max_tokens` each; one longer text stands alone."""
        start, count = 0, len(self.text_ids)
        while start < count:
            end = start + 1
            while end < count and self.cu_seqlens[end + 1] - self.cu_seqlens[start] <= max_tokens:
                end += 1
            first, last = self.cu_seqlens[start], self.cu_seqlens[end]
            yield slice(start, end), self.input_ids[first:last], [c - first for c in self.cu_seqlens[start : end + 1]]
            start = end


def pack_texts(store: TokenStore, ids: NDArray[np.int64]) -> tuple[Tensor, list[int]]:
    """Token ids [T] and offsets [N+1] of the texts `ids`, in their order."""
    pieces = [store.text(i) for i in ids]
    cu_seqlens = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64)), cu_seqlens.tolist()


def length_order(store: TokenStore, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of `ids` by length, so that equal lengths become neighbours; ties keep their order."""
    return np.argsort(store.lengths(ids), kind="stable")


def pack_rows(store: TokenStore, source: str, rows: NDArray[np.int64]) -> PackedBatch:
    """Build the batch of a [B, 2+K] matrix of store indices: query, positive, negatives (-1 for absent)."""
    distinct = union_ids([rows])
    order = length_order(store, distinct)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    found = place[np.searchsorted(distinct, np.maximum(rows, distinct[0]))]
    roles = torch.from_numpy(np.where(rows >= 0, found, -1))
    texts = distinct[order]
    input_ids, cu_seqlens = pack_texts(store, texts)
    return PackedBatch(source, input_ids, cu_seqlens, texts, roles[:, 0], roles[:, 1], roles[:, 2:])
