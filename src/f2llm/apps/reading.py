"""Files of many formats to blocks of text: what `f2llm index` reads.

Text, Markdown and source code by paragraphs, HTML and XML by elements, PDF by pages, CSV, TSV, JSON Lines and Parquet
by rows; text formats may be gzipped (`a.txt.gz`). A block knows where it begins (line, page or row, from 1), and a
table's row the columns that were asked for. A file that cannot be read whole raises DataError; its message is the
reason alone, for lists of files left out.

Cost: one pass; memory holds a paragraph, a page, a batch of rows, or a whole HTML or XML file. Limits: UTF-8, or for
HTML and XML the encoding they declare; a line of more than 16 MB is no text; scanned PDF pages have no text.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from f2llm.apps.search import MARKDOWN
from f2llm.apps.tables import is_binary
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.extras import optional

LINE_LIMIT = 1 << 24
_PARAGRAPH_CHARS = 100_000  # a longer run of lines without a blank one is cut, so that memory stays small
_ENCODING = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([A-Za-z0-9_.:-]+)""")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")
_SILENT = frozenset({"script", "style", "noscript", "template", "svg"})
_INLINE = frozenset(
    {"a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "dfn", "em", "font", "i", "kbd", "mark", "q", "s", "samp",
     "small", "span", "strong", "sub", "sup", "time", "u", "var", "wbr"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, an element, a page's paragraph or a row, and where it begins; one record's blocks may be joined.

    `lined`: its line breaks are those of the file, so positions inside it can be told.
    """

    text: str
    position: int
    record: int = 0
    title: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    lined: bool = False


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read: the text's, the title's, and own ones by the name that they get."""

    text: str | None = None
    title: str | None = None
    own: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: Iterable[str]) -> Columns:
        """From `text=body`, `title=head`, `year=published` or `year`; ConfigError for what is no name."""
        found: dict[str, str] = {}
        for entry in given:
            name, _, column = entry.partition("=")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ConfigError(f"--column {entry}: give NAME=COLUMN, NAME of small letters, digits and _")
            found[name] = column or name
        return cls(found.pop("text", None), found.pop("title", None), found)

    def of(self, names: list[str]) -> Columns:
        """The same for a table with these columns: text and title settled, own ones that it has."""
        text = self.text or ("text" if "text" in names else names[0] if len(names) == 1 else None)
        if text not in names:
            wanted = f"has no column {text!r}" if text else "does not say which column is the text"
            raise DataError(f"{wanted}; it has {', '.join(names)}: choose with --column text=NAME")
        title = self.title or "title"
        own = {name: column for name, column in self.own.items() if column in names}
        return Columns(text, title if title in names else None, own)


def unit_of(path: str) -> str:
    """What a position of this file counts: "line", "page" or "row"."""
    return {".pdf": "page", ".parquet": "row"}.get(_suffix(Path(path)), "line")


def is_table(file: Path) -> bool:
    return _suffix(file) in _ROWS


def _suffix(file: Path) -> str:
    """The ending that says the format: of `a.txt.gz` it is ".txt"."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix == ".gz" else suffix


def read_blocks(file: Path, columns: Columns, by_line: bool = False) -> Iterator[Block]:
    """The blocks of a file in order; DataError with the reason where it cannot be read.

    `by_line` makes each line of a text file a record of its own; `columns` says what to read of tables.
    """
    suffix = _suffix(file)
    try:
        if suffix in _ROWS:
            yield from _table_blocks(file, columns)
        elif suffix in _MARKUP:
            yield from _markup(file, xml=suffix == ".xml")
        elif suffix == ".pdf":
            yield from _pdf(file)
        elif by_line:
            yield from (Block(text, line, record=line) for line, text in _lines(file) if text)
        else:
            yield from _text(file, suffix in MARKDOWN)
    except (OSError, EOFError, zlib.error) as error:  # the last two of a gzip file that is cut short or damaged
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def table_rows(file: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The column names of a table, and its rows with their positions; JSON Lines have the names of the first line."""
    return _ROWS[_suffix(file)](file)


def _raw_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as handle:
        for number, raw in enumerate(iter(lambda: handle.readline(LINE_LIMIT + 1), b""), start=1):
            if b"\0" in raw:
                raise DataError("is binary")
            if len(raw) > LINE_LIMIT:
                raise DataError(f"line {number} is longer than 16 MB; break it into lines")
            yield number, raw


def _lines(file: Path, strip: bool = True) -> Iterator[tuple[int, str]]:
    for number, raw in _raw_lines(file):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            binary = is_binary(file)
            raise DataError("is binary" if binary else f"is not UTF-8 text (line {number}); convert it") from None
        yield number, line.strip() if strip else line


def _text(file: Path, markdown: bool) -> Iterator[Block]:
    title = ""
    for line, text in _paragraphs(_lines(file)):
        heading = _HEADING.match(text) if markdown and not title else None
        title = heading[1] if heading else title
        yield Block(text, line, title=title, lined=True)


def _paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Runs of lines that are not blank, with the number of their first line; their line breaks stay."""
    gathered: list[str] = []
    start = chars = 0
    for number, line in lines:
        if gathered and (not line or chars > _PARAGRAPH_CHARS):
            yield start, "\n".join(gathered)
            gathered, chars = [], 0
        if line:
            start = start if gathered else number
            gathered.append(line)
            chars += len(line)
    if gathered:
        yield start, "\n".join(gathered)


class _Markup(HTMLParser):
    """Gathers the text of elements with the lines where they begin, and the title; in XML all elements are blocks."""

    def __init__(self, xml: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[int, str]] = []
        self.title = self.heading = ""
        self._xml, self._silent, self._parts, self._line = xml, "", list[str](), 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT and not self._xml:
            self._silent = self._silent or tag
        elif self._xml or tag not in _INLINE:
            self.flush("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.flush("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = ""
        elif self._xml or tag not in _INLINE:
            self.flush(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent and (self._parts or data.strip()):
            self._line = self._line if self._parts else self.getpos()[0] + _blank_lines(data)
            self._parts.append(data)

    def unknown_decl(self, data: str) -> None:
        if data.startswith("CDATA["):
            self.handle_data(data.removeprefix("CDATA["))

    def flush(self, tag: str) -> None:
        text = " ".join("".join(self._parts).split())
        self._parts = []
        if text and tag == "title" and not self.title:
            self.title = text
        elif text:
            self.heading = self.heading or (text if tag == "h1" else "")
            self.blocks.append((self._line, text))


def _blank_lines(data: str) -> int:
    return data[: len(data) - len(data.lstrip())].count("\n")


def _markup(file: Path, xml: bool) -> Iterator[Block]:
    raw = b"".join(line for _, line in _raw_lines(file))
    declared = _ENCODING.search(raw[:1024])
    try:
        text = raw.decode(declared[1].decode() if declared else "utf-8-sig")
    except (UnicodeDecodeError, LookupError):
        raise DataError(f"is not in the encoding {declared[1].decode() if declared else 'UTF-8'}") from None
    parser = _Markup(xml)
    parser.feed(text)
    parser.close()
    parser.flush("")
    title = parser.title or parser.heading
    yield from (Block(text, line, title=title) for line, text in parser.blocks)


def _pdf(file: Path) -> Iterator[Block]:
    pypdf = optional("pypdf", "search")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports each oddity of a file on standard error
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("is encrypted; save a copy without a password")
        title = str((reader.metadata or {}).get("/Title") or "")
        pages = [page.extract_text() for page in reader.pages]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken PDF raises almost anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"is no PDF that can be read ({reason})") from None
    if pages and not any(page.strip() for page in pages):
        raise DataError("has no text (scanned pages?); run it through text recognition")
    for number, page in enumerate(pages, start=1):
        lines = ((number, line.strip()) for line in page.split("\n"))
        yield from (Block(text, number, title=title) for _, text in _paragraphs(lines))


def _table_blocks(file: Path, columns: Columns) -> Iterator[Block]:
    names, rows = table_rows(file)
    chosen = columns.of(names) if names else columns
    for record, (position, row) in enumerate(rows):
        text = row.get(chosen.text or "")
        if text is not None and str(text).strip():
            title = row.get(chosen.title) if chosen.title else None
            values = {name: row.get(column) for name, column in chosen.own.items()}
            yield Block(str(text).strip(), position, record, "" if title is None else str(title), values)


def _csv_rows(file: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    lines = (line for _, line in _lines(file, strip=False))
    first = next(lines, "")
    delimiter = "\t" if _suffix(file) == ".tsv" else max(",;\t|", key=first.count)
    names = next(csv.reader([first], delimiter=delimiter), [])

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        csv.field_size_limit(LINE_LIMIT)
        reader = csv.reader(lines, delimiter=delimiter)
        start = 2
        try:
            for row in reader:
                yield start, dict(zip(names, row, strict=False))
                start = reader.line_num + 2
        except csv.Error as error:
            raise DataError(f"line {start} is no CSV: {error}") from None

    return names, rows()


def _json_rows(file: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in _lines(file):
            try:
                value = json.loads(line) if line else {}
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise DataError(f"line {number} is no JSON object")
            if value:
                yield number, value

    return list(next(rows(), (0, {}))[1]), rows()


def _parquet_rows(file: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    try:
        table = pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise DataError(f"is no Parquet file that can be read ({str(error).splitlines()[0]})") from None

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            for batch in table.iter_batches(1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"is damaged after row {number} ({str(error).splitlines()[0]})") from None

    return list(table.schema_arrow.names), rows()


_MARKUP = frozenset({".html", ".htm", ".xhtml", ".xml"})
_ROWS: dict[str, Callable[[Path], tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]]] = {
    ".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows,
}  # fmt: skip
