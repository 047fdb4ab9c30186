"""Texts out of files of any form, and back into tables."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.apps.tables import batched, is_binary, read_table, read_tables, table_files
from f2llm.apps.tables_write import TableWriter
from f2llm.core.errors import ConfigError, DataError

ROWS = [("eins", 1), ("zwei\nzeilen", 2), ("", 3), ('drei, "vier"', 4)]


def write(path: Path) -> Path:
    """The rows in the form that the name asks for."""
    records = [{"body": text, "n": number} for text, number in ROWS]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif ".jsonl" in path.suffixes:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in records).encode()))
    else:
        quoted = (text.replace('"', '""') for text, _ in ROWS)
        path.write_text("body,n\n" + "".join(f'"{text}",{row[1]}\n' for text, row in zip(quoted, ROWS, strict=True)))
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_form_has_the_same_rows(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(read_table(write(tmp_path / name), "body", ["n"]))
    assert [row.text for row in rows] == ["eins", "zwei\nzeilen", 'drei, "vier"']
    assert [int(row.cells["n"]) for row in rows] == [1, 2, 4]
    assert {row.path.name for row in rows} == {name}
    assert "1 rows without text are left out" in capsys.readouterr().err


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    text = "\ufeffone\r\n\n  two  \nthree\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.md").write_bytes(text.encode())
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(text.encode("utf-16")))
    assert [(row.line, row.text) for row in read_table(tmp_path / "a.txt")] == [(1, "one"), (3, "two"), (4, "three")]
    assert [(row.line, row.text) for row in read_table(tmp_path / "b.md")] == [(1, "one"), (3, "two three")]
    rows = read_table(tmp_path / "c.txt.bz2", encoding="utf-16")
    assert [row.text for row in rows] == ["one", "two", "three"]


def test_a_tsv_file_may_have_single_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tsay "no\n2\tyes\n')
    assert [row.text for row in read_table(tmp_path / "a.tsv")] == ['say "no', "yes"]


def test_a_folder_stands_for_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "b.parquet")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / ".hidden").write_text("hidden")
    (tmp_path / "picture").write_bytes(b"\x89PNG\0\0")
    assert [path.name for path in table_files([tmp_path])] == ["a.txt", "b.parquet"]
    assert "1 files are neither text nor tables" in capsys.readouterr().err
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="holds no text and no table"):
        table_files([tmp_path / "sub"])
    with pytest.raises(DataError, match=r"there is no file .*absent"):
        table_files([tmp_path / "absent"])
    lines = list(read_tables([tmp_path / "a.txt", tmp_path / "a.txt"]))
    assert [row.text for row in lines] == ["text", "text"]


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.csv", "x,y\n1,2\n", DataError, "line 1: no column text; columns: x, y"),
        ("a.jsonl", '{"x": 1}\n', DataError, "row 1: no field text; it has x"),
        ("a.jsonl", '{"text": "a"}\n{"text": {"b": 1}}\n', DataError, "row 2, column text: an object is no text"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', DataError, "line 2: not valid JSON"),
        ("a.parquet", "no parquet", DataError, "no whole parquet file"),
        ("a.txt", b"ok\n\xff\xfe\n", DataError, "line 2: not utf-8 text; give the `encoding`"),
        ("a.txt", "", DataError, "is empty"),
    ],
)
def test_a_fault_is_named_with_its_row(
    name: str, content: str | bytes, error: type[Exception], words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=words):
        list(read_table(tmp_path / name))


def test_a_file_of_lines_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ConfigError, match=r"is read by lines and has no column body"):
        list(read_table(tmp_path / "a.txt", "body"))


def test_batches() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    columns = {"text": pa.string(), "score": pa.float32()}
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with TableWriter(tmp_path / name, columns) as writer:
            writer.write({"text": ["x\ny", 'z"'], "score": [0.1, 0.25]})
            writer.write({"text": ["w"], "score": [1.0]})
        rows = list(read_table(tmp_path / name, columns=["score"]))
        assert [row.text for row in rows] == ["x\ny", 'z"', "w"]
        assert [float(row.cells["score"]) for row in rows] == pytest.approx([0.1, 0.25, 1.0])
    with pytest.raises(pa.ArrowInvalid), TableWriter(tmp_path / "b.csv", columns) as writer:
        writer.write({"text": ["x"], "score": ["no number"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]


def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory; mend it or leave it out"):
        is_binary(tmp_path)
