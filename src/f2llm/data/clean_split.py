"""The first phase of cleaning: tidy the rows of a shard, name their faults, and split them by their groups.

The split is over groups (`Example.groups`) and across all sources: a group is held out when the hash of its name and
the seed falls below the fraction, so neither other rows nor other sources move it. A row is for evaluation when its
first group (the query's) is held out, for training when none of its groups is; any other row straddles the split and
goes. Nothing is held out at a fraction of 0, and then no text is prepared to be looked up either.

Of what is left (the *candidates*) only hashes are kept beside the rows: one of the folded query and positive, by which
duplicates are found; one of each text without punctuation, by which evaluation queries are; one by which evaluation
rows are chosen.

Cost: 50 microseconds of one core for a row of two texts of 125 characters, 40 where nothing is held out
(benchmarks/cleaning.py). Memory: a batch of 8,192 rows, and the arrays, 8 bytes for each text and 13 for each row.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from f2llm.data.clean_parts import HELD_OUT, SPLIT, TRAIN, example_writer, save_arrays
from f2llm.data.examples import FIELDS, SCHEMA, read_batches
from f2llm.data.keys import ALWAYS_TRAIN, fold, stable_hash, tidy, without_punctuation

Side = Literal["train", "eval", "neither"]


@lru_cache(maxsize=2**16)
def is_held_out(group: str, fraction: float, seed: int) -> bool:
    """Whether a group belongs to the evaluation; depends on nothing but its name, the fraction and the seed."""
    return not group.startswith(ALWAYS_TRAIN) and stable_hash(seed, "held out", group) < fraction * 2**64


def split_shard(
    shard: Path, part: Path, *, held_out_fraction: float, seed: int, min_chars: int, max_chars: int
) -> dict[str, Any]:
    """Write the rows of `shard` and their arrays to `part`; returns the numbers of rows in and out, by reason."""
    splitter = _Splitter(held_out_fraction, seed, min_chars, max_chars)
    with example_writer(part / TRAIN) as train, example_writer(part / HELD_OUT) as held_out:
        for batch in read_batches(shard, FIELDS):
            rows, sides = splitter.batch(batch)
            train.write_table(rows.filter(pa.array(sides == _TRAIN)))
            held_out.write_table(rows.filter(pa.array(sides == _EVAL)))
    save_arrays(part / SPLIT, **splitter.arrays())
    found = {"rows": splitter.rows, "train": splitter.sides[_TRAIN], "held_out": splitter.sides[_EVAL]}
    return found | {"dropped": dict(splitter.dropped)}


_GONE, _TRAIN, _EVAL = 0, 1, 2


class _Row(NamedTuple):
    """The fields of an example that the split looks at, tidied."""

    query: str
    positive: str
    negatives: Sequence[str]
    task_type: str
    query_lang: str
    doc_lang: str
    groups: Sequence[str]


class _Splitter:
    """Goes through the rows of a shard, and collects what is known of the candidates."""

    def __init__(self, held_out_fraction: float, seed: int, min_chars: int, max_chars: int) -> None:
        self.fraction, self.seed = held_out_fraction, seed
        self.min_chars, self.max_chars = min_chars, max_chars
        self.rows = 0
        self.sides: Counter[int] = Counter()
        self.dropped: Counter[str] = Counter()
        self.keys, self.texts, self.queries, self.order = (array("Q") for _ in range(4))
        self.counts = array("I")
        self.held_out, self.labelled = bytearray(), bytearray()

    def arrays(self) -> dict[str, Any]:
        hashes = {name: np.array(getattr(self, name), np.uint64) for name in ("keys", "texts", "queries", "order")}
        flags = {name: np.frombuffer(getattr(self, name), np.bool_) for name in ("held_out", "labelled")}
        return hashes | flags | {"counts": np.array(self.counts, np.uint32)}

    def batch(self, batch: pa.RecordBatch) -> tuple[pa.Table, Any]:
        """The tidied rows of a batch, and on which side each is."""
        columns = [batch.column(name).to_pylist() for name in _Row._fields]
        ids = batch.column("id").to_pylist()
        rows, sides = list[_Row](), np.zeros(len(batch), np.int8)
        for place, raw in enumerate(zip(*columns, strict=True)):
            row = _tidied(_Row(*raw), self.max_chars)
            rows.append(row)
            sides[place] = self._side(row, ids[place])
        self.rows += len(rows)
        self.sides.update(sides.tolist())
        return _with_texts(batch, rows), sides

    def _side(self, row: _Row, name: str) -> int:
        """Where a row goes; what is known of a candidate is noted, and the reason of any other is counted."""
        found = self._fault(row) or self._candidate(row, name)
        if isinstance(found, str):
            self.dropped[found] += 1
            return _GONE
        return found

    def _candidate(self, row: _Row, name: str) -> int | str:
        """The side of a sound row, or why it goes all the same; two languages may be evaluated on the same texts."""
        query, positive = fold(row.query), fold(row.positive)
        if query == positive:
            return "query equals positive"
        side = self._side_of_groups(row, query)
        if side == "neither":
            return "straddles the split"
        self.keys.append(stable_hash(query, positive, row.query_lang if side == "eval" else ""))
        self.held_out.append(side == "eval")
        if side == "eval":
            self.queries.append(text_key(query))
            self.order.append(stable_hash(self.seed, "evaluate", name))
            return _EVAL
        if self.fraction:
            self._note_texts(row, query, positive)
        return _TRAIN

    def _note_texts(self, row: _Row, query: str, positive: str) -> None:
        """The query comes first: it is the only text that a row of classification shows."""
        negatives = [text_key(fold(text)) for text in row.negatives]
        self.texts.extend((text_key(query), text_key(positive), *negatives))
        self.counts.append(2 + len(negatives))
        self.labelled.append(row.task_type == "classification")

    def _fault(self, row: _Row) -> str | None:
        """Why a row is of no use, or None."""
        lengths = (len(row.query), len(row.positive))
        if min(lengths) == 0:
            return "empty"
        if min(lengths) < self.min_chars:
            return "too short"
        if max(lengths) > self.max_chars:
            return "too long"
        if row.task_type == "classification" and not row.negatives:
            return "no negative"
        return None

    def _side_of_groups(self, row: _Row, folded_query: str) -> Side:
        if not self.fraction:
            return "train"
        # without groups the query is its own, the same as `keys.text_group`
        groups = row.groups or (f"text/{text_key(folded_query):016x}",)
        held = [is_held_out(group, self.fraction, self.seed) for group in groups]
        if held[0]:
            return "eval"
        return "neither" if any(held) else "train"


@lru_cache(maxsize=2**12)
def text_key(folded: str) -> int:
    """64 bits of a folded text without its punctuation."""
    return stable_hash(without_punctuation(folded))


def _tidied(row: _Row, max_chars: int) -> _Row:
    query, positive = tidy(row.query, row.query_lang), tidy(row.positive, row.doc_lang)
    if not row.negatives:
        return row._replace(query=query, positive=positive)
    negatives = dict.fromkeys(tidy(text, row.doc_lang) for text in row.negatives)
    wrong = {"", positive}
    kept = [text for text in negatives if text not in wrong and len(text) <= max_chars]
    return row._replace(query=query, positive=positive, negatives=kept)


def _with_texts(batch: pa.RecordBatch, rows: Sequence[_Row]) -> pa.Table:
    """The batch with the texts of `rows` in the place of its own."""
    table = pa.Table.from_batches([batch])
    for name in ("query", "positive", "negatives"):
        values = pa.array([getattr(row, name) for row in rows], SCHEMA.field(name).type)
        table = table.set_column(FIELDS.index(name), SCHEMA.field(name), values)
    return table
