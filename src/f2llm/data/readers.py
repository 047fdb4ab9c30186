"""Read raw files of any size line by line; every complaint is a DataError that names the file and the line.

A file may be gzip-compressed: `name.gz` is found where `name` is asked for. Lines end at "\n" alone (U+2028 and its
kin are text). JSON documents are read whole, everything else streams.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from f2llm.core.errors import ConfigError, DataError

csv.field_size_limit(2**27)


def find_file(root: Path, name: str | None = None) -> Path:
    """`root/name`, or its .gz form; `root` itself without a name."""
    path = root / name if name else root
    packed = path.with_name(path.name + ".gz")
    found = next((candidate for candidate in (path, packed) if candidate.is_file()), None)
    if found is None:
        raise DataError(f"there is no file {path}; correct the source's `path` or its options")
    return found


def match_files(root: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """Files below `root` that fit a pattern such as `xquad.{code}.json`, in order, with what the braces stand for."""
    escaped = "".join(
        f"(?P<{part[1:-1]}>[^/]+?)" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{\w+\})", pattern)
    )
    matcher = re.compile(escaped + r"(\.gz)?")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    found = [(root / name, match.groupdict()) for name in names if (match := matcher.fullmatch(name))]
    if not found:
        raise DataError(f"no file below {root} fits the pattern {pattern!r}; correct the option")
    return found


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(line number, text without its end) of each line."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
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
    for number, line in read_lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: an object is needed, not {type(row).__name__}")
            yield number, row


def read_csv(
    path: Path, columns: Sequence[str], delimiter: str = ",", encoding: str = "utf-8", quoted: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, named cells) of each row below the header; `quoted` cells may hold line breaks."""
    lines = (line + "\n" for _, line in read_lines(path, encoding))
    reader = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    try:
        header = next(reader, [])
        missing = [name for name in columns if name not in header]
        if missing:
            raise DataError(f"{path}, line 1: no column {', '.join(missing)}; columns: {', '.join(header)}")
        for cells in reader:
            if len(cells) != len(header):
                raise DataError(f"{path}, line {reader.line_num}: {len(cells)} cells, but {len(header)} columns")
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def field(row: Any, name: str, kind: type, place: str) -> Any:
    """A field of a JSON object; DataError with the place when it is absent or of another type."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{place}: the field {name!r} is missing or no {kind.__name__}")
    return value
