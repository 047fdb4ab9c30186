"""Bulk embedding: the vectors of `Embedder.encode` beside their rows, in any form, whoever computes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from f2llm.core.errors import ConfigError, DataError
from f2llm.data.engine import Engine, LocalEngine, RayEngine
from f2llm.model.embedder import Embedder
from f2llm.model.precision import Precision, to_precision
from f2llm.pipeline import embedding
from f2llm.pipeline.embedding import EmbedOptions, EmbedSummary, embed_files

TEXTS = [f"text {number} {'word ' * (number % 4)}".strip() for number in range(23)]
HERE = LocalEngine(1)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PART_ROWS", 5)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV file with two rows that have no text."""
    lines = [f'{number},"{text}",{number * 1.5}' for number, text in enumerate(TEXTS)]
    (tmp_path / "in.csv").write_text("\n".join(["id,body,price", *lines[:7], "x,,1", "y,  ,2", *lines[7:]]))
    return tmp_path / "in.csv"


def run(
    table: Path, model: Path, name: str = "out.parquet", engine: Engine = HERE, **options: object
) -> tuple[Path, EmbedSummary]:
    target = table.parent / name
    chosen = replace(EmbedOptions(text="body"), **options)
    return target, embed_files([table], target, model=model, options=chosen, engine=engine)


def test_rows_keep_their_order_their_place_and_their_columns(table: Path, model_directory: Path) -> None:
    target, done = run(table, model_directory, keep=("id", "price"))
    found = pq.read_table(target).to_pydict()
    assert (done.texts, done.dims, done.truncated) == (23, 48, 0)
    assert found["text"] == TEXTS
    assert found["id"] == [str(number) for number in range(23)]
    assert found["price"] == [str(number * 1.5) for number in range(23)]
    assert found["line"] == [*range(2, 9), *range(11, 27)]
    expected = Embedder.load(model_directory).encode_document(TEXTS)
    np.testing.assert_allclose(np.array(found["vector"]), expected, atol=1e-6)
    assert sorted(path.name for path in table.parent.iterdir()) == ["in.csv", "out.parquet"]
    assert b'"dims": 48' in pq.read_schema(target).metadata[b"f2llm"]


def test_queries_instructions_and_dimensions(table: Path, model_directory: Path) -> None:
    model = Embedder.load(model_directory, truncate_dim=16)
    for options, expected in (
        ({"as_query": True}, model.encode_query(TEXTS)),
        ({"as_query": True, "instruction": "Find it."}, model.encode_query(TEXTS, instruction="Find it.")),
    ):
        target, done = run(table, model_directory, "out.npy", dim=16, **options)
        np.testing.assert_allclose(np.load(target), expected, atol=1e-6)
        assert done.dims == 16


def test_weights_of_eight_bits_are_noted(table: Path, model_directory: Path) -> None:
    expected = Embedder.load(model_directory, dtype=torch.int8).encode_document(TEXTS)
    target, _ = run(table, model_directory, weights="int8")
    np.testing.assert_allclose(np.array(pq.read_table(target)["vector"].to_pylist()), expected, atol=1e-6)
    assert b'"weights": "int8"' in pq.read_schema(target).metadata[b"f2llm"]
    with pytest.raises(ConfigError, match="weights are 'int3'"):
        run(table, model_directory, weights="int3")


@pytest.mark.parametrize(
    ("precision", "kind", "width"),
    [("float16", pa.float16(), 48), ("int8", pa.int8(), 48), ("binary", pa.int8(), 6), ("ubinary", pa.uint8(), 6)],
)
def test_stored_forms(precision: Precision, kind: pa.DataType, width: int, table: Path, model_directory: Path) -> None:
    full = np.load(run(table, model_directory, "full.npy")[0])
    stored = np.load(run(table, model_directory, "stored.npy", precision=precision)[0])
    assert np.array_equal(stored, to_precision(full, precision))
    column = pq.read_table(run(table, model_directory, precision=precision)[0]).schema.field("vector").type
    assert (column.value_type, column.list_size) == (kind, width)


def test_a_folder_of_parts_is_the_same_table(table: Path, model_directory: Path) -> None:
    one, folder = run(table, model_directory)[0], run(table, model_directory, "parts")[0]
    assert [path.name for path in sorted(folder.iterdir())] == [f"{number:06}.parquet" for number in range(5)]
    assert pq.read_table(folder).equals(pq.read_table(one))
    assert run(table, model_directory, "parts")[1].texts == 23, "one of ours is replaced"
    pq.write_table(pa.table({"text": ["mine"]}), folder / "7.parquet")
    with pytest.raises(ConfigError, match="folder with other files"):
        run(table, model_directory, "parts")
    with pytest.raises(ConfigError, match="one of the files to read"):
        embed_files([one], one, model=model_directory, options=EmbedOptions(), engine=HERE)


def test_a_stopped_run_goes_on_and_another_one_starts_over(
    table: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(table, model_directory)[0].read_bytes()
    encode, seen = embedding.encode_part, list[str]()

    def stops_at_the_third(**arguments: object) -> object:
        seen.append(Path(str(arguments["source"])).stem)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(**arguments)  # type: ignore[arg-type]

    stops_at_the_third.__qualname__, stops_at_the_third.__module__ = encode.__qualname__, encode.__module__
    monkeypatch.setattr(embedding, "encode_part", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(table, model_directory, "cut.parquet")
    (table.parent / ".cut.parquet.parts" / "vectors" / "000001.parquet").unlink()
    assert run(table, model_directory, "cut.parquet")[0].read_bytes() == whole
    assert seen == ["000000", "000001", "000002", "000001", "000002", "000003", "000004"]
    seen[:] = []
    with pytest.raises(KeyboardInterrupt):
        run(table, model_directory, "cut.parquet")
    table.write_text(table.read_text().replace("text 1 ", "text one "))
    os.utime(table, (1, 1))
    found = pq.read_table(run(table, model_directory, "cut.parquet")[0])["text"].to_pylist()
    assert found[1].startswith("text one")
    assert len(seen) == 3 + 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Engine]:
    if find_spec("ray") is None:
        pytest.skip("the package ray is not installed (extra `ray`)")
    found = RayEngine(workers=2)
    yield found
    found.close()


@pytest.mark.slow
def test_ray_and_processes_write_the_same_bytes(
    table: Path, model_directory: Path, cluster: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another number of threads adds up in another order
    expected = run(table, model_directory)[0].read_bytes()
    torch.set_num_threads(threads)
    workers = LocalEngine(2)
    assert run(table, model_directory, "two.parquet", workers)[0].read_bytes() == expected
    workers.close()
    assert run(table, model_directory, "ray.parquet", cluster)[0].read_bytes() == expected


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("out.csv", {}, ConfigError, r"must end in \.parquet or \.npy"),
        ("out.npy", {"precision": "int4"}, ConfigError, "precision is 'int4'"),
        ("out.npy", {"keep": ("line",)}, ConfigError, "--keep line"),
        ("out.npy", {"text": "content"}, DataError, "no column content; columns: id, body, price"),
        ("out.npy", {"dim": 99}, ConfigError, "give 1 to 48"),
        ("out.npy", {"dim": 12, "precision": "binary"}, ConfigError, "no multiple of 8"),
    ],
)
def test_mistakes(
    name: str, options: dict[str, object], error: type[Exception], words: str, table: Path, model_directory: Path
) -> None:
    with pytest.raises(error, match=words):
        run(table, model_directory, name, **options)
    assert not (table.parent / name).exists()


def test_files_without_text(tmp_path: Path, model_directory: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        embed_files(
            [tmp_path / "blank.txt"], tmp_path / "o.npy", model=model_directory, options=EmbedOptions(), engine=HERE
        )
