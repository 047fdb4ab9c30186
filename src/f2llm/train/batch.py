"""A training batch without padding: every distinct text once, their common instruction once, roles as indices.

Shape letters, here and in all of `train`:
  T tokens of the pack, N distinct texts (sequences), B queries (rows), K hard negatives, D embedding, R matryoshka dims
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from f2llm.data.store import TokenStore, union_ids
from f2llm.model.pack import Pack, make_pack, shared_prefix


@dataclass(frozen=True)
class PackedBatch:
    """`text_ids` are indices of the store; `query`, `positive` and `negatives` are indices into the N texts.

    The first `continuations` texts start with the tokens `prefix` (the instruction), which `input_ids` leaves out.
    """

    source: str
    input_ids: Tensor  # int64 [T]
    cu_seqlens: list[int]  # N+1 offsets into input_ids
    text_ids: NDArray[np.int64]  # [N]
    query: Tensor  # int64 [B]
    positive: Tensor  # int64 [B]
    negatives: Tensor  # int64 [B, K], -1 where a row has fewer than K
    prefix: Tensor  # int64 [P]
    continuations: int

    @property
    def tokens(self) -> int:
        """Tokens that are computed, the prefix once."""
        return self.cu_seqlens[-1] + len(self.prefix)

    @property
    def attention_pairs(self) -> int:
        """Pairs of a token and one that it sees, itself included."""
        own = np.diff(self.cu_seqlens)
        before = np.where(np.arange(len(own)) < self.continuations, len(self.prefix), 0)
        return int((own * (own + 1) // 2 + own * before).sum()) + len(self.prefix) * (len(self.prefix) + 1) // 2

    def to(self, device: torch.device) -> PackedBatch:
        """The batch with its tensors on `device`."""
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, **moved)

    def shares(self, processes: int, max_tokens: int) -> list[list[tuple[slice, Pack]]]:
        """Consecutive texts cut into rounds of one pack a process, each of about equally many tokens.

        No pack holds more than `max_tokens` (and the prefix), but a longer text stands alone. In the last packs of a
        batch with few texts the slice may be empty; its pack then repeats the first text, so that all processes work.
        """
        ends = np.asarray(self.cu_seqlens[1:])
        rounds = max(1, -(-int(ends[-1]) // (max_tokens * processes)))
        while True:
            edges = _cuts(ends, rounds * processes)
            tokens = np.diff([0, *ends[edges[1:] - 1]])
            if ((tokens <= max_tokens) | (np.diff(edges) <= 1)).all():
                break
            rounds += 1
        parts = [(slice(a, b), self._pack(*((a, b) if a < b else (0, 1)))) for a, b in pairwise(edges.tolist())]
        rounds_of = [parts[start : start + processes] for start in range(0, len(parts), processes)]
        return [shares for shares in rounds_of if any(texts.stop > texts.start for texts, _ in shares)]

    def _pack(self, start: int, end: int) -> Pack:
        first, last = self.cu_seqlens[start], self.cu_seqlens[end]
        own, ends = self.input_ids[first:last], [c - first for c in self.cu_seqlens[start : end + 1]]
        if start >= self.continuations:
            return Pack(own, ends)
        size = len(self.prefix)
        return Pack(torch.cat([self.prefix, own]), [0, *(c + size for c in ends)], min(end, self.continuations) - start)


def _cuts(ends: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Edges [parts+1] of consecutive texts whose tokens end at `ends`, so that the parts hold about equally many."""
    middles = (ends + np.concatenate([[0], ends[:-1]])) / 2
    goals = ends[-1] * np.arange(1, parts) / parts
    return np.concatenate([[0], np.searchsorted(middles, goals), [len(ends)]])


_TENSORS = ("input_ids", "query", "positive", "negatives", "prefix")


def pack_texts(store: TokenStore, ids: NDArray[np.int64]) -> Pack:
    """The texts `ids`, in their order."""
    return make_pack([store.text(i) for i in ids])


def pack_ids(texts: Sequence[NDArray[np.integer]]) -> PackedBatch:
    """A batch of texts (token ids) that stand in no row, to be embedded; `text_ids` are their places in `texts`."""
    size = shared_prefix(texts)
    order = np.argsort([len(text) for text in texts], kind="stable")
    pack, none = make_pack([texts[i][size:] for i in order]), torch.empty(0, dtype=torch.int64)
    return PackedBatch(
        "", pack.input_ids, pack.cu_seqlens, order, none, none, none.reshape(0, 0),
        torch.from_numpy(texts[0][:size].astype(np.int64)), len(texts) if size else 0,
    )  # fmt: skip


def length_order(store: TokenStore, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of `ids` by length, so that equal lengths become neighbours; ties keep their order."""
    return np.argsort(store.lengths(ids), kind="stable")


def pack_rows(store: TokenStore, source: str, rows: NDArray[np.int64]) -> PackedBatch:
    """Build the batch of a [B, 2+K] matrix of store indices: query, positive, negatives (-1 for absent).

    The tokens that all queries start with, and documents that carry the instruction too, are kept once.
    """
    distinct = union_ids([rows])
    texts = [store.text(int(index)) for index in distinct]
    prefix = texts[0][:0]
    queries = [texts[i] for i in np.searchsorted(distinct, np.unique(rows[:, 0]))]
    if size := shared_prefix(queries):
        prefix = queries[0][:size]
    shares = np.array([size > 0 and len(text) > size and np.array_equal(text[:size], prefix) for text in texts])
    own = [text[size:] if share else text for text, share in zip(texts, shares, strict=True)]
    order = np.lexsort((np.array([len(piece) for piece in own]), ~shares))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    found = place[np.searchsorted(distinct, np.maximum(rows, distinct[0]))]
    roles = torch.from_numpy(np.where(rows >= 0, found, -1))
    pack = make_pack([own[i] for i in order])
    return PackedBatch(
        source, pack.input_ids, pack.cu_seqlens, distinct[order], roles[:, 0], roles[:, 1], roles[:, 2:],
        torch.from_numpy(prefix.astype(np.int64)), int(shares.sum()),
    )  # fmt: skip
