"""Work files of cleaning: a hidden folder with a *part* for each shard, which the tasks of each phase read and add to.

A part is the folder WORK/SOURCE/NNNNN. It holds the shard's rows after the split (`train.parquet`, `held_out.parquet`)
and small arrays about them, which later phases read instead of the texts:

- `split.npz`: `keys` [C], `held_out` [C] of all candidates in their order; `texts` [X], `counts` [R], `labelled` [R] of
  the training candidates; `queries` [H], `order` [H] of the held-out ones (see `clean_split`);
- `kept.npy` [R] and `kept_held_out.npy` [H]: what is no duplicate; `selected.npy` [H]: what is evaluated at all;
- `found.npy`: the evaluation queries that occur here; `leaks.parquet`: what rows show of the evaluation sets.

All arrays but `counts` and the flags are 64-bit hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.core.files import atomic_path
from f2llm.data.examples import FIELDS, SCHEMA, read_batches

Keys = NDArray[np.uint64]
Flags = NDArray[np.bool_]
TRAIN, HELD_OUT, SPLIT = "train.parquet", "held_out.parquet", "split.npz"
KEPT, KEPT_HELD_OUT, SELECTED, FOUND, LEAKS = (
    "kept.npy", "kept_held_out.npy", "selected.npy", "found.npy", "leaks.parquet"
)  # fmt: skip


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write one array atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, values)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write named arrays atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: Path, name: str | None = None) -> NDArray[Any]:
    """An array of a file, or one of its named arrays."""
    if name is None:
        return np.asarray(np.load(path))
    with np.load(path) as arrays:
        return np.asarray(arrays[name])


def distinct(arrays: Iterable[Keys]) -> Keys:
    """The different keys of all arrays, ascending."""
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *arrays]))


def occurs(keys: Keys, known: Keys) -> Flags:
    """Which of `keys` are among `known` (distinct, ascending); memory as `keys`, whatever the size of `known`."""
    if not len(known):
        return np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[places] == keys, np.bool_)


@contextmanager
def example_writer(path: Path) -> Iterator[pq.ParquetWriter]:
    """A writer of tables of examples; the file is there when the block has ended without an error."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        yield writer


def marked_batches(path: Path, flags: NDArray[Any]) -> Iterator[tuple[int, pa.Table, NDArray[Any]]]:
    """(number of its first row, rows, their flags) of each batch of a file of examples."""
    first = 0
    for batch in read_batches(path, FIELDS):
        yield first, pa.Table.from_batches([batch]), flags[first : first + len(batch)]
        first += len(batch)
