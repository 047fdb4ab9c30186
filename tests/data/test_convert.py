"""Converters of files: options, made-up files, and the real ones with the counts of their SOURCE.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.types import Example
from f2llm.data.convert import CONVERTERS, check_options, convert, convert_part, count_parts
from f2llm.data.converter import Drops
from f2llm.data.examples import read_examples, shards
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


def many_files(root: Path) -> None:
    """Files of every converter that works file by file, with rows to drop in each."""
    for code in ("en", "fr", "de"):
        (root / f"x.{code}").write_text(f"one {code}\n\ntwo {code}\n", encoding="utf-8")
        rows = ["p,h,l,s", "a,b,y,5", f"a,{code},n,0.5", f"{code},c,y,4", ",d,y,5", "z,w,y,4.5"]
        (root / f"t.{code}.csv").write_text("\n".join(rows), encoding="utf-8")
        turns = [{"role": "user", "content": code}, {"role": "assistant", "content": "yes"}]
        lines = [json.dumps({"messages": turns}), json.dumps({"messages": turns[1:]})]
        (root / f"d.{code}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        table = pa.table({"query": [code, "", "q"], "passage": ["p", "p", None], "negative_1": ["n", "n", ""]})
        pq.write_table(table, root / f"r_{code}.parquet")


TABLES = {"files": "t.{code}.csv"}
RELEASED = {"files": ["r_{code}"]}
PARTS: list[tuple[str, dict[str, Any], int]] = [
    ("bitext_lines", {"files": ["x.{code}"], "pairs": [["*", "en"], ["de", "fr"]]}, 3),
    ("text_lines", {"files": "x.{code}"}, 3),
    ("pairs_table", TABLES | {"query": ["p"], "positive": ["h"], "same": "l"}, 3),
    ("nli", TABLES | {"premise": "p", "hypothesis": "h", "label": "l", "entailment": "y", "contradiction": "n"}, 3),
    ("sts", TABLES | {"first": "p", "second": "h", "score": "s"}, 3),
    ("paraphrase", TABLES | {"first": "p", "second": "h", "label": "l", "same": "y", "different": "n"}, 3),
    ("aligned_table", TABLES | {"columns": {"p": "en", "h": "fr"}, "pairs": [["p", "h"]]}, 3),
    ("conversations", {"files": "d.{code}.jsonl"}, 3),
    ("released_retrieval", RELEASED, 3),
    ("released_clustering", RELEASED, 3),
    ("released_classification", RELEASED, 3),
    ("classes_table", TABLES | {"text": "p", "label": "l"}, 1),
    ("bitext_classes", {"files": ["x.{code}"]}, 1),
]


def test_the_converters_with_parts_are_tested() -> None:
    with_parts = {name for name, converter in CONVERTERS.items() if converter.parts is not None}
    assert with_parts == {name for name, _, count in PARTS if count > 1}


@pytest.mark.parametrize(("name", "options", "count"), PARTS)
def test_parts_make_the_whole(name: str, options: dict[str, Any], count: int, tmp_path: Path) -> None:
    many_files(tmp_path)
    drops, drops_of_parts = Drops(), Drops()
    whole = list(convert(name, tmp_path, "s", options, 0, drops))
    assert count_parts(name, tmp_path, options) == count
    parts = [list(convert(name, tmp_path, "s", options, 0, drops_of_parts, part)) for part in range(count)]
    assert [row for part in parts for row in part] == whole
    assert drops_of_parts == drops
    assert drops, "something is dropped"
    assert all(parts)
    with pytest.raises(DataError, match=rf"there is no part {count + 1} of a source of {count}; its files changed"):
        list(convert(name, tmp_path, "s", options, 0, None, count))


def test_a_part_becomes_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("f2llm.data.examples.SHARD_ROWS", 2)
    many_files(tmp_path)
    out, options = tmp_path / "out", {"files": ["x.{code}"], "pairs": [["*", "en"]]}
    (tmp_path / "x.de").write_text("eins\nzwei\ndrei\n", encoding="utf-8")
    (tmp_path / "x.en").write_text("one\n\nthree\n", encoding="utf-8")
    out.mkdir()
    for left in ("00001-00000.parquet", "00001-00007.parquet", ".00001-00001.parquet.17.tmp"):
        (out / left).write_bytes(b"half")
    reports = [convert_part("bitext_lines", tmp_path, "s", options, 0, part, out) for part in (1, 0)]
    assert reports == [
        {"rows": 2, "dropped": {"empty line": 1}, "shards": 1}, {"rows": 2, "dropped": {"empty line": 1}, "shards": 1}
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["00000-00000.parquet", "00001-00000.parquet"]
    assert list(read_examples(out)) == list(convert("bitext_lines", tmp_path, "s", options, 0))
    again = convert_part("bitext_lines", tmp_path, "s", options | {"pairs": [["de", "en"], ["fr", "en"]]}, 0, 0, out)
    assert again == json.loads(json.dumps(again))
    assert len(shards(out)) == 2
    (tmp_path / "x.de").write_text("\n\n\n", encoding="utf-8")
    report = convert_part("bitext_lines", tmp_path, "s", options, 0, 0, out)
    assert report == {"rows": 0, "dropped": {"empty line": 3}, "shards": 0}
    assert [path.name for path in shards(out)] == ["00001-00000.parquet"]


def test_ids_that_the_data_repeat_are_numbered(tmp_path: Path) -> None:
    solution = {"task_id": "M/1", "language": "python", "description": "do", "canonical_solution": "x"}
    lines = [json.dumps(solution | {"canonical_solution": code}) for code in "xyx"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for task in ("text_to_code", "code_to_text"):
        ids = [row.id.rpartition("/")[2] for row in run("mbxp", tmp_path, task=task)]
        assert ids == ["1", "1#2", "1#3"]
    questions = [{"id": "7", "question": text} for text in "abc"]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "p", "qas": questions}]}]}), encoding="utf-8")
    assert [row.id for row in run("squad", path, language="en")] == ["en-en/7", "en-en/7#2", "en-en/7#3"]
    rows = [{"idx": "1", "doc": text, "code": "f()", "label": 1} for text in "ab"]
    path.write_text(json.dumps(rows), encoding="utf-8")
    drops = Drops()
    assert [row.query for row in run("cosqa", tmp_path, drops, files=["squad.json"])] == ["a"]
    assert drops == {"in two files": 1}
    entry = {"sql": ["SELECT 1"], "sentences": [{"text": "q", "variables": {}}]}
    for folder in ("train", "dev"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(json.dumps([entry]), encoding="utf-8")
    found = run("text_to_sql", tmp_path, files=["train/x.json", "dev/x.json", "dev/x.json"])
    assert [row.id for row in found] == ["train/x/1.1", "dev/x/1.1"]


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030", "latin-1"])
@pytest.mark.parametrize(
    "name", ["text_lines", "bitext_lines", "bitext_classes", "lines_two_way", "squad", "mbxp", "cosqa", "text_to_sql"]
)
def test_any_encoding_that_is_named(name: str, encoding: str, tmp_path: Path) -> None:
    word = "né" if encoding == "latin-1" else "文"
    contents: dict[str, Any] = {
        "x.en": "a\n", "x.fr": f"{word}\n",
        "x.json": {"data": [{"paragraphs": [{"context": "p", "qas": [{"id": word, "question": word}]}]}]},
        "cosqa.json": [{"idx": "1", "doc": word, "code": "f()", "label": 1}],
        "x.jsonl": {"task_id": "M/1", "language": "python", "description": word, "canonical_solution": "x"},
        "sql.json": [{"sql": ["SELECT 1"], "sentences": [{"text": word, "variables": {}}]}],
    }  # fmt: skip
    for file, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (tmp_path / file).write_bytes(text.encode(encoding))
    (tmp_path / "documents").write_bytes(f"{word} 1\n".encode(encoding))
    options: dict[str, dict[str, Any]] = {
        "bitext_lines": {"files": ["x.{code}"], "pairs": [["fr", "en"]], "documents": "documents", "corpus": "c"},
        "bitext_classes": {"files": ["x.{code}"], "languages": ["fr", "en"]},
        "text_lines": {"files": "x.fr", "language": "fr"},
        "lines_two_way": {"language": "en", "classes": {"x.fr": "good", "x.en": "bad"}},
        "squad": {"files": "{code}.json", "languages": ["en"]},
        "cosqa": {"files": ["cosqa.json"]},
        "text_to_sql": {"files": ["sql.json"]},
    }
    (tmp_path / "x.json").rename(tmp_path / "en.json")
    for path in (tmp_path / "cosqa.json", tmp_path / "sql.json"):
        if name == "squad":
            path.unlink()
    rows = run(name, tmp_path, encoding=encoding, **options.get(name, {}))
    assert word in {row.query for row in rows}
    if name == "bitext_lines":
        assert rows[0].groups == (f"c/{word} 1",)
    with pytest.raises(ConfigError, match="option 'encoding': there is no encoding 'klingon'"):
        check_options(name, tmp_path, options.get(name, {}) | {"encoding": "klingon"})


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
