"""Mining from shard to shard: pure functions for an engine, and the files of a work folder between them.

```
keys-SHARD.npy                        records of the rows (mine_plan.ROW)
plan-*.npy, plan.json                 pools, documents, known positives
vectors-SHARD.npy, texts-SHARD.arrow  documents that occur first in a shard, in the order of their keys
pools-FILE.npy, pools-FILE.arrow      vectors and texts of pools, in the order of their members
```
Vectors are float32, so that scores are those of a search in memory to the last bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.core.files import atomic_path
from f2llm.data.examples import FIELDS, SCHEMA, read_batches
from f2llm.data.mine_plan import ROW, KeyReader, Plan, PoolRange, RowKeys, states
from f2llm.data.mine_report import MineReport, drawn, sample
from f2llm.data.mine_rows import Given, exact_scores, given_negatives, search_rows
from f2llm.data.mine_rules import Encoder, Ints, MineRules, Vectors, encoder_of, unit_vectors
from f2llm.data.mine_search import Found

_ENCODE_TEXTS = 8192
_STATE = ("negatives", "task_type", "label")


def look(source: Path, per_query: int) -> dict[str, Any]:
    """What the rows of a shard bring along: how many need negatives, whether any brings too many, their task types."""
    kinds, needs, given, cut = set[str](), 0, 0, False
    for batch in read_batches(source, _STATE):
        counts, kind = _counts(batch), batch.column("task_type").to_pylist()
        part, need = states(counts, kind, batch.column("label").to_pylist(), per_query)
        kinds.update(kind)
        needs, cut = needs + int(need.sum()), cut or bool((counts[part] > per_query).any())
        given += int(np.where(part, np.minimum(counts, per_query), counts)[~need].sum())
    return {"needs": needs, "given": given, "cut": cut, "kinds": sorted(kinds)}


def write_keys(source: Path, folder: Path, shard: int, rules: Mapping[str, Any]) -> list[str]:
    """Write the keys of a shard's rows; returns the languages that it numbers."""
    reader, parts = KeyReader(MineRules(**rules)), [np.zeros(0, ROW)]
    for batch in read_batches(source, ["query", "positive", "doc_lang", *_STATE]):
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name != "negatives"}
        parts.append(reader.read(columns, _counts(batch)))
    save_array(folder / f"keys-{shard:05}.npy", np.concatenate(parts))
    return list(reader.languages)


@dataclass(frozen=True)
class KeyFiles(Sequence[RowKeys]):
    """The keys of all shards, each read when it is asked for."""

    folder: Path
    shards: int

    def __len__(self) -> int:
        return self.shards

    def __getitem__(self, shard: Any) -> Any:
        if not 0 <= shard < self.shards:
            raise IndexError(shard)
        return load_keys(self.folder, shard)


def load_keys(folder: Path, shard: int) -> RowKeys:
    keys: RowKeys = np.load(folder / f"keys-{shard:05}.npy")
    return keys


def write_documents(source: Path, folder: Path, shard: int, make_encoder: Callable[[], Encoder]) -> int:
    """Encode the documents that occur first in a shard; returns their number."""
    plan = Plan.load(folder)
    documents, rows = plan.encoded_in(shard, load_keys(folder, shard)["positive"])
    if not len(documents):
        return 0
    texts = _texts(source, "positive").take(pa.array(rows))
    encode = encoder_of(make_encoder).encode
    parts = (texts.slice(start, _ENCODE_TEXTS) for start in range(0, len(texts), _ENCODE_TEXTS))
    save_array(
        folder / f"vectors-{shard:05}.npy", (unit_vectors(encode, part.to_pylist()) for part in parts), len(texts)
    )
    _save_texts(folder / f"texts-{shard:05}.arrow", texts)
    return len(texts)


def write_pools(folder: Path, file: int) -> int:
    """Gather vectors and texts of the pools of a file from those of the shards; returns their number."""
    plan = Plan.load(folder)
    start, stop = plan.file_range(file)
    members = plan.members[start:stop]
    shard, place = plan.shard[members], plan.place[members]
    save_array(folder / f"pools-{file:05}.npy", gathered(folder, shard, place))
    _save_texts(folder / f"pools-{file:05}.arrow", _taken(folder, "texts", shard, place))
    return len(members)


def gathered(folder: Path, shard: NDArray[np.int32], place: NDArray[np.int32]) -> Vectors:
    """Vectors [N, D] of documents, by the shards in which they occur first and their places there."""
    found: Vectors | None = None
    for own in np.unique(shard):
        vectors = np.load(folder / f"vectors-{own:05}.npy", mmap_mode="r")
        found = np.empty((len(shard), vectors.shape[1]), np.float32) if found is None else found
        found[shard == own] = vectors[place[shard == own]]
    assert found is not None
    return found


@dataclass(frozen=True)
class _Store:
    """Vectors of the work folder, for `search_rows`."""

    folder: Path
    plan: Plan

    def pool(self, pool: PoolRange) -> Vectors:
        first, _ = self.plan.file_range(pool.file)
        vectors: Vectors = np.load(self.folder / f"pools-{pool.file:05}.npy", mmap_mode="r")
        return vectors[pool.start - first : pool.stop - first]

    def documents(self, documents: Ints) -> Vectors:
        return gathered(self.folder, self.plan.shard[documents], self.plan.place[documents])

    def texts(self, members: Ints) -> pa.Array:
        """The texts of members, from the files that they lie in."""
        starts = np.array([self.plan.file_range(file)[0] for file in range(self.plan.files())])
        file = np.searchsorted(starts, members, "right") - 1
        return _taken(self.folder, "pools", file, members - starts[file])


def mine_shard(
    source: Path,
    target: Path,
    folder: Path,
    shard: int,
    languages: list[str],
    make_encoder: Callable[[], Encoder],
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a shard with negatives for the rows that need some; returns the report of these rows.

    `languages` are those that the keys of the shard number; `rules` the fields of `MineRules`.
    """
    plan, keys, chosen = Plan.load(folder), load_keys(folder, shard), MineRules(**rules)
    given, store = _given(source, plan, keys), _Store(folder, plan)
    queries = _queries(source, keys, encoder_of(make_encoder)) if chosen.anchor == "query" else None
    found = search_rows(plan, shard, keys, languages, given, store, queries, chosen)
    report = MineReport(max_score=chosen.max_score, given=len(given.row))
    found.count(report, chosen.per_query - np.bincount(given.row, minlength=len(keys)))
    start, rows = plan.starts[shard], np.flatnonzero(keys["needs"])
    shown, first = rows[drawn(start + rows, chosen.seed)], 0
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for batch in read_batches(source, FIELDS):
            writer.write_batch(_mined(batch, first, keys, given, found, store))
            for row in shown[(shown >= first) & (shown < first + len(batch))].tolist():
                members = found.member[row, : int(found.mined[row])]
                scores = exact_scores(plan, keys, store, queries, row, members)
                query, positive = (batch.column(name)[row - first].as_py() for name in ("query", "positive"))
                nearest = store.texts(members).to_pylist()
                report.samples.append(sample(start + row, query, positive, found.positive[row], nearest, scores))
            first += len(batch)
    return report.to_json()


def pass_shard(source: Path, target: Path, cut: int | None) -> None:
    """Write a shard of which no row needs negatives: a copy, or the first `cut` negatives of rows that take part."""
    with atomic_path(target) as temporary:
        if cut is None:
            shutil.copyfile(source, temporary)
            return
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for batch in read_batches(source, FIELDS):
                kinds, labels = (batch.column(name).to_pylist() for name in ("task_type", "label"))
                part, _ = states(_counts(batch), kinds, labels, cut)
                writer.write_batch(_with_negatives(batch, _kept(batch, part, cut)))


def _queries(source: Path, keys: RowKeys, encoder: Encoder) -> tuple[Vectors, Ints]:
    """Vectors of the distinct queries of the rows that need negatives, and the index of each row's."""
    rows, index = np.flatnonzero(keys["needs"]), np.zeros(len(keys), np.int64)
    texts = _texts(source, "query").take(pa.array(rows)).dictionary_encode()
    index[rows] = texts.indices.to_numpy()
    return unit_vectors(encoder.encode_query, texts.dictionary.to_pylist()), index


def _given(source: Path, plan: Plan, keys: RowKeys) -> Given:
    """The negatives that the rows in need of some bring along."""

    def lists() -> Iterator[tuple[int, list[str]]]:
        first = 0
        for batch in read_batches(source, ["negatives"]):
            own = np.flatnonzero((_counts(batch) > 0) & keys["needs"][first : first + len(batch)])
            yield from zip((first + own).tolist(), batch.column(0).take(pa.array(own)).to_pylist(), strict=True)
            first += len(batch)

    return given_negatives(plan, keys, lists())


def _mined(
    batch: pa.RecordBatch, first: int, keys: RowKeys, given: Given, found: Found, store: _Store
) -> pa.RecordBatch:
    """Rows of a batch, the `first` of which is a row of the shard, with what they bring along and what was found."""
    rows = slice(first, first + len(batch))
    row, slot = np.nonzero(found.member[rows] >= 0)
    own = slice(*np.searchsorted(given.row, [rows.start, rows.stop]).tolist())
    counts = _counts(batch)
    kept = _kept(batch, keys["language"][rows] >= 0, found.member.shape[1])
    kept[np.repeat(keys["needs"][rows], counts)] = False
    kept[(np.cumsum(counts) - counts)[given.row[own] - first] + given.slot[own]] = True
    return _with_negatives(batch, kept, row, store.texts(found.member[rows][row, slot]))


def _kept(batch: pa.RecordBatch, part: NDArray[np.bool_], limit: int) -> NDArray[np.bool_]:
    """Which of all negatives of a batch stay: the first ones of each row that takes part, all of the others."""
    counts = _counts(batch)
    slot = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    kept: NDArray[np.bool_] = (slot < limit) | ~np.repeat(part, counts)
    return kept


def _with_negatives(
    batch: pa.RecordBatch, kept: NDArray[np.bool_], row: Ints | None = None, texts: pa.Array | None = None
) -> pa.RecordBatch:
    """The batch with its `kept` negatives, followed in each row by the `texts` of that row."""
    owner = np.repeat(np.arange(len(batch)), _counts(batch))[kept]
    values = batch.column("negatives").flatten().filter(pa.array(kept))
    if row is not None and texts is not None:
        owner = np.concatenate([owner, row])
        values, first = pa.concat_arrays([values, texts.cast(pa.string())]), len(values)
        values = values.take(pa.array(np.argsort(owner, kind="stable"))) if first else values
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(batch)))])
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=SCHEMA.field("negatives").type)
    return batch.set_column(FIELDS.index("negatives"), SCHEMA.field("negatives"), column)


def _counts(batch: pa.RecordBatch) -> Ints:
    counts: Ints = pc.list_value_length(batch.column("negatives")).to_numpy(zero_copy_only=False).astype(np.int64)
    return counts


def _texts(source: Path, column: str) -> pa.Array:
    """A column of texts as one array, whatever its size."""
    parts = [batch.column(0).cast(pa.large_string()) for batch in read_batches(source, [column])]
    return pa.concat_arrays(parts)


def save_array(path: Path, array: Any, rows: int | None = None) -> None:
    """Write an array atomically, or one of `rows` rows from its parts as they come."""
    with atomic_path(path) as temporary:
        if rows is None:
            with temporary.open("wb") as file:
                np.save(file, array)
            return
        start, whole = 0, None
        for part in array:
            whole = (
                np.lib.format.open_memmap(temporary, "w+", part.dtype, (rows, part.shape[1]))
                if whole is None
                else whole
            )
            whole[start : start + len(part)] = part
            start += len(part)


def _save_texts(path: Path, texts: pa.Array) -> None:
    """One batch, not compressed, so that a reader maps it and touches what it takes."""
    batch = pa.record_batch([texts], names=["text"])
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), batch.schema) as writer:
        writer.write_batch(batch)


def _taken(folder: Path, name: str, file: Any, place: Any) -> pa.Array:
    """Texts by the number of the file in which each lies, and its place there."""
    parts = [
        _load_texts(folder / f"{name}-{own:05}.arrow").take(pa.array(place[file == own])) for own in np.unique(file)
    ]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.argsort(file, kind="stable"))
    return pa.concat_arrays([pa.array([], pa.large_string()), *parts]).take(pa.array(order))


def _load_texts(path: Path) -> pa.Array:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
