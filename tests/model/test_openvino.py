"""The OpenVINO engine gives PyTorch's vectors: with and without a prefix, in any company, from any thread, cached."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from f2llm.core.errors import ConfigError, MissingDependencyError
from f2llm.model import checkpoint, vectors
from f2llm.model.engines import openvino as engine_module
from f2llm.model.engines.base import Ids
from f2llm.model.engines.openvino import OpenVinoEngine, batches, cache_directory
from f2llm.model.graph import quantized
from f2llm.model.graph_openvino import load_openvino
from f2llm.model.pack import embed, make_pack
from tests.conftest import SMALL, random_decoder

try:
    load_openvino()
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

LENGTHS = (5, 9, 1, 33, 30, 8, 2, 8)


@pytest.fixture(scope="module")
def texts() -> list[Ids]:
    drawn = np.random.default_rng(0)
    return [drawn.integers(0, SMALL.vocab_size, length) for length in LENGTHS]


@pytest.fixture(scope="module")
def prefix() -> Ids:
    return np.random.default_rng(1).integers(0, SMALL.vocab_size, 7)


@pytest.fixture(scope="module")
def engine() -> OpenVinoEngine:
    return OpenVinoEngine.from_decoder(random_decoder(SMALL), threads=1)


def by_torch(texts: Sequence[Ids], prefix: Ids | None = None) -> vectors.Vectors:
    whole = texts if prefix is None else [np.concatenate([prefix, text]) for text in texts]
    with torch.inference_mode():
        return embed(random_decoder(SMALL), make_pack(whole)).numpy()


def worst(a: vectors.Vectors, b: vectors.Vectors) -> float:
    return float(vectors.cosine(a, b).diagonal().min())


def test_states_are_those_of_torch(engine: OpenVinoEngine, texts: list[Ids]) -> None:
    assert (engine.name, engine.width, engine.device) == ("openvino", SMALL.hidden, "cpu")
    np.testing.assert_allclose(engine.embed(texts), by_torch(texts), atol=2e-5)


def test_a_prefix_is_read_before_each_text_and_kept(
    engine: OpenVinoEngine, texts: list[Ids], prefix: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_torch(texts, prefix)
    np.testing.assert_allclose(engine.embed(texts, prefix), expected, atol=2e-5)
    monkeypatch.setattr(engine_module, "_PREFIXES", 1)
    calls: list[int] = []
    infer = engine._infer
    monkeypatch.setattr(engine, "_infer", lambda *given, **more: calls.append(len(given[0])) or infer(*given, **more))
    np.testing.assert_allclose(engine.embed(texts[:1], prefix), expected[:1], atol=2e-5)
    assert calls == [1]  # the text; the prefix's keys and values were there
    engine.embed(texts[:1], prefix[:3])  # takes the place of the other
    np.testing.assert_allclose(engine.embed(texts[:1], prefix), expected[:1], atol=2e-5)
    assert len(calls) == 5
    np.testing.assert_allclose(engine.embed(texts, prefix[:0]), by_torch(texts), atol=2e-5)


def test_a_text_does_not_depend_on_its_company(engine: OpenVinoEngine, texts: list[Ids], prefix: Ids) -> None:
    together = engine.embed(texts, prefix)
    alone = np.concatenate([engine.embed([text], prefix) for text in texts])
    assert worst(together, alone) > 0.999999
    assert worst(engine.embed(texts[::-1], prefix)[::-1], together) > 0.999999


def test_many_threads(engine: OpenVinoEngine, texts: list[Ids]) -> None:
    expected = by_torch(texts)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.embed, [[text] for text in texts] * 3))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate([expected] * 3), atol=2e-5)


def test_int8_is_near(texts: list[Ids], prefix: Ids) -> None:
    engine = OpenVinoEngine.from_decoder(random_decoder(SMALL), precision="int8", threads=1)
    assert 0.99 < worst(engine.embed(texts, prefix), by_torch(texts, prefix)) < 0.999999


def test_quantized_keeps_to_half_a_step() -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    matrix[2] = 0
    numbers, scale = quantized(matrix)
    assert numbers.dtype == np.int8
    assert np.abs(numbers[[0, 1, 3, 4, 5]]).max(axis=1).tolist() == [127] * 5
    assert (np.abs(numbers * scale - matrix) <= scale / 2 * 1.001).all()


def test_the_compiler_knows_the_form_of_the_graph(engine: OpenVinoEngine) -> None:
    """One kernel for each norm and rotation; nothing left of softmax, which a fused kernel holds."""
    made = [str(node.get_rt_info()["layerType"].astype(str)) for node in engine._compiled.get_runtime_model().get_ops()]
    layers = SMALL.layers
    assert (made.count("RMS"), made.count("RoPE")) == (4 * layers + 1, 2 * layers)
    assert made.count("FullyConnected") == 7 * layers
    assert "Softmax" not in made


def test_the_reporter_of_the_package_is_not_imported() -> None:
    assert "openvino_telemetry" not in sys.modules


def test_batches_hold_every_text_once_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 300).tolist()
    made = list(batches(lengths))
    assert sorted(row for rows in made for row in rows) == list(range(300))
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in made)
    assert padded < 1.08 * sum(lengths)
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 1024 for rows in made)
    longest = [max(lengths[row] for row in rows) for rows in made]
    assert all(a >= b for a, b in pairwise(longest))
    assert list(batches([5000, 3])) == [[0], [1]]
    assert list(batches([])) == []


def test_a_directory_is_compiled_once(model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("F2LLM_CACHE", str(tmp_path / "kept"))
    assert cache_directory() == tmp_path / "kept"
    texts = [np.array([7, 8, 9]), np.array([1])]
    first = OpenVinoEngine.load(model_directory, threads=1).embed(texts)
    [blob] = cache_directory().iterdir()
    monkeypatch.setattr(engine_module, "engine_graph", None)  # would fail if it were built again
    again = OpenVinoEngine.load(model_directory, threads=1).embed(texts)
    np.testing.assert_array_equal(first, again)
    assert stat.S_IMODE(blob.stat().st_mode) & 0o444
    monkeypatch.undo()
    blob.write_bytes(b"damaged")
    np.testing.assert_array_equal(
        OpenVinoEngine.load(model_directory, threads=1, cache=blob.parent).embed(texts), first
    )
    assert blob.stat().st_size > 1000
    decoder = checkpoint.load(model_directory)
    with torch.inference_mode():
        np.testing.assert_allclose(first, embed(decoder, make_pack(texts)).numpy(), atol=2e-5)


def test_a_cache_that_cannot_be_written_is_done_without(model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    engine = OpenVinoEngine.load(model_directory, threads=1, cache=tmp_path / "file" / "kept")
    assert engine.embed([np.array([3])]).shape == (1, SMALL.hidden)
    assert os.listdir(tmp_path) == ["file"]


def test_an_unknown_precision(model_directory: Path) -> None:
    with pytest.raises(ConfigError, match="float32 and int8"):
        OpenVinoEngine.load(model_directory, precision="int4")  # type: ignore[arg-type]
