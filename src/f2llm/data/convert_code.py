"""Text and code: CoSQA (web queries and Python functions) and MBXP (problems solved in several languages)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from f2llm.core.errors import DataError
from f2llm.core.languages import is_programming, language
from f2llm.core.readers import field, find_file, read_json_array, read_json_lines
from f2llm.core.types import Example
from f2llm.data.converter import Converter, Encoding, Job, Options, first_allowed, own_id
from f2llm.data.keys import fold, stable_hash, text_group


class CosqaOptions(Options):
    """`files`: JSON arrays below the path, each row with `doc` (the query), `code` and `label` (1: it answers)."""

    files: Annotated[list[str], Field(min_length=1)] = ["search/cosqa-retrieval-dev-500.json", "qa/cosqa-dev.json"]
    encoding: Encoding = "utf-8"


def cosqa(job: Job[CosqaOptions]) -> Iterator[Example]:
    """Each query with a function that answers it; functions judged not to answer it are hard negatives.

    Of rows with the same `idx` the first counts.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for name in job.options.files:
        path = find_file(job.path, name)
        for number, row in read_json_array(path, job.options.encoding):
            fields = {"idx": str, "doc": str, "code": str, "label": int}
            checked = {key: field(row, key, kind, f"{path}, row {number}") for key, kind in fields.items()}
            if by_id.setdefault(checked["idx"], checked) is not checked:
                job.drops["in two files"] += 1
    rows = list(by_id.values())
    wrong: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["label"] == 0:
            wrong[fold(row["doc"])].append(row["code"])
    answered = {fold(row["doc"]) for row in rows if row["label"] == 1}
    for row in rows:
        if row["label"] == 0:
            used = fold(row["doc"]) in answered
            job.drops["used as a negative" if used else "query without an answer"] += 1
            continue
        yield Example(
            id=row["idx"], query=row["doc"], positive=row["code"], negatives=tuple(wrong[fold(row["doc"])]),
            task_type="retrieval", source=job.source, query_lang="eng_Latn", doc_lang="python",
            groups=(text_group(row["doc"]), text_group(row["code"])),
        )  # fmt: skip


class MbxpOptions(Options):
    """`task`: from the problem to a solution, the way back, or from a solution to one in another language.

    `languages`: the programming languages to read, all when empty; `corpus`: the name under which other sources share
    the problems, by their number.
    """

    task: Literal["text_to_code", "code_to_text", "code_to_code"] = "text_to_code"
    languages: list[str] = []
    corpus: str = "mbpp"
    encoding: Encoding = "utf-8"


class _Solution(NamedTuple):
    number: str
    lang: str
    text: str
    code: str


def mbxp(job: Job[MbxpOptions]) -> Iterator[Example]:
    """Rows joined on the problem's number, the held-out unit. The prompt repeats the problem, so it is not used."""
    by_number: dict[str, list[_Solution]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for solution in _solutions(job):
        by_number[solution.number].append(solution)
    for solutions in by_number.values():
        for solution in solutions:
            problem = solution._replace(lang="eng_Latn", code=solution.text)
            if job.options.task == "text_to_code":
                yield _mbxp_row(job, problem, solution, seen)
            elif job.options.task == "code_to_text":
                yield _mbxp_row(job, solution, problem, seen)
            elif partner := _in_another_language(solution, solutions, job.seed):
                yield _mbxp_row(job, solution, partner, seen)
            else:
                job.drops["solved in one language only"] += 1


def _in_another_language(solution: _Solution, solutions: list[_Solution], seed: int) -> _Solution | None:
    start = stable_hash(seed, solution.number, solution.lang)
    return first_allowed(solutions, start, lambda other: other.lang != solution.lang)


def _mbxp_row(job: Job[MbxpOptions], query: _Solution, positive: _Solution, seen: Counter[str]) -> Example:
    return Example(
        id=own_id(f"{query.lang}-{positive.lang}/{positive.number}", seen), query=query.code, positive=positive.code,
        negatives=(), task_type="retrieval", source=job.source, query_lang=query.lang, doc_lang=positive.lang,
        groups=(f"{job.options.corpus}/{positive.number}",),
    )  # fmt: skip


def _solutions(job: Job[MbxpOptions]) -> Iterator[_Solution]:
    wanted = {language(name).tag for name in job.options.languages}
    endings = (".jsonl", ".jsonl.gz", ".jsonl.bz2")
    paths = sorted(path for path in job.path.glob("*") if path.name.endswith(endings) and path.is_file())
    if not paths:
        raise DataError(f"no .jsonl file in {job.path}; correct the source's `path`")
    for path in paths:
        for line, row in read_json_lines(path, job.options.encoding, job.drops):
            place = f"{path}, line {line}"
            lang = language(field(row, "language", str, place)).tag
            if not is_programming(lang):
                raise DataError(f"{place}: {row['language']!r} is no programming language")
            if wanted and lang not in wanted:
                continue
            text = field(row, "description", str, place)
            code = field(row, "canonical_solution", str, place) if row.get("canonical_solution") else ""
            if not code.strip() or text in code:
                job.drops["no solution" if not code.strip() else "solution repeats the problem"] += 1
                continue
            yield _Solution(field(row, "task_id", str, place).rpartition("/")[2], lang, text, code)


CODE_CONVERTERS = (
    Converter("cosqa", "retrieval", CosqaOptions, cosqa),
    Converter("mbxp", "retrieval", MbxpOptions, mbxp),
)
