"""The second phase of cleaning: rows of a source whose query and positive came before, and rows like another source's.

Within a source the first of equal rows stays, by the 64-bit keys of `clean_split`: a training row's texts are compared
in whatever languages they are said to be, a held-out row's within its query language. Near duplicates, over all
sources, are `dedup.find_duplicates`' affair; `near_duplicates` reads what it found about one part.

Cost: 0.2 microseconds a row. Memory: 10 bytes for each row of one source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from f2llm.data.clean_parts import KEPT, KEPT_HELD_OUT, SPLIT, Flags, Keys, load, save_array
from f2llm.data.dedup import NEAR

_AT_ONCE = 2**20  # keys that are sorted at a time, about


def mark_duplicates(parts: Sequence[Path]) -> int:
    """Write to each part of a source which of its candidates stay; returns how many held-out rows do not."""
    keys = [load(part / SPLIT, "keys") for part in parts]
    ends = np.cumsum([len(found) for found in keys])
    kept = first_occurrences(np.concatenate([np.zeros(0, np.uint64), *keys]))
    gone = 0
    for part, own in zip(parts, np.split(kept, ends[:-1]) if parts else [], strict=True):
        held_out = load(part / SPLIT, "held_out")
        save_array(part / KEPT, own[~held_out])
        save_array(part / KEPT_HELD_OUT, own[held_out])
        gone += int((held_out & ~own).sum())
    return gone


def first_occurrences(keys: Keys) -> Flags:
    """Which places hold a key that was not met before; the keys are gone through by ranges, for the sake of memory."""
    first = np.zeros(len(keys), np.bool_)
    bits = max(len(keys) // _AT_ONCE, 1).bit_length() - 1
    for group in range(2**bits):
        places = np.flatnonzero(keys >> np.uint64(64 - bits) == group) if bits else np.arange(len(keys))
        _, found = np.unique(keys[places], return_index=True)
        first[places[found]] = True
    return first


def near_duplicates(duplicates: Path, source: str, first: int, count: int) -> tuple[Flags, Flags]:
    """[count] twice: which of a source's rows from `first` on are near duplicates, and which are another source's."""
    rows = pq.read_table(
        duplicates,
        columns=["row", "reason"],
        filters=[("source", "=", source), ("row", ">=", first), ("row", "<", first + count)],
    )
    near, same = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    places = rows["row"].to_numpy() - first
    is_near = pc.equal(rows["reason"], NEAR).to_numpy(zero_copy_only=False).astype(np.bool_)
    near[places[is_near]] = True
    same[places[~is_near]] = True
    return near, same
