"""Two classes in two files of texts, as two-way classification (F2LLM-v2, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from f2llm.core.languages import language
from f2llm.core.types import Example
from f2llm.data.converter import Converter, Job, Options
from f2llm.data.keys import fold, text_group
from f2llm.data.readers import find_file, read_lines


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
    encoding: str = "utf-8"


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


CLASS_CONVERTERS = (Converter("lines_two_way", "classification", TwoWayOptions, lines_two_way),)
