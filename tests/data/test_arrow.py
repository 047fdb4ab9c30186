"""Parquet, Arrow and data sets on disk: the same rows as from text, whatever the form of the columns."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from f2llm.core.arrow import column_names, read_arrow
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.types import Example
from f2llm.data.convert import convert
from f2llm.data.converter import Drops
from tests.data.test_convert import run

PAIRS = {"language": "en", "query": ["q"], "positive": ["p"]}
LABELS = {"names": ["neg", "pos"], "_type": "ClassLabel"}


def parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=3)
    return path.with_suffix(".parquet")


def stream(path: Path, table: pa.Table) -> Path:
    """As `datasets` writes them, in the hub's cache and elsewhere."""
    with pa.ipc.new_stream(str(path.with_suffix(".arrow")), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path.with_suffix(".arrow")


def ipc_file(path: Path, table: pa.Table) -> Path:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path.with_suffix(".arrow")), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    return path.with_suffix(".arrow")


def feather_file(path: Path, table: pa.Table) -> Path:
    feather.write_feather(table, path.with_suffix(".feather"), chunksize=2)
    return path.with_suffix(".feather")


def data_set(path: Path, table: pa.Table, features: Any = None) -> Path:
    """Two shards, as `save_to_disk` lays them out."""
    path.mkdir(parents=True)
    half = (len(table) + 1) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        stream(path / f"data-{number}", part)
    files = [{"filename": f"data-{number}.arrow"} for number in (0, 1)]
    (path / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}), encoding="utf-8")
    (path / "dataset_info.json").write_text(json.dumps({"features": features or {}}), encoding="utf-8")
    return path


WRITERS = [parquet, stream, ipc_file, feather_file, data_set]
JUDGED = {
    "first": ["a", "a", "b", "d", "e"],
    "second": ["a1", "a2", "b1", None, "e"],
    "mark": ["y", "n", "y", "y", "n"],
}
CLASSES = {"text": ["a", "b", "c", None, "d"], "label": ["x", "x", "y", "y", None]}
CASES: dict[str, tuple[dict[str, list[Any]], dict[str, Any]]] = {
    "pairs_table": ({"q": ["a", "b", None, "d", " "], "p": ["1", None, "3", "4", "5"]}, PAIRS | {"same": "q"}),
    "nli": (
        JUDGED,
        {"language": "en", "premise": "first", "hypothesis": "second", "label": "mark", "entailment": "y",
         "contradiction": "n"},
    ),
    "sts": (
        JUDGED | {"mark": [5.0, 0.5, 4.5, 5.0, 2.0]},
        {"language": "en", "first": "first", "second": "second", "score": "mark"},
    ),
    "paraphrase": (
        JUDGED,
        {"language": "en", "first": "first", "second": "second", "label": "mark", "same": "y", "different": "n"},
    ),
    "aligned_table": (
        {"en": ["one", "two", None], "fr": ["un", None, "trois"]},
        {"columns": {"en": "en", "fr": "fr"}, "pairs": [["*", "*"]], "corpus": "c"},
    ),
    "classes_table": (CLASSES, {"language": "en"}),
    "two_way_table": (CLASSES, {"language": "en", "classes": {"x": "X", "y": "Y"}}),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", CASES)
def test_every_table_converter_reads_every_form(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    columns, options = CASES[name]
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    path, drops, expected = write(tmp_path / "t", pa.table(columns)), Drops(), Drops()
    rows = [without_name(row, "t.jsonl") for row in run(name, tmp_path / "t.jsonl", expected, **options)]
    assert [without_name(row, path.name) for row in run(name, path, drops, **options)] == rows
    assert rows, "there are rows to compare"
    assert drops == expected
    assert drops.total()
    assert not any("None" in (row.query, row.positive, *row.negatives) for row in rows)


def without_name(row: Example, name: str) -> Example:
    """The row with its number for an id, which is the same in all forms."""
    assert f"{name}/" in row.id
    return replace(row, id=row.id.replace(f"{name}/", ""))


def test_columns_of_many_types(tmp_path: Path) -> None:
    texts = ["one", None, "three", "four"]
    columns = {
        "large": pa.array(texts, pa.large_string()), "dictionary": pa.array(texts).dictionary_encode(),
        "view": pa.array(texts, pa.string_view()), "list": pa.array([["a", "", "b"], None, [], [None, "c"]]),
        "number": pa.array([1, None, 3, 4]), "null": pa.nulls(4),
        "pair": pa.array([{"en": "x", "fr": "y"}, None, {"en": None, "fr": "z"}, {"en": "u", "fr": "v"}]),
    }  # fmt: skip
    path = stream(tmp_path / "t", pa.table(columns))

    def queries(*names: str) -> list[str]:
        return [row.query for row in run("pairs_table", path, language="en", query=list(names), positive=["large"])]

    for name in ("large", "dictionary", "view"):
        assert queries(name) == ["one", "three", "four"]
    assert queries("list", "number") == ["a\nb\n1", "3", "c\n4"]
    assert queries("pair.en", "null") == ["x", "u"]
    translations = {"columns": {"pair.en": "en", "pair.fr": "fr"}, "pairs": [["pair.en", "pair.fr"]]}
    assert [row.positive for row in run("aligned_table", path, **translations)] == ["y", "v"]
    for wrong in ("pair.de", "large.x", "nothing"):
        with pytest.raises(DataError, match=rf"t\.arrow: no column {wrong}; "):
            queries(wrong)
    with pytest.raises(DataError, match=r"row 1, column pair: an object is no text; name a column of texts"):
        queries("pair")


def test_fields_of_objects_in_json(tmp_path: Path) -> None:
    path, drops = tmp_path / "t.jsonl", Drops()
    rows = [{"t": {"en": "x", "fr": "y"}}, {"t": None}, {"t": {"en": "u", "fr": None}, "t.en": "own"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options: dict[str, Any] = {"columns": {"t.en": "en", "t.fr": "fr"}, "pairs": [["t.en", "t.fr"]]}
    assert [(row.query, row.positive) for row in run("aligned_table", path, drops, **options)] == [("x", "y")]
    assert drops == {"empty cell": 2}
    with pytest.raises(DataError, match=r"row 1: no field t\.de; it has t"):
        run("pairs_table", path, language="en", query=["t.de"], positive=["t.fr"])


@pytest.mark.parametrize("noted", ["inside", "beside"])
def test_labels_are_named(noted: str, tmp_path: Path) -> None:
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": LABELS, "tags": {"feature": LABELS}}
    table = pa.table({"text": ["a", "b", "c", "d"], "label": [1, 1, -1, None], "tags": [[0, 1], [], None, [-1]]})
    if noted == "inside":
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path, drops = data_set(tmp_path / "one", table, features if noted == "beside" else None), Drops()
    rows = run("classes_table", path, drops, language="en")
    assert [(row.id, row.query, row.label) for row in rows] == [("one/1", "a", "pos"), ("one/2", "b", "pos")]
    assert drops == {"no text or no label": 2}
    assert [row["tags"] for _, row in read_arrow(path, ["tags"])] == [["neg", "pos"], [], None, [None]]
    (tmp_path / "two").mkdir()
    wrong = data_set(tmp_path / "two" / "x", pa.table({"text": ["a"], "label": [2]}), features)
    with pytest.raises(DataError, match=r"row 1, column label: the label 2 has no name, there are 2"):
        run("classes_table", wrong, language="en")


def test_splits_are_named_by_the_pattern(tmp_path: Path) -> None:
    for split in ("train", "test"):
        data_set(tmp_path / "d" / split, pa.table({"q": [split, "x"], "p": ["1", "2"]}))
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    assert [row.id for row in run("pairs_table", tmp_path / "d", files="train", **PAIRS)] == ["train/1", "train/2"]
    assert len(run("pairs_table", tmp_path / "d", files="{split}", **PAIRS)) == 4
    rows = run("pairs_table", tmp_path, files="d/{split}", unit="#", corpus="c", **PAIRS)
    assert [row.groups for row in rows] == [("c/test/1",), ("c/test/2",), ("c/train/1",), ("c/train/2",)]
    with pytest.raises(ConfigError, match=r"has the splits train, test; name one by `files`, or all by"):
        run("pairs_table", tmp_path / "d", **PAIRS)
    (tmp_path / "d" / "dataset_dict.json").unlink()
    with pytest.raises(DataError, match="d is a directory, not a file"):
        run("pairs_table", tmp_path / "d", **PAIRS)


def test_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    table = pa.table({"messages": [turns, None, [turns[0], {"role": "assistant", "content": None}]], "n": [1, 2, 3]})
    path, drops = parquet(tmp_path / "t", table), Drops()
    assert [(row.query, row.positive) for row in run("conversations", path, drops, language="en")] == [("hi", "hello")]
    assert drops == {"no request, or no response to it": 1, "empty turn": 1}
    with pytest.raises(DataError, match="no column messages; it has n"):
        run("conversations", parquet(tmp_path / "u", table.select(["n"])), language="en")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{}", "names no data files; save the data set again"),
        ('{"_data_files": [{"filename": "../data-0.arrow"}]}', "names no data files"),
        ('{"_data_files": [{"filename": "data-7.arrow"}]}', r"lacks data-7\.arrow, which its state\.json names"),
        ('{"_data_files": [{"filename": "data-0.arrow"}], "_indices_data_files": [1]}', "a selection of rows by index"),
        ('{"_data_files"', "is not valid JSON"),
    ],
)
def test_damaged_data_sets(state: str, message: str, tmp_path: Path) -> None:
    path = data_set(tmp_path / "d", pa.table({"q": ["a"], "p": ["1"]}))
    (path / "state.json").write_text(state, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run("pairs_table", path, **PAIRS)


def test_a_stream_that_was_cut_off_between_two_batches_is_told(tmp_path: Path) -> None:
    path = stream(tmp_path / "t", pa.table({"q": ["a", "b", "c"], "p": ["1", "2", "3"]}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    assert len(pa.ipc.open_stream(path.read_bytes()).read_all()) == 3, "pyarrow takes it for a whole one"
    with pytest.raises(DataError, match=r"t\.arrow is no whole Arrow file \(its end is missing\); fetch it again"):
        run("pairs_table", path, **PAIRS)


def test_a_damaged_offset_does_not_end_the_process(tmp_path: Path) -> None:
    offsets, data = pa.array([0, 1 << 30, 2], pa.int32()).buffers()[1], pa.py_buffer(b"ab")
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    path = stream(tmp_path / "t", pa.Table.from_arrays([broken, pa.array(["x", "y"])], names=["q", "p"]))
    with pytest.raises(DataError, match=r"t\.arrow is no whole Arrow file \("):
        run("pairs_table", path, **PAIRS)


@pytest.mark.parametrize("write", [parquet, stream])
def test_memory_does_not_grow_with_the_file(write: Callable[..., Path], tmp_path: Path) -> None:
    peaks = []
    for count in (1_500, 9_000):
        table = pa.table({"q": [f"query {number}" for number in range(count)], "p": ["p" * 200] * count})
        path = write(tmp_path / "t", table.combine_chunks())
        tracemalloc.start()
        assert sum(1 for _ in convert("pairs_table", path, "s", PAIRS, 0)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_what_hugging_face_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"]),
        pair=datasets.Translation(languages=["en", "fr"]), tags=datasets.List(datasets.Value("large_string")),
    )  # fmt: skip
    rows = {
        "text": ["a", None, "c", "d"], "label": [0, 1, 0, -1], "pair": [{"en": "x", "fr": "y"}] * 4,
        "tags": [["p", "q"], [], ["r"], ["s"]],
    }  # fmt: skip
    saved = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=saved, test=saved.select([3])).save_to_disk(
        tmp_path / "d", num_shards={"train": 3, "test": 1}
    )
    saved.to_parquet(tmp_path / "d.parquet")

    def generate() -> Any:
        for number in range(4):
            yield {name: values[number] for name, values in rows.items()}

    datasets.Dataset.from_generator(generate, features=features, cache_dir=str(tmp_path / "cache"))
    (cached,) = (tmp_path / "cache").rglob("*.arrow")
    for path in (tmp_path / "d" / "train", tmp_path / "d.parquet", cached):
        assert column_names(path) == list(rows)
        drops = Drops()
        found = run("classes_table", path, drops, language="en")
        assert [(row.query, row.positive, row.label) for row in found] == [("a", "c", "bad"), ("c", "a", "bad")]
        assert drops == {"no text or no label": 2}
        pairs = run("pairs_table", path, language="en", query=["pair.en", "tags"], positive=["pair.fr"])
        assert [row.query for row in pairs] == ["x\np\nq", "x", "x\nr", "x\ns"]
    assert (
        len(run("pairs_table", tmp_path / "d", files="test", **PAIRS | {"query": ["text"], "positive": ["tags"]})) == 1
    )
