"""Texts out of files of any form, a row at a time: text lines, Markdown paragraphs, CSV, TSV, JSON, parquet, Arrow.

What classify, cluster and embed read; an index reads more forms, in passages with titles (`apps/reading.py`). Rows
stream: memory does not grow with the file. A text file has a text a line, a Markdown file one a paragraph; of a table
(`core/tables.py`) one column is the text, others are kept as asked. A folder stands for the files in it. Rows without
text and lines over 16 MB are left out and warned about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from f2llm.apps.search import MARKDOWN, split, text_files
from f2llm.core.arrow import is_data_set
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.log import warn
from f2llm.core.readers import read_lines
from f2llm.core.tables import KINDS, as_text, is_table, kind_of, read_rows

TEXT = "text"
"""The column of a table that is read where none is named."""
T = TypeVar("T")


class Row(NamedTuple):
    """A text, where it stands (line of a text file, row of a binary one, from 1), and the cells that were asked for."""

    text: str
    path: Path
    line: int
    cells: Mapping[str, Any]


def read_tables(
    paths: Iterable[Path | str], text: str | None = None, columns: Sequence[str] = (), *, encoding: str = "utf-8"
) -> Iterator[Row]:
    """`read_table` of several files and folders, in order."""
    for path in table_files(paths):
        yield from read_table(path, text, columns, encoding=encoding)


def read_table(
    path: Path | str, text: str | None = None, columns: Sequence[str] = (), *, encoding: str = "utf-8"
) -> Iterator[Row]:
    """The rows of a file that have a text; cells have the file's own types, text in CSV.

    `text` is the column of the text (default: `text`); `a.b` is the field b of an object in the column a. Raises
    DataError with the file and the row for what cannot be read, with the columns there are for one that is missing, and
    ConfigError for a column of a file of lines.
    """
    path, left_out = Path(path), 0
    rows = (
        _cells_of(path, text or TEXT, columns, encoding) if is_table(path) else _lines_of(path, text, columns, encoding)
    )
    for row in rows:
        if row.text.strip():
            yield row
        else:
            left_out += 1
    if left_out:
        warn(f"{path}: {left_out:,} rows without text are left out")


def table_files(paths: Iterable[Path | str]) -> list[Path]:
    """The files to read, in order; a folder stands for its files by name, but for hidden and other binary ones.

    DataError for a path that is not there and for a folder with nothing to read.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"there is no file {path}; give text files, tables ({', '.join(KINDS)}) or folders of them")
        files += [path] if path.is_file() or is_data_set(path) else _files_below(path)
    return files


def _files_below(folder: Path) -> list[Path]:
    files = text_files(folder)
    kept = [file for file in files if is_table(file) or not is_binary(file)]
    if len(kept) < len(files):
        warn(f"{folder}: {len(files) - len(kept):,} files are neither text nor tables and are left out")
    if not kept:
        raise DataError(f"{folder} holds no text and no table; give a folder of text files or of {', '.join(KINDS)}")
    return kept


def is_binary(file: Path) -> bool:
    """Whether a file begins like one that is no text: a NUL in its first 8 KiB."""
    if file.suffix in (".gz", ".bz2"):
        return False
    try:
        with file.open("rb") as handle:
            return b"\0" in handle.read(8192)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; mend it or leave it out") from None


def _cells_of(path: Path, text: str, columns: Sequence[str], encoding: str) -> Iterator[Row]:
    wanted = list(dict.fromkeys([text, *columns]))
    for number, cells in read_rows(path, wanted, encoding=encoding, drops=Counter()):
        found = as_text(cells[text], f"{path}, row {number}, column {text}")
        yield Row(found, path, number, {name: cells[name] for name in columns})


def _lines_of(path: Path, text: str | None, columns: Sequence[str], encoding: str) -> Iterator[Row]:
    if named := [name for name in (text, *columns) if name]:
        raise ConfigError(f"{path} is read by lines and has no column {named[0]}; give a table ({', '.join(KINDS)})")
    lines = read_lines(path, encoding, Counter())
    for number, line in split(lines, paragraphs=kind_of(path) in MARKDOWN):
        yield Row(line, path, number, {})


def batched(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows, the last one shorter."""
    coming = iter(rows)
    while batch := list(islice(coming, size)):
        yield batch
