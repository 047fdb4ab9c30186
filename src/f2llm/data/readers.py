"""Read raw files of any size line by line; every complaint is a DataError that names the file and the line.

A file may be compressed: `name.gz` or `name.bz2` is found where `name` is asked for. Lines end at "\n" alone (U+2028
and its kin are text). JSON and XML documents are read whole; lines, tables and the elements of a JSON array stream.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from f2llm.core.errors import ConfigError, DataError

csv.field_size_limit(2**27)

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
_JSON_BLOCK = 4096
"""Lines of a JSON array that are looked at together."""
_COMMENT = re.compile(r"#\s*([\w-]+)\s*[=:]\s*(.*)")


def find_file(root: Path, name: str | None = None) -> Path:
    """`root/name`, or its .gz or .bz2 form; `root` itself without a name."""
    path = root / name if name else root
    candidates = (path.with_name(path.name + suffix) for suffix in ("", *_OPENERS))
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise DataError(f"there is no file {path}; correct the source's `path` or its options")
    return found


def match_files(root: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """Files below `root` that fit a pattern such as `xquad.{code}.json`, in order, with what the braces stand for."""
    escaped = "".join(
        f"(?P<{part[1:-1]}>[^/]+?)" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{\w+\})", pattern)
    )
    matcher = re.compile(escaped + r"(\.gz|\.bz2)?")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    found = [(root / name, match.groupdict()) for name in names if (match := matcher.fullmatch(name))]
    if not found:
        raise DataError(f"no file below {root} fits the pattern {pattern!r}; correct the option")
    return found


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, _OPENERS.get(path.suffix, open)(path, "rb"))


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(line number, text without its end) of each line."""
    number = 0
    try:
        with _open(path) as handle:
            for number, raw in enumerate(handle, 1):
                text = raw.decode(encoding)
                yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number}: not {encoding} text; give the `encoding`, if it has another") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read after line {number} ({error}); fetch it again") from None
    except LookupError:
        raise ConfigError(f"there is no encoding {encoding!r}; write utf-8 or gb18030, for example") from None


def read_json(path: Path) -> Any:
    """The JSON document in a file."""
    text = "\n".join(line for _, line in read_lines(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not empty."""
    yield from _json_lines(path, read_lines(path))


def _json_lines(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from None
            yield number, _object(row, f"{path}, line {number}")


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: an object is needed, not {type(row).__name__}")
    return row


def read_json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each element of a JSON array; one block of lines is in memory at a time."""
    lines, decoder = read_lines(path), json.JSONDecoder()
    text, before, number = _block(lines), 0, 0
    if not text.lstrip().startswith("["):
        raise DataError(f"{path}: a JSON array is needed")
    at = _skip(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            # A value that is only cut off fails at the very end of the block: no string goes over a line break.
            more = _block(lines) if error.pos >= len(text.rstrip()) else ""
            if not more:
                raise DataError(f"{path}, line {before + error.lineno}: not valid JSON ({error.msg})") from None
            before += text.count("\n", 0, at)
            text, at = text[at:] + more, 0
        else:
            number += 1
            yield number, value
            at = end
        at = _skip(text, at)


def _block(lines: Iterator[tuple[int, str]]) -> str:
    return "".join(line + "\n" for _, line in islice(lines, _JSON_BLOCK))


def _skip(text: str, at: int) -> int:
    """The next place that is neither white space nor a comma."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def read_json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each row of a JSON file in any of three forms.

    An array of objects; one object a line; or one object of objects, whose keys become the field `key`.
    """
    lines = read_lines(path)
    first = next((item for item in lines if item[1].strip()), (1, ""))
    if first[1].lstrip().startswith("["):
        for number, row in read_json_array(path):
            yield number, _object(row, f"{path}, element {number}")
    elif _is_whole(first[1]):
        yield from _json_lines(path, chain([first], lines))
    else:
        document = _object(read_json(path), str(path))
        for number, (key, row) in enumerate(document.items(), 1):
            yield number, {"key": key, **_object(row, f"{path}, {key!r}")}


def _is_whole(line: str) -> bool:
    """Whether a line is a row by itself: neither the start of a document over many lines, nor an object of objects."""
    try:
        document = json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos < len(line.rstrip())  # broken before its end: a bad row
    return not (isinstance(document, dict) and all(isinstance(value, dict) for value in document.values()))


def read_csv(
    path: Path,
    columns: Sequence[str],
    delimiter: str = ",",
    encoding: str = "utf-8",
    quoted: bool = True,
    header: Sequence[str] = (),
    malformed: Counter[str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, named cells) of each row below the header; `quoted` cells may hold line breaks.

    `header` names the columns of a file without one. Rows with more or fewer cells are counted in `malformed`, where
    it is given, and an error otherwise.
    """
    lines = (line + "\n" for _, line in read_lines(path, encoding))
    reader = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    try:
        names = list(header) or next(reader, [])
        missing = [name for name in columns if name not in names]
        if missing:
            raise DataError(f"{path}, line 1: no column {', '.join(missing)}; columns: {', '.join(names)}")
        for cells in reader:
            if len(cells) == len(names):
                yield reader.line_num, dict(zip(names, cells, strict=True))
            elif cells and malformed is None:
                raise DataError(f"{path}, line {reader.line_num}: {len(cells)} cells, but {len(names)} columns")
            elif cells and malformed is not None:
                malformed["malformed row"] += 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def read_conll(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, comments by name) of each block of a CoNLL file: `# name = value` or `# name: value`."""
    comments: dict[str, str] = {}
    start = 1
    for number, line in chain(read_lines(path), [(0, "")]):
        if match := _COMMENT.fullmatch(line):
            start = start if comments else number
            comments[match[1]] = match[2].strip()
        elif not line.strip() and comments:
            yield start, comments
            comments = {}


def read_xml(path: Path) -> Element:
    """The root of an XML document, all names without their namespace.

    A file that declares entities is refused: a few lines of them can expand to gigabytes, or name other files.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, attributes: builder.start(
        _local(name), {_local(key): value for key, value in attributes.items()}
    )
    parser.EndElementHandler = lambda name: builder.end(_local(name))
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> None:
        raise DataError(f"{path}, line {parser.CurrentLineNumber}: declares an entity; such files are not read")

    parser.EntityDeclHandler = refuse
    try:
        with _open(path) as handle:
            parser.ParseFile(handle)
    except expat.ExpatError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid XML ({expat.ErrorString(error.code)})") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None
    return builder.close()


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def field(row: Any, name: str, kind: type, place: str) -> Any:
    """A field of a JSON object; DataError with the place when it is absent or of another type."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{place}: the field {name!r} is missing or no {kind.__name__}")
    return value
