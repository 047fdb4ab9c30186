"""Text and SQL, and the way from code back to text."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.errors import DataError
from f2llm.data.converter import Drops
from tests.data.test_convert import run


def sentence(text: str, split: str = "train", **variables: str) -> dict[str, Any]:
    return {"text": text, "question-split": split, "variables": variables}


ENTRIES = [
    {
        "sql": ['SELECT A FROM T WHERE N = "name1" AND M = name10 AND D = "dept0" ;', "SELECT longer"],
        "variables": [
            {"name": "dept0", "example": "EECS", "location": "sql-only"},
            {"name": "name1", "example": "x", "location": "both"},
        ],
        "sentences": [
            sentence("which name1 of name10 ?", name1="a\\1", name10="b"),
            sentence("which ?", "exclude", name1="", name10="c"),
            sentence("what has name1 , name10 in dept0 ?", name1="d", name10="e", dept0="MATH"),
        ],
    },
    {
        "sql": ["SELECT B WHERE Y = var0 ;"],
        "variables": [{"name": "var0", "example": "1", "location": "both"}],
        "sentences": [sentence("year 20var00 and var0 ?", var0="1") | {"original": "year 2010 and 1?"}],
    },
    {"sql": [], "variables": [], "sentences": [sentence("nothing")]},
]


def test_text_to_sql(tmp_path: Path) -> None:
    (tmp_path / "a.json.bz2").write_bytes(bz2.compress(json.dumps(ENTRIES, indent=4).encode()))
    drops = Drops()
    rows = run("text_to_sql", tmp_path, drops, files=["a.json"], corpus="c")
    assert [(row.id, row.query, row.positive, row.groups) for row in rows] == [
        ("a/1.1", "which a\\1 of b ?", 'SELECT A FROM T WHERE N = "a\\1" AND M = b AND D = "EECS" ;', ("c/a/1",)),
        ("a/1.2", "which ?", 'SELECT A FROM T WHERE N = "x" AND M = c AND D = "EECS" ;', ("c/a/1",)),
        ("a/1.3", "what has d , e in MATH ?", 'SELECT A FROM T WHERE N = "d" AND M = e AND D = "MATH" ;', ("c/a/1",)),
        ("a/2.1", "year 2010 and 1?", "SELECT B WHERE Y = 1 ;", ("c/a/2",)),
    ]
    assert {(row.query_lang, row.doc_lang) for row in rows} == {("eng_Latn", "sql")}
    assert drops == {"no SQL": 1}


def test_sql_to_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    drops = Drops()
    rows = run("text_to_sql", tmp_path, drops, files=["a.json"], task="sql_to_text", leave_out=["exclude"])
    assert [(row.positive, row.query_lang, row.doc_lang) for row in rows][-1] == ("year 2010 and 1?", "sql", "eng_Latn")
    assert (len(rows), drops) == (3, {"question-split 'exclude' left out": 1, "no SQL": 1})
    (tmp_path / "a.json").write_text('[{"sql": ["SELECT 1"]}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.json, entry 1: the field 'sentences' is missing or no list"):
        run("text_to_sql", tmp_path, files=["a.json"])


def test_code_to_text(tmp_path: Path) -> None:
    row = {"task_id": "M/1", "language": "python", "description": "do 1", "canonical_solution": "return 1"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (found,) = run("mbxp", tmp_path, task="code_to_text")
    assert (found.query, found.positive, found.query_lang, found.doc_lang) == (
        "return 1", "do 1", "python", "eng_Latn"
    )  # fmt: skip
    assert found.groups == ("mbpp/1",)
