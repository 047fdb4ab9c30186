"""The encoding benchmarks: figures that fit together, vectors compared, and each program in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from f2llm.bench import encoding, sides, training
from f2llm.bench.encoding import make_queries, make_texts
from f2llm.bench.sides import PEER_DEFAULT, Side
from f2llm.cli import app
from f2llm.core.errors import ModelError
from f2llm.data.cldr import load_cells
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.sizes import Shape
from tests.conftest import CORPUS

RATE = 1e9


class FakeSide:
    """Stands for a process: f2llm takes 2 s and 10 ms, the peer 6 s (3 s at batch 8) and 40 ms, every tenth 400 ms.

    With weights of 8 bits f2llm takes half as long, and its vectors are turned by 0.1.
    """

    turned = 0.0  # what a peer's vectors are off by

    def __init__(self, program: str, directory: Path, threads: int, *, tuned: bool, **options: str) -> None:
        self.ours, self.small = program == "f2llm", options.get("weights") == "int8"

    def __enter__(self) -> FakeSide:
        return self

    def __exit__(self, *_: object) -> None: ...

    def vectors(self, texts: Sequence[str], queries: Sequence[str] = ()) -> np.ndarray:
        angle = 0.1 if self.small else 0.0 if self.ours else self.turned
        return np.tile([np.cos(angle), np.sin(angle)], (len(texts) + len(queries), 1))

    def document_seconds(self, texts: Sequence[str], batch_size: int = PEER_DEFAULT) -> float:
        return 1.0 if self.small else 2.0 if self.ours else 3.0 if batch_size == 8 else 6.0

    def best_batch(self, texts: Sequence[str]) -> int:
        return 8

    def query_seconds(self, queries: Sequence[str]) -> list[float]:
        return [0.01 if self.ours else 0.4 if n % 10 == 9 else 0.04 for n in range(len(queries))]

    def matrix_rate(self) -> float:
        return RATE

    def memory_mb(self) -> float:
        return 500.0 if self.ours else 1000.0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A family of one small size, no real files in sight, no processes."""
    monkeypatch.setattr(training, "FAMILY", {"small": Shape(16, 2, 24, 4, 2, 8, encoding.VOCABULARY)})
    monkeypatch.setattr(encoding, "Side", FakeSide)
    monkeypatch.setattr(encoding, "openvino_peer", lambda: False)
    monkeypatch.delenv("F2LLM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["bench", *arguments, "--shape", "small", "--runs", "2", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_documents(small: None) -> None:
    found = run("encode", "--texts", "8")
    assert found["documents_ratio"] == {"default": 3.0, "equal": 1.5}
    dense = 2 * (16 * 8 * 2 * (4 + 2) + 3 * 16 * 24 + 2 * 16 + 2 * 8) + 16
    share = 2 * dense * found["tokens"] / RATE / 2.0
    assert found["gemm_share"] == {"default": pytest.approx(share, abs=1e-3), "equal": pytest.approx(share, abs=1e-3)}
    assert found["tokens_per_s"]["f2llm"] == pytest.approx(found["tokens"] / 2, rel=0.01)
    assert found["documents_ratio_int8"] == {"default": 6.0, "equal": 3.0}
    assert found["gemm_share_by_weights"]["int8"] == pytest.approx(2 * share, abs=2e-3)
    assert found["min_cosine"]["int8"] == pytest.approx(np.cos(0.1), abs=1e-6)
    own = dict.fromkeys(("f2llm", "float16", "int8"), 500.0)
    assert found["memory_mb"] == own | {"default": 1000.0, "equal": 1000.0}
    assert found["equal_batch_size"] == 8
    assert found["sentence_transformers_openvino_int8"].startswith("not installed")


def test_queries(small: None) -> None:
    found = run("query", "--queries", "20")
    assert found["query_p50_ratio"] == {"default": 4.0, "equal": 4.0}
    assert found["query_p99_ratio"]["default"] == pytest.approx(40.0)
    assert found["query_p50_ratio_float16"] == {"default": 4.0, "equal": 4.0}
    assert found["p50_ms"] == {"f2llm": 10.0, "float16": 10.0, "int8": 10.0, "default": 40.0, "equal": 40.0}
    assert {"memory_mb", "min_cosine", "threads", "hardware"} <= found.keys()


def test_other_vectors_are_not_compared(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSide, "turned", 0.01)
    result = CliRunner().invoke(app, ["bench", "query", "--shape", "small", "--queries", "2", "--json"])
    assert isinstance(result.exception, ModelError)
    assert "differ (cosine 0.99995" in str(result.exception)


def test_texts_have_the_stated_lengths(model_directory: Path) -> None:
    tokenizer, names = (
        checkpoint.read_settings(model_directory).tokenizer.limited_to(512),
        [c.name for c in load_cells()],
    )
    lengths = [len(ids) for ids in tokenizer.encode(make_texts(names, tokenizer, 200))]
    assert 40 < np.median(lengths) < 90
    assert max(lengths) < 500
    assert make_texts(names, tokenizer, 3) == make_texts(names, tokenizer, 3)
    queries = [len(ids) for ids in tokenizer.encode(make_queries(names, tokenizer, 50))]
    assert 6 < np.median(queries) < 16


def test_a_side_is_a_process_with_the_vectors_of_the_model(model_directory: Path) -> None:
    embedder = Embedder.load(model_directory)
    with Side("f2llm", model_directory, 1, tuned=False) as side:
        found = side.vectors(CORPUS[:3], CORPUS[3:4])
        expected = np.concatenate([embedder.encode_document(CORPUS[:3]), embedder.encode_query(CORPUS[3:4])])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert len(side.query_seconds(CORPUS)) == len(CORPUS)
        assert side.document_seconds(CORPUS) > 0
        assert side.memory_mb() is None or side.memory_mb() > 50  # type: ignore[operator]


def test_a_side_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"f2llm: .*config\.json"):
        Side("f2llm", tmp_path, 1, tuned=False)


@pytest.mark.slow
def test_the_peer_in_its_process_has_the_same_vectors(model_directory: Path) -> None:
    with Side("sentence-transformers", model_directory, 1, tuned=True) as peer:
        expected = Embedder.load(model_directory).encode_document(CORPUS)
        np.testing.assert_allclose(peer.vectors(CORPUS), expected, atol=1e-5)
        assert peer.best_batch(CORPUS) in sides.PEER_BATCHES
