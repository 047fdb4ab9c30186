"""Judged pairs: what becomes a query, a positive, a hard negative, and what goes for which reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.data.convert import check_options
from f2llm.data.converter import Drops
from f2llm.data.keys import text_group
from tests.data.test_convert import run


def nli_file(tmp_path: Path) -> Path:
    rows = [
        ("p1", "yes", "entailment"), ("P1", "no", "contradiction"), ("p1", "maybe", "neutral"),
        ("p1", "also yes", "entailment"), ("p2", "no", "contradiction"), ("p3", "P3", "entailment"),
        ("p4", "h", "-"), ("p4", "", "entailment"),
    ]  # fmt: skip
    path = tmp_path / "nli.json"
    keys = ("premise", "hypothesis", "label")
    path.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1), encoding="utf-8")
    return path


def test_nli(tmp_path: Path) -> None:
    path, drops = nli_file(tmp_path), Drops()
    rows = run("nli", path, drops, language="en")
    assert [(row.query, row.positive, row.negatives) for row in rows] == [
        ("p1", "yes", ("no",)), ("p1", "also yes", ("no",))
    ]  # fmt: skip
    assert rows[0].groups == (text_group("p1"), text_group("yes"))
    assert drops == {
        "used as a negative": 1, "neutral": 1, "fails, and the sentence has no positive": 1,
        "twice the same sentence": 1, "no agreed label": 1, "a sentence or the verdict is missing": 1,
    }  # fmt: skip
    rows = run("nli", path, language="en", neutral_negatives=True)
    assert rows[0].negatives == ("no", "maybe"), "contradictions come first"
    assert run("nli", path, language="en", neutral_negatives=True, negatives=1)[0].negatives == ("no",)


def test_nli_with_numbers_for_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.de.jsonl"
    lines = [{"s": "a", "t": "b", "gold": 0}, {"s": "a", "t": "c", "gold": 2}]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    labels = {"entailment": "0", "neutral": "1", "contradiction": "2", "label": "gold"}
    (row,) = run("nli", tmp_path, files="x.{code}.jsonl", premise="s", hypothesis="t", **labels)
    assert (row.query, row.positive, row.negatives, row.query_lang) == ("a", "b", ("c",), "deu_Latn")


def test_sts(tmp_path: Path) -> None:
    for code in ("de", "fr"):
        lines = ['"a, b",b,4.5', "c,d,5.0", "d,e,0.4", '"a, b",x,1.0', "f,g,2.5", "h,i,0.0", "j,J,5.0"]
        (tmp_path / f"sts-{code}-dev.csv").write_text("\n".join(lines), encoding="utf-8")
    drops, options = Drops(), {"header": ["sentence1", "sentence2", "score"], "unit": "#", "corpus": "c"}
    rows = run("sts", tmp_path, drops, files="sts-{code}-{split}.csv", **options)
    german = [row for row in rows if row.query_lang == "deu_Latn"]
    assert [(row.query, row.positive, row.negatives) for row in german] == [
        ("a, b", "b", ("x",)), ("d", "c", ("e",))
    ], "the sentence that has a negative is the query"  # fmt: skip
    assert [row.groups for row in rows] == [("c/dev/1",), ("c/dev/2",)] * 2, "translations share the held-out unit"
    assert drops == {
        "used as a negative": 4, "score in between": 2, "fails, and the sentence has no positive": 2,
        "twice the same sentence": 2,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"sts-de-dev.csv/1: the score 4.5 is not between 0 and `highest` \(1.0\)"):
        run("sts", tmp_path, files="sts-{code}-{split}.csv", highest=1.0, positive=0.8, negative=0.1, **options)
    with pytest.raises(DataError, match="the score 'b' is no number"):
        run("sts", tmp_path, files="sts-{code}-{split}.csv", score="sentence2", **options)
    with pytest.raises(ConfigError, match="0 <= `negative` < `positive`"):
        check_options("sts", tmp_path, {"language": "en", "positive": 1.0, "negative": 3.0})


def test_sts_of_a_file_with_quotation_marks_in_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('score\tsentence1\tsentence2\n5.000\t"Hallo\tHi"\n', encoding="utf-8")
    assert [(row.query, row.positive) for row in run("sts", path, language="de")] == [('"Hallo', 'Hi"')]


def test_paraphrase(tmp_path: Path) -> None:
    lines = ['"a ""b"""\tc\t1', "x\tc\t0", "NS\ty\t1", "p\tq\t0", "r\ts\t", "t\tu\t7", "v\tw\t1", "v\tw\t0"]
    (tmp_path / "dev-en.tsv").write_text("\n".join(lines), encoding="utf-8")
    drops = Drops()
    options = {"files": "dev-{code}.tsv", "header": ["sentence1", "sentence2", "label"], "quoted": True}
    rows = run("paraphrase", tmp_path, drops, missing=["NS"], **options)
    assert [(row.query, row.positive, row.negatives) for row in rows] == [("c", 'a "b"', ("x",)), ("v", "w", ())], (
        "a pair that two rows judge differently is no negative"
    )
    assert drops == {
        "used as a negative": 2, "a sentence or the verdict is missing": 2, "unknown label": 1,
        "fails, and the sentence has no positive": 1,
    }  # fmt: skip
