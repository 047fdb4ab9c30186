"""Example files: what is written is read, and a damaged or foreign file is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2llm.core.errors import DataError
from f2llm.core.types import TASK_TYPES, Example
from f2llm.data import examples as module
from f2llm.data.examples import count_examples, read_examples, scrub_surrogates, write_examples

texts = st.text(max_size=20)
any_example = st.builds(
    Example, id=texts, query=texts, positive=texts, negatives=st.lists(texts, max_size=3).map(tuple),
    task_type=st.sampled_from(TASK_TYPES), source=texts, query_lang=texts, doc_lang=texts,
    label=st.none() | texts, groups=st.lists(texts, max_size=3).map(tuple),
)  # fmt: skip


def make(index: int, query: str = "q") -> Example:
    return Example(str(index), query, "p", ("n",), "retrieval", "s", "eng_Latn", "deu_Latn", None, ("g",))


@given(rows=st.lists(any_example, max_size=5))
def test_round_trip(rows: list[Example], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("examples") / "a.parquet"
    assert write_examples(path, rows) == len(rows) == count_examples(path)
    assert list(read_examples(path)) == rows


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_examples(path, [make(0, "a\ud800b"), make(1, "𝄞")])
    assert [row.query for row in read_examples(path)] == ["a\ufffdb", "𝄞"]
    assert scrub_surrogates("\udfff") == "\ufffd"


def test_row_groups_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 4)
    path = tmp_path / "a.parquet"
    assert write_examples(path, map(make, range(10))) == 10
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert [row.id for row in read_examples(path)] == [str(index) for index in range(10)]


def test_a_failing_stream_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Example]:
        yield make(1)
        raise DataError("line 2 is broken")

    path = tmp_path / "a.parquet"
    write_examples(path, [make(0)])
    with pytest.raises(DataError, match="line 2"):
        write_examples(path, broken())
    assert [row.id for row in read_examples(path)] == ["0"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.parquet"]


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match="does not exist"):
        next(read_examples(path))
    write_examples(path, map(make, range(100)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged or not parquet"):
        next(read_examples(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="damaged or not parquet"):
        count_examples(path)
    pq.write_table(pa.table({"id": ["a"], "query": ["b"]}), path)
    with pytest.raises(DataError, match="columns missing: positive, negatives"):
        next(read_examples(path))
    pq.write_table(pa.table({name: [1] for name in module.FIELDS}), path)
    with pytest.raises(DataError, match="another type or order"):
        next(read_examples(path))


def test_a_damaged_page_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_examples(path, [make(index, f"query {index * 7919}") for index in range(2000)])
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or not parquet"):
        list(read_examples(path))
