"""Labelled texts: many classes as clustering, two classes as two-way classification (F2LLM-v2, section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from f2llm.core.languages import language
from f2llm.core.types import Example
from f2llm.data.converter import Converter, Job, Options, first_allowed
from f2llm.data.keys import fold, stable_hash, text_group
from f2llm.data.readers import find_file, read_csv, read_lines


class CsvOptions(Options):
    """`text` and `label` name the columns; `file` the file below the path, where the path is a directory.

    `quoted = false` for files in which a quotation mark is nothing but text.
    """

    language: str
    text: str = "text"
    label: str = "label"
    file: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quoted: bool = True
    encoding: str = "utf-8"


def csv_classes(job: Job[CsvOptions]) -> Iterator[Example]:
    """Each text with another text of its class, drawn by hash; negatives are mined from the other classes later."""
    options, lang = job.options, language(job.options.language).tag
    path = find_file(job.path, options.file)
    rows = read_csv(path, (options.text, options.label), options.delimiter, options.encoding, options.quoted)
    by_label: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for line, cells in rows:
        text, label = cells[options.text], cells[options.label].strip()
        if text.strip() and label:
            by_label[label].append((line, text))
        else:
            job.drops["no text or no label"] += 1
    for label, members in by_label.items():
        texts = [text for _, text in members]
        for line, text in members:
            partner = _another(text, texts, stable_hash(job.seed, "partner", text))
            if partner is None:
                job.drops["alone in its class"] += 1
                continue
            yield Example(
                id=f"{path.name}/{line}", query=text, positive=partner, negatives=(), task_type="clustering",
                source=job.source, query_lang=lang, doc_lang=lang, label=label,
                groups=(text_group(text), text_group(partner)),
            )  # fmt: skip


def _another(text: str, texts: list[str], start: int) -> str | None:
    own = fold(text)
    return first_allowed(texts, start, lambda other: fold(other) != own)


class TwoWayOptions(Options):
    """`classes`: file name -> label text, for exactly two files of one text per line."""

    classes: Annotated[dict[str, str], Field(min_length=2, max_length=2)]
    language: str
    label_language: str = "eng_Latn"
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _distinct(self) -> TwoWayOptions:
        if len(set(self.classes.values())) != 2:
            raise ValueError("the two classes need different label texts")
        return self


def lines_two_way(job: Job[TwoWayOptions]) -> Iterator[Example]:
    """Each text with the label text of its file as positive and the other's as negative; texts of both files go."""
    options = job.options
    lang, label_lang = language(options.language).tag, language(options.label_language).tag
    lines = {name: list(read_lines(find_file(job.path, name), options.encoding)) for name in options.classes}
    first, second = ({fold(text) for _, text in rows} for rows in lines.values())
    ambiguous = first & second
    for (name, label), wrong in zip(options.classes.items(), reversed(options.classes.values()), strict=True):
        for line, text in lines[name]:
            if not text.strip() or fold(text) in ambiguous:
                job.drops["in both classes" if text.strip() else "empty line"] += 1
                continue
            yield Example(
                id=f"{name}/{line}", query=text, positive=label, negatives=(wrong,), task_type="classification",
                source=job.source, query_lang=lang, doc_lang=label_lang, label=label, groups=(text_group(text),),
            )  # fmt: skip


CLASS_CONVERTERS = (
    Converter("csv_classes", "clustering", CsvOptions, csv_classes),
    Converter("lines_two_way", "classification", TwoWayOptions, lines_two_way),
)
