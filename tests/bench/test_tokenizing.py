"""The benchmark of the tokenizer compares equal work, and its figures fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from f2llm.bench import tokenizing
from f2llm.bench.tokenizing import bench_tokenize
from f2llm.bench.workload import NEGATIVES, SOURCES
from f2llm.core.errors import ModelError
from f2llm.core.types import Example
from f2llm.data.store import StageSource
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No real files in sight, and few names."""

    def few(*_: Any) -> list[Example]:
        return [
            Example(str(i), f"name {i}", f"nom {i % 20} {CORPUS[i % 5]}", (), "retrieval", "s", "eng_Latn", "fra_Latn")
            for i in range(60)
        ]

    monkeypatch.setattr(tokenizing, "convert", few)
    monkeypatch.setattr(tokenizing, "_VOCABULARY", 400)
    monkeypatch.delenv("F2LLM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_figures_fit_together(names: None) -> None:
    found = bench_tokenize(None, texts=80, runs=2)
    assert found["workload"] == "cldr"
    assert 40 < found["texts"] <= 60
    assert found["equal_ids"] is True
    assert 40 * 2 < found["mentions"] <= 40 * (2 + NEGATIVES)
    for prefix in ("", "peer_", "library_"):
        seconds = found[f"{prefix}seconds"]
        assert found[f"{prefix}texts_per_second"] == pytest.approx(found["texts"] / seconds, rel=0.1)
        assert found[f"{prefix}tokens_per_second"] == pytest.approx(found["tokens"] / seconds, rel=0.1)
        assert found[f"{prefix}mb_per_second"] == pytest.approx(found["megabytes"] / seconds, rel=0.1)
    assert found["ratio"] == pytest.approx(found["peer_seconds"] / found["seconds"], rel=0.1)
    assert found["share"] == pytest.approx(found["library_seconds"] / found["seconds"], rel=0.1)
    assert found["store_ratio"] == pytest.approx(found["peer_seconds"] / found["store_seconds"], rel=0.1)


def test_other_ids_are_an_error(names: None, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Tokenizer.encode_arrays

    def wrong(tokenizer: Tokenizer, texts: list[str]) -> Any:
        ids, lengths, cut = encode(tokenizer, texts)
        ids[-2] ^= 1
        return ids, lengths, cut

    monkeypatch.setattr(Tokenizer, "encode_arrays", wrong)
    with pytest.raises(ModelError, match="other ids than f2llm for the text that begins 'nom"):
        bench_tokenize(None, texts=80, runs=1)


def test_texts_are_those_of_the_published_script() -> None:
    rows = [Example("1", "q", "a", ("b", "a2"), "retrieval", "s", "x", "x"), Example("2", "q", "b", ("a",), "retrieval", "s", "x", "x")]  # fmt: skip  # noqa: E501
    texts = tokenizing._script_texts([(StageSource("s", "retrieval", "Find it.", False), rows)])
    assert texts == ["Instruct: Find it.\nQuery: q"] * 2 + ["a", "b", "a2"]


@pytest.mark.data
def test_real_texts_come_from_every_source(shared_data: Path) -> None:
    work = tokenizing._make_work(shared_data, 60)
    assert [source.id for source, _ in work.rows] == [source.id for source in SOURCES]
    assert all(len(rows) == 10 for _, rows in work.rows)
    assert all(row.positive not in row.negatives for _, rows in work.rows for row in rows)
    assert 30 < len(work.texts) <= 60
    ids, lengths, _ = work.tokenizer.encode_arrays(work.texts)
    assert np.count_nonzero(ids == work.tokenizer.eos_id) == len(lengths)
