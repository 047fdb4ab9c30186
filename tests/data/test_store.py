"""The token store: each text once, instructions where the paper puts them, nothing lost unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from f2llm.core.errors import DataError
from f2llm.core.types import Example
from f2llm.data.store import StageSource, TokenStore, build_store, union_ids
from f2llm.text.tokenizer import Tokenizer

INSTRUCTION = "Find it."
PROMPT = f"Instruct: {INSTRUCTION}\nQuery: "


def example(number: int, negatives: int = 2) -> Example:
    return Example(
        id=str(number), query=f"query {number}", positive=f"document {number % 7}", task_type="retrieval",
        negatives=tuple(f"document {(number + i) % 7}" for i in range(1, negatives + 1)), source="s",
        query_lang="eng_Latn", doc_lang="eng_Latn",
    )  # fmt: skip


def build(
    path: Path, tokenizer: Tokenizer, source: StageSource, rows: list[Example], share: float = 0.3
) -> tuple[TokenStore, dict[str, int]]:
    counts = build_store(path, [(source, rows)], tokenizer, negatives=3, instruction_share=share, seed=5)
    return TokenStore(path), counts


def texts(store: TokenStore, tokenizer: Tokenizer, row: int) -> list[str]:
    """What a row says, read back through the ids."""
    ids = [store.text(int(index)).tolist() for index in store.rows["s"][row] if index >= 0]
    assert all(part.count(tokenizer.eos_id) == 1 and part[-1] == tokenizer.eos_id for part in ids)
    return [tokenizer.decode(part[:-1]) for part in ids]


def test_each_distinct_text_is_kept_once(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    source = StageSource("s", "retrieval", None, False)
    store, counts = build(tmp_path, small_tokenizer, source, [example(number) for number in range(50)])
    assert counts["texts"] == len(store) == 50 + 7
    assert counts["rows"] == 50
    assert counts["tokens"] == len(store.tokens) == store.lengths(np.arange(len(store))).sum()
    assert texts(store, small_tokenizer, 9) == ["query 9", "document 2", "document 3", "document 4"]
    assert store.rows["s"][:, -1].tolist() == [-1] * 50, "a row without a third negative says so"


def test_queries_carry_the_instruction_and_documents_do_not(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    source = StageSource("s", "retrieval", INSTRUCTION, False)
    store, _ = build(tmp_path, small_tokenizer, source, [example(0)])
    assert texts(store, small_tokenizer, 0) == [f"{PROMPT}query 0", "document 0", "document 1", "document 2"]


def test_a_share_of_the_documents_of_symmetric_sources_carries_it_too(
    tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    source = StageSource("s", "clustering", INSTRUCTION, True)
    rows = [example(number) for number in range(300)]
    store, _ = build(tmp_path / "a", small_tokenizer, source, rows)
    with_it = [text.startswith(PROMPT) for row in range(300) for text in texts(store, small_tokenizer, row)[1:]]
    assert 0.25 < np.mean(with_it) < 0.35
    again, _ = build(tmp_path / "b", small_tokenizer, source, rows[:100] + rows[200:])
    assert texts(again, small_tokenizer, 150) == texts(store, small_tokenizer, 250), "other rows change nothing"


def test_cut_texts_are_counted(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    long = Example("1", "word " * 500, "b", (), "retrieval", "s", "eng_Latn", "eng_Latn")
    store, counts = build(tmp_path, small_tokenizer, StageSource("s", "retrieval", None, False), [long])
    assert counts["truncated"] == 1
    assert len(store.text(0)) == small_tokenizer.max_seq_length


def test_a_short_file_is_told(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    build(tmp_path, small_tokenizer, StageSource("s", "retrieval", None, False), [example(0)])
    path = tmp_path / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="build again"):
        TokenStore(tmp_path)


def test_union_is_sorted_distinct_and_present() -> None:
    assert union_ids([np.array([[3, -1], [1, 3]]), np.array([2])]).tolist() == [1, 2, 3]
