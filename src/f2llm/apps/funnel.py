"""Two-stage search by nested dimensions: a short int8 vector of each passage makes a shortlist, the full one ranks it.

A matryoshka model puts what matters into the first dimensions, so the cosine of the first few, at 8 bits, finds nearly
all of the nearest; the exact cosine of `factor` times as many candidates as are wanted puts them in order.

Short vectors are int8 as in `model.precision`: the scale is not kept, for a cosine does not see it.
Cost: N * short dims multiplications and bytes of memory, then `factor * k` full vectors read from the disk. Limit:
linear in N; what is lost against exact search, and the time: docs/results/search.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.model import vectors
from f2llm.model.vectors import Vectors

FACTOR = 10
"""Candidates per wanted result."""
_LEAST = 64
_BLOCK = 65_536  # codes that are widened to float32 at a time


def short_dims_of(matryoshka_dims: list[int], dims: int) -> int:
    """The dimensions of the shortlist: the model's smallest nested size from a quarter of `dims`, and from 64, on.

    With 32 of 128, two of a hundred of the nearest are missed, with 64 none (docs/results/search.md).
    """
    return min((dim for dim in matryoshka_dims if max(dims / 4, _LEAST) <= dim <= dims), default=dims)


@dataclass(frozen=True)
class Shortlist:
    """The codes of all passages in memory: `ids` [N] of the rows, `codes_NS`, and one over the codes' lengths [N]."""

    ids: NDArray[np.uint64]
    codes_NS: NDArray[np.int8]
    inverse_N: Vectors

    @classmethod
    def of(cls, ids: NDArray[np.uint64], codes_NS: NDArray[np.int8]) -> Shortlist:
        lengths = np.empty(len(codes_NS), np.float32)
        for start in range(0, len(codes_NS), _BLOCK):
            block = codes_NS[start : start + _BLOCK].astype(np.float32)
            lengths[start : start + _BLOCK] = np.sqrt(np.einsum("nd,nd->n", block, block))
        return cls(ids, codes_NS, np.reciprocal(np.maximum(lengths, np.float32(1))))

    def best(self, query_D: Vectors, count: int, allowed: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
        """Ids of the `count` passages whose codes are nearest to the query's first dimensions, in no order.

        `allowed`: only these ids.
        """
        chosen = self if allowed is None else self._only(allowed)
        size = len(chosen.ids)
        if size <= count:
            return chosen.ids
        query_S = np.ascontiguousarray(query_D[: self.codes_NS.shape[1]], np.float32)
        scores = np.empty(size, np.float32)
        for start in range(0, size, _BLOCK):
            scores[start : start + _BLOCK] = chosen.codes_NS[start : start + _BLOCK].astype(np.float32) @ query_S
        scores *= chosen.inverse_N
        return chosen.ids[np.argpartition(-scores, count - 1)[:count]]

    def _only(self, allowed: NDArray[np.uint64]) -> Shortlist:
        kept = np.isin(self.ids, allowed)
        return Shortlist(self.ids[kept], self.codes_NS[kept], self.inverse_N[kept])


def cosines(query_D: Vectors, full_ND: NDArray[Any]) -> Vectors:
    """Exact cosines [N] of a query with full vectors, whatever type they are stored as."""
    found_N: Vectors = vectors.cosine(query_D, full_ND)[0]
    return found_N


def fused(rankings: list[list[int]], depth: float = 60.0) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack et al., 2009): the sum of 1 / (depth + rank) over the rankings, best first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (depth + rank)
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))
