"""Tables: the forms in which they come, what is mended, and what goes for which reason."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.readers import find_file, match_files, read_json_array, read_json_rows
from f2llm.data.convert import check_options
from f2llm.data.converter import Drops
from f2llm.data.keys import text_group
from tests.data.test_convert import run


def test_pairs_in_gb18030_with_line_breaks_and_null_words(tmp_path: Path) -> None:
    path, drops = tmp_path / "问答.csv", Drops()
    text = 'kind,title,ask,answer\nx,标题,"问\n题",答\nx,二,无,答二\ny,三,无,答三\nx,无, ,答\nx,四,问,无\n'
    path.write_bytes(text.encode("gb18030"))
    options: dict[str, Any] = {"query": ["title", "ask"], "positive": ["answer"], "encoding": "gb18030"}
    rows = run("pairs_table", path, drops, language="zh", missing=["无"], same="kind", **options)
    assert [(row.id, row.query, row.positive, row.negatives) for row in rows] == [
        ("问答.csv/3", "标题\n问\n题", "答", ("答二",)),
        ("问答.csv/4", "二", "答二", ("答",)),
        ("问答.csv/5", "三", "答三", ()),
    ]
    assert rows[0].groups == (text_group("标题\n问\n题"), text_group("答"))
    assert drops == {"no query": 1, "no positive": 1}
    with pytest.raises(DataError, match=r"line 2: not utf-8 text; give the `encoding`"):
        run("pairs_table", path, language="zh", **options | {"encoding": "utf-8"})


def test_pairs_of_json_lines_with_null_cells(tmp_path: Path) -> None:
    lines = [
        {"q": "u", "c": "p1", "t": "T"}, {"q": "v", "c": "p2", "t": "T"}, {"q": float("nan"), "c": "p", "t": None},
        {"q": "w", "c": None, "t": "T"}, {"q": "z", "c": ["p", "q"], "t": None},
    ]  # fmt: skip
    (tmp_path / "hau").mkdir()
    path = tmp_path / "hau" / "gold.hau.en.train.json"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    drops = Drops()
    options = {"query": ["q"], "positive": ["c"], "unit": "t", "corpus": "article", "same": "t"}
    rows = run("pairs_table", tmp_path, drops, files="{folder}/gold.{query}.{doc}.{split}.json", **options)
    assert [(row.query, row.positive, row.negatives, row.groups[0]) for row in rows] == [
        ("u", "p1", ("p2",), "article/T"), ("v", "p2", ("p1",), "article/T"), ("z", "p\nq", (), text_group("z"))
    ]  # fmt: skip
    assert {(row.query_lang, row.doc_lang) for row in rows} == {("hau_Latn", "eng_Latn")}
    assert drops == {"no query": 1, "no positive": 1}
    with pytest.raises(DataError, match=r"train.json, row 1: no field answer; it has q, c, t"):
        run("pairs_table", path, language="ha", query=["q"], positive=["answer"])


def test_pairs_of_an_object_of_rows_without_its_test_set(tmp_path: Path) -> None:
    rows = {"11": {"Q": "a", "C": ["b", "c"]}, "12": {"Q": "d", "C": []}, "13": {"Q": "e", "C": ["f"]}}
    (tmp_path / "all.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    (tmp_path / "test.json").write_text('{"13": "yes"}', encoding="utf-8")
    drops = Drops()
    options = {"files": "all.json", "language": "en", "query": ["Q"], "positive": ["C"], "unit": "key"}
    (row,) = run("pairs_table", tmp_path, drops, leave_out="test.json", doc_language="sw", **options)
    assert (row.query, row.positive, row.doc_lang, row.groups) == ("a", "b\nc", "swa_Latn", (f"{tmp_path.name}/11",))
    assert drops == {"no positive": 1, "left out for the test": 1}
    (tmp_path / "all.json").write_text(json.dumps(rows), encoding="utf-8")
    assert len(run("pairs_table", tmp_path, **options)) == 2, "also on a single line"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pairs_table", {"query": ["q"], "positive": ["p"]}, "give either `language`"),
        ("pairs_table", {"query": ["q"], "positive": ["p"], "language": "en", "files": "{code}.csv"}, "give either"),
        ("pairs_table", {"query": [], "positive": ["p"], "language": "en"}, "option 'query'"),
        (
            "pairs_table",
            {"query": ["q"], "positive": ["p"], "language": "en", "leave_out": "x"},
            "column of the `unit`",
        ),
        ("classes_table", {"language": "en", "unit": "#", "skip_malformed": True}, "does not go with"),
        ("two_way_table", {"language": "en", "classes": {"a": "x", "b": "x"}}, "different label texts"),
        ("aligned_table", {"columns": {"a": "en", "b": "fr"}, "pairs": [["*", "c"]]}, "'c', which is none"),
    ],
)
def test_options_that_do_not_go_together(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(name, Path("x"), options)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("q\tp\n", encoding="utf-8")
    options = {"query": ["q"], "positive": ["p"]}
    with pytest.raises(ConfigError, match=r"a.txt is no table: its name needs .csv"):
        run("pairs_table", tmp_path / "a.txt", language="en", **options)
    (tmp_path / "a.en.tsv").write_text("q\tp\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no file has the code 'kr'"):
        run("pairs_table", tmp_path, files="a.{code}.tsv", codes={"kr": "rw"}, **options)


def test_malformed_rows_stop_or_are_counted(tmp_path: Path) -> None:
    path, drops = tmp_path / "a.tsv.bz2", Drops()
    path.write_bytes(bz2.compress(b'q\tp\na\tb\n\nc\nd\te\tf\n"g\th\n'))
    options = {"language": "en", "query": ["q"], "positive": ["p"]}
    with pytest.raises(DataError, match="line 4: 1 cells, but 2 columns"):
        run("pairs_table", path, **options)
    rows = run("pairs_table", path, drops, skip_malformed=True, **options)
    assert [row.query for row in rows] == ["a", '"g']
    assert drops == {"malformed row": 2}


def test_classes_in_files_with_wrong_codes(tmp_path: Path) -> None:
    (tmp_path / "kr_train.tsv").write_text('ID\ttweet\tlabel\n1\t"a\tx\n2\tb\tx\n3\tc\ty\n4\tC\tx\n', encoding="utf-8")
    (tmp_path / "en_train.tsv").write_text("ID\ttweet\tlabel\n1\td\ty\n2\te\ty\n3\t \ty\n", encoding="utf-8")
    drops, options = Drops(), {"files": "{code}_train.tsv", "text": "tweet", "codes": {"kr": "rw"}}
    rows = run("classes_table", tmp_path, drops, **options)
    assert {(row.query, row.positive, row.label, row.query_lang) for row in rows} == {
        ('"a', "b", "x", "kin_Latn"), ("b", '"a', "x", "kin_Latn"),
        ("d", "e", "y", "eng_Latn"), ("e", "d", "y", "eng_Latn"),
    }  # fmt: skip
    assert drops == {"in several classes": 2, "no text or no label": 1}
    drops = Drops()
    assert run("classes_table", tmp_path, drops, cross_lingual=True, **options) == []
    assert drops["alone in its class"] == 4, "no class has texts in two languages"


def test_classes_with_a_unit_for_each_row(tmp_path: Path) -> None:
    for name, texts in {"acehnese": "ab", "english": "cd"}.items():
        (tmp_path / name).mkdir()
        cells = "\n".join(f"9{text},{text},x" for text in texts)
        (tmp_path / name / "train.csv").write_text(f"id,text,label\n{cells}\n", encoding="utf-8")
    codes = {"acehnese": "ace", "english": "en"}
    rows = run("classes_table", tmp_path, files="{code}/{split}.csv", codes=codes, unit="#", corpus="n")
    assert {row.groups for row in rows if row.query in "ac"} == {("n/train/1", "n/train/2")}
    crossed = run("classes_table", tmp_path, files="{code}/{split}.csv", codes=codes, unit="#", cross_lingual=True)
    assert all(row.query_lang != row.doc_lang for row in crossed)


def test_two_way(tmp_path: Path) -> None:
    path, drops = tmp_path / "a.csv", Drops()
    path.write_text("text,label\na,1\nb,0\nc,2\nd,1\nD,0\ne,\n", encoding="utf-8")
    classes = {"1": "Dies ist gut.", "0": "Dies ist schlecht."}
    rows = run("two_way_table", path, drops, language="fr", classes=classes, label_language="de")
    assert [(row.query, row.positive, row.negatives, row.label) for row in rows] == [
        ("a", "Dies ist gut.", ("Dies ist schlecht.",), "Dies ist gut."),
        ("b", "Dies ist schlecht.", ("Dies ist gut.",), "Dies ist schlecht."),
    ]
    assert {(row.query_lang, row.doc_lang) for row in rows} == {("fra_Latn", "deu_Latn")}
    assert drops == {"another class": 1, "in several classes": 2, "no text or no label": 1}


def test_aligned_table(tmp_path: Path) -> None:
    (tmp_path / "mt").mkdir()
    (tmp_path / "mt" / "train.csv").write_text(',indonesian,ngaju,english\n0,a,b,"c\nd"\n1,e,,f\n', encoding="utf-8")
    drops, columns = Drops(), {"indonesian": "id", "ngaju": "nij", "english": "en"}
    options: dict[str, Any] = {"files": "mt/{split}.csv", "columns": columns, "corpus": "n"}
    rows = run("aligned_table", tmp_path, drops, pairs=[["*", "english"], ["english", "ngaju"]], **options)
    assert [(row.query, row.positive, row.query_lang, row.doc_lang, row.groups) for row in rows] == [
        ("a", "c\nd", "ind_Latn", "eng_Latn", ("n/train/1",)),
        ("b", "c\nd", "nij_Latn", "eng_Latn", ("n/train/1",)),
        ("c\nd", "b", "eng_Latn", "nij_Latn", ("n/train/1",)),
        ("e", "f", "ind_Latn", "eng_Latn", ("n/train/2",)),
    ]
    assert drops == {"empty cell": 2}


def test_bitext_as_classes(tmp_path: Path) -> None:
    for code, lines in {"eng": "one\ntwo\n\n", "eng-GB": "one\ntwo\n\n", "deu": "eins\ntwo\n\n"}.items():
        (tmp_path / f"x.{code}").write_text(lines, encoding="utf-8")
    (tmp_path / "ids").write_text("d1\nd1\nd2\n", encoding="utf-8")
    drops = Drops()
    rows = run("bitext_classes", tmp_path, drops, files=["x.{code}"], documents="ids", corpus="c")
    assert [(row.id, row.query, row.positive, row.doc_lang, row.label, row.groups) for row in rows] == [
        ("deu_Latn/1", "eins", "one", "eng_Latn", "c/line 1", ("c/d1",)),
        ("eng_Latn/1", "one", "eins", "deu_Latn", "c/line 1", ("c/d1",)),
    ]
    assert drops == {"another variety of the language": 3, "alone in its class": 2, "empty line": 2}
    with pytest.raises(ConfigError, match="no file for 'fra'; there are files for deu, eng, eng-GB"):
        run("bitext_classes", tmp_path, files=["x.{code}"], languages=["fra"])
    (tmp_path / "ids").write_text("d1\n", encoding="utf-8")
    with pytest.raises(DataError, match="has a line 2, but the documents are named for 1 lines only"):
        run("bitext_classes", tmp_path, files=["x.{code}"], documents="ids")
    (tmp_path / "x.deu").write_text("eins\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"x.deu ends before line 2"):
        run("bitext_classes", tmp_path, files=["x.{code}"])


def test_compressed_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.json.bz2").write_bytes(bz2.compress(b"[1, 2]"))
    assert [value for _, value in read_json_array(find_file(tmp_path, "a.json"))] == [1, 2]
    assert match_files(tmp_path, "{code}.json")[0][1] == {"code": "a"}
    (tmp_path / "a.json.bz2").write_bytes(b"no bzip2")
    with pytest.raises(DataError, match=r"a.json.bz2 cannot be read after line 0"):
        list(read_json_array(tmp_path / "a.json.bz2"))


def test_a_long_json_array_is_read_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    elements = [{"number": number, "text": "x" * (number % 7)} for number in range(5_000)]
    path.write_text(json.dumps(elements, indent=1), encoding="utf-8")
    assert [value for _, value in read_json_array(path)] == elements
    path.write_text("[\n1,\n2,\n{'a'}\n" + ",3\n" * 10_000 + "]", encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json, line 4: not valid JSON"):
        list(read_json_array(path))
    path.write_text("[\n" + "1,\n" * 10_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json, line \d+: not valid JSON"):
        list(read_json_array(path))
    path.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json: a JSON array is needed"):
        list(read_json_array(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a.json, element 1: an object is needed, not int"),
        ('{"a": 1}\n[2]\n', "a.json, line 2: an object is needed, not list"),
        ('{"a": 1 2}\n{"a": 2}\n', "a.json, line 1: not valid JSON"),
        ('{"a": {},\n "b": 3}\n', "a.json, 'b': an object is needed, not int"),
        ('{\n"a" 1}\n', "a.json, line 2: not valid JSON"),
    ],
)
def test_broken_json_rows(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(read_json_rows(tmp_path / "a.json"))
