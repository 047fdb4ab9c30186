"""Converters of files: options, made-up files, and the real ones with the counts of their SOURCE.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.types import Example
from f2llm.data.convert import CONVERTERS, check_options, convert
from f2llm.data.converter import Drops
from f2llm.data.keys import fold


def run(name: str, root: Path, drops: Drops | None = None, **options: Any) -> list[Example]:
    rows = list(convert(name, root, "source", options, 0, drops))
    assert len({row.id for row in rows}) == len(rows), "ids are unique in a source"
    assert {row.source for row in rows} <= {"source"}
    assert {row.task_type for row in rows} <= {CONVERTERS[name].task_type}
    assert all(row.groups for row in rows)
    return rows


@pytest.mark.parametrize(
    ("name", "root", "options", "message"),
    [
        ("nothing", None, {}, "unknown converter 'nothing'; known: .*squad"),
        ("cldr_kind", None, {"per_lang": 3}, "unknown option 'per_lang'; options: per_language, languages, kinds"),
        ("cldr_kind", None, {"per_language": 0}, "option 'per_language': .* but it is 0"),
        ("cldr_kind", None, {"per_language": "9"}, "option 'per_language': .* but it is '9'"),
        ("cldr_kind", None, {"kinds": ["moon"]}, r"option 'kinds\.0'"),
        ("cldr_kind", Path("x"), {}, "has its data built in; remove `path`"),
        ("squad", None, {"language": "en"}, "reads files; give its source a `path`"),
        ("squad", Path("x"), {}, "give either `files`"),
        ("classes_table", Path("x"), {}, "converter 'classes_table': give either `language`, or `files` with"),
        ("lines_two_way", Path("x"), {"language": "en", "classes": {"a": "x", "b": "x"}}, "different label texts"),
    ],
)
def test_wrong_options_are_told_before_any_work(name: str, root: Path, options: dict[str, Any], message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: check_options(name, root, options),
        lambda: convert(name, root, "s", options, 0),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=message):
            call()


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source 's': .*gone does not exist"):
        next(convert("squad", tmp_path / "gone", "s", {"language": "en"}, 0))
    (tmp_path / "a.csv").write_text("text,label\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no language 'klingon'"):
        next(convert("classes_table", tmp_path / "a.csv", "s", {"language": "klingon"}, 0))


def bitext_folder(tmp_path: Path) -> Path:
    (tmp_path / "x.eng").write_text("one\ntwo\n\n", encoding="utf-8")
    (tmp_path / "x.eng-GB").write_text("one\ntwo\n\n", encoding="utf-8")
    (tmp_path / "x.deu").write_text("eins\nzwei\ndrei\n", encoding="utf-8")
    (tmp_path / "y.deu").write_text("not this file\n", encoding="utf-8")
    (tmp_path / "ids").write_text("ID\nd1\nd1\nd2\n", encoding="utf-8")
    return tmp_path


def test_bitext(tmp_path: Path) -> None:
    root, drops = bitext_folder(tmp_path), Drops()
    options = {"files": ["x.{code}", "y.{code}"], "documents": "ids", "documents_header": True, "corpus": "c"}
    rows = run("bitext_lines", root, drops, pairs=[["*", "eng"], ["deu", "eng"], ["eng", "deu"]], **options)
    assert [(row.id, row.query, row.positive) for row in rows] == [
        ("deu-eng/1", "eins", "one"), ("deu-eng/2", "zwei", "two"),
        ("eng-deu/1", "one", "eins"), ("eng-deu/2", "two", "zwei"),
    ]  # fmt: skip
    assert drops == {"empty line": 2}
    assert {row.groups for row in rows} == {("c/d1",)}
    unnamed = run("bitext_lines", root, files=["x.{code}"], pairs=[["deu", "eng"]])
    assert unnamed[1].groups == (f"{root.name}/line 2",)


def test_bitext_that_is_not_aligned(tmp_path: Path) -> None:
    root = bitext_folder(tmp_path)
    (root / "x.fra").write_text("un\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.fra ends before line 2, but .*x\.eng goes on"):
        run("bitext_lines", root, files=["x.{code}"], pairs=[["fra", "eng"]])
    (root / "ids").write_text("d1\n", encoding="utf-8")
    with pytest.raises(DataError, match="has a line 2, but the documents are named for 1 lines only"):
        run("bitext_lines", root, files=["x.{code}"], pairs=[["deu", "eng"]], documents="ids")
    with pytest.raises(ConfigError, match="no file for 'xho'; there are files for deu, eng"):
        run("bitext_lines", root, files=["x.{code}"], pairs=[["xho", "eng"]])
    with pytest.raises(ConfigError, match=r"has no \{code\}"):
        run("bitext_lines", root, files=["x.deu"], pairs=[["deu", "eng"]])


def test_squad(tmp_path: Path) -> None:
    def paragraph(context: str, *questions: dict[str, Any]) -> dict[str, Any]:
        return {"context": context, "qas": list(questions)}

    path, drops = tmp_path / "a.json", Drops()
    articles = [
        {"title": "T", "paragraphs": [
            paragraph("p1", {"id": "1", "question": "q1"}, {"id": "2", "question": "q2", "is_impossible": True}),
            paragraph("p2"), paragraph("p3"), paragraph("p1", {"id": "3", "question": "q3"}),
        ]},
        {"paragraphs": [paragraph("p4", {"id": "4", "question": "q4"})]},
    ]  # fmt: skip
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    rows = run("squad", path, drops, language="en")
    assert [(row.query, row.positive, row.negatives) for row in rows] == [
        ("q1", "p1", ("p2", "p3")), ("q3", "p1", ("p2", "p3")), ("q4", "p4", ())
    ]  # fmt: skip
    assert rows[0].groups == ("article/T",)
    assert rows[2].groups[0].startswith("text/")
    assert drops == {"unanswerable question": 1}
    assert all(len(row.negatives) <= 1 for row in run("squad", path, language="en", negatives=1))
    path.write_text(json.dumps({"data": [{"paragraphs": [{"qas": []}]}]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json, article 1: the field 'context' is missing or no str"):
        run("squad", path, language="en")


def test_classes_table(tmp_path: Path) -> None:
    path, drops = tmp_path / "a.csv", Drops()
    path.write_text("text,label\na,x\nA,x\nb,x\nc,y\n ,y\nd,\n", encoding="utf-8")
    rows = run("classes_table", path, drops, language="en")
    assert {(row.query, row.label) for row in rows} == {("a", "x"), ("A", "x"), ("b", "x")}
    assert all(fold(row.positive) != fold(row.query) for row in rows)
    assert drops == {"no text or no label": 2, "alone in its class": 1}
    assert rows[0].groups[0] == rows[1].groups[0], "the same text up to case is one unit"


def test_lines_two_way(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("a\nb\n\nBOTH\n", encoding="utf-8")
    (tmp_path / "bad").write_text("both\nc\n", encoding="utf-8")
    drops = Drops()
    rows = run("lines_two_way", tmp_path, drops, language="en", classes={"good": "+", "bad": "-"})
    assert [(row.query, row.positive, row.negatives) for row in rows] == [
        ("a", "+", ("-",)), ("b", "+", ("-",)), ("c", "-", ("+",))
    ]  # fmt: skip
    assert drops == {"in both classes": 2, "empty line": 1}


def test_mbxp(tmp_path: Path) -> None:
    def row(lang: str, number: int, solution: str | None) -> str:
        return json.dumps({
            "task_id": f"M/{number}", "language": lang, "description": f"do {number}", "canonical_solution": solution
        })  # fmt: skip

    lines = [row("python", 1, "return 1"), row("python", 2, "return 2"), row("java", 1, "x = 1;"), row("java", 2, None)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    drops = Drops()
    rows = run("mbxp", tmp_path, drops)
    assert [(r.query, r.positive, r.doc_lang, r.groups) for r in rows] == [
        ("do 1", "return 1", "python", ("mbpp/1",)), ("do 1", "x = 1;", "java", ("mbpp/1",)),
        ("do 2", "return 2", "python", ("mbpp/2",)),
    ]  # fmt: skip
    assert drops == {"no solution": 1}
    drops = Drops()
    assert [r.id for r in run("mbxp", tmp_path, drops, task="code_to_code")] == ["python-java/1", "java-python/1"]
    assert drops == {"no solution": 1, "solved in one language only": 1}
    (tmp_path / "a.jsonl").write_text('{"task_id": "M/1", "language": "eng"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: 'eng' is no programming language"):
        run("mbxp", tmp_path)


def test_cosqa(tmp_path: Path) -> None:
    rows = [("1", "how", "f()", 1), ("2", "How", "g()", 0), ("3", "what", "h()", 0), ("4", "why", "k()", 1)]
    data = [dict(zip(("idx", "doc", "code", "label"), row, strict=True)) for row in rows]
    (tmp_path / "a.json").write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(data[3:]), encoding="utf-8")
    drops = Drops()
    found = run("cosqa", tmp_path, drops, files=["a.json", "b.json"])
    assert [(row.query, row.positive, row.negatives) for row in found] == [("how", "f()", ("g()",)), ("why", "k()", ())]
    assert drops == {"used as a negative": 1, "query without an answer": 1, "in two files": 1}


@pytest.mark.data
def test_real_bitext(shared_data: Path) -> None:
    files = ["NTREX-128/newstest2019-ref.{code}.txt", "NTREX-128/newstest2019-src.{code}.txt"]
    options = {"files": files, "documents": "DOCUMENT_IDS.tsv"}
    rows = run("bitext_lines", shared_data / "ntrex-128", pairs=[["fra", "eng"], ["zho-TW", "amh"]], **options)
    assert Counter((row.query_lang, row.doc_lang) for row in rows) == {
        ("fra_Latn", "eng_Latn"): 1997, ("zho_Hant", "amh_Ethi"): 1997
    }  # fmt: skip
    assert len({row.groups for row in rows}) == 123
    assert rows[1].positive.startswith("There is consternation among some AMs")
    seed = {"files": ["seed/{code}"], "documents": "seed/metadata.tsv", "documents_header": True}
    assert len(run("bitext_lines", shared_data / "oldi-seed", pairs=[["nqo_Nkoo", "eng_Latn"]], **seed)) == 6193


@pytest.mark.data
def test_real_squad(shared_data: Path) -> None:
    rows = run("squad", shared_data / "xquad", files="xquad.{code}.json")
    assert set(Counter(row.query_lang for row in rows).values()) == {1190}
    assert len({row.query_lang for row in rows}) == 12
    assert len({row.positive for row in rows if row.query_lang == "eng_Latn"}) == 240
    assert len({row.groups for row in rows}) == 48, "the articles are the same in all languages"
    mlqa = run("squad", shared_data / "mlqa-dev" / "dev", files="dev-context-{doc}-question-{query}.json")
    pairs = Counter((row.query_lang, row.doc_lang) for row in mlqa)
    assert (pairs["eng_Latn", "eng_Latn"], pairs["ara_Arab", "ara_Arab"], len(pairs)) == (1148, 517, 19)
    drops = Drops()
    assert len(run("squad", shared_data / "pquad/Dataset/Validation.json", drops, language="fa")) == 7976 - 1981
    assert drops == {"unanswerable question": 1981}


@pytest.mark.data
def test_real_classes(shared_data: Path) -> None:
    path = shared_data / "banking77" / "banking_data" / "train.csv"
    rows = run("classes_table", path, language="en", label="category")
    assert (len(rows), len({row.label for row in rows})) == (10_003, 77)
    drops, classes = Drops(), {"pos.txt": "positive", "neg.txt": "negative"}
    rows = run("lines_two_way", shared_data / "wisesight-sentiment", drops, language="th", classes=classes)
    assert len(rows) + drops.total() == 4778 + 6823
    assert set(drops) <= {"in both classes", "empty line"}


@pytest.mark.data
def test_real_code(shared_data: Path) -> None:
    drops = Drops()
    rows = run("mbxp", shared_data / "mbxp", drops)
    assert len(rows) + drops.total() == 848 + 966 * 3 + 974 + 968
    assert {row.doc_lang for row in rows} == {"cpp", "java", "javascript", "kotlin", "python", "typescript"}
    assert drops["solution repeats the problem"] == 1
    assert not any(row.query in row.positive for row in rows), "the answer does not repeat the question"
    assert len(run("cosqa", shared_data / "cosqa")) == 500 + 313 - 14
