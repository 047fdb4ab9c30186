"""Read raw files of any size line by line; every complaint is a DataError that names the file and the line.

A file may be compressed: `name.gz` or `name.bz2` is found where `name` is asked for. Lines end at "\n" alone (U+2028
and its kin are text) and may be in any encoding that Python knows. JSON and XML documents are read whole; lines, tables
and the elements of a JSON array stream.

A line, a cell or an array element of more than 16 MB is an accident and is never held in memory: a line is skipped,
with a warning, where rows are counted, and anything else is an error. Control characters, NUL among them, are text
here; cleaning takes them out.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.log import warn

LINE_LIMIT = 1 << 24
"""Bytes of the longest line that is read (characters, in UTF-16 and its like)."""
TOO_LONG = "line over 16 MB"
csv.field_size_limit(LINE_LIMIT)

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
_CHUNK = 1 << 18
_DEPTH = 200
"""Levels of an XML document; what reads it goes down by recursion."""
_COMMENT = re.compile(r"#\s*([\w-]+)\s*[=:]\s*(.*)")
_AFTER_VALUE = frozenset(["", *" \t\r\n,]"])
_SEPARATORS = re.compile(r"[ \t\r\n,]*")
_XML_ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)["']""")
_EXPAT_ENCODINGS = frozenset({"utf-8", "utf-16", "iso-8859-1", "us-ascii"})
_CSV_FAULTS = {
    "field larger": "a cell of more than 16 MB; close its quotation mark, or set `quoted` = false",
    "unexpected end": "a quotation mark is never closed; close it, or set `quoted` = false",
    "new-line character": "a carriage return inside a cell; put the cell into quotation marks",
}


def find_file(root: Path, name: str | None = None) -> Path:
    """`root/name`, or its .gz or .bz2 form; `root` itself without a name."""
    path = root / name if name else root
    candidates = (path.with_name(path.name + suffix) for suffix in ("", *_OPENERS))
    with _explained(path):
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            fault = f"{path} is a directory, not a file" if path.is_dir() else f"there is no file {path}"
            raise DataError(f"{fault}; correct the source's `path` or its options")
    return found


def match_files(root: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """Files below `root` that fit a pattern such as `xquad.{code}.json`, in order, with what the braces stand for."""
    found = match_paths(root, pattern, Path.is_file)
    if not found:
        raise DataError(f"no file below {root} fits the pattern {pattern!r}; correct the option")
    return found


def match_paths(root: Path, pattern: str, wanted: Callable[[Path], bool]) -> list[tuple[Path, dict[str, str]]]:
    """What below `root` is `wanted` and fits a pattern, with or without .gz or .bz2."""
    escaped = "".join(
        f"(?P<{part[1:-1]}>[^/]+?)" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{\w+\})", pattern)
    )
    matcher = re.compile(escaped + r"(\.gz|\.bz2)?")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if wanted(path))
    return [(root / name, match.groupdict()) for name in names if (match := matcher.fullmatch(name))]


def _open(path: Path) -> io.BufferedReader:
    opener = _OPENERS.get(path.suffix)
    return io.BufferedReader(opener(path, "rb"), _CHUNK) if opener else open(path, "rb")


@contextmanager
def _explained(path: Path, place: Callable[[], str] = str) -> Iterator[None]:
    """Turn what the operating system or a decompressor says into one sentence; `place`: how far reading came."""
    try:
        yield
    except PermissionError:
        raise DataError(f"{path} may not be read by this user; change its permissions") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read{place()} ({error}); fetch it again") from None


def known_encoding(name: str) -> str:
    """The name of an encoding of text; ValueError for any other."""
    try:
        "\n".encode(name)
    except (LookupError, ValueError):
        raise ValueError(f"there is no encoding {name!r}; write utf-8 or gb18030, for example") from None
    return name


def _newline(encoding: str) -> bytes:
    """How an encoding writes the end of a line."""
    try:
        return "\n".encode(known_encoding(encoding))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _undecodable(path: Path, line: int, encoding: str) -> DataError:
    return DataError(f"{path}, line {line}: not {encoding} text; give the `encoding`, if it has another")


class _Long(NamedTuple):
    """A line over the limit, of which only the number of quotation marks is known."""

    quotes: int


def read_lines(path: Path, encoding: str = "utf-8", drops: Counter[str] | None = None) -> Iterator[tuple[int, str]]:
    """(line number, text without its end) of each line; those over 16 MB are counted in `drops`, or an error."""
    for number, text in _lines(path, encoding):
        if isinstance(text, str):
            yield number, text
        else:
            _leave_out(path, number, drops)


def aligned_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str | None]]:
    """(line number, text without its end) of every line; None, and a warning, for one over 16 MB."""
    for number, text in _lines(path, encoding):
        if not isinstance(text, str):
            _leave_out(path, number, Counter())
        yield number, text if isinstance(text, str) else None


def _leave_out(path: Path, number: int, drops: Counter[str] | None) -> None:
    if drops is None:
        raise DataError(f"{path}, line {number}: longer than 16 MB; shorten or remove it")
    drops[TOO_LONG] += 1
    warn(f"{path}, line {number}: left out, for it is longer than 16 MB")


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str | _Long]]:
    newline, number = _newline(encoding), 0
    try:
        with _explained(path, lambda: f" after line {number}"), _open(path) as file:
            # Cut at the byte "\n" and decoded line by line, so that a fault has its line; UTF-16 has no such byte.
            handle: Any = file if newline == b"\n" else io.TextIOWrapper(file, encoding, newline="\n")
            while raw := handle.readline(LINE_LIMIT + 1):
                number += 1
                if len(raw) > LINE_LIMIT and not _ends(raw):
                    yield number, _skip_line(handle, raw)
                    continue
                text = raw if isinstance(raw, str) else raw.decode(encoding)
                yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
    except UnicodeError:
        raise _undecodable(path, max(number, 1), encoding) from None
    if not number:
        raise _empty(path)


def _ends(raw: bytes | str) -> bool:
    return raw[-1:] in (b"\n", "\n")


def _skip_line(handle: Any, raw: bytes | str) -> _Long:
    """Read on to the end of the line that begins with `raw`."""
    quotes = 0
    while raw:
        quotes += raw.count('"') if isinstance(raw, str) else raw.count(b'"')
        raw = raw[:0] if _ends(raw) else handle.readline(_CHUNK)
    return _Long(quotes)


def _empty(path: Path) -> DataError:
    return DataError(f"{path} is empty; fetch it again, or leave it out")


def _chunks(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file, 256 KB at a time; DataError where there is none."""
    _newline(encoding)
    decoder, line, first = codecs.getincrementaldecoder(encoding)(), 1, True
    with _explained(path, lambda: f" after line {line - 1}"), _open(path) as file:
        for raw in chain(iter(lambda: file.read(_CHUNK), b""), [b""]):
            try:
                text = decoder.decode(raw, not raw)
            except UnicodeError as error:
                before = error.object[: error.start].count(b"\n") if isinstance(error, UnicodeDecodeError) else 0
                raise _undecodable(path, line + before, encoding) from None
            yield text.removeprefix("\ufeff") if first else text
            line += text.count("\n")
            if first and not raw:
                raise _empty(path)
            first = False


def read_json(path: Path, encoding: str = "utf-8", unique_keys: bool = False) -> Any:
    """The JSON document in a file; `unique_keys`: an object with a key twice is an error."""
    text = "".join(_chunks(path, encoding))
    with _json_explained(path, 0):
        return json.loads(text, object_pairs_hook=_without_repetition(path) if unique_keys else None)


def _without_repetition(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def make(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            key = Counter(key for key, _ in items).most_common(1)[0][0]
            raise DataError(f"{path}: the key {key!r} comes twice in one object; give each row its own")
        return found

    return make


@contextmanager
def _json_explained(path: Path, before: int) -> Iterator[None]:
    """Turn what the parser says of a text that starts after `before` lines into one sentence."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = f"{path}, line {before + error.lineno}"
        raise DataError(f"{place}: not valid JSON ({error.msg}); mend it, or fetch the file again") from None
    except RecursionError:
        raise DataError(f"{path}, from line {before + 1}: JSON that nests too deep; flatten or remove it") from None
    except ValueError:
        raise DataError(f"{path}, from line {before + 1}: a number of more than 4,300 digits; remove it") from None


def read_json_lines(
    path: Path, encoding: str = "utf-8", drops: Counter[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank; long lines as of `read_lines`."""
    for number, line in read_lines(path, encoding, drops):
        if line.strip():
            with _json_explained(path, number - 1):
                row = json.loads(line)
            yield number, _object(row, f"{path}, line {number}")


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: an object is needed, not {type(row).__name__}")
    return row


def read_json_array(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each element of a JSON array; a few elements are in memory at a time."""
    chunks, decoder = _chunks(path, encoding), json.JSONDecoder()
    text, before, number = next((chunk for chunk in chunks if chunk.strip()), ""), 0, 0
    if not text.lstrip().startswith("["):
        raise DataError(f"{path}: a JSON array is needed")
    at = _skip(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        with _json_explained(path, before):
            fault, end = None, len(text)
            try:
                value, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                fault = error
            if not fault and text[end : end + 1] not in _AFTER_VALUE:
                fault = json.JSONDecodeError("Expecting ',' delimiter", text, end)
            # A fault, and a number at the very end, may come of the cut between two chunks.
            if (fault or end == len(text)) and (more := _more(chunks, len(text) - at)):
                before += text.count("\n", 0, at)
                text = text[at:] + more
                at = _skip(text, 0)
                continue
            if fault and len(text) - at > LINE_LIMIT:
                place = f"{path}, line {before + text.count(chr(10), 0, at) + 1}: element {number + 1}"
                raise DataError(f"{place} is longer than 16 MB, or not valid JSON ({fault.msg}); mend or remove it")
            if fault:
                raise fault
        number += 1
        yield number, value
        at = _skip(text, end)


def _more(chunks: Iterator[str], size: int) -> str:
    """As much text again as there is of an element; none after 16 MB."""
    found, length = list[str](), 0
    for chunk in chunks if size <= LINE_LIMIT else ():
        found.append(chunk)
        length += len(chunk)
        if length >= size:
            break
    return "".join(found)


def _skip(text: str, at: int) -> int:
    """The next place that is neither white space nor a comma."""
    found = _SEPARATORS.match(text, at)
    return found.end() if found else at


def read_json_rows(
    path: Path, encoding: str = "utf-8", drops: Counter[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each row of a JSON file in any of three forms; long lines as of `read_lines`.

    An array of objects; one object a line; or one object of objects, whose keys become the field `key`.
    """
    start = next((chunk for chunk in _chunks(path, encoding) if chunk.strip()), "").lstrip()
    if start.startswith("["):
        for number, row in read_json_array(path, encoding):
            yield number, _object(row, f"{path}, element {number}")
    elif ".jsonl" in path.suffixes or _has_row_a_line(path, encoding):
        yield from read_json_lines(path, encoding, drops)
    else:
        document = _object(read_json(path, encoding, unique_keys=True), str(path))
        for number, (key, row) in enumerate(document.items(), 1):
            yield number, {"key": key, **_object(row, f"{path}, {key!r}")}


def _has_row_a_line(path: Path, encoding: str) -> bool:
    """Whether each line is a row by itself: neither part of a document over many lines, nor an object of objects."""
    lines = (text for _, text in _lines(path, encoding) if not isinstance(text, str) or text.strip())
    first, second = next(lines, ""), next(lines, "")
    if not isinstance(first, str):
        return second != ""
    try:
        document = json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos < len(first.rstrip())  # broken before its end: a bad row
    except (RecursionError, ValueError):
        return True
    return second != "" or not (isinstance(document, dict) and all(isinstance(v, dict) for v in document.values()))


def read_csv(
    path: Path,
    columns: Sequence[str],
    delimiter: str = ",",
    encoding: str = "utf-8",
    quoted: bool = True,
    header: Sequence[str] = (),
    drops: Counter[str] | None = None,
    skip_malformed: bool = False,
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, named cells) of each row below the header; `quoted` cells may hold line breaks.

    `header` names the columns of a file without one. Lines over 16 MB, and with `skip_malformed` rows with more or
    fewer cells, are counted in `drops`; otherwise they are an error.
    """
    lines = _CsvLines(path, encoding, quoted, drops)
    reader = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    try:
        names = list(header) or next(reader, [])
        lines.start = 0
        _check_columns(path, columns, names)
        for cells in reader:
            lines.start = 0
            if len(cells) == len(names):
                yield lines.number, dict(zip(names, cells, strict=True))
            elif cells and (drops is None or not skip_malformed):
                place = f"{path}, line {lines.number}: {len(cells)} cells, but {len(names)} columns"
                raise DataError(f"{place}; mend the row, or set `skip_malformed`")
            elif cells and drops is not None:
                drops["malformed row"] += 1
    except csv.Error as error:
        told = next((told for start, told in _CSV_FAULTS.items() if str(error).startswith(start)), str(error))
        raise DataError(f"{path}, line {lines.start or lines.number}: {told}") from None


def _check_columns(path: Path, columns: Sequence[str], names: list[str]) -> None:
    for name in columns:
        if names.count(name) != 1:
            fault = f"two columns {name}" if name in names else f"no column {name}"
            raise DataError(f"{path}, line 1: {fault}; columns: {', '.join(names)}")


class _CsvLines:
    """The lines of a table; `start` is the first line of the row that is being read, 0 between two rows."""

    def __init__(self, path: Path, encoding: str, quoted: bool, drops: Counter[str] | None) -> None:
        self.path, self.quoted, self.drops = path, quoted, drops
        self.number = self.start = 0
        self._lines = _lines(path, encoding)

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        for number, text in self._lines:
            if isinstance(text, str):
                self.number, self.start = number, self.start or number
                return text + "\n"
            if self.quoted and (self.start or text.quotes % 2):
                raise DataError(f"{self.path}, line {number}: longer than 16 MB, in a cell of several lines; remove it")
            _leave_out(self.path, number, self.drops)
        raise StopIteration


def read_conll(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, comments by name) of each block of a CoNLL file: `# name = value` or `# name: value`."""
    comments: dict[str, str] = {}
    start = 1
    for number, line in chain(read_lines(path, encoding), [(0, "")]):
        if match := _COMMENT.fullmatch(line):
            start = start if comments else number
            comments[match[1]] = match[2].strip()
        elif not line.strip() and comments:
            yield start, comments
            comments = {}


def read_xml(path: Path) -> Element:
    """The root of an XML document, all names without their namespace; the document declares its encoding.

    A file that declares entities is refused: a few lines of them can expand to gigabytes, or name other files.
    """
    document = _XmlTree(path)
    try:
        with _explained(path), _open(path) as file:
            declared = _XML_ENCODING.match(file.peek(_CHUNK))
            name = declared[1].decode() if declared else "utf-8"
            if name.lower() in _EXPAT_ENCODINGS:
                document.parser.ParseFile(file)
            else:
                document.parser.Parse("".join(_chunks(path, name)), True)
    except expat.ExpatError as error:
        reason = f"not valid XML ({expat.ErrorString(error.code)})"
        raise DataError(f"{path}, line {error.lineno}: {reason}; mend it, or fetch the file again") from None
    except ConfigError:
        raise DataError(f"{path}, line 1: declares an encoding that there is not ({name}); correct it") from None
    return document.builder.close()


class _XmlTree:
    """A parser that builds a tree and refuses what could exhaust memory or the stack."""

    def __init__(self, path: Path) -> None:
        self.path, self.builder, self.depth = path, TreeBuilder(), 0
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self.parser.EntityDeclHandler = lambda *_: self._refuse("declares an entity; such files are not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > _DEPTH:
            self._refuse(f"more than {_DEPTH} levels of elements; flatten or remove it")
        self.builder.start(_local(name), {_local(key): value for key, value in attributes.items()})

    def _end(self, name: str) -> None:
        self.depth -= 1
        self.builder.end(_local(name))

    def _refuse(self, reason: str) -> None:
        raise DataError(f"{self.path}, line {self.parser.CurrentLineNumber}: {reason}")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def field(row: Any, name: str, kind: type, place: str) -> Any:
    """A field of a JSON object; DataError with the place when it is absent or of another type."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{place}: the field {name!r} is missing or no {kind.__name__}")
    return value
