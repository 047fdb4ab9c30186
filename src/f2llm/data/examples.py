"""Examples on disk: zstd parquet files, one column per field of `Example`.

A source is one file, or a directory of *shards*: files that are read one after the other, by name. A shard is the unit
of work (`engine`). Reading and writing stream by row groups of 8,192 rows, so memory does not grow with the file. A
file is written whole or not at all. Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.core.errors import DataError
from f2llm.core.files import atomic_path
from f2llm.core.types import Example

ROW_GROUP = 8192
SHARD_ROWS = 8 * ROW_GROUP
FIELDS = tuple(field.name for field in fields(Example))
_LISTS = ("negatives", "groups")
SCHEMA = pa.schema([(name, pa.list_(pa.string()) if name in _LISTS else pa.string()) for name in FIELDS])


def write_examples(path: Path | str, examples: Iterable[Example]) -> int:
    """Write `examples` atomically and return their number; nothing is left behind when the iterable fails."""
    count, stream = 0, iter(examples)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        while group := list(islice(stream, ROW_GROUP)):
            writer.write_table(_table(group))
            count += len(group)
    return count


def write_shards(directory: Path, examples: Iterable[Example], prefix: str = "") -> list[int]:
    """Write shards of at most 65,536 rows, `PREFIX00000.parquet` and on; returns their rows (no shard for no rows)."""
    counts, stream = list[int](), iter(examples)
    for first in stream:
        shard = chain([first], islice(stream, SHARD_ROWS - 1))
        counts.append(write_examples(directory / f"{prefix}{len(counts):05}.parquet", shard))
    return counts


def shards(path: Path | str) -> list[Path]:
    """The files of a source, in order; an empty directory has none. DataError where there is nothing."""
    path = Path(path)
    if path.is_dir():
        return sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
    if not path.exists():
        raise DataError(f"{path} does not exist; run the step that writes it")
    return [path]


def read_examples(path: Path | str) -> Iterator[Example]:
    """Yield the examples of a file or of shards in order; a missing, damaged or foreign file is a DataError."""
    for batch in read_batches(path, FIELDS):
        for row in zip(*(batch.column(name).to_pylist() for name in FIELDS), strict=True):
            yield _example(dict(zip(FIELDS, row, strict=True)))


def read_batches(path: Path | str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a file or of shards, 8,192 rows at a time; errors as of `read_examples`."""
    for shard in shards(path):
        with _explained(shard), pq.ParquetFile(shard) as file:
            _check_columns(shard, file.schema_arrow)
            yield from file.iter_batches(ROW_GROUP, columns=list(columns))


def count_examples(path: Path | str) -> int:
    """The number of rows, from the footers of the files."""
    total = 0
    for shard in shards(path):
        with _explained(shard), pq.ParquetFile(shard) as file:
            _check_columns(shard, file.schema_arrow)
            total += int(file.metadata.num_rows)
    return total


def count_languages(path: Path | str) -> dict[str, int]:
    """Rows by the language of their query."""
    found: Counter[str] = Counter()
    for batch in read_batches(path, ["query_lang"]):
        found.update(batch.column("query_lang").to_pylist())
    return dict(found)


def _table(group: list[Example]) -> pa.Table:
    try:
        return _columns(group, lambda text: text)
    except UnicodeEncodeError:
        return _columns(group, scrub_surrogates)


def scrub_surrogates(text: str) -> str:
    """Replace each lone surrogate by U+FFFD."""
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


def _columns(group: list[Example], mend: Any) -> pa.Table:
    def column(name: str) -> pa.Array:
        values = [getattr(example, name) for example in group]
        if name in _LISTS:
            return pa.array([[mend(text) for text in value] for value in values], SCHEMA.field(name).type)
        return pa.array([None if value is None else mend(value) for value in values], pa.string())

    return pa.Table.from_arrays([column(name) for name in FIELDS], schema=SCHEMA)


def _example(row: dict[str, Any]) -> Example:
    return Example(**row | {name: tuple(row[name]) for name in _LISTS})


def _check_columns(path: Path | str, schema: pa.Schema) -> None:
    if not schema.equals(SCHEMA):
        wrong = [name for name in FIELDS if name not in schema.names] or ["of another type or order"]
        raise DataError(f"{path} does not hold examples (columns missing: {', '.join(wrong)}); run its step again")


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the step that writes it") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged or not parquet ({reason}); delete it and run the step again") from None
