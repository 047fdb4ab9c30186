"""Local tasks of search: one function a source reads a subset of it. Retrieval, reranking and code.

Where a file holds more than a task needs, questions are drawn first, then the documents that answer them, then other
documents up to the cap: a corpus is never only the answers. Questions without an answer are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from f2llm.core.errors import DataError
from f2llm.eval.local_tasks_files import field, read_json, read_json_lines, read_xml
from f2llm.eval.local_tasks_shapes import Search, SearchParts, drawn, order

XQUAD_ARTICLES, XQUAD_QUESTIONS = 12, 60
MLQA_QUESTIONS, MLQA_PASSAGES = 40, 60
CHINESE_QUESTIONS, CHINESE_PASSAGES = 200, 300
PERSIAN_QUESTIONS, PERSIAN_PASSAGES = 200, 300
MEDQUAD_PAGES = 40
AFRIQA_QUESTIONS, AFRIQA_PASSAGES = 60, 100
COSQA_QUERIES, COSQA_FUNCTIONS = 200, 800
MBXP_PROBLEMS, MBXP_SOLUTIONS = 100, 150
SQL_QUESTIONS, SQL_STATEMENTS = 100, 180
MLQA_FILES = {"ara": "ar", "deu": "de", "eng": "en", "hin": "hi", "spa": "es", "vie": "vi", "zho": "zh"}
"""mteb's name of a language -> MLQA's."""
AFRIQA_PIVOTS = {"bem": "en", "fon": "fr", "hau": "en", "ibo": "en", "kin": "en", "twi": "en", "yor": "en", "zul": "en"}
"""The language of the questions -> that of the passages."""
MBXP_FILES = {
    "cpp": "mbcpp_release_v1.2", "java": "mbjp_release_v1.2", "javascript": "mbjsp_release_v1.2",
    "kotlin": "mbkp_release_v1.2", "python": "mbpp_release_v1", "typescript": "mbtsp_release_v1.2",
}  # fmt: skip


class _Question(NamedTuple):
    name: str
    text: str
    passage: str


class _Passage(NamedTuple):
    article: int
    text: str
    questions: list[_Question]


def xquad(folder: Path, subset: str) -> Search:
    """Questions and Wikipedia passages in one language (`de`), or questions in one and English passages (`de-en`).

    Whole articles are drawn, the same in every language, so that each passage has four others of its article beside it.
    """
    return _xquad(folder, subset).search()


def xquad_rerank(folder: Path, subset: str) -> Search:
    """The same questions, each with the five passages of its article."""
    return _xquad(folder, subset).search(rerank=True)


def _xquad(folder: Path, subset: str) -> SearchParts:
    asked, _, answered = subset.partition("-")
    questions = {q.name: q.text for p in _squad(folder / f"xquad.{asked}.json") for q in p.questions}
    passages = _squad(folder / f"xquad.{answered or asked}.json")
    chosen = set(drawn(sorted({passage.article for passage in passages}), XQUAD_ARTICLES, lambda number: number))
    by_article: dict[int, list[str]] = defaultdict(list)
    for passage in passages:
        if passage.article in chosen:
            by_article[passage.article].append(passage.text)
    found = [(p.article, q) for p in passages if p.article in chosen for q in p.questions if q.name in questions]
    parts = SearchParts()
    for texts in by_article.values():
        for text in texts:
            parts.document(text)
    for article, question in drawn(found, XQUAD_QUESTIONS, lambda pair: pair[1].name):
        parts.query(questions[question.name], question.passage, by_article[article])
    return parts


def mlqa(folder: Path, subset: str) -> Search:
    """Questions in the second language of `deu-eng`, Wikipedia passages in the first."""
    answered, asked = (MLQA_FILES[code] for code in subset.split("-"))
    passages = _squad(folder / "dev" / f"dev-context-{answered}-question-{asked}.json")
    return _questions_and_passages(passages, MLQA_QUESTIONS, MLQA_PASSAGES)


def cmrc2018(folder: Path, _subset: str) -> Search:
    """Chinese questions and Wikipedia passages."""
    passages = _squad(folder / "squad-style-data" / "cmrc2018_dev.json")
    return _questions_and_passages(passages, CHINESE_QUESTIONS, CHINESE_PASSAGES)


def pquad(folder: Path, _subset: str) -> Search:
    """Persian questions and Wikipedia passages."""
    passages = _squad(folder / "Dataset" / "Validation.json")
    return _questions_and_passages(passages, PERSIAN_QUESTIONS, PERSIAN_PASSAGES)


def _questions_and_passages(passages: Sequence[_Passage], questions: int, most: int) -> Search:
    asked = drawn([q for passage in passages for q in passage.questions], questions, lambda q: q.name)
    texts = {q.passage for q in asked}
    others = [passage.text for passage in passages if passage.text not in texts]
    return _search([(q.text, q.passage) for q in asked], drawn(others, max(0, most - len(texts)), str))


def _search(pairs: Sequence[tuple[str, str]], others: Sequence[str]) -> Search:
    """Questions with their answers among other documents."""
    parts = SearchParts()
    for question, answer in pairs:
        parts.query(question, answer)
    for text in others:
        parts.document(text)
    return parts.search()


def _squad(path: Path) -> list[_Passage]:
    """The passages of a file in SQuAD's form with the questions that they answer."""
    found = []
    for article, entry in enumerate(field(read_json(path, dict), "data", list, str(path))):
        for paragraph in field(entry, "paragraphs", list, f"{path}, article {article}"):
            place = f"{path}, article {article}"
            text = field(paragraph, "context", str, place)
            questions = [
                _Question(field(qa, "id", str, place), field(qa, "question", str, place), text)
                for qa in field(paragraph, "qas", list, place)
                if not (isinstance(qa, dict) and qa.get("is_impossible"))
            ]
            found.append(_Passage(article, text, questions))
    return found


def medquad(folder: Path, _subset: str) -> Search:
    """Medical questions and answers of whole pages, which answer other questions about the same disease."""
    return _medquad(folder).search()


def medquad_rerank(folder: Path, _subset: str) -> Search:
    """The same questions, each with all answers of its page."""
    return _medquad(folder).search(rerank=True)


def _medquad(folder: Path) -> SearchParts:
    paths = sorted(folder.glob("*/*.xml"))
    if not paths:
        raise DataError(f"no .xml file below {folder}; give --data the folder that has it, or leave its tasks out")
    parts = SearchParts()
    for path in drawn(paths, MEDQUAD_PAGES, lambda path: path.relative_to(folder).as_posix()):
        pairs = [
            (question, answer)
            for pair in read_xml(path).iter("QAPair")
            if (question := _inner(pair, "Question")) and (answer := _inner(pair, "Answer"))
        ]
        for question, answer in pairs:
            parts.query(question, answer, [other for _, other in pairs])
    return parts


def _inner(parent: Element, name: str) -> str:
    child = parent.find(name)
    return "" if child is None else " ".join("".join(child.itertext()).split())


def afriqa(folder: Path, subset: str) -> Search:
    """Questions in an African language, passages in English or French (`hau-en`)."""
    asked, _, answered = subset.partition("-")
    files = folder / "gold_passages" / asked
    # There is no development file for Yoruba.
    part = "train" if asked == "yor" else "dev"
    rows = read_json_lines(files / f"gold_span_passages.afriqa.{asked}.{answered}.{part}.json")
    # Rows without a passage have a null or a number that is none in its place.
    pairs = [
        (row["question_lang"], row["context"])
        for _, row in rows
        if isinstance(row.get("question_lang"), str) and isinstance(row.get("context"), str)
    ]
    chosen = drawn(pairs, AFRIQA_QUESTIONS, lambda pair: pair)
    answers = {passage for _, passage in chosen}
    others = [passage for passage in dict.fromkeys(passage for _, passage in pairs) if passage not in answers]
    return _search(chosen, drawn(others, max(0, AFRIQA_PASSAGES - len(answers)), str))


def cosqa(folder: Path, _subset: str) -> Search:
    """Queries of a web search and Python functions."""
    path = folder / "search" / "cosqa-retrieval-dev-500.json"
    pairs = [(field(row, "doc", str, str(path)), field(row, "code", str, str(path))) for row in read_json(path, list)]
    chosen = drawn(pairs, COSQA_QUERIES, lambda pair: pair[0])
    answers = {code for _, code in chosen}
    others = [code for code in read_json(folder / "search" / "code_idx_map.txt", dict) if code not in answers]
    return _search(chosen, drawn(others, max(0, COSQA_FUNCTIONS - len(answers)), str))


def mbxp(folder: Path, subset: str) -> Search:
    """Programming problems in English and solutions in one programming language: the same problems where solved.

    The prompt is not used, for it repeats the problem; neither are solutions that do.
    """
    solved = []
    for place, row in read_json_lines(folder / f"{MBXP_FILES[subset]}.jsonl"):
        problem, code = field(row, "description", str, place).strip(), row.get("canonical_solution")
        if isinstance(code, str) and code.strip() and problem not in code:
            solved.append((field(row, "task_id", str, place).rpartition("/")[2], problem, code))
    chosen = drawn(solved, MBXP_SOLUTIONS, lambda row: row[0])
    asked = drawn(chosen, MBXP_PROBLEMS, lambda row: row[0])
    return _search([(problem, code) for _, problem, code in asked], [code for _, _, code in chosen])


def text2sql(folder: Path, subset: str) -> Search:
    """Questions to a database and SQL: one question of each statement, for all its questions say the same."""
    path = folder / f"{subset}.json"
    pairs = drawn(list(_asked(read_json(path, list), path)), SQL_STATEMENTS, lambda pair: pair)
    return _search(drawn(pairs, SQL_QUESTIONS, lambda pair: pair), [statement for _, statement in pairs])


def _asked(document: Sequence[Any], path: Path) -> Iterator[tuple[str, str]]:
    """A question of each entry and its SQL, both with the question's values in place of the variables."""
    for number, entry in enumerate(document):
        place = f"{path}, entry {number}"
        statements = [one for one in field(entry, "sql", list, place) if isinstance(one, str) and one.strip()]
        sentences = field(entry, "sentences", list, place)
        if not statements or not sentences:
            continue
        sentence = min(sentences, key=partial(_place_of_text, place))
        values = {
            field(variable, "name", str, place): field(variable, "example", str, place)
            for variable in field(entry, "variables", list, place)
        }
        values |= {name: value for name, value in field(sentence, "variables", dict, place).items() if value}
        yield _filled(field(sentence, "text", str, place), values), _filled(statements[0], values)


def _place_of_text(place: str, sentence: Any) -> bytes:
    return order(field(sentence, "text", str, place))


def _filled(template: str, values: dict[str, str]) -> str:
    if not values:
        return template
    names = "|".join(sorted(map(re.escape, values), key=len, reverse=True))
    return re.sub(rf"\b({names})\b", lambda match: values[match[1]], template)
