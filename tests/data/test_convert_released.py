"""The converter of the released files, on small ones of the same layout."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.types import Example
from f2llm.data.convert import convert
from f2llm.data.convert_released import EMPTY_NEGATIVE, UNKNOWN, matching_files
from f2llm.data.converter import Drops
from f2llm.text.prompts import query_prompt

PROMPT = query_prompt("Find the answer.")


def write(path: Path, rows: list[tuple[str | None, ...]], **columns: list[Any]) -> Path:
    """A released file: each row is (query, passage, negatives...)."""
    names = ["query", "passage", *(f"negative_{number}" for number in range(1, len(rows[0]) - 1))]
    cells = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    pq.write_table(pa.table(cells | columns), path)
    return path


def run(root: Path, kind: str = "retrieval", drops: Drops | None = None, **options: Any) -> list[Example]:
    rows = list(convert(f"released_{kind}", root, "source", options, 0, drops))
    assert len({row.id for row in rows}) == len(rows), "ids are unique in a source"
    assert {(row.source, row.task_type) for row in rows} <= {("source", kind)}
    assert all(row.groups for row in rows)
    return rows


def test_instructions_go_and_negatives_stay_in_order(tmp_path: Path) -> None:
    negatives = tuple(f"n{number}" for number in range(1, 25))
    write(tmp_path / "a.parquet", [(PROMPT + "q1", "p1", *negatives), ("q2", PROMPT + "p2", *negatives)])
    rows = run(tmp_path, files=["a"], language="de")
    assert [(row.id, row.query, row.positive, row.negatives) for row in rows] == [
        ("a/0", "q1", "p1", negatives), ("a/1", "q2", "p2", negatives)
    ]  # fmt: skip
    assert {(row.query_lang, row.doc_lang, row.label) for row in rows} == {("deu_Latn", "deu_Latn", None)}


def test_empty_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        (PROMPT, "p", "n"),
        ("q", " ", "n"),
        ("q", None, "n"),
        ("q", "p", PROMPT),
        ("q", "p", None),
        ("q", "p", "n"),
    ]
    write(tmp_path / "a.parquet", rows)
    drops = Drops()
    found = run(tmp_path, drops=drops, files=["a"])
    assert [(row.id, row.negatives) for row in found] == [("a/3", ()), ("a/4", ()), ("a/5", ("n",))]
    assert drops == {"empty query": 1, "empty positive": 2, EMPTY_NEGATIVE: 2}


def test_two_way_classification_and_clustering(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [(PROMPT + "fine", "good", "bad")])
    (row,) = run(tmp_path, "classification", files=["a"])
    assert (row.query, row.positive, row.negatives, row.label, len(row.groups)) == ("fine", "good", ("bad",), "good", 1)
    (row,) = run(tmp_path, "clustering", files=["a"])
    assert (row.label, len(row.groups)) == (None, 2)


@pytest.mark.parametrize("size", [1, 3, 512])
def test_a_range_of_rows(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("f2llm.data.convert_released.BATCH", size)
    write(tmp_path / "mela.parquet", [(f"q{number}", "yes", "no") for number in range(10)])
    edges = [(0, 4), (4, 9), (9, 10)]
    parts = [run(tmp_path, "classification", files=["mela"], rows=list(edge)) for edge in edges]
    assert [row.id for part in parts for row in part] == [f"mela/{number}" for number in range(10)]
    assert [len(part) for part in parts] == [4, 5, 1]
    with pytest.raises(DataError, match=r"mela\.parquet has 10 rows, but rows 9 to 11 are asked for"):
        run(tmp_path, "classification", files=["mela"], rows=[9, 11])


def test_parts_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("csn_go", "csn_php", "csn_ccr_go", "muri", "muri_part2", "sts22", "sts22_multilingual"):
        write(tmp_path / "data" / f"{name}.parquet", [(name, "p", "n")])

    def names(*files: str) -> list[str]:
        return [row.query for row in run(tmp_path, files=list(files))]

    assert names("csn_*", "!csn_ccr_*") == ["csn_go", "csn_php"]
    assert names("csn_{query}", "!csn_ccr_*") == ["csn_go", "csn_php"]
    assert names("csn_ccr_{code}") == ["csn_ccr_go"]
    assert names("muri_part2", "muri") == ["muri", "muri_part2"]
    assert names("sts22") == ["sts22"]
    assert names("sts?2") == ["sts22"]
    with pytest.raises(DataError, match=r"no file below .* fits 'muri_part3\.parquet'; fetch it"):
        names("muri", "muri_part3")
    with pytest.raises(ConfigError, match="'rows' is for one file, but 2 files fit"):
        run(tmp_path, files=["muri*"], rows=[0, 1])
    write(tmp_path / "muri.parquet", [("again", "p", "n")])
    with pytest.raises(DataError, match="have the same name"):
        names("muri")


@pytest.mark.parametrize(
    ("name", "pattern", "options", "langs"),
    [
        ("unpc_ar2en", "unpc_{query}2{doc}", {}, ("ara_Arab", "eng_Latn")),
        ("paracrawl_azj-en", "paracrawl_{query}-{doc}", {}, ("aze_Latn", "eng_Latn")),
        ("mmarco_chinese", "mmarco_{code}", {"language": "en"}, ("zho_Hans", "zho_Hans")),
        ("mkqa_zh_tw", "mkqa_{code}", {}, ("zho_Hant", "zho_Hant")),
        ("xcodeeval_nl2code_C%23", "xcodeeval_nl2code_{doc}", {"language": "en"}, ("eng_Latn", "csharp")),
        ("csn_python", "csn_{query}", {"doc_language": "en"}, ("python", "eng_Latn")),
        ("cosqa", "cosqa", {"language": "en", "doc_language": "python"}, ("eng_Latn", "python")),
        ("xcodeeval_code2code_C++", "xcodeeval_code2code_{code}", {}, ("cpp", "cpp")),
        ("clirmatrix_af-bg", "clirmatrix_*", {}, (UNKNOWN, UNKNOWN)),
        ("webfaq_qqq", "webfaq_{code}", {}, (UNKNOWN, UNKNOWN)),
    ],
)
def test_languages_from_names_and_options(
    tmp_path: Path, name: str, pattern: str, options: dict[str, str], langs: tuple[str, str]
) -> None:
    write(tmp_path / f"{name}.parquet", [("q", "p", "n")])
    (row,) = run(tmp_path, files=[pattern], **options)
    assert (row.query_lang, row.doc_lang) == langs


def test_the_column_lang_tells_what_name_and_options_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[tuple[str | None, ...]] = [("q1", "p", "n"), ("q2", "p", "n"), ("q3", "p", "n"), ("q4", "p", "n")]
    write(tmp_path / "aya_sw.parquet", rows, lang=["sw", None, "Python", "klingon"])
    assert [row.query_lang for row in run(tmp_path, files=["aya_*"])] == ["swa_Latn", UNKNOWN, "python", UNKNOWN]
    assert "1 rows of aya_sw.parquet name an unknown language ('klingon': 1)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert {row.query_lang for row in run(tmp_path, files=["aya_{code}"])} == {"swa_Latn"}
    assert {row.doc_lang for row in run(tmp_path, files=["aya_*"], language="fr")} == {"fra_Latn"}


def test_files_of_another_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"query": ["q"], "positive": ["p"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet has no column passage, negative_1, only query, positive"):
        run(tmp_path, files=["a"])
    pq.write_table(pa.table({"query": ["q"], "passage": [1], "negative_1": ["n"]}), path)
    with pytest.raises(DataError, match="the column passage holds int64, not text"):
        run(tmp_path, files=["a"])
    texts = pa.array(["q"], pa.large_string()).dictionary_encode()
    pq.write_table(pa.table({"query": texts, "passage": texts, "negative_1": pa.nulls(1)}), path)
    assert len(run(tmp_path, files=["a"])) == 1


def test_broken_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [(f"q{number}" * 50, "p", "n") for number in range(2000)])
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.parquet is no whole parquet file \(.*\); fetch it again") as error:
            run(tmp_path, files=["a"])
        assert "\n" not in str(error.value)
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(DataError, match="is no whole parquet file"):
        run(tmp_path, files=["a"])
    wrong = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"query": wrong, "passage": ["p"], "negative_1": ["n"]}), path)
    with pytest.raises(DataError, match="text that is not UTF-8"):
        run(tmp_path, files=["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the option 'files' is required"),
        ({"files": ["!a"]}, "names only what to leave out"),
        ({"files": ["a_{lang}"]}, r"has \{lang\}; it may have"),
        ({"files": ["a"], "rows": [4, 4]}, "needs first < last"),
        ({"files": ["a"], "rows": [-1, 4]}, r"option 'rows\.0'"),
        ({"files": ["a"], "lang": "en"}, "unknown option 'lang'; options: files, rows, language, doc_language"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, **options)


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    """Python's own objects only; what pyarrow holds is bounded by its buffers (see `_open`)."""
    peaks = []
    for count in (2_000, 16_000):
        write(tmp_path / "a.parquet", [(f"query {number}", "p" * 200, "n" * 200) for number in range(count)])
        tracemalloc.start()
        assert sum(1 for _ in convert("released_retrieval", tmp_path, "s", {"files": ["a"]}, 0)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_matching_one_file_by_its_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [("q", "p", "n")])
    assert matching_files(path, ["*"]) == [(path, {})]
