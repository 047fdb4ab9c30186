"""Rows of a table file, whatever its form: CSV, TSV, JSON, JSON lines, parquet, Arrow, a data set saved to disk.

One reader of tables for the converters of training data and for the applications. Rows stream in constant memory; a
complaint names the file and the row. Text may be compressed (.gz, .bz2) and in any encoding; binary tables may not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from f2llm.core import arrow
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.readers import read_csv, read_json_rows

JSON = frozenset({".json", ".jsonl"})
KINDS = (".csv", ".tsv", ".json", ".jsonl", *arrow.SUFFIXES)
"""Suffixes of table files."""
_NO_TEXT: dict[type, str] = {list: "a list of lists", dict: "an object", tuple: "a pair", bytes: "binary data"}


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without .gz or .bz2; empty where there is none."""
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix not in {".gz", ".bz2"}), "")


def is_table(path: Path) -> bool:
    """Whether `read_rows` reads a file, by its name, or a directory."""
    return kind_of(path) in KINDS or arrow.is_data_set(path)


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    encoding: str = "utf-8",
    quoted: bool | None = None,
    header: Sequence[str] = (),
    drops: Counter[str] | None = None,
    skip_malformed: bool = False,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, values of the columns) of each row; the number is that of the line in files of lines.

    `a.b` is the field b of an object in the column a. `quoted`: whether quotation marks enclose cells (for None: in
    .csv yes, in .tsv no). `header`, `drops`, `skip_malformed` as of `readers.read_csv`.
    """
    kind = _checked_kind(path)
    if arrow.reads(path):
        yield from arrow.read_arrow(path, columns)
    elif kind in JSON:
        for number, row in read_json_rows(path, encoding, drops):
            yield number, {name: _value(row, name, f"{path}, row {number}") for name in columns}
    else:
        with_quotes = kind == ".csv" if quoted is None else quoted
        delimiter = "," if kind == ".csv" else "\t"
        yield from read_csv(path, columns, delimiter, encoding, with_quotes, header, drops, skip_malformed)


def _checked_kind(path: Path) -> str:
    kind = kind_of(path)
    if kind in arrow.SUFFIXES and kind != path.suffix:
        raise ConfigError(f"{path} is compressed as a whole; unpack it, for {kind} files are read in parts")
    if not is_table(path):
        raise ConfigError(f"{path} is no table: its name needs {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    return kind


def _value(row: dict[str, Any], name: str, place: str) -> Any:
    """A field of a row, or `a.b` of an object in it; None where that object is null."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if value is not None and (not isinstance(value, dict) or part not in value):
            raise DataError(f"{place}: no field {name}; it has {', '.join(map(str, row))}")
        value = None if value is None else value[part]
    return value


def as_text(value: Any, place: str) -> str:
    """A cell as text: null and NaN are empty, a list is its items on lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        return "\n".join(filter(str.strip, (as_text(item, place) for item in value)))
    if kind := _NO_TEXT.get(type(value)):
        raise DataError(f"{place}: {kind} is no text; name a column of texts, or a field of it (a.b)")
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
