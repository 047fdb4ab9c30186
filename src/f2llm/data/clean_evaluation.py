"""The third phase of cleaning: the evaluation rows of each source, and which of them training has seen.

`select_held_out` keeps the held-out rows that are evaluated at all. With `drop_eval`, `find_in_training` looks for
their queries among the training texts, shard by shard. `write_evaluation` leaves those out, keeps at most so many rows
of each language, chosen by hash, and writes them.

Cost: a microsecond for each training row. Memory: 30 bytes for each held-out row of one source, 8 for each different
query of all, and the arrays of one shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from f2llm.data.clean_duplicates import near_duplicates
from f2llm.data.clean_parts import (
    FOUND,
    HELD_OUT,
    KEPT,
    KEPT_HELD_OUT,
    SELECTED,
    SPLIT,
    Flags,
    distinct,
    example_writer,
    load,
    marked_batches,
    occurs,
    save_array,
)
from f2llm.data.examples import read_batches

Dropped = dict[str, int]


def select_held_out(parts: Sequence[Path], queries: Path, evaluated: bool, doc_lang: str | None) -> Dropped:
    """Mark the rows that are evaluated: those of the right source, and of retrieval those with documents to search.

    Writes `selected.npy` to each part and the different keys of the selected queries to `queries`.
    """
    unwanted, keys = 0, []
    for part in parts:
        kept = load(part / KEPT_HELD_OUT)
        selected = kept & _wanted(part / HELD_OUT, doc_lang) if evaluated else np.zeros_like(kept)
        unwanted += int(kept.sum() - selected.sum())
        keys.append(load(part / SPLIT, "queries")[selected])
        save_array(part / SELECTED, selected)
    save_array(queries, distinct(keys))
    reason = "held out, documents in another language" if evaluated else "held out, source not evaluated"
    return {reason: unwanted}


def _wanted(path: Path, doc_lang: str | None) -> Flags:
    found = [np.zeros(0, np.bool_)]
    for batch in read_batches(path, ["task_type", "doc_lang"]):
        if doc_lang:
            other_task = pc.not_equal(batch.column("task_type"), "retrieval")
            found.append(_flags(pc.or_(other_task, pc.equal(batch.column("doc_lang"), doc_lang))))
        else:
            found.append(np.ones(len(batch), np.bool_))
    return np.concatenate(found)


def _flags(values: pa.Array) -> Flags:
    return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def find_in_training(part: Path, queries: Path, near: Mapping[str, Any] | None) -> None:
    """Write to a part which of the keys in `queries` occur in its training texts; `near`: see `staying`."""
    rows = staying(part, near)
    texts = load(part / SPLIT, "texts")[np.repeat(rows, load(part / SPLIT, "counts"))]
    known = load(queries)
    save_array(part / FOUND, distinct([texts[occurs(texts, known)]]))


def staying(part: Path, near: Mapping[str, Any] | None) -> Flags:
    """Which training candidates of a part are no duplicates; `near`: the arguments of `near_duplicates`, if it ran."""
    kept = load(part / KEPT)
    if near is None:
        return np.asarray(kept, np.bool_)
    alike, same = near_duplicates(**near, count=len(kept))
    return np.asarray(kept & ~alike & ~same, np.bool_)


def write_evaluation(
    parts: Sequence[Path], target: Path, queries: Path, known: Path | None, per_language: int
) -> dict[str, Any]:
    """Write a source's evaluation to `target`, without the queries whose keys are in the file `known`.

    At most `per_language` rows of each query language; the keys of their queries go to `queries`. Returns the number
    of rows, and of those that were dropped by reason.
    """
    selected = [load(part / SELECTED) for part in parts]
    keys = _chosen([load(part / SPLIT, "queries") for part in parts], selected)
    unseen = ~occurs(keys, load(known)) if known else np.ones(len(keys), np.bool_)
    order = _chosen([load(part / SPLIT, "order") for part in parts], selected)
    kept = unseen.copy()
    kept[unseen] = _first_of_each(order[unseen], _languages(parts, selected)[unseen], per_language)
    save_array(queries, distinct([keys[kept]]))
    with example_writer(target) as writer:
        for part, rows in zip(parts, _apart(kept, selected), strict=True):
            for _, table, flags in marked_batches(part / HELD_OUT, rows):
                writer.write_table(table.filter(pa.array(flags)))
    seen, over = int((~unseen).sum()), int(unseen.sum() - kept.sum())
    dropped = {"evaluation query occurs in training": seen, "held out, over the cap per language": over}
    return {"rows": int(kept.sum()), "dropped": dropped}


def _chosen(values: Sequence[NDArray[Any]], flags: Sequence[Flags]) -> NDArray[Any]:
    chosen = [own[rows] for own, rows in zip(values, flags, strict=True)]
    return np.concatenate(chosen) if chosen else np.zeros(0, np.uint64)


def _apart(kept: Flags, selected: Sequence[Flags]) -> list[Flags]:
    """For each part which of its held-out rows are kept, from which of the selected ones are."""
    marks, start = [], 0
    for flags in selected:
        rows = flags.copy()
        rows[flags] = kept[start : start + int(flags.sum())]
        start += int(flags.sum())
        marks.append(rows)
    return marks


def _languages(parts: Sequence[Path], selected: Sequence[Flags]) -> NDArray[np.int32]:
    """A number for the query language of each selected row."""
    numbers: dict[str, int] = {}
    found = [np.zeros(0, np.int32)]
    for part, flags in zip(parts, selected, strict=True):
        tags = [batch.column("query_lang") for batch in read_batches(part / HELD_OUT, ["query_lang"])]
        encoded = pa.chunked_array(tags, pa.string()).combine_chunks().dictionary_encode()
        codes = [numbers.setdefault(tag, len(numbers)) for tag in encoded.dictionary.to_pylist()]
        found.append(np.array(codes, np.int32)[encoded.indices.to_numpy()][flags])
    return np.concatenate(found)


def _first_of_each(order: NDArray[np.uint64], languages: NDArray[np.int32], count: int) -> Flags:
    """The rows whose hash is among the `count` smallest of any language (equal hashes are of equal ids)."""
    chosen = []
    for number in np.unique(languages):
        chosen.append(np.sort(order[languages == number])[:count])
    return occurs(order, distinct(chosen))
