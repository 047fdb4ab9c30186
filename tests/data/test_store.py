"""The token store: each text once, instructions where the paper puts them, nothing lost unseen."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
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


def test_languages_of_the_rows_are_kept(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    source = StageSource("s", "retrieval", None, False)
    other = dataclasses.replace(example(1), query_lang="swh_Latn", doc_lang="eng_Latn")
    code = dataclasses.replace(example(2), query_lang="eng_Latn", doc_lang="python")
    store, _ = build(tmp_path, small_tokenizer, source, [example(0), other, code, example(3)])
    assert store.language_names == ["eng_Latn", "swh_Latn", "python"]
    assert store.languages("s").dtype == np.uint16
    assert store.languages("s").tolist() == [[0, 0], [1, 0], [0, 2], [0, 0]]
    assert store.language_shares("s") == {"eng_Latn": 0.75, "swh_Latn": 0.25}


def test_a_source_without_rows_has_no_languages(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    sources = [(StageSource(name, "retrieval", None, False), rows) for name, rows in (("a", []), ("b", [example(0)]))]
    build_store(tmp_path, sources, small_tokenizer, negatives=2, instruction_share=0.0, seed=0)
    store = TokenStore(tmp_path)
    assert (len(store.rows["a"]), store.language_shares("a"), len(store.languages("a"))) == (0, {}, 0)


def test_the_digest_knows_the_data(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    source = StageSource("s", "retrieval", None, False)
    rows = [example(number) for number in range(9)]
    translated = dataclasses.replace(rows[0], doc_lang="swh_Latn")
    variants = [rows, rows, rows[::-1], rows[1:], [translated, *rows[1:]]]
    digests = [
        build(tmp_path / str(number), small_tokenizer, source, variant)[0].digest
        for number, variant in enumerate(variants)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


@pytest.mark.parametrize("key", ["digest", "languages", "language_shares", "texts"])
def test_an_older_store_is_told(tmp_path: Path, small_tokenizer: Tokenizer, key: str) -> None:
    build(tmp_path, small_tokenizer, StageSource("s", "retrieval", None, False), [example(0)])
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta[key]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="build again"):
        TokenStore(tmp_path)


def test_ten_million_documents_open_at_once() -> None:
    documents, rows = 10_000_000, 5_000_000
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fabricate(directory, documents, rows)
        before, started = resident_bytes(), time.perf_counter()
        store = TokenStore(directory)
        assert (len(store), len(store.rows["s"]), len(store.languages("s"))) == (documents, rows, rows)
        assert store.language_shares("s") == {"eng_Latn": 1.0}
        assert time.perf_counter() - started < 1
        assert resident_bytes() - before < 50e6


def fabricate(directory: Path, documents: int, rows: int) -> None:
    """A store of four-token documents as files with holes: only the offsets take room on the disk."""
    for folder in ("rows", "languages"):
        (directory / folder).mkdir()
    with open(directory / "tokens.bin", "wb") as handle:
        handle.truncate(16 * documents)
    np.save(directory / "offsets.npy", np.arange(0, 4 * documents + 1, 4))
    for folder, kind, width in (("rows", np.int32, 9), ("languages", np.uint16, 2)):
        np.lib.format.open_memmap(directory / folder / "s.npy", mode="w+", dtype=kind, shape=(rows, width))
    counts = {"texts": documents, "tokens": 4 * documents, "rows": rows}
    meta = {**counts, "sources": {"s": "retrieval"}, "digest": "0", "languages": ["eng_Latn"]}
    (directory / "meta.json").write_text(json.dumps({**meta, "language_shares": {"s": {"eng_Latn": 1.0}}}))


def resident_bytes() -> int:
    """What this process holds in memory, mapped pages included; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def test_union_is_sorted_distinct_and_present() -> None:
    assert union_ids([np.array([[3, -1], [1, 3]]), np.array([2])]).tolist() == [1, 2, 3]
