"""The last phase of cleaning: from the training candidates of a shard to its training rows.

What goes, in this order, each row under its first reason: duplicates, near duplicates, rows that hold an evaluation
query, rows that show a text of an evaluation set (`decontaminate`), rows in another language than claimed (`langid`).
The evaluation sets and the language model are loaded once in each process.

Cost: 4 microseconds of one core for a row of two texts of 125 characters; 90 more for the evaluation sets, 90 more for
the languages. Memory: a batch of 8,192 rows, 14 bytes for each row and 8 for each text of the shard; with languages the
answers for at most 100,000 texts; with evaluation sets their index.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.core.files import explained, sync
from f2llm.data.clean_duplicates import near_duplicates
from f2llm.data.clean_parts import KEPT, LEAKS, SPLIT, TRAIN, Flags, example_writer, load, marked_batches, occurs
from f2llm.data.decontaminate import EvaluationIndex, leaking_lines, line_writer, reasons, texts_of_examples
from f2llm.data.examples import read_batches
from f2llm.data.langid import Identifier, LanguageCounts, Remembering, judge, load_identifier

REASONS = (
    "", "duplicate", "near duplicate", "duplicate of another source", "training text is an evaluation query"
)  # fmt: skip
WRONG_LANGUAGE = "in another language than claimed"


def filter_shard(
    part: Path,
    target: Path,
    *,
    source: str,
    first: int,
    near: Mapping[str, Any] | None,
    queries: Path | None,
    leaks: Mapping[str, Any] | None,
    languages: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write the training rows of a part to `target`, where there are any; returns the counts of `clean`.

    `first`: what the first row is called in the file of leaks; `near`: arguments of `near_duplicates`; `queries`: a
    file of keys that no row may hold; `leaks`: arguments of `_index`; `languages`: arguments of `_LanguageCheck`, and
    the file that the findings are written to.
    """
    why = _reasons(part, near, queries)
    dropped = Counter({REASONS[code]: count for code, count in enumerate(np.bincount(why).tolist()) if code and count})
    rows = 0
    with ExitStack() as stack:
        leak_check = _LeakCheck(stack, part / LEAKS, source, **leaks) if leaks else None
        language_check = _LanguageCheck(stack, part, **_without(languages, "target")) if languages else None
        writer = stack.enter_context(example_writer(part / "filtered.parquet"))
        for start, table, flags in marked_batches(part / TRAIN, why == 0):
            table, numbers = table.filter(pa.array(flags)), first + start + np.flatnonzero(flags)
            if leak_check:
                table = leak_check.without(table, numbers, dropped)
            if language_check:
                table = language_check.without(table, dropped)
            writer.write_table(table)
            rows += len(table)
    if languages:
        _put(part / "languages.parquet", languages["target"], rows)
    _put(part / "filtered.parquet", target, rows)
    found = {"train": rows, "dropped": dict(dropped), "checked": int((why == 0).sum())}
    return found | {"languages": language_check.counted() if language_check else []}


def show_leaks(shard: Path, part: Path, *, source: str, first: int, leaks: Mapping[str, Any]) -> None:
    """Write what the rows of an excluded source show of the evaluation sets."""
    index, start = _index(**leaks), first
    with line_writer(part / LEAKS) as write:
        for batch in read_batches(shard, ["id", "task_type", "query", "positive", "negatives"]):
            write(leaking_lines(index, source, np.arange(start, start + len(batch)), batch))
            start += len(batch)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _put(made: Path, target: Path, rows: int) -> None:
    """Move a file to its place, or leave no file where it has no rows."""
    sync(made)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if rows:
            os.replace(made, target)
        else:
            target.unlink(missing_ok=True)
        sync(target.parent)


def _reasons(part: Path, near: Mapping[str, Any] | None, queries: Path | None) -> NDArray[np.int8]:
    """[R]: the place in REASONS of the reason for which a candidate goes, as far as hashes tell it; 0 for none."""
    kept = load(part / KEPT)
    why = np.where(kept, 0, 1).astype(np.int8)
    if near is not None:
        alike, same = near_duplicates(**near, count=len(kept))
        why[alike & (why == 0)] = 2
        why[same & (why == 0)] = 3
    if queries is not None:
        why[_holding(part, queries) & (why == 0)] = 4
    return why


def _holding(part: Path, queries: Path) -> Flags:
    """Which rows show a text whose key is in the file; the label texts of a classification are no such texts."""
    counts, labelled = load(part / SPLIT, "counts").astype(np.int64), load(part / SPLIT, "labelled")
    found = occurs(load(part / SPLIT, "texts"), load(queries))
    starts = np.cumsum(counts) - counts
    is_query = np.zeros(len(found), np.bool_)
    is_query[starts] = True
    found &= is_query | np.repeat(~labelled, counts)
    holding = np.zeros(len(counts), np.bool_)
    holding[np.repeat(np.arange(len(counts)), counts)[found]] = True
    return holding


class _LeakCheck:
    """Takes rows out that show an evaluation text, and writes what they show."""

    def __init__(self, stack: ExitStack, path: Path, source: str, sets: Sequence[tuple[str, str]], state: str) -> None:
        self.index, self.source = _index(sets, state), source
        self.write = stack.enter_context(line_writer(path))

    def without(self, table: pa.Table, numbers: NDArray[np.int64], dropped: Counter[str]) -> pa.Table:
        lines = leaking_lines(self.index, self.source, numbers, table)
        self.write(lines)
        found = reasons(lines)
        dropped.update(found.values())
        return table.filter(pa.array([number not in found for number in numbers.tolist()], pa.bool_()))


def _index(sets: Sequence[tuple[str, str]], state: str) -> EvaluationIndex:
    """The index of (name, file or shards of examples); `state` tells the files of one run from those of another."""
    return _cached_index(tuple(map(tuple, sets)), state)


@lru_cache(maxsize=1)
def _cached_index(sets: tuple[tuple[str, str], ...], state: str) -> EvaluationIndex:
    return EvaluationIndex(texts_of_examples({name: Path(path) for name, path in sets}))


_SIDECAR = pa.schema(
    [(f"{side}_{name}", kind) for side in ("query", "positive")
     for name, kind in (("found", pa.string()), ("confidence", pa.float32()), ("verdict", pa.string()))]
)  # fmt: skip


class _LanguageCheck:
    """Writes the language that each text is found to be in; takes rows out where it is surely another."""

    def __init__(self, stack: ExitStack, part: Path, model: Path | None, drop: bool, confidence: float) -> None:
        self.identifier = Remembering(_identifier(model))
        self.counts = LanguageCounts()
        self.drop, self.confidence = drop, confidence
        path = part / "languages.parquet"
        self.writer = stack.enter_context(pq.ParquetWriter(path, _SIDECAR, compression="zstd"))

    def without(self, table: pa.Table, dropped: Counter[str]) -> pa.Table:
        columns = [*self._judged(table, "query", "query_lang"), *self._judged(table, "positive", "doc_lang")]
        stays = np.ones(len(table), np.bool_)
        if self.drop:
            for _, sure, verdict in (columns[:3], columns[3:]):
                stays &= (np.array(verdict) != "disagree") | (np.array(sure, np.float64) < self.confidence)
        if not stays.all():
            dropped[WRONG_LANGUAGE] += int((~stays).sum())
        self.writer.write_table(pa.table(columns, schema=_SIDECAR).filter(pa.array(stays)))
        return table.filter(pa.array(stays))

    def _judged(self, table: pa.Table, text: str, tag: str) -> list[list[Any]]:
        """Tags, confidences and verdicts of a column."""
        texts, tags = table[text].to_pylist(), table[tag].to_pylist()
        judged = judge(texts, tags, self.identifier, self.counts)
        return [list(values) for values in zip(*judged, strict=True)] if judged else [[], [], []]

    def counted(self) -> list[list[Any]]:
        return [[*key, count] for key, count in sorted(self.counts.texts.items())]


@lru_cache(maxsize=1)
def _identifier(model: Path | None) -> Identifier:
    return load_identifier(model)
