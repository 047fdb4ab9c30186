"""Exact and near duplicates over any number of parquet files of examples, out of core; nothing is removed here.

A row is a duplicate when the texts of its `fields` are, all of them, those of an earlier row (in its languages): the
same text by `keys.fold`, or one that is joined to it by texts that are pairwise alike. Alike is a Jaccard similarity of
the sets of character 5-grams of at least `threshold` (0.8). The first row, in the order of `sources` and of the rows,
stays. Because texts are compared, and not rows, an English sentence with 128 translations is fingerprinted once, and a
passage with five questions keeps all of them. A row with an empty or null text is never a duplicate.

1. One pass over the files: 64-bit key of each folded text; for each text not met lately its MinHash signature
   (rensa, 128 permutations) cut into 21 bands of 6, each hashed to 64 bits. All of it goes to parquet files.
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

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.core.errors import StorageError
from f2llm.core.extras import optional
from f2llm.core.files import atomic_path, explained, write_json
from f2llm.core.log import Bar
from f2llm.core.types import Example
from f2llm.data.examples import count_examples, read_batches, read_examples
from f2llm.data.keys import fold, stable_hash

Field = Literal["query", "positive"]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
EXACT, NEAR = "exact duplicate", "near duplicate"
GRAM = 5
PERMUTATIONS, BANDS, BAND_ROWS = 128, 21, 6
_SEED = 20260101
_SLICE_CHARS = 1_000_000  # characters whose n-grams are held at a time: 60 MB
_PAIR_ALL = 16  # texts of a bucket that are all paired with each other
_SLOTS = 2**22
_ODD: U64 = np.random.default_rng(_SEED).integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)


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
    sources: Mapping[str, Path],
    out_dir: Path,
    *,
    fields: Sequence[Field] = ("query", "positive"),
    threshold: float = 0.8,
    same_language: bool = True,
    memory_limit: str = "1GB",
    threads: int = 2,
) -> Duplicates:
    """Write `duplicates.parquet` and `duplicates.json` below `out_dir`; needs the extra `data`.

    `sources` maps ids to files of examples. `same_language`: only rows with the same tags are compared. A `threshold`
    of 1 finds exact duplicates and texts with the same 5-grams. Intermediate files lie in `out_dir` and are removed.
    """
    with explained(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / "duplicates.parquet"
    with explained(out_dir), tempfile.TemporaryDirectory(prefix=".dedup.", suffix=".tmp", dir=out_dir) as folder:
        work = Path(folder)
        counts = _Scan(work, tuple(fields), same_language).run(sources)
        with _database(work, memory_limit, threads) as database:
            _pair_up(database, work)
            _join_components(database, _verified(database, work, threshold))
            starts = np.cumsum([0, *(found.rows for found in counts.values())]).tolist()
            _write(database, work, target, len(fields), dict(zip(counts, starts, strict=False)))
    _count(target, counts)
    write_json(out_dir / "duplicates.json", {source: found.to_json() for source, found in counts.items()})
    return Duplicates(target, counts)


def without(path: Path, rows: I64) -> Iterator[Example]:
    """The examples of a file without those at `rows` (ascending)."""
    going = iter(rows.tolist())
    skip = next(going, -1)
    for number, example in enumerate(read_examples(path)):
        if number == skip:
            skip = next(going, -1)
        else:
            yield example


# ---- n-grams, MinHash, Jaccard


def mix(values: U64) -> U64:
    """Spread 64-bit values evenly (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def grams(texts: Sequence[str], size: int = GRAM) -> tuple[U64, I64]:
    """Hashes of the character n-grams of all texts in one array, and where each text's begin: [N + 1].

    A text that is shorter than `size` is one gram, an empty one none. About 60 bytes of memory a character.
    """
    codes = np.frombuffer("".join(text + "\0" * size for text in texts).encode("utf-32-le", "surrogatepass"), "<u4")
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.where(lengths > 0, np.maximum(lengths - size + 1, 1), 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    starts = np.cumsum(lengths + size) - (lengths + size)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    hashes = np.zeros(max(len(codes) - size + 1, 0), np.uint64)
    for place in range(size):
        hashes += codes[place : place + len(hashes)].astype(np.uint64) * _ODD[place]
    found: U64 = hashes[places]
    return mix(found), offsets


def slices(lengths: Sequence[int], limit: int = _SLICE_CHARS) -> Iterator[slice]:
    """Runs of items whose lengths add up to at most `limit` (or a single item)."""
    start = total = 0
    for place, length in enumerate(lengths):
        if place > start and total + length > limit:
            yield slice(start, place)
            start, total = place, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))


def band_hashes(texts: Sequence[str]) -> U64:
    """[N, 21]: hashes of the bands of the MinHash signatures; texts that share one are candidates.

    Banding after Broder (1997) and Indyk and Motwani (1998); the signature is rensa's R-MinHash.
    """
    minhash = optional("rensa", "data").RMinHash
    parts = [np.zeros((0, BANDS), np.uint64)]
    for run in slices([len(text) + GRAM for text in texts]):
        hashes, offsets = grams(texts[run])
        matrix = minhash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED)
        rows = np.array(matrix.to_rows(), np.uint64)[:, : BANDS * BAND_ROWS].reshape(-1, BANDS, BAND_ROWS)
        parts.append(mix((rows * _ODD[:BAND_ROWS]).sum(axis=2, dtype=np.uint64) + _ODD[-BANDS:]))
    return np.concatenate(parts)


def jaccard(left: Sequence[str], right: Sequence[str]) -> NDArray[np.float64]:
    """Similarity of the sets of 5-grams of each pair of texts: common over all; 0 for two empty texts."""
    found = [np.zeros(0)]
    lengths = [len(a) + len(b) + 2 * GRAM for a, b in zip(left, right, strict=True)]
    for run in slices(lengths):
        a, b = _sets(left[run]), _sets(right[run])
        both = np.sort(np.concatenate([a, b]))
        common = both[1:][both[1:] == both[:-1]]
        sizes = [np.bincount((part >> np.uint64(44)).astype(np.int64), minlength=len(left[run])) for part in (a, b)]
        shared = np.bincount((common >> np.uint64(44)).astype(np.int64), minlength=len(left[run]))
        found.append(shared / np.maximum(sizes[0] + sizes[1] - shared, 1))
    return np.concatenate(found)


def _sets(texts: Sequence[str]) -> U64:
    """Distinct grams of each text, sorted: 20 bits of the text's number, 44 of the gram's hash."""
    hashes, offsets = grams(texts)
    owners = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(offsets))
    keys = np.sort((owners << np.uint64(44)) | (hashes >> np.uint64(20)))
    last: NDArray[np.bool_] = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return np.asarray(keys[last], np.uint64)


# ---- 1. the pass over the files


class _Scan:
    """Writes `rows.parquet` (keys of each row), `texts.parquet` and `bands.parquet` (of each text)."""

    def __init__(self, work: Path, fields: tuple[Field, ...], same_language: bool) -> None:
        self.fields, self.same_language = fields, same_language
        u64, i64, text = pa.uint64(), pa.int64(), pa.string()
        keys = [(f"k{place}", u64) for place in range(len(fields))]
        self.schemas = {
            "rows": pa.schema([("seq", i64), ("source", pa.int32()), ("id", text), ("lang", u64), *keys]),
            "texts": pa.schema([("place", i64), ("key", u64), ("text", text)]),
            "bands": pa.schema([("key", u64), *((f"b{band}", u64) for band in range(BANDS))]),
        }
        self.paths = {name: work / f"{name}.parquet" for name in self.schemas}
        self.seen = np.zeros(_SLOTS, np.uint64)
        self.row = self.place = 0

    def run(self, sources: Mapping[str, Path]) -> dict[str, SourceDuplicates]:
        counts = {source: SourceDuplicates(rows=count_examples(path)) for source, path in sources.items()}
        columns = ["id", *self.fields, "query_lang", "doc_lang"]
        with ExitStack() as stack:
            bar = stack.enter_context(Bar("fingerprints", sum(found.rows for found in counts.values())))
            self.files = {
                name: stack.enter_context(pq.ParquetWriter(self.paths[name], schema, compression="zstd"))
                for name, schema in self.schemas.items()
            }
            for number, (source, path) in enumerate(sources.items()):
                for batch in read_batches(path, columns):
                    counts[source].not_judged += self._batch(number, batch)
                    bar.advance(len(batch), source)
        return counts

    def _batch(self, source: int, batch: pa.RecordBatch) -> int:
        """Write what one batch of rows gives; returns how many rows have an empty text."""
        keys = np.stack([self._keys(batch.column(name)) for name in self.fields])
        judged = (keys != 0).all(axis=0)
        pairs = zip(batch.column("query_lang").to_pylist(), batch.column("doc_lang").to_pylist(), strict=True)
        langs = [_language_key(*pair) if self.same_language else 0 for pair in pairs]
        numbers = np.arange(self.row, self.row + len(batch))
        self.row += len(batch)
        columns = [numbers, np.full(len(batch), source, np.int32), batch.column("id"), np.array(langs, np.uint64)]
        table = pa.table([*columns, *keys], schema=self.schemas["rows"])
        self.files["rows"].write_table(table.filter(pa.array(judged)))
        return int((~judged).sum())

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
        self.files["texts"].write_table(pa.table([places, keys[new], texts], schema=self.schemas["texts"]))
        bands = band_hashes(texts)
        self.files["bands"].write_table(pa.table([keys[new], *bands.T], schema=self.schemas["bands"]))


def text_key(folded: str) -> int:
    """64 bits of a folded text; 0 for an empty one."""
    return (stable_hash(folded) or 1) if folded else 0


@lru_cache(maxsize=2**14)
def _language_key(query_lang: str | None, doc_lang: str | None) -> int:
    return stable_hash(query_lang or "", doc_lang or "")


# ---- 2. and 3. in DuckDB


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
        raise StorageError(f"cannot write below {work.parent}: {str(error).splitlines()[0]}; free disk space") from None
    finally:
        database.close()


def _pair_up(database: Any, work: Path) -> None:
    """Fill `candidates` with the pairs (a, b), a < b, of texts that share a band."""
    file = _quoted(work / "bands.parquet")
    database.execute("CREATE TEMP TABLE pairs (a UBIGINT, b UBIGINT)")
    with Bar("candidates", BANDS) as bar:
        for band in range(BANDS):
            database.execute(_MEMBERS.format(file=file, band=f"b{band}", next=f"b{(band + 1) % BANDS}"))
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
    SELECT DISTINCT {band} AS hash, key, {next} AS next FROM read_parquet({file}) WHERE {band} IN (
        SELECT {band} FROM read_parquet({file}) GROUP BY {band} HAVING min(key) <> max(key)
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
CREATE TEMP TABLE content AS SELECT key, text FROM read_parquet({file}) WHERE place IN (
    SELECT min(place) FROM read_parquet({file}) SEMI JOIN wanted USING (key) GROUP BY key
);
"""
_COMPARED = """
SELECT a, b, x.text AS left_text, y.text AS right_text
FROM candidates JOIN content x ON x.key = a JOIN content y ON y.key = b
"""


def _verified(database: Any, work: Path, threshold: float) -> U64:
    """[P, 2]: the pairs of keys whose texts reach the threshold."""
    database.execute(_TEXTS.format(file=_quoted(work / "texts.parquet")))
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


def _write(database: Any, work: Path, target: Path, fields: int, starts: Mapping[str, int]) -> None:
    """The rows that go, each with the first row of its component; `starts`: running number of a source's first row."""
    columns = [np.arange(len(starts), dtype=np.int32), list(starts), list(starts.values())]
    database.register("names", pa.table(columns, schema=_NAMES))
    same = ", ".join(["lang", *(f"k{place}" for place in range(fields))])
    alike = ", ".join(["lang", *(f"g{place}" for place in range(fields))])
    groups = ", ".join(f"coalesce(r{place}.root, k{place}) AS g{place}" for place in range(fields))
    joins = " ".join(f"LEFT JOIN roots r{place} ON r{place}.key = k{place}" for place in range(fields))
    rows = f"read_parquet({_quoted(work / 'rows.parquet')})"
    database.execute(f"CREATE TEMP TABLE grouped AS SELECT seq, {same}, {groups} FROM {rows} {joins}")
    for name, key in (("exact", same), ("near", alike)):
        query = f"SELECT {key}, min(seq) AS first FROM grouped GROUP BY {key} HAVING count(*) > 1"
        database.execute(f"CREATE TEMP TABLE {name} AS {query}")
    with atomic_path(target) as temporary:
        database.execute(_DROPS.format(rows=rows, same=same, alike=alike, target=_quoted(temporary)))


_NAMES = pa.schema([("number", pa.int32()), ("name", pa.string()), ("start", pa.int64())])
_DROPS = f"""
COPY (
    SELECT s.name AS "source", r.seq - s.start AS "row", r.id AS "id",
           CASE WHEN g.seq > e.first THEN '{EXACT}' ELSE '{NEAR}' END AS "reason",
           t.name AS "of_source", k.id AS "of_id"
    FROM grouped g JOIN near n USING ({{alike}}) LEFT JOIN exact e USING ({{same}})
    JOIN {{rows}} r ON r.seq = g.seq JOIN {{rows}} k ON k.seq = n.first
    JOIN names s ON s.number = r.source JOIN names t ON t.number = k.source
    WHERE g.seq > n.first ORDER BY r.seq
) TO {{target}} (FORMAT parquet, COMPRESSION zstd)
"""


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _count(path: Path, counts: Mapping[str, SourceDuplicates]) -> None:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536, columns=["source", "reason", "of_source"]):
            for source, reason, of_source in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                counts[source].dropped[reason] += 1
                counts[source].of[of_source] += 1
    for found in counts.values():
        found.kept = found.rows - found.dropped.total()
