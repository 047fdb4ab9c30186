"""Bitext from line-aligned files, and questions with their paragraphs from SQuAD-style JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, model_validator

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.languages import language
from f2llm.core.readers import TOO_LONG, aligned_lines, field, find_file, match_files, read_json, read_lines
from f2llm.core.types import Example
from f2llm.data.converter import Converter, Encoding, Job, Options, own_id
from f2llm.data.hub import glob
from f2llm.data.keys import stable_hash, text_group

Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class AlignedOptions(Options):
    """Line N of every file is the same sentence.

    `files`: patterns of the files' names, with `{code}` for the language (`newstest2019-ref.{code}.txt`); the first
    pattern that has a file for a code wins. `documents`: a file with the document of each line, `documents_header` if
    it starts with a header. `corpus`: the name under which other sources share these documents or lines; the name of
    the directory where empty.
    """

    files: Annotated[list[str], Field(min_length=1)]
    documents: str | None = None
    documents_header: bool = False
    corpus: str = ""
    encoding: Encoding = "utf-8"

    def needed_files(self) -> list[str]:
        return [*with_compressed(self.files), *(with_compressed([self.documents]) if self.documents else [])]


class BitextOptions(AlignedOptions):
    """`pairs`: [query, document] codes; "*" stands for all codes."""

    pairs: Annotated[list[Pair], Field(min_length=1)]


A = TypeVar("A", bound=AlignedOptions)


def bitext_lines(job: Job[BitextOptions]) -> Iterator[Example]:
    """Each line with the same line in the other language; the held-out unit is the document, or else the line."""
    files, units = files_by_code(job.path, job.options.files), line_units(job)
    for left, right in job.share(_language_pairs(job)):
        query_lang, doc_lang = language(left).tag, language(right).tag
        for number, query, positive in _aligned(files[left], files[right], job.options.encoding):
            unit = unit_of_line(job, units, number, files[left])
            if query is None or positive is None:
                job.drops[TOO_LONG] += 1
            elif not query.strip() or not positive.strip():
                job.drops["empty line"] += 1
            else:
                yield Example(
                    id=f"{left}-{right}/{number}", query=query, positive=positive, negatives=(), task_type="retrieval",
                    source=job.source, query_lang=query_lang, doc_lang=doc_lang, groups=(unit,),
                )  # fmt: skip


def _language_pairs(job: Job[BitextOptions]) -> list[tuple[str, str]]:
    """The pairs of codes; not those of two varieties of one language, which is nearly the same text twice."""
    files = files_by_code(job.path, job.options.files)
    found = list(code_pairs(job.options.pairs, sorted(files)))
    if absent := {code for pair in found for code in pair} - files.keys():
        has = ", ".join(sorted(files))
        raise ConfigError(f"option 'pairs': no file for {min(absent)!r}; there are files for {has}")
    return [(left, right) for left, right in found if language(left).tag != language(right).tag]


def with_compressed(patterns: list[str]) -> list[str]:
    """Patterns of fnmatch for files that may be compressed."""
    return [glob(pattern) + suffix for pattern in patterns for suffix in ("", ".gz", ".bz2")]


def files_by_code(root: Path, patterns: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for pattern in reversed(patterns):
        if "{code}" not in pattern:
            raise ConfigError(f"option 'files': {pattern!r} has no {{code}} for the language")
        found |= {names["code"]: path for path, names in match_files(root, pattern)}
    return found


def code_pairs(pairs: list[list[str]], codes: list[str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for left, right in pairs:
        for query in codes if left == "*" else [left]:
            for document in codes if right == "*" else [right]:
                if query != document and (query, document) not in seen:
                    seen.add((query, document))
                    yield query, document


def line_units(job: Job[A]) -> list[str] | None:
    """The document of each line, where a file tells."""
    options = job.options
    if options.documents is None:
        return None
    lines = [line for _, line in read_lines(find_file(job.path, options.documents), options.encoding)]
    return [f"{options.corpus or job.name}/{name.strip()}" for name in lines[options.documents_header :]]


def unit_of_line(job: Job[A], units: list[str] | None, number: int, path: Path) -> str:
    """What is held out with a line: its document, or the line in all languages."""
    if units is None:
        return f"{job.options.corpus or job.name}/line {number}"
    if number > len(units):
        raise DataError(f"{path} has a line {number}, but the documents are named for {len(units)} lines only")
    return units[number - 1]


def _aligned(left: Path, right: Path, encoding: str) -> Iterator[tuple[int, str | None, str | None]]:
    """(line number, left, right) of two files that must be equally long."""
    both = zip_longest(aligned_lines(left, encoding), aligned_lines(right, encoding))
    for number, (a, b) in enumerate(both, 1):
        if a is None or b is None:
            short, long = (left, right) if a is None else (right, left)
            raise DataError(f"{short} ends before line {number}, but {long} goes on: the files are not aligned")
        yield number, a[1], b[1]


class SquadOptions(Options):
    """`files`: pattern of the files' names below the path, with `{code}`, or `{query}` and `{doc}`, for the language.

    Without `files` the path is one file in `language`. `languages`: the codes to read, all when empty. `negatives`:
    most paragraphs of the same article to give as hard negatives.
    """

    files: str | None = None
    language: str | None = None
    languages: list[str] = []
    negatives: Annotated[int, Field(ge=0)] = 24
    encoding: Encoding = "utf-8"

    def needed_files(self) -> list[str]:
        return with_compressed([self.files]) if self.files else []

    @model_validator(mode="after")
    def _one_way(self) -> SquadOptions:
        if (self.files is None) == (self.language is None):
            raise ValueError("give either `files` (a pattern with {code}) or `language` (of one file)")
        return self


def squad(job: Job[SquadOptions]) -> Iterator[Example]:
    """Each answerable question with its paragraph; the article's other paragraphs are hard negatives.

    The held-out unit is the article: its title, which translations of the data share, or its first paragraph.
    """
    seen: Counter[str] = Counter()
    for path, query_code, doc_code in _squad_files(job):
        query_lang, doc_lang = language(query_code).tag, language(doc_code).tag
        for number, article in enumerate(field(read_json(path, job.options.encoding), "data", list, str(path))):
            place = f"{path}, article {number + 1}"
            paragraphs = [
                (field(paragraph, "context", str, place), field(paragraph, "qas", list, place))
                for paragraph in field(article, "paragraphs", list, place)
            ]
            contexts = [context for context, _ in paragraphs]
            unit = f"article/{article['title']}" if article.get("title") else text_group("".join(contexts[:1]))
            for context, questions in paragraphs:
                others = tuple(_others(context, contexts, job.options.negatives, job.seed))
                for question in questions:
                    query = field(question, "question", str, place)
                    if question.get("is_impossible"):
                        job.drops["unanswerable question"] += 1
                        continue
                    yield Example(
                        id=own_id(f"{query_code}-{doc_code}/{question.get('id')}", seen), query=query,
                        positive=context, negatives=others, task_type="retrieval", source=job.source,
                        query_lang=query_lang, doc_lang=doc_lang, groups=(unit,),
                    )  # fmt: skip


def _squad_files(job: Job[SquadOptions]) -> Iterator[tuple[Path, str, str]]:
    """(file, code of the questions, code of the paragraphs)."""
    options = job.options
    if options.files is None:
        assert options.language is not None
        yield find_file(job.path), options.language, options.language
        return
    found = [(path, *_squad_codes(options.files, names)) for path, names in match_files(job.path, options.files)]
    known = {code for _, *codes in found for code in codes}
    unknown = sorted(set(options.languages) - known)
    if unknown:
        raise ConfigError(f"option 'languages': no file for {unknown[0]!r}; the files have {', '.join(sorted(known))}")
    for path, query, doc in found:
        if not options.languages or {query, doc} <= set(options.languages):
            yield path, query, doc


def _squad_codes(pattern: str, names: dict[str, Any]) -> tuple[str, str]:
    if names.keys() == {"code"}:
        return names["code"], names["code"]
    if names.keys() == {"query", "doc"}:
        return names["query"], names["doc"]
    raise ConfigError(f"option 'files': {pattern!r} needs {{code}}, or {{query}} and {{doc}}, for the language")


def _others(context: str, contexts: list[str], count: int, seed: int) -> list[str]:
    """Other paragraphs of the article, drawn by hash where there are more than `count`."""
    others = [other for other in dict.fromkeys(contexts) if other != context]
    if len(others) <= count:
        return others
    return sorted(others, key=lambda other: stable_hash(seed, context, other))[:count]


PAIR_CONVERTERS = (
    Converter("bitext_lines", "retrieval", BitextOptions, bitext_lines, parts=_language_pairs),
    Converter("squad", "retrieval", SquadOptions, squad),
)
