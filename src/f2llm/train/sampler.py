"""Which rows make up step s: one source per batch, sources in proportion to their batches, each row once an epoch.

Everything is a function of (seed, step): the position of a run is one integer, resuming costs one epoch's shuffle, and
adding a source changes neither the batches nor the negatives of the others, only when they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from f2llm.core.types import TaskType
from f2llm.data.store import TokenStore

_UINT64 = np.uint64


@dataclass(frozen=True)
class Draw:
    """The rows of one step."""

    source: str
    epoch: int
    rows: NDArray[np.int64]


class BatchSampler:
    """Batches of `batch_size` rows (a source's last batches are evened out, none is dropped)."""

    def __init__(self, sizes: Mapping[str, int], batch_size: int, seed: int) -> None:
        self.sizes, self.seed = dict(sizes), seed
        self.batches = {source: -(-size // batch_size) for source, size in self.sizes.items() if size}
        self.steps_per_epoch = sum(self.batches.values())
        self._order = lru_cache(maxsize=2)(self._shuffled_order)
        self._rows = lru_cache(maxsize=2 * max(len(self.sizes), 1))(self._shuffled_rows)

    def draw(self, step: int) -> Draw:
        """The rows of step `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        sources, ranks = self._order(epoch)
        source, rank = sources[position], int(ranks[position])
        edges = [self.sizes[source] * i // self.batches[source] for i in (rank, rank + 1)]
        return Draw(source, epoch, self._rows(epoch, source)[edges[0] : edges[1]])

    def _shuffled_order(self, epoch: int) -> tuple[list[str], NDArray[np.int64]]:
        """Source of each step of an epoch, and the how-manieth batch of its source each step is."""
        names = [source for source, count in self.batches.items() for _ in range(count)]
        ranks = np.concatenate([np.arange(count) for count in self.batches.values()])
        order = _generator(self.seed, "order", epoch).permutation(len(names))
        return [names[i] for i in order], ranks[order]

    def _shuffled_rows(self, epoch: int, source: str) -> NDArray[np.int64]:
        return _generator(self.seed, "rows", epoch, source).permutation(self.sizes[source])


def draw_rows(store: TokenStore, draw: Draw, negatives: int, seed: int) -> NDArray[np.int64]:
    """The [B, 2+K] store indices of a draw, with K negatives a row chosen at random by (seed, epoch, source, row)."""
    table = np.asarray(store.rows[draw.source][np.sort(draw.rows)], dtype=np.int64)
    table = table[np.argsort(np.argsort(draw.rows))]
    candidates = table[:, 2:]
    keys = _hashed(draw.rows, candidates.shape[1], seed, draw.epoch, draw.source)
    keys[candidates < 0] = np.iinfo(_UINT64).max
    chosen = np.argsort(keys, axis=1, kind="stable")[:, :negatives]
    return np.concatenate([table[:, :2], np.take_along_axis(candidates, chosen, axis=1)], axis=1)


def negatives_of(task_type: TaskType, retrieval: int, clustering: int) -> int:
    """Hard negatives per step: 7 and 9 in the paper; two-way classification has the one opposite label."""
    return {"retrieval": retrieval, "clustering": clustering, "classification": 1}[task_type]


def _generator(*key: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(_key64(*key)))


def _key64(*key: str | int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def _hashed(rows: NDArray[np.int64], slots: int, *key: str | int) -> NDArray[np.uint64]:
    """A random-looking uint64 for each (row, slot) under `key` (the finaliser of SplitMix64, Steele et al. 2014)."""
    counter = rows.astype(_UINT64)[:, None] * _UINT64(slots) + np.arange(slots, dtype=_UINT64)[None, :]
    x = (counter + _UINT64(1)) * _UINT64(0x9E3779B97F4A7C15) + _UINT64(_key64(*key))
    x = (x ^ (x >> _UINT64(30))) * _UINT64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _UINT64(27))) * _UINT64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> _UINT64(31)))
