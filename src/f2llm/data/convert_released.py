"""The data of the paper as they were released (codefuse-ai/F2LLM-v2): parquet files of queries with mined negatives.

Columns: `query`, `passage`, `negative_1` to `negative_24` (only `negative_1` in two-way classification), in some files
`lang`. Queries, and documents of symmetric sources, may start with the instruction `Instruct: ...\\nQuery: `; it is
taken off, for stage 1 has none and stage 2 puts its own.

Rows stream in batches of 512 and column chunks in pages, for a file is often a single row group of gigabytes.
Clustering rows come without the name of their class: their negatives are of other classes, but no more can be mined.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from f2llm.core.arrow import BATCH, explained, open_parquet
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.languages import language
from f2llm.core.log import warn
from f2llm.core.types import TASK_TYPES, Example, TaskType
from f2llm.data.converter import Converter, Job, Options
from f2llm.data.keys import text_group
from f2llm.text.prompts import strip_instruction

UNKNOWN = "mul_Zyyy"
"""The language of rows of which nobody tells it: several languages, no particular script (ISO 639-2, ISO 15924)."""
EMPTY_NEGATIVE = "empty negative (the row stays)"
_NEGATIVE = re.compile(r"negative_(\d+)")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Query, positive, negatives and language as they stand in the file.
_Row = tuple[str | None, str | None, tuple[str | None, ...], object]
_ROLES = frozenset({"code", "query", "doc"})
# Languages that the released files name in words.
_WORDS = {
    "arabic": "ar", "bengali": "bn", "chinese": "zh", "danish": "da", "dutch": "nl", "english": "en", "finnish": "fi",
    "french": "fr", "german": "de", "hindi": "hi", "indonesian": "id", "italian": "it", "japanese": "ja",
    "korean": "ko", "norwegian": "no", "portuguese": "pt", "russian": "ru", "spanish": "es", "swahili": "sw",
    "swedish": "sv", "telugu": "te", "thai": "th", "vietnamese": "vi",
}  # fmt: skip


class ReleasedOptions(Options):
    """`files`: names without `.parquet`, or patterns: `*`, `?`, and `{code}` (or `{query}` and `{doc}`) for a language.

    What fits a pattern after `!` is left out. `rows`: [first, last) of a file that holds several sources. `language`
    and `doc_language`: of the queries and of the documents (as of the queries, if not given), where the name of the
    file does not tell; without them the column `lang` does, where there is one.
    """

    files: Annotated[list[str], Field(min_length=1)]
    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    language: str | None = None
    doc_language: str | None = None

    def needed_files(self) -> list[str]:
        names = (_PLACEHOLDER.sub("*", pattern).replace("[", "[[]") + ".parquet" for pattern in self.files)
        return [f"!{folder}{name[1:]}" if name[0] == "!" else folder + name for name in names for folder in ("", "*/")]

    @model_validator(mode="after")
    def _sensible(self) -> ReleasedOptions:
        if all(pattern.startswith("!") for pattern in self.files):
            raise ValueError("`files` names only what to leave out")
        unknown = {name for pattern in self.files for name in _PLACEHOLDER.findall(pattern)} - _ROLES
        if unknown:
            raise ValueError(f"`files` has {{{min(unknown)}}}; it may have {{code}}, {{query}} and {{doc}}")
        if self.rows is not None and self.rows[0] >= self.rows[1]:
            raise ValueError("`rows` is [first, last) and needs first < last")
        return self


def released(task_type: TaskType, job: Job[ReleasedOptions]) -> Iterator[Example]:
    """Each row with its negatives; rows without query or positive go, empty negatives are taken out."""
    for path, names in job.share(_files(job)):
        yield from _File(path, names, task_type, job).examples()


def _files(job: Job[ReleasedOptions]) -> list[tuple[Path, dict[str, str]]]:
    found = matching_files(job.path, job.options.files)
    if job.options.rows is not None and len(found) > 1:
        raise ConfigError(f"option 'rows' is for one file, but {len(found)} files fit 'files'; name the one")
    return found


def matching_files(root: Path, patterns: list[str]) -> list[tuple[Path, dict[str, str]]]:
    """Parquet files below `root` that fit a pattern, in order, with what its braces stand for."""
    files = _parquet_files(root)
    left_out = {name for name in files if any(_fits(p[1:], name) for p in patterns if p.startswith("!"))}
    found: dict[str, dict[str, str]] = {}
    for pattern in (p for p in patterns if not p.startswith("!")):
        fits = {name: match for name in files if name not in left_out and (match := _fits(pattern, name))}
        if not fits:
            raise DataError(f"no file below {root} fits {pattern + '.parquet'!r}; fetch it, or leave the source out")
        found = {name: match.groupdict() for name, match in fits.items()} | found
    return [(files[name], found[name]) for name in sorted(found)]


def _parquet_files(root: Path) -> dict[str, Path]:
    """The parquet files below `root` by name."""
    files: dict[str, Path] = {}
    for path in [root] if root.is_file() else sorted(filter(Path.is_file, root.rglob("*.parquet"))):
        other = files.setdefault(path.name.removesuffix(".parquet"), path)
        if other is not path:
            raise DataError(f"{other} and {path} have the same name; keep one of them below {root}")
    return files


def _fits(pattern: str, name: str) -> re.Match[str] | None:
    return _matcher(pattern).fullmatch(name)


@cache
def _matcher(pattern: str) -> re.Pattern[str]:
    special = {"*": ".*", "?": "."}
    parts = re.split(r"(\{\w+\}|[*?])", pattern)
    return re.compile(
        "".join(
            f"(?P<{part[1:-1]}>.+?)" if part.startswith("{") else special.get(part, re.escape(part)) for part in parts
        )
    )


def _batches(file: pq.ParquetFile, columns: list[str], first: int, last: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows [first, last) of a file, in batches with the number of their first row."""
    number = 0
    for batch in file.iter_batches(BATCH, columns=columns):
        start, end = max(first - number, 0), min(last - number, len(batch))
        if end <= 0:
            return
        if start < end:
            yield number + start, batch.slice(start, end - start)
        number += len(batch)


class _File:
    """One file of a source: checks its columns, then streams its rows."""

    def __init__(self, path: Path, names: dict[str, str], task_type: TaskType, job: Job[ReleasedOptions]) -> None:
        self.path, self.task_type, self.job = path, task_type, job
        self.stem = path.name.removesuffix(".parquet")
        options, both = job.options, names.get("code")
        query, doc = names.get("query", both), names.get("doc", both)
        self.query_lang = self._of_file(query) or _chosen(options.language)
        self.doc_lang = self._of_file(doc) or _chosen(options.doc_language or options.language)
        self.unknown: Counter[str] = Counter()

    def _of_file(self, name: str | None) -> str | None:
        """The tag of a language in the file's name."""
        tag = None if name is None else _tag(name)
        if name is not None and tag is None:
            warn(f"{self.path.name} is named for an unknown language ({name!r})")
        return tag

    def examples(self) -> Iterator[Example]:
        for number, row in self._rows():
            example = self._example(number, row)
            if example is not None:
                yield example
        if self.unknown:
            name, count = self.unknown.most_common(1)[0]
            rows = f"{self.unknown.total():,} rows of {self.path.name}"
            warn(f"{rows} name an unknown language ({name!r}: {count:,}); they count as {UNKNOWN}")

    def _rows(self) -> Iterator[tuple[int, _Row]]:
        """Each row of the wanted range with its number in the file."""
        with explained(self.path), open_parquet(self.path) as file:
            negatives, lang = self._columns(file.schema_arrow)
            for number, batch in _batches(file, ["query", "passage", *negatives, *lang], *self._range(file)):
                query, positive = (batch.column(name).to_pylist() for name in ("query", "passage"))
                texts = zip(*(batch.column(name).to_pylist() for name in negatives), strict=True)
                langs = batch.column("lang").to_pylist() if lang else [None] * len(batch)
                yield from enumerate(zip(query, positive, texts, langs, strict=True), number)

    def _range(self, file: pq.ParquetFile) -> tuple[int, int]:
        first, last = self.job.options.rows or (0, file.metadata.num_rows)
        if file.metadata.num_rows < last:
            rows = f"{file.metadata.num_rows:,} rows, but rows {first:,} to {last:,} are asked for"
            raise DataError(f"{self.path} has {rows}; fetch it again, or correct the option 'rows'")
        return first, last

    def _columns(self, schema: pa.Schema) -> tuple[list[str], list[str]]:
        """The columns of the negatives in order, and that of the language if there is one."""
        negatives = sorted((name for name in schema.names if _NEGATIVE.fullmatch(name)), key=lambda name: int(name[9:]))
        missing = [name for name in ("query", "passage", "negative_1") if name not in schema.names]
        if missing:
            has = ", ".join(schema.names[:5]) + (", ..." if len(schema.names) > 5 else "")
            raise DataError(f"{self.path} has no column {', '.join(missing)}, only {has}: it is not in released form")
        for name in ("query", "passage", *negatives):
            if not _is_text(schema.field(name).type):
                raise DataError(f"{self.path}: the column {name} holds {schema.field(name).type}, not text")
        needs_lang = self.query_lang is None or self.doc_lang is None
        return negatives, ["lang"] if needs_lang and "lang" in schema.names else []

    def _example(self, number: int, row: _Row) -> Example | None:
        query, positive = map(_bare, row[:2])
        if not query or not positive:
            self.job.drops["empty query" if not query else "empty positive"] += 1
            return None
        negatives = tuple(text for raw in row[2] if (text := _bare(raw)))
        if len(negatives) < len(row[2]):
            self.job.drops[EMPTY_NEGATIVE] += len(row[2]) - len(negatives)
        two_way, told = self.task_type == "classification", self._of_row(row[3])
        return Example(
            id=f"{self.stem}/{number}", query=query, positive=positive, negatives=negatives, task_type=self.task_type,
            source=self.job.source, query_lang=self.query_lang or told, doc_lang=self.doc_lang or told,
            label=positive if two_way else None,
            groups=(text_group(query),) if two_way else (text_group(query), text_group(positive)),
        )  # fmt: skip

    def _of_row(self, name: object) -> str:
        """The tag of the language that a row names, or UNKNOWN."""
        tag = _tag(str(name)) if name else UNKNOWN
        if tag is None:
            self.unknown[str(name)] += 1
        return tag or UNKNOWN


def _chosen(name: str | None) -> str | None:
    return None if name is None else language(name).tag


@cache
def _tag(name: str) -> str | None:
    """`C%23`, `arabic`, `zh_cn`, `ara` -> a tag; None for what is no language."""
    plain = unquote(name)
    try:
        return language(_WORDS.get(plain.lower(), plain)).tag
    except ConfigError:
        return None


def _bare(text: str | None) -> str:
    """A text without its instruction; "" where nothing but white space is left."""
    found = strip_instruction(text or "")
    return found if found.strip() else ""


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_null(plain))


def _converter(task_type: TaskType) -> Converter[Any]:
    run = partial(released, task_type)
    return Converter(f"released_{task_type}", task_type, ReleasedOptions, run, parts=_files)


RELEASED_CONVERTERS = tuple(_converter(task_type) for task_type in TASK_TYPES)
