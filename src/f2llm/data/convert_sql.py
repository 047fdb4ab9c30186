"""Text and SQL: the text2sql collection, where one SQL query has many questions and both have variables.

Entries stream, so a file of any size (WikiSQL: 65 MB) is one entry in memory; 80,000 questions take 10 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from f2llm.core.readers import field, find_file, read_json_array
from f2llm.core.types import Example
from f2llm.data.converter import Converter, Encoding, Job, Options


class SqlOptions(Options):
    """`files`: names below the path; `task`: from the question to the query, or from the query to a question.

    `leave_out`: values of `question-split` to leave out. `corpus`: the name under which other sources share the
    queries; the name of the directory where empty.
    """

    files: Annotated[list[str], Field(min_length=1)]
    task: Literal["text_to_sql", "sql_to_text"] = "text_to_sql"
    leave_out: list[str] = []
    corpus: str = ""
    encoding: Encoding = "utf-8"


def text_to_sql(job: Job[SqlOptions]) -> Iterator[Example]:
    """Each question with its SQL query, both with the question's values in place of the variables.

    The held-out unit is the query without its values: its questions say the same in other words.
    """
    corpus = job.options.corpus or job.name
    for name in dict.fromkeys(job.options.files):
        path = find_file(job.path, name)
        stem = name.removesuffix(".json")
        for number, entry in read_json_array(path, job.options.encoding):
            place = f"{path}, entry {number}"
            sentences = field(entry, "sentences", list, place)
            if not _statement(entry, place):
                job.drops["no SQL"] += len(sentences)
                continue
            for at, sentence in enumerate(sentences, 1):
                split = sentence.get("question-split") if isinstance(sentence, dict) else None
                if split in job.options.leave_out:
                    job.drops[f"question-split {split!r} left out"] += 1
                    continue
                text, sql = _filled(entry, sentence, place)
                yield _example(job, f"{stem}/{number}.{at}", text, sql, f"{corpus}/{stem}/{number}")


def _example(job: Job[SqlOptions], name: str, text: str, sql: str, unit: str) -> Example:
    sides = [(text, "eng_Latn"), (sql, "sql")]
    (query, query_lang), (positive, doc_lang) = sides if job.options.task == "text_to_sql" else reversed(sides)
    return Example(
        id=name, query=query, positive=positive, negatives=(), task_type="retrieval", source=job.source,
        query_lang=query_lang, doc_lang=doc_lang, groups=(unit,),
    )  # fmt: skip


def _filled(entry: Any, sentence: Any, place: str) -> tuple[str, str]:
    """The question and its query with values; a variable that the question does not tell has its usual value."""
    variables = field({"variables": []} | entry, "variables", list, place)
    values = {field(variable, "name", str, place): field(variable, "example", str, place) for variable in variables}
    told = field(sentence, "variables", dict, place)
    values |= {name: field(told, name, str, place) for name in told if told[name]}
    # WikiSQL's own wording: its template replaces every "1" by a variable whose value is 1, also that in 2010.
    given = "original" if sentence.get("original") else "text"
    text = field(sentence, given, str, place)
    return text if given == "original" else _fill(text, values), _fill(_statement(entry, place), values)


def _statement(entry: Any, place: str) -> str:
    """The first SQL query of an entry; "" if it has none."""
    statements = field(entry, "sql", list, place)
    found = (field({"sql": statement}, "sql", str, place) for statement in statements)
    return next((statement for statement in found if statement.strip()), "")


def _fill(template: str, values: Mapping[str, str]) -> str:
    if not values:
        return template
    names = "|".join(sorted(map(re.escape, values), key=len, reverse=True))
    return re.sub(rf"\b({names})\b", lambda match: values[match[1]], template)


SQL_CONVERTERS = (Converter("text_to_sql", "retrieval", SqlOptions, text_to_sql),)
