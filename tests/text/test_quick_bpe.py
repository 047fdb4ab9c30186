"""tiktoken gives the ids of `tokenizers`, for Qwen3's vocabulary and for no other."""

from __future__ import annotations

import gzip
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer

from f2llm.text import quick_bpe as module
from f2llm.text.quick_bpe import QuickBpe, quick_bpe
from f2llm.text.tokenizer import Tokenizer

pytestmark = pytest.mark.data
MIXED = "abcdefXYZ 0123456789 '\n\r\t .,!?_-äöüßçñ\u0301\u0308 жщ हिन्दी ไทย 漢字かなカナ한글 \u200d👩🏽🚀\u00a0\u3000ſK"


@pytest.fixture(scope="module")
def rust(shared_data: Path) -> Any:
    backend = RustTokenizer.from_file(str(shared_data / "qwen3-tokenizer" / "tokenizer.json"))
    backend.encode_special_tokens = True
    return backend


@pytest.fixture(scope="module")
def quick(rust: Any) -> QuickBpe:
    found = quick_bpe(rust)
    assert found is not None
    return found


def ids_of(quick: QuickBpe, texts: list[str]) -> list[list[int] | None]:
    return [None if ids is None else np.frombuffer(ids, np.uint32).tolist() for ids in quick.encode(texts)]


def expected(rust: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in rust.encode_batch_fast(texts, add_special_tokens=False)]


def test_real_lines_in_all_languages(rust: Any, quick: QuickBpe, shared_data: Path) -> None:
    files = sorted((shared_data / "ntrex-128").rglob("*.txt.gz"))
    files += sorted((shared_data / "oldi-seed" / "seed").glob("*.gz"))
    texts = [line for path in files for line in gzip.decompress(path.read_bytes()).decode().splitlines()[:30]]
    assert len(texts) > 4000
    assert ids_of(quick, texts) == expected(rust, texts)


def test_code_keeps_its_white_space(rust: Any, quick: QuickBpe) -> None:
    texts = [path.read_text() for path in sorted(Path(module.__file__).parents[1].rglob("*.py"))[:80]]
    texts += ["\t\tif x:\r\n\r\n        y  \n\n\n", " \n \n", "a\u2028b\u2029c\x85d\x0be\x0cf", ""]
    assert ids_of(quick, texts) == expected(rust, texts)


def test_every_character(rust: Any, quick: QuickBpe) -> None:
    """Alone, within a word, after a space and an apostrophe: the two regular expression engines agree on each."""
    characters = map(chr, range(sys.maxunicode + 1))
    assigned = [char for char in characters if unicodedata.category(char) not in ("Cn", "Cs", "Co")]
    parts = (assigned[start : start + 40] for start in range(0, len(assigned), 40))
    texts = ["".join(f"{char}a{char} {char}1 '{char}s\n" for char in part) for part in parts]
    ours, theirs = ids_of(quick, texts), expected(rust, texts)
    assert [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b] == []


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(MIXED, max_size=80), st.text(st.characters(exclude_categories=("Cs",)), max_size=60)))
def test_random_texts(rust: Any, quick: QuickBpe, text: str) -> None:
    assert ids_of(quick, [text]) == expected(rust, [text])


def test_special_tokens_are_text(rust: Any, quick: QuickBpe) -> None:
    texts = ["<|im_end|> <|endoftext|>", "<|im_start|>user"]
    assert ids_of(quick, texts) == expected(rust, texts)


def test_what_it_does_not_read_is_left_to_the_other(rust: Any, quick: QuickBpe, shared_data: Path) -> None:
    tokenizer = Tokenizer.load(shared_data / "qwen3-tokenizer", 64)
    texts = [f"text {number} \ud800 <think>" for number in range(1200)]
    assert ids_of(quick, ["\ud800", "<think>a</think>", "b"]) == [None, None, expected(rust, ["b"])[0]]
    assert tokenizer.encode(texts)[5] == tokenizer.encode(["text 5 \ufffd <think>"])[0]
    with pytest.raises(TypeError, match=r"texts\[1200\] is int"):
        tokenizer.encode([*texts, 7])  # type: ignore[list-item]


def test_a_very_long_run_of_one_character(rust: Any, quick: QuickBpe) -> None:
    for text in (" " * 300_000 + "a", "a" * 30_000, "\n" * 100_000):
        assert ids_of(quick, [text])[0] in (None, expected(rust, [text])[0])


def test_other_vocabularies_have_none(small_tokenizer: Tokenizer, rust: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick_bpe(small_tokenizer._backend) is None
    monkeypatch.setattr(module, "QWEN3_MERGES", "another")
    assert quick_bpe(rust) is None


def test_the_tokenizer_gives_the_same_either_way(shared_data: Path) -> None:
    slow = Tokenizer.load(shared_data / "qwen3-tokenizer", 12)
    quick = slow.limited_to(12)
    texts = [f"{'long ' * (number % 15)}text {number} <think> \ud800"[: 5 + number % 90] for number in range(1500)]
    expected_ids = [slow.encode([text])[0] for text in texts]
    ids, lengths, cut = quick.encode_arrays(texts)
    assert quick._quick is not None
    assert slow._quick is None
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths))[:-1]] == expected_ids
    assert quick.encode_counted(texts) == (expected_ids, int(cut.sum()))
    assert 0 < cut.sum() < len(texts)
