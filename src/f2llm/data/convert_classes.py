"""Classes in text files: two files of two classes (F2LLM-v2, section 3.2), and sentences with their translations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.languages import language
from f2llm.core.readers import TOO_LONG, aligned_lines, find_file, read_lines
from f2llm.core.types import Example
from f2llm.data.convert_pairs import AlignedOptions, files_by_code, line_units, unit_of_line, with_compressed
from f2llm.data.converter import Converter, Encoding, Job, Options, first_allowed
from f2llm.data.keys import fold, stable_hash, text_group


class TwoClasses(Options):
    """`classes`: what stands in the data -> label text, for exactly two; `label_language` of the label texts."""

    classes: Annotated[dict[str, str], Field(min_length=2, max_length=2)]
    label_language: str = "eng_Latn"

    @model_validator(mode="after")
    def _distinct(self) -> TwoClasses:
        if len(set(self.classes.values())) != 2:
            raise ValueError("the two classes need different label texts")
        return self


class TwoWayOptions(TwoClasses):
    """`classes` names two files of one text per line."""

    language: str
    encoding: Encoding = "utf-8"

    def needed_files(self) -> list[str]:
        return with_compressed(list(self.classes))


def lines_two_way(job: Job[TwoWayOptions]) -> Iterator[Example]:
    """Each text with the label text of its file as positive and the other's as negative; texts of both files go."""
    options = job.options
    lang, label_lang = language(options.language).tag, language(options.label_language).tag
    files = {name: find_file(job.path, name) for name in options.classes}
    lines = {name: list(read_lines(path, options.encoding, job.drops)) for name, path in files.items()}
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


class BitextClassesOptions(AlignedOptions):
    """`languages`: the codes to read, all when empty."""

    languages: list[str] = []


def bitext_classes(job: Job[BitextClassesOptions]) -> Iterator[Example]:
    """Each sentence is a class: its text in one language with that in another, drawn by hash.

    Files are read side by side, so memory holds one line of each. The held-out unit is the document, or the line.
    """
    files, varieties = _one_file_a_tag(job)
    units, first = line_units(job), next(iter(files.values()))
    readers = (aligned_lines(path, job.options.encoding) for path in files.values())
    for number, lines in enumerate(zip_longest(*readers), 1):
        if short := next((path for path, line in zip(files.values(), lines, strict=True) if line is None), None):
            raise DataError(f"{short} ends before line {number}, but another file goes on: they are not aligned")
        if varieties:
            job.drops["another variety of the language"] += varieties
        texts = [(tag, line[1]) for tag, line in zip(files, lines, strict=True)]
        label = f"{job.options.corpus or job.name}/line {number}"
        yield from _sentence_class(job, texts, number, label, unit_of_line(job, units, number, first))


def _one_file_a_tag(job: Job[BitextClassesOptions]) -> tuple[dict[str, Path], int]:
    """The file of each language, of several varieties the first by code; how many were left over."""
    by_code, chosen = files_by_code(job.path, job.options.files), dict[str, Path]()
    unknown = set(job.options.languages) - by_code.keys()
    if unknown:
        has = ", ".join(sorted(by_code))
        raise ConfigError(f"option 'languages': no file for {min(unknown)!r}; there are files for {has}")
    codes = sorted(set(job.options.languages or by_code))
    for code in codes:
        chosen.setdefault(language(code).tag, by_code[code])
    return chosen, len(codes) - len(chosen)


def _sentence_class(
    job: Job[BitextClassesOptions], texts: list[tuple[str, str | None]], number: int, label: str, unit: str
) -> Iterator[Example]:
    for _, text in texts:
        if text is None or not text.strip():
            job.drops[TOO_LONG if text is None else "empty line"] += 1
    told = [(tag, text) for tag, text in texts if text is not None and text.strip()]
    for tag, text in told:
        partner = _translation(text, told, stable_hash(job.seed, "partner", tag, number))
        if partner is None:
            job.drops["alone in its class"] += 1
            continue
        yield Example(
            id=f"{tag}/{number}", query=text, positive=partner[1], negatives=(), task_type="clustering",
            source=job.source, query_lang=tag, doc_lang=partner[0], label=label, groups=(unit,),
        )  # fmt: skip


def _translation(text: str, told: list[tuple[str, str]], start: int) -> tuple[str, str] | None:
    own = fold(text)
    return first_allowed(told, start, lambda other: fold(other[1]) != own)


CLASS_CONVERTERS = (
    Converter("lines_two_way", "classification", TwoWayOptions, lines_two_way),
    Converter("bitext_classes", "clustering", BitextClassesOptions, bitext_classes),
)
