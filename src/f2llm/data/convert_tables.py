"""Tables of any kind: questions and answers, labelled texts, one column a language.

A table is a CSV, TSV, JSON, JSON lines, parquet or Arrow file, or a data set on disk of Hugging Face (`arrow.py`).

`pairs_table` covers every family of two texts of different kinds: question and answer, title and body, text and
summary, instruction and response. Rows stream, except where a row needs others: then memory holds the texts of one file
(hard negatives of the same kind) or of the whole source (classes).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field, model_validator

from f2llm.core import arrow
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.languages import language
from f2llm.core.readers import find_file, match_files, match_paths, read_json
from f2llm.core.tables import as_text, read_rows
from f2llm.core.types import Example
from f2llm.data.convert_classes import TwoClasses
from f2llm.data.convert_pairs import Pair, code_pairs, with_compressed
from f2llm.data.converter import Converter, Drops, Encoding, Job, Options, first_allowed
from f2llm.data.hub import glob
from f2llm.data.keys import fold, stable_hash, text_group

ROW_NUMBER = "#"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LANGUAGES = frozenset({"code", "query", "doc"})
Columns = Annotated[list[str], Field(min_length=1)]


class FileOptions(Options):
    """How the files are found and read.

    `files`: a pattern of their names below the path, such as `{code}/{split}.csv`; without it the path is the file. A
    data set on disk is a folder that fits the pattern (`{split}`, or `train`), or the path. `missing`: cells that stand
    for "no value", besides empty ones and null. `encoding`: of text.

    A column `a.b` is the field b of an object in the column a, where no column has that name.

    Of .csv and .tsv files: `header`, names of the columns where there is none; `quoted`, whether quotation marks
    enclose cells (else: in .csv yes, in .tsv no); `skip_malformed`, to count rows with too many or too few cells
    instead of stopping there.

    `unit`: the column that names what is held out as a whole (an article, a problem), or "#": row N of every file is
    the same row in another language. Without it the unit is the text. `corpus`: the name under which other sources
    share these units; the name of the path where empty.
    """

    files: str | None = None
    header: list[str] = []
    quoted: bool | None = None
    encoding: Encoding = "utf-8"
    missing: list[str] = []
    skip_malformed: bool = False
    unit: str | None = None
    corpus: str = ""

    def needed_files(self) -> list[str]:
        return [*with_compressed([self.files]), glob(f"{self.files}/{{any}}")] if self.files else []

    @model_validator(mode="after")
    def _countable(self) -> FileOptions:
        if self.unit == ROW_NUMBER and self.skip_malformed:
            raise ValueError("`unit` = '#' counts the rows; it does not go with `skip_malformed`")
        return self


class TableOptions(FileOptions):
    """One or several files in one language each.

    `language`: of all files; otherwise `files` has `{code}` for it. `codes`: what such a code really means, where it
    is no language or the wrong one (`kr = "rw"`).
    """

    language: str | None = None
    codes: dict[str, str] = {}

    @model_validator(mode="after")
    def _language_told(self) -> TableOptions:
        in_names = {"code", "query"} & set(_PLACEHOLDER.findall(self.files or ""))
        if (self.language is None) != bool(in_names):
            raise ValueError("give either `language`, or `files` with {code} (or {query}) for it")
        return self


F = TypeVar("F", bound=FileOptions)
T = TypeVar("T", bound=TableOptions)


class Row(NamedTuple):
    """`id` is unique in the source; `unit` is empty where the text itself is the unit."""

    id: str
    cells: dict[str, str]
    unit: str


class Table(NamedTuple):
    """A file, or a data set on disk."""

    path: Path
    name: str
    query_lang: str
    doc_lang: str
    part: str
    """What the pattern of the files says besides the language, such as the split: a part of every row's unit."""


def tables(job: Job[T], doc_language: str | None = None) -> Iterator[Table]:
    """The files of a source in order, with their languages."""
    options, found = job.options, matches(job)
    unknown = options.codes.keys() - {names.get(key) for _, names in found for key in _LANGUAGES}
    if unknown:
        raise ConfigError(f"option 'codes': no file has the code {min(unknown)!r}; remove or correct it")
    for path, names in found:
        told = {key: language(options.codes.get(names[key], names[key])).tag for key in _LANGUAGES & names.keys()}
        query = told.get("code") or told.get("query") or language(options.language or "").tag
        doc = told.get("doc") or (language(doc_language).tag if doc_language else query)
        part = "/".join(value for key, value in names.items() if key not in _LANGUAGES)
        yield Table(path, _name(job, path), query, doc, part)


def matches(job: Job[F]) -> list[tuple[Path, dict[str, str]]]:
    """The tables of a source in order, with what the pattern's braces stand for."""
    pattern = job.options.files
    if pattern is None:
        return [(job.path if arrow.is_data_set(job.path) else _only_file(job.path), {})]
    return match_paths(job.path, pattern, arrow.is_data_set) or match_files(job.path, pattern)


def _only_file(path: Path) -> Path:
    if names := arrow.splits(path):
        raise ConfigError(
            f"{path} has the splits {', '.join(names)}; name one by `files`, or all by `files` = '{{split}}'"
        )
    return find_file(path)


def _name(job: Job[F], path: Path) -> str:
    return path.name if job.options.files is None else path.relative_to(job.path).as_posix()


def rows(job: Job[F], table: Table, columns: Iterable[str | None]) -> Iterator[Row]:
    """The rows of a file; cells that mean "no value" are empty."""
    options, corpus = job.options, job.options.corpus or job.name
    unit = options.unit
    wanted = [name for name in (*columns, unit) if name is not None and name != ROW_NUMBER]
    void = frozenset(options.missing)
    for number, (line, raw) in enumerate(_raw_rows(job, table.path, wanted), 1):
        texts = {name: as_text(raw[name], f"{table.path}, row {line}, column {name}") for name in wanted}
        cells = {name: "" if text.strip() in void else text for name, text in texts.items()}
        value = str(number) if unit == ROW_NUMBER else cells[unit].strip() if unit else ""
        parts = (corpus, table.part, value) if unit == ROW_NUMBER else (corpus, value)
        yield Row(f"{table.name}/{line}", cells, "/".join(filter(None, parts)) if value else "")


def _raw_rows(job: Job[F], path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    options = job.options
    # A row that is left out would shift the numbers of all that follow.
    drops = None if options.unit == ROW_NUMBER else job.drops
    yield from read_rows(
        path, columns, encoding=options.encoding, quoted=options.quoted, header=options.header, drops=drops,
        skip_malformed=options.skip_malformed,
    )  # fmt: skip


class PairsOptions(TableOptions):
    """`query`, `positive`: the columns of each side; of several, those with a value are put on lines.

    `doc_language`: of the positives, where they have another language than the queries. `same`: a column; up to
    `negatives` positives of rows with the same value in it are hard negatives (department, article). `leave_out`: a
    file below the path, a JSON array or the keys of a JSON object: rows with these units are a test set and stay out.
    """

    query: Columns
    positive: Columns
    doc_language: str | None = None
    same: str | None = None
    negatives: Annotated[int, Field(ge=1)] = 8
    leave_out: str | None = None

    def needed_files(self) -> list[str]:
        test = with_compressed([self.leave_out]) if self.files and self.leave_out else []
        return [*super().needed_files(), *test]

    @model_validator(mode="after")
    def _units_to_leave_out(self) -> PairsOptions:
        if self.leave_out is not None and self.unit in (None, ROW_NUMBER):
            raise ValueError("`leave_out` names units; give the column of the `unit`")
        return self


class _Pair(NamedTuple):
    row: Row
    query: str
    positive: str


def pairs_table(job: Job[PairsOptions]) -> Iterator[Example]:
    """Each row's query with its positive; the held-out unit is the row's unit, or query and positive by themselves."""
    options, test = job.options, _test_set(job)
    for table in job.share(tables(job, options.doc_language)):
        pairs: Iterable[_Pair] = _pairs(job, table, test)
        others: _Kin | None = None
        if options.same is not None:
            pairs = list(pairs)
            others = _Kin(pairs, options.same, job.seed)
        for row, query, positive in pairs:
            yield Example(
                id=row.id, query=query, positive=positive,
                negatives=others.of(row, positive, options.negatives) if others else (), task_type="retrieval",
                source=job.source, query_lang=table.query_lang, doc_lang=table.doc_lang,
                groups=groups(row.unit, query, positive),
            )  # fmt: skip


def groups(unit: str, *texts: str) -> tuple[str, ...]:
    """The units of a row: its own, or those of its texts."""
    return (unit,) if unit else tuple(map(text_group, texts))


def _pairs(job: Job[PairsOptions], table: Table, test: frozenset[str]) -> Iterator[_Pair]:
    options = job.options
    for row in rows(job, table, (*options.query, *options.positive, options.same)):
        query, positive = (_joined(row.cells, names) for names in (options.query, options.positive))
        if options.unit is not None and row.cells.get(options.unit) in test:
            job.drops["left out for the test"] += 1
        elif not query or not positive:
            job.drops["no query" if not query else "no positive"] += 1
        else:
            yield _Pair(row, query, positive)


def _joined(cells: dict[str, str], names: list[str]) -> str:
    return "\n".join(text for name in names if (text := cells[name].strip()))


def _test_set(job: Job[PairsOptions]) -> frozenset[str]:
    if job.options.leave_out is None:
        return frozenset()
    path = find_file(job.path, job.options.leave_out)
    units = read_json(path, job.options.encoding)
    if not isinstance(units, list | dict):
        raise DataError(f"{path}: an array or an object is needed, not {type(units).__name__}")
    return frozenset(map(str, units))


class _Kin:
    """The positives of a file by the value of a column, each list in an order drawn by hash."""

    def __init__(self, pairs: list[_Pair], column: str, seed: int) -> None:
        self.column, self.seed = column, seed
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for pair in pairs:
            found[pair.row.cells[column]][pair.positive] = None
        shuffle = partial(stable_hash, seed, "order")
        self.texts = {value: sorted(texts, key=shuffle) for value, texts in found.items() if value}

    def of(self, row: Row, positive: str, count: int) -> tuple[str, ...]:
        """Up to `count` other positives of the row's kind."""
        texts = self.texts.get(row.cells[self.column], [])
        start = stable_hash(self.seed, "kin", row.id) % max(len(texts), 1)
        ring = (texts[(start + step) % len(texts)] for step in range(min(len(texts), count + 1)))
        return tuple(text for text in ring if text != positive)[:count]


class Labelled(NamedTuple):
    """A text with its class; `unit` is empty where the text itself is the unit."""

    id: str
    text: str
    label: str
    lang: str
    unit: str


class ClassesOptions(TableOptions):
    """`text`, `label`: the columns. `cross_lingual`: the partner is a text of the class in another language."""

    text: str = "text"
    label: str = "label"
    cross_lingual: bool = False


def classes_table(job: Job[ClassesOptions]) -> Iterator[Example]:
    """Each text with another text of its class; texts in several classes go."""
    found = _labelled(job, job.options.text, job.options.label)
    return clustered(job, found, job.options.cross_lingual)


def _labelled(job: Job[T], text_column: str, label_column: str) -> Iterator[Labelled]:
    for table in tables(job):
        for row in rows(job, table, (text_column, label_column)):
            text, label = row.cells[text_column], row.cells[label_column].strip()
            if text.strip() and label:
                yield Labelled(row.id, text, label, table.query_lang, row.unit)
            else:
                job.drops["no text or no label"] += 1


def clustered(job: Job[Any], found: Iterable[Labelled], cross_lingual: bool) -> Iterator[Example]:
    """Clustering rows: each text with a partner of its class, drawn by hash; negatives are mined later."""
    by_class: dict[tuple[str, str], list[Labelled]] = defaultdict(list)
    for row in in_one_class(found, job.drops):
        by_class["" if cross_lingual else row.lang, row.label].append(row)
    for members in by_class.values():
        for row in members:
            partner = _partner(row, members, cross_lingual, job.seed)
            if partner is None:
                job.drops["alone in its class"] += 1
                continue
            yield Example(
                id=row.id, query=row.text, positive=partner.text, negatives=(), task_type="clustering",
                source=job.source, query_lang=row.lang, doc_lang=partner.lang, label=row.label,
                groups=tuple(dict.fromkeys(member.unit or text_group(member.text) for member in (row, partner))),
            )  # fmt: skip


def in_one_class(found: Iterable[Labelled], drops: Drops) -> Iterator[Labelled]:
    """The rows but for texts that one language has in several classes."""
    kept = list(found)
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in kept:
        labels[row.lang, fold(row.text)].add(row.label)
    for row in kept:
        if len(labels[row.lang, fold(row.text)]) > 1:
            drops["in several classes"] += 1
        else:
            yield row


def _partner(row: Labelled, members: list[Labelled], cross_lingual: bool, seed: int) -> Labelled | None:
    own = fold(row.text)
    return first_allowed(
        members,
        stable_hash(seed, "partner", row.text),
        lambda other: fold(other.text) != own and not (cross_lingual and other.lang == row.lang),
    )


class TwoWayTableOptions(TableOptions, TwoClasses):
    """`classes` are the labels in the file; rows with another one are left out. `text`, `label`: the columns."""

    text: str = "text"
    label: str = "label"


def two_way_table(job: Job[TwoWayTableOptions]) -> Iterator[Example]:
    """Each text with the label text of its class as positive and the other as negative."""
    options, label_lang = job.options, language(job.options.label_language).tag
    other = dict(zip(options.classes.values(), reversed(options.classes.values()), strict=True))
    for row in in_one_class(_labelled(job, options.text, options.label), job.drops):
        label = options.classes.get(row.label)
        if label is None:
            job.drops["another class"] += 1
            continue
        yield Example(
            id=row.id, query=row.text, positive=label, negatives=(other[label],), task_type="classification",
            source=job.source, query_lang=row.lang, doc_lang=label_lang, label=label,
            groups=groups(row.unit, row.text),
        )  # fmt: skip


class AlignedTableOptions(FileOptions):
    """`columns`: column -> language, the row being the same text in each. `pairs`: [query, document] columns.

    "*" in `pairs` stands for all columns. The row is the held-out unit.
    """

    columns: Annotated[dict[str, str], Field(min_length=2)]
    pairs: Annotated[list[Pair], Field(min_length=1)]
    unit: str | None = ROW_NUMBER

    @model_validator(mode="after")
    def _known_columns(self) -> AlignedTableOptions:
        unknown = {name for pair in self.pairs for name in pair} - self.columns.keys() - {"*"}
        if unknown:
            raise ValueError(f"`pairs` has {min(unknown)!r}, which is none of the `columns`")
        return self


def aligned_table(job: Job[AlignedTableOptions]) -> Iterator[Example]:
    """The cells of a row as translations of each other."""
    options = job.options
    tags = {column: language(name).tag for column, name in options.columns.items()}
    pairs = [pair for pair in code_pairs(options.pairs, sorted(tags)) if tags[pair[0]] != tags[pair[1]]]
    for path, names in job.share(matches(job)):
        table = Table(path, _name(job, path), "", "", "/".join(names.values()))
        for row in rows(job, table, tags):
            for left, right in pairs:
                query, positive = row.cells[left], row.cells[right]
                if not query.strip() or not positive.strip():
                    job.drops["empty cell"] += 1
                    continue
                yield Example(
                    id=f"{left}-{right}/{row.id}", query=query, positive=positive, negatives=(),
                    task_type="retrieval", source=job.source, query_lang=tags[left], doc_lang=tags[right],
                    groups=groups(row.unit, query, positive),
                )  # fmt: skip


TABLE_CONVERTERS = (
    Converter("pairs_table", "retrieval", PairsOptions, pairs_table, parts=matches),
    Converter("classes_table", "clustering", ClassesOptions, classes_table),
    Converter("two_way_table", "classification", TwoWayTableOptions, two_way_table),
    Converter("aligned_table", "retrieval", AlignedTableOptions, aligned_table, parts=matches),
)
