"""Exact and near duplicates over any number of parquet files of examples, out of core; nothing is removed here.

A row is a duplicate when the texts of its `fields` are, all of them, those of an earlier row (in its languages): the
same text by `keys.fold`, or one that is joined to it by texts that are pairwise alike. Alike is a Jaccard similarity of
the sets of character 5-grams of at least `threshold` (0.8). The first row, in the order of `sources` and of the rows,
stays. Because texts are compared, and not rows, an English sentence with 128 translations is fingerprinted once, and a
passage with five questions keeps all of them. A row with an empty or null text is never a duplicate.

1. One pass over the shards, a task for each: 64-bit key of each folded text; for each text not met lately in the shard
   its MinHash signature (rensa, 128 permutations) cut into 21 bands of 6, each hashed to 64 bits. All of it goes to
   parquet files.
2. DuckDB, band by band: texts that share a band's hash. Up to 16 are paired with each other; of more (boilerplate) each
   is paired with the one of the smallest key and with its neighbours in the order of the next band's hash.
3. The exact Jaccard similarity of each pair; connected components of those that reach the threshold; rows by component.

Recall: two texts of similarity s share a band with probability 1 - (1 - s^6)^21: 99.8% at 0.8, 93% at 0.7, 28% at 0.5.
Character 5-grams were chosen by measuring on NTREX in 12 languages with seven small edits (a letter, a word replaced,
deleted, swapped, other punctuation, a tenth cut off, a prefix): at 0.8 they find 83% of the copies, word 3-grams 39%
(Chinese, Japanese and Thai: 70% against 13%); 3-grams find 94%, but long texts of one language share most of theirs.
None takes two sentences with a common half for duplicates.

Cost: about 100 microseconds of one core for a row of two texts of 120 characters, most of it in the first pass (20,000
rows: 2 s; benchmarks/cleaning.py). Memory: DuckDB's `memory_limit`, 250 MB beside it, and 100 bytes per pair of texts
that are alike; disk: 200 bytes and the zstd text per distinct text. Limits: likeness is transitive here, so long chains
of templated texts fall together; a letter changed in a text of fewer than 50 is no near duplicate; a number changed in
a longer one is.
"""

from __future__ import annotations

import glob
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.core.errors import StorageError
from f2llm.core.extras import optional
from f2llm.core.files import atomic_path, explained, write_json
from f2llm.core.log import Bar
from f2llm.core.types import Example
from f2llm.data.engine import Engine, LocalEngine, Task
from f2llm.data.examples import count_examples, read_batches, read_examples, shards
from f2llm.data.fingerprints import BANDS, I64, U64, band_hashes, jaccard, text_key
from f2llm.data.keys import fold, stable_hash

Field = Literal["query", "positive"]
EXACT, NEAR = "exact duplicate", "near duplicate"
_PAIR_ALL = 16  # texts of a bucket that are all paired with each other
_SLOTS = 2**20  # keys of texts that are remembered in a shard: 8 MB


@dataclass
class SourceDuplicates:
    """Rows of one source; `rows == kept + sum(dropped)`. `of` counts dropped rows by the source of the row that stays.

    `not_judged` of the kept rows have an empty text.
    """

    rows: int = 0
    kept: int = 0
    not_judged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    of: Counter[str] = field(default_factory=Counter)

    def add(self, rows: int, not_judged: int) -> None:
        self.rows += rows
        self.not_judged += not_judged

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"dropped": dict(self.dropped.most_common()), "of": dict(self.of.most_common())}


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found: counts by source, and a parquet file with one line per row that goes.

    Its columns: `source`, `row` (place in the source's file, from 0), `id`, `reason`, `of_source` and `of_id` (the row
    that stays instead); sorted by source, in the order given, and row.
    """

    path: Path
    sources: dict[str, SourceDuplicates]

    def rows(self, source: str) -> I64:
        """Ascending row numbers of a source that go."""
        table = pq.read_table(self.path, columns=["row"], filters=[("source", "=", source)])
        return np.asarray(table["row"].to_numpy(), np.int64)

    def to_json(self) -> dict[str, Any]:
        return {source: counts.to_json() for source, counts in self.sources.items()}


def find_duplicates(
    sources: Mapping[str, Path | Sequence[Path]],
    out_dir: Path,
    *,
    fields: Sequence[Field] = ("query", "positive"),
    threshold: float = 0.8,
    same_language: bool = True,
    memory_limit: str = "1GB",
    threads: int = 2,
    kept: Mapping[Path, Path] | None = None,
    work: Path | None = None,
    engine: Engine | None = None,
) -> Duplicates:
    """Write `duplicates.parquet` and `duplicates.json` below `out_dir`; needs the extra `data`.

    `sources` maps ids to files, directories of shards, or lists of shards, of examples. `same_language`: only rows with
    the same tags are compared. A `threshold` of 1 finds exact duplicates and texts with the same 5-grams. `kept` has
    for each shard a file of flags (numpy): rows that are not kept take no part, but count in the numbering of the rows.
    The shards are gone through by `engine` (default: this process). Intermediate files lie in `work` and stay there, so
    that a killed run can go on; without it they lie in `out_dir` and are removed.
    """
    with explained(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    with explained(out_dir), ExitStack() as stack:
        if work is None:
            folder = tempfile.TemporaryDirectory(prefix=".dedup.", suffix=".tmp", dir=out_dir)
            work = Path(stack.enter_context(folder))
        scan = {"fields": list(fields), "same_language": same_language}
        tasks, starts = _scan_tasks(sources, work, scan, kept or {})
        counts = {source: SourceDuplicates() for source in sources}
        engine = engine or LocalEngine(1)
        for task, found in zip(tasks, engine.map(tasks, "fingerprints"), strict=True):
            counts[list(sources)[task.arguments["source"]]].add(**found)
        target = out_dir / "duplicates.parquet"
        join = {"work": work, "target": target, "starts": starts, "fields": len(fields), "threshold": threshold}
        join |= {"memory_limit": memory_limit, "threads": threads}
        engine.map([Task(work / "joined.json", join_shards, join)], "duplicates")
    _count(target, counts)
    write_json(out_dir / "duplicates.json", {source: found.to_json() for source, found in counts.items()})
    return Duplicates(target, counts)


def _scan_tasks(
    sources: Mapping[str, Path | Sequence[Path]], work: Path, arguments: Mapping[str, Any], kept: Mapping[Path, Path]
) -> tuple[list[Task], dict[str, int]]:
    """A task for each shard, and the running number of each source's first row."""
    tasks, starts, first = list[Task](), dict[str, int](), 0
    for number, (source, path) in enumerate(sources.items()):
        starts[source] = first
        for shard in shards(path) if isinstance(path, Path) else path:
            out = work / f"shard-{len(tasks):06}"
            own = {"shard": shard, "kept": kept.get(shard), "out": out, "source": number, "first": first}
            rows = count_examples(shard)
            tasks.append(Task(out / "done.json", scan_shard, own | dict(arguments), rows))
            first += rows
    return tasks, starts


def without(path: Path, rows: I64) -> Iterator[Example]:
    """The examples of a file without those at `rows` (ascending)."""
    going = iter(rows.tolist())
    skip = next(going, -1)
    for number, example in enumerate(read_examples(path)):
        if number == skip:
            skip = next(going, -1)
        else:
            yield example


# ---- 1. the pass over the files


def scan_shard(
    shard: Path, kept: Path | None, out: Path, *, source: int, first: int, fields: Sequence[Field], same_language: bool
) -> dict[str, int]:
    """Write `rows.parquet` (keys of each row), `texts.parquet` and `bands.parquet` (of each text) below `out`.

    `first` is the running number of the shard's first row over all sources, `kept` a file of flags (numpy): rows that
    are not kept take no part. Returns the numbers of rows that do, and of those that have an empty text.
    """
    with ExitStack() as stack:
        scan = _Scan(stack, out, tuple(fields), same_language, source, first)
        flags = None if kept is None else np.load(kept)
        for batch in read_batches(shard, ["id", *fields, "query_lang", "doc_lang"]):
            numbers = np.arange(scan.row, scan.row + len(batch))
            scan.row += len(batch)
            if flags is not None:
                chosen = flags[numbers - first]
                batch, numbers = batch.filter(pa.array(chosen)), numbers[chosen]
            scan.batch(batch, numbers)
    return {"rows": scan.rows, "not_judged": scan.not_judged}


class _Scan:
    """The three files of a shard, and the keys of the texts that were written lately."""

    def __init__(
        self, stack: ExitStack, out: Path, fields: tuple[Field, ...], same_language: bool, source: int, first: int
    ) -> None:
        self.fields, self.same_language, self.source = fields, same_language, source
        self.files = {}
        for name, schema in _schemas(len(fields)).items():
            temporary = stack.enter_context(atomic_path(out / f"{name}.parquet"))
            self.files[name] = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
        self.seen = np.zeros(_SLOTS, np.uint64)
        self.row, self.place = first, first * len(fields)
        self.rows = self.not_judged = 0

    def batch(self, batch: pa.RecordBatch, numbers: I64) -> None:
        """Write what one batch of rows gives."""
        keys = np.stack([self._keys(batch.column(name)) for name in self.fields])
        judged = (keys != 0).all(axis=0)
        pairs = zip(batch.column("query_lang").to_pylist(), batch.column("doc_lang").to_pylist(), strict=True)
        langs = [_language_key(*pair) if self.same_language else 0 for pair in pairs]
        sources = np.full(len(batch), self.source, np.int32)
        columns = [numbers, sources, batch.column("id"), np.array(langs, np.uint64), *keys]
        table = pa.table(columns, schema=_schemas(len(self.fields))["rows"])
        self.files["rows"].write_table(table.filter(pa.array(judged)))
        self.rows += len(batch)
        self.not_judged += int((~judged).sum())

    def _keys(self, column: pa.Array) -> U64:
        """The key of each text, 0 for an empty one; texts that are new are written."""
        encoded = column.dictionary_encode()
        folded = [fold(text or "") for text in encoded.dictionary.to_pylist()]
        keys = np.fromiter(map(text_key, folded), np.uint64, len(folded))
        self._write_new(folded, keys)
        places = encoded.indices.fill_null(len(folded)).to_numpy(zero_copy_only=False)
        return np.asarray(np.append(keys, np.uint64(0))[places], np.uint64)

    def _write_new(self, folded: list[str], keys: U64) -> None:
        """Texts that were not met lately; one that comes again after others took its slot does no harm."""
        slots = keys & np.uint64(_SLOTS - 1)
        new = np.flatnonzero((keys != 0) & (self.seen[slots] != keys))
        new = np.sort(new[np.unique(keys[new], return_index=True)[1]])
        if not len(new):
            return
        self.seen[slots[new]] = keys[new]
        texts = [folded[place] for place in new.tolist()]
        places = np.arange(self.place, self.place + len(new))
        self.place += len(new)
        schemas = _schemas(len(self.fields))
        self.files["texts"].write_table(pa.table([places, keys[new], texts], schema=schemas["texts"]))
        bands = band_hashes(texts)
        self.files["bands"].write_table(pa.table([keys[new], *bands.T], schema=schemas["bands"]))


@cache
def _schemas(fields: int) -> dict[str, pa.Schema]:
    u64, i64, text = pa.uint64(), pa.int64(), pa.string()
    keys = [(f"k{place}", u64) for place in range(fields)]
    return {
        "rows": pa.schema([("seq", i64), ("source", pa.int32()), ("id", text), ("lang", u64), *keys]),
        "texts": pa.schema([("place", i64), ("key", u64), ("text", text)]),
        "bands": pa.schema([("key", u64), *((f"b{band}", u64) for band in range(BANDS))]),
    }


@lru_cache(maxsize=2**14)
def _language_key(query_lang: str | None, doc_lang: str | None) -> int:
    return stable_hash(query_lang or "", doc_lang or "")


# ---- 2. and 3. in DuckDB


def join_shards(
    work: Path,
    target: Path,
    *,
    starts: Mapping[str, int],
    fields: int,
    threshold: float,
    memory_limit: str,
    threads: int,
) -> None:
    """Write the rows that go to `target`, from what `scan_shard` wrote below `work`."""
    for name, schema in _schemas(fields).items():  # so that there is one, where there is no shard
        pq.write_table(schema.empty_table(), work / f"no-{name}.parquet")
    with _database(work, memory_limit, threads) as database:
        for name in _schemas(fields):
            files = [str(work / f"no-{name}.parquet"), *sorted(map(str, work.glob(f"shard-*/{name}.parquet")))]
            pattern = ", ".join(_quoted(glob.escape(file)) for file in files)
            database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{pattern}])")
        _pair_up(database)
        _join_components(database, _verified(database, threshold))
        _write(database, target, fields, starts)


@contextmanager
def _database(work: Path, memory_limit: str, threads: int) -> Iterator[Any]:
    """A database in memory that spills to `work`; its refusals become one sentence."""
    duckdb = optional("duckdb", "data")
    config = {"memory_limit": memory_limit, "threads": threads, "temp_directory": str(work / "spill")}
    database = duckdb.connect(config=config)
    try:
        database.execute("SET preserve_insertion_order = false")
        database.execute("SET enable_progress_bar = false")
        yield database
    except duckdb.OutOfMemoryException as error:
        first = str(error).splitlines()[0]
        raise StorageError(f"no room for the duplicates ({first}); free disk space, or raise memory_limit") from None
    except duckdb.IOException as error:
        raise StorageError(f"cannot write below {work}: {str(error).splitlines()[0]}; free disk space") from None
    finally:
        database.close()


def _pair_up(database: Any) -> None:
    """Fill `candidates` with the pairs (a, b), a < b, of texts that share a band."""
    database.execute("CREATE TEMP TABLE pairs (a UBIGINT, b UBIGINT)")
    with Bar("candidates", BANDS) as bar:
        for band in range(BANDS):
            database.execute(_MEMBERS.format(band=f"b{band}", next=f"b{(band + 1) % BANDS}"))
            database.execute(_PAIRS)
            database.execute("DROP TABLE members")
            bar.advance()
    database.execute("CREATE TEMP TABLE candidates AS SELECT DISTINCT a, b FROM pairs")
    database.execute("DROP TABLE pairs")


_MEMBERS = """
CREATE TEMP TABLE members AS
SELECT hash, key, count(*) OVER bucket AS size, min(key) OVER bucket AS first,
       lag(key) OVER (PARTITION BY hash ORDER BY next, key) AS previous
FROM (
    SELECT DISTINCT {band} AS hash, key, {next} AS next FROM bands WHERE {band} IN (
        SELECT {band} FROM bands GROUP BY {band} HAVING min(key) <> max(key)
    )
) WINDOW bucket AS (PARTITION BY hash)
"""
_PAIRS = f"""
INSERT INTO pairs
SELECT x.key, y.key FROM members x JOIN members y USING (hash) WHERE x.size <= {_PAIR_ALL} AND x.key < y.key
UNION SELECT first, key FROM members WHERE size > {_PAIR_ALL} AND first < key
UNION SELECT least(previous, key), greatest(previous, key) FROM members
WHERE size > {_PAIR_ALL} AND previous IS NOT NULL
"""
_TEXTS = """
CREATE TEMP TABLE wanted AS SELECT a AS key FROM candidates UNION SELECT b FROM candidates;
CREATE TEMP TABLE content AS SELECT key, text FROM texts WHERE place IN (
    SELECT min(place) FROM texts SEMI JOIN wanted USING (key) GROUP BY key
);
"""
_COMPARED = """
SELECT a, b, x.text AS left_text, y.text AS right_text
FROM candidates JOIN content x ON x.key = a JOIN content y ON y.key = b
"""


def _verified(database: Any, threshold: float) -> U64:
    """[P, 2]: the pairs of keys whose texts reach the threshold."""
    database.execute(_TEXTS)
    total = database.sql("SELECT count(*) FROM candidates").fetchall()[0][0]
    kept = [np.zeros((0, 2), np.uint64)]
    with Bar("compare", total) as bar:
        for batch in database.sql(_COMPARED).to_arrow_reader(2048):
            alike = jaccard(batch["left_text"].to_pylist(), batch["right_text"].to_pylist()) >= threshold
            kept.append(np.stack([batch["a"].to_numpy(), batch["b"].to_numpy()], axis=1)[alike])
            bar.advance(len(batch))
    return np.concatenate(kept)


def _join_components(database: Any, pairs: U64) -> None:
    """Fill `roots`: the smallest key of the component that a text belongs to, for texts that are like another."""
    sparse = optional("scipy.sparse", "data")
    keys, places = np.unique(pairs, return_inverse=True)
    a, b = places.reshape(-1, 2).T
    graph = sparse.coo_matrix((np.ones(len(a), np.bool_), (a, b)), shape=(len(keys), len(keys)))
    _, labels = optional("scipy.sparse.csgraph", "data").connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)  # keys are ascending, so the first of a component is its smallest
    roots = pa.table({"key": keys, "root": keys[first][labels]})
    database.register("found_roots", roots)
    database.execute("CREATE TEMP TABLE roots AS SELECT * FROM found_roots")
    database.unregister("found_roots")


def _write(database: Any, target: Path, fields: int, starts: Mapping[str, int]) -> None:
    """The rows that go, each with the first row of its component; `starts`: running number of a source's first row."""
    columns = [np.arange(len(starts), dtype=np.int32), list(starts), list(starts.values())]
    database.register("names", pa.table(columns, schema=_NAMES))
    same = ", ".join(["lang", *(f"k{place}" for place in range(fields))])
    alike = ", ".join(["lang", *(f"g{place}" for place in range(fields))])
    groups = ", ".join(f"coalesce(r{place}.root, k{place}) AS g{place}" for place in range(fields))
    joins = " ".join(f"LEFT JOIN roots r{place} ON r{place}.key = k{place}" for place in range(fields))
    database.execute(f"CREATE TEMP TABLE grouped AS SELECT seq, {same}, {groups} FROM rows {joins}")
    for name, key in (("exact", same), ("near", alike)):
        query = f"SELECT {key}, min(seq) AS first FROM grouped GROUP BY {key} HAVING count(*) > 1"
        database.execute(f"CREATE TEMP TABLE {name} AS {query}")
    with atomic_path(target) as temporary:
        database.execute(_DROPS.format(same=same, alike=alike, target=_quoted(temporary)))


_NAMES = pa.schema([("number", pa.int32()), ("name", pa.string()), ("start", pa.int64())])
_DROPS = f"""
COPY (
    SELECT s.name AS "source", r.seq - s.start AS "row", r.id AS "id",
           CASE WHEN g.seq > e.first THEN '{EXACT}' ELSE '{NEAR}' END AS "reason",
           t.name AS "of_source", k.id AS "of_id"
    FROM grouped g JOIN near n USING ({{alike}}) LEFT JOIN exact e USING ({{same}})
    JOIN rows r ON r.seq = g.seq JOIN rows k ON k.seq = n.first
    JOIN names s ON s.number = r.source JOIN names t ON t.number = k.source
    WHERE g.seq > n.first ORDER BY r.seq
) TO {{target}} (FORMAT parquet, COMPRESSION zstd)
"""


def _quoted(path: Path | str) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _count(path: Path, counts: Mapping[str, SourceDuplicates]) -> None:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536, columns=["source", "reason", "of_source"]):
            for source, reason, of_source in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                counts[source].dropped[reason] += 1
                counts[source].of[of_source] += 1
    for found in counts.values():
        found.kept = found.rows - found.dropped.total()
