"""The table of an index in a LanceDB database: its columns, what it remembers, filters, and failures in one sentence.

A row is a passage: text, language, path, position, title, own columns, the digest of its file, the full vector
(float16) and the short one (int8). What the index was made with stands in the table's schema, so there is one thing to
commit and nothing to get out of step. Text search uses Lance's index with ICU word segmentation, without stemming and
stop words: the same for all languages, with or without spaces.

Limit: the lock that keeps two writers apart is a file, so it works for a local database only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from f2llm.core.errors import ConfigError, DataError, F2LLMError, StorageError
from f2llm.core.extras import optional
from f2llm.core.languages import language

TABLE = "passages"
TEXT_INDEX = "text_idx"
FORMAT = 1
_MEMORY = b"f2llm"
BASE = ("text", "language", "path", "position", "title")
_HIDDEN = ("id", "digest", "vector", "short")
_KINDS = {"int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "string": pa.string()}


@dataclass(frozen=True)
class Memory:
    """What an index was made with: the model and its fingerprint, sizes of vectors and chunks, the tables' columns."""

    model: str
    fingerprint: str
    prompts: dict[str, str]
    dims: int
    short_dims: int
    chunk_tokens: int
    overlap: int
    by_line: bool
    text: str | None
    title: str | None
    own: dict[str, str]
    precision: str = "float16"
    short_precision: str = "int8"
    format: int = FORMAT


def schema_of(memory: Memory) -> pa.Schema:
    """The columns of a new index; own ones are added when the first table with them is read."""
    columns = {
        "id": pa.string(), "text": pa.string(), "language": pa.string(), "path": pa.string(), "position": pa.int64(),
        "title": pa.string(), "digest": pa.string(),
        "vector": pa.list_(pa.float16(), memory.dims), "short": pa.list_(pa.int8(), memory.short_dims),
    }  # fmt: skip
    return pa.schema(columns, metadata={_MEMORY: json.dumps(asdict(memory), ensure_ascii=False)})


def is_local(db: str) -> bool:
    return "://" not in db


def exists(db: str) -> bool:
    """Whether there is an index at a place."""
    if is_local(db) and not (Path(db) / f"{TABLE}.lance").is_dir():
        return False
    with told(db):
        try:
            _connect(db).open_table(TABLE)
        except ValueError as error:
            if "not found" in str(error):
                return False
            raise
    return True


def is_filled(db: str) -> bool:
    """Whether there is an index with passages; an empty one, left by a mistake in the first run, may be made anew."""
    if not exists(db):
        return False
    with told(db):
        return bool(_connect(db).open_table(TABLE).count_rows())


def create_table(db: str, memory: Memory) -> Any:
    """A new, empty table; one that is there is replaced."""
    if is_local(db):
        with _opened(db):
            Path(db).mkdir(parents=True, exist_ok=True)
    with told(db):
        return _connect(db).create_table(TABLE, schema=schema_of(memory), mode="overwrite")


def open_table(db: str) -> tuple[Any, Memory]:
    """The table of an index and what it remembers; DataError where there is none, StorageError where it is damaged."""
    if not exists(db):
        raise DataError(f"there is no index at {db}; make one: f2llm index FOLDER --db {db}")
    with told(db):
        table = _connect(db).open_table(TABLE)
        written = json.loads((table.schema.metadata or {}).get(_MEMORY, b"{}"))
    if written.get("format") != FORMAT:
        raise DataError(f"{db} has a table {TABLE!r} that this version of f2llm did not make; choose another --db")
    return table, Memory(**written)


def ensure_text_index(table: Any) -> None:
    """Make the index for text search where a killed process did not come to it."""
    if not any(index.name == TEXT_INDEX for index in table.list_indices()):
        config = optional("lancedb.index", "search").FTS(base_tokenizer="icu", stem=False, remove_stop_words=False)
        table.create_index("text", config=config, name=TEXT_INDEX)


def _connect(db: str) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of each table that it is about to create
    return optional("lancedb", "search").connect(db)


@contextmanager
def _opened(db: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write the index {db}: {error.strerror}; choose another --db") from None


@contextmanager
def told(db: str) -> Iterator[None]:
    """Turn what the database raises into one sentence."""
    try:
        yield
    except (F2LLMError, KeyboardInterrupt):
        raise
    except BaseException as error:  # Lance's Rust side panics with a class of its own beside Exception
        if not isinstance(error, OSError | RuntimeError | ValueError) and type(error).__name__ != "PanicException":
            raise
        reason = re.sub(r", \S+\.rs:\d+.*", "", str(error).splitlines()[0] if str(error) else type(error).__name__)
        if "No space left" in str(error) or "os error 28" in str(error):
            raise StorageError(
                f"no space left while writing the index {db}; free some space and run the command again"
            ) from error
        if "ermission denied" in str(error) or "Read-only file system" in str(error):
            raise StorageError(f"cannot write the index {db}: {reason}; choose another --db") from error
        raise StorageError(
            f"the index {db} cannot be read or written ({reason}); if it is damaged, delete it and index again"
        ) from error


def scan(table: Any, columns: list[str], sql: str | None = None) -> pa.Table:
    """These columns of all rows, or of those that meet a condition."""
    found = table.search().select(columns).limit(None)
    return (found.where(sql) if sql else found).to_arrow().combine_chunks()


@contextmanager
def lock(db: str) -> Iterator[None]:
    """One writer at a time; a killed one leaves no lock behind."""
    if not is_local(db):
        yield
        return
    with _opened(db):
        handle = (Path(db) / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"another f2llm index is writing {db}; wait until it ends") from None
        yield


def add_own_columns(table: Any, kinds: dict[str, str]) -> None:
    """Add columns that the table does not have yet, empty in the rows that are there."""
    missing = [name for name in kinds if name not in table.schema.names]
    if missing:
        table.add_columns([pa.field(name, _KINDS[kinds[name]]) for name in missing])


def check_own_names(names: Iterable[str]) -> None:
    for name in names:
        if name in (*BASE, *_HIDDEN) or name.startswith("_"):
            raise ConfigError(f"--column {name}=...: the index has a column {name} of its own; choose another name")


def kind_of(values: Iterable[Any]) -> str:
    """The type of a column by its values: "int64", "double", "bool", or "string"; texts that are numbers count as such.

    A number with leading zeros is a text.
    """
    given = [value for value in values if value is not None and value != ""]
    if given and all(isinstance(value, bool) for value in given):
        return "bool"
    texts = [str(value) for value in given]
    if given and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", text) for text in texts):
        return "int64"
    if given and all(re.fullmatch(r"-?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?", text) and text != "-" for text in texts):
        return "double"
    return "string"


def cast(value: Any, kind: pa.DataType) -> Any:
    """A value as the column has it; None where it cannot be."""
    if value is None or value == "":
        return None
    try:
        if pa.types.is_string(kind):
            return str(value)
        if pa.types.is_boolean(kind):
            return value if isinstance(value, bool) else None
        return int(str(value)) if pa.types.is_integer(kind) else float(value)
    except (TypeError, ValueError):
        return None


def condition(where: str | None = None, languages: Iterable[str] = (), path: str | None = None) -> str | None:
    """The filters as one SQL condition; None where there is none."""
    parts = [f"({where})"] if where else []
    tags = [language(tag).tag for tag in languages]
    if tags:
        parts.append(f"language IN ({quoted(tags)})")
    if path:
        parts.append(f"regexp_like(path, {quoted([_glob(path)])})")
    return " AND ".join(parts) or None


def quoted(texts: Iterable[str]) -> str:
    """Texts as a list of SQL literals."""
    return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)


def _glob(pattern: str) -> str:
    """A pattern of a path as a regular expression; one that is not absolute may begin at any folder."""
    parts = {"*": ".*", "?": "."} | {char: "\\" + char for char in r"\.+()|[]{}^$"}
    body = "".join(parts.get(char, char) for char in pattern)
    return f"^{body}$" if pattern.startswith("/") else f"(^|/){body}$"


def check_condition(table: Any, sql: str, where: str | None) -> None:
    """ConfigError where the database does not understand the condition; it names the columns that there are."""
    try:
        table.search().where(sql).select(["_rowid"]).limit(1).to_arrow()
    except (ValueError, RuntimeError) as error:
        columns = ", ".join(name for name in table.schema.names if name not in _HIDDEN)
        unknown = re.search(r"No field named [\"`]?([^\s\"`]+?)[\"`]?\.(?:\s|$)", str(error))
        if unknown:
            raise ConfigError(f"--where {where}: there is no column {unknown[1]}; there are {columns}") from None
        reason = re.sub(r", \S+\.rs:\d+.*|Error parsing statement: .*\(|Invalid (user )?input,?:? ?", "",
                        str(error).splitlines()[0])  # fmt: skip
        raise ConfigError(
            f"--where {where} is not understood ({reason.strip(' )')}); the columns are {columns}"
        ) from None
