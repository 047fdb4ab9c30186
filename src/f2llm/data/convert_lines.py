"""Texts by themselves, one a line: an evaluation set. They make no training rows, for nothing answers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import model_validator

from f2llm.core.languages import language
from f2llm.core.readers import find_file, match_files, read_lines
from f2llm.core.types import Example
from f2llm.data.convert_pairs import with_compressed
from f2llm.data.converter import Converter, Encoding, Job, Options
from f2llm.data.keys import text_group


class TextLinesOptions(Options):
    """`files`: a pattern of the files' names, such as `{pair}.{code}.txt`; without it the path is one file.

    Their language is `{code}` of the pattern, or `language`.
    """

    files: str | None = None
    language: str | None = None
    encoding: Encoding = "utf-8"

    @model_validator(mode="after")
    def _language_told(self) -> TextLinesOptions:
        if (self.language is None) != ("{code}" in (self.files or "")):
            raise ValueError("give either `language`, or `files` with {code} for it")
        return self

    def needed_files(self) -> list[str]:
        return with_compressed([self.files]) if self.files else []


def text_lines(job: Job[TextLinesOptions]) -> Iterator[Example]:
    """Each line as query and positive at once: a row for `[[evaluation_sets]]`, which cleaning drops from a source."""
    for path, code in job.share(_files(job)):
        tag = language(code).tag
        name = path.name if path == job.path else path.relative_to(job.path).as_posix()
        for number, text in read_lines(path, job.options.encoding, job.drops):
            if not text.strip():
                job.drops["empty line"] += 1
                continue
            yield Example(
                id=f"{name}/{number}", query=text, positive=text, negatives=(), task_type="retrieval",
                source=job.source, query_lang=tag, doc_lang=tag, groups=(text_group(text),),
            )  # fmt: skip


def _files(job: Job[TextLinesOptions]) -> list[tuple[Path, str]]:
    """Each file with the code of its language."""
    options = job.options
    if options.files is None:
        return [(find_file(job.path), options.language or "")]
    return [(path, names.get("code", options.language or "")) for path, names in match_files(job.path, options.files)]


LINE_CONVERTERS = (Converter("text_lines", "retrieval", TextLinesOptions, text_lines, parts=_files),)
