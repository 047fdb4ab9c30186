"""Read the raw files of local tasks with the standard library; every complaint is a DataError that names the file.

`name.gz` is found where `name` is asked for. A file is read whole: the largest here has 15 MB.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

from f2llm.core.errors import DataError

Document = TypeVar("Document", list[Any], dict[str, Any])


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`, or of its .gz form; DataError where it is absent, damaged or empty."""
    packed = path.with_name(path.name + ".gz")
    try:
        if path.is_file():
            raw = path.read_bytes()
        elif packed.is_file():
            raw = gzip.decompress(packed.read_bytes())
        else:
            raise DataError(f"there is no file {path}; give --data the folder that has it, or leave its tasks out")
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text; fetch the file again") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None
    if not text.strip():
        raise DataError(f"{path} is empty; fetch it again")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines, which end at a line feed alone: U+2028 and its kin are text."""
    return [line.rstrip("\r") for line in read_text(path).removesuffix("\n").split("\n")]


def read_aligned(first: Path, second: Path) -> list[tuple[str, str]]:
    """The lines of two files, pair by pair."""
    left, right = read_lines(first), read_lines(second)
    if len(left) != len(right):
        raise DataError(f"{first} has {len(left)} lines and {second} has {len(right)}: they are not aligned")
    return list(zip(left, right, strict=True))


def read_json(path: Path, kind: type[Document]) -> Document:
    """The JSON document in a file, a `list` or a `dict`."""
    document = _parsed(read_text(path), str(path))
    if not isinstance(document, kind):
        raise DataError(f"{path}: the document is a {type(document).__name__}, but a {kind.__name__} is needed")
    return document


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON ({error}); fetch the file again") from None


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line that is not blank."""
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}, line {number}"
        if line.strip():
            row = _parsed(line, place)
            if not isinstance(row, dict):
                raise DataError(f"{place}: an object is needed, not {type(row).__name__}")
            yield place, row


def read_rows(path: Path, columns: Sequence[str], *, header: bool, tabs: bool = False) -> list[dict[str, str]]:
    """The rows of a table by column; without a `header` the `columns` name the cells from the left.

    Tables with commas are quoted as spreadsheets do it; in those with `tabs` a quotation mark is a letter.
    """
    if tabs:
        cells = [line.split("\t") for line in read_lines(path)]
    else:
        try:
            cells = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
        except csv.Error as error:
            raise DataError(f"{path}: no table of comma-separated values ({error}); fetch the file again") from None
    names = list(columns)
    if header:
        names = cells.pop(0)
        if absent := [name for name in columns if name not in names]:
            raise DataError(f"{path}: the column {absent[0]!r} is missing; there are {', '.join(names)}")
    for number, row in enumerate(cells, 2 if header else 1):
        if len(row) != len(names):
            raise DataError(f"{path}, row {number}: {len(names)} cells are needed, not {len(row)}")
    return [dict(zip(names, row, strict=True)) for row in cells]


def read_xml(path: Path) -> ElementTree.Element:
    """The root element of an XML document."""
    try:
        return ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not valid XML ({error}); fetch the file again") from None


def field(row: Any, name: str, kind: type, place: str) -> Any:
    """A field of a JSON object; DataError with the place when it is absent or of another type."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{place}: the field {name!r} is missing or no {kind.__name__}")
    return value


def number(text: str, path: Path) -> float:
    """A score; DataError where it is none."""
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: {text!r} is no score; fetch the file again") from None
