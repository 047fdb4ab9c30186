"""Chunks: no longer than asked, nothing lost, borders where texts have them, overlap, positions."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.apps.chunking import chunks, sentences
from f2llm.apps.reading import Block
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def test_sentences_of_several_scripts() -> None:
    text = "One. Two 3.5 (x)! 你好。再见！ क ख। end"
    assert [part for _, part in sentences(text)] == ["One.", "Two 3.5 (x)!", "你好。", "再见！", "क ख।", "end"]
    assert all(text[offset:].startswith(part) for offset, part in sentences(text))


def test_a_chunk_ends_with_a_sentence_and_the_next_repeats_the_last_ones() -> None:
    found = list(chunks([Block("a b. c d. e f. g h.", 1)], words, size=9, overlap=3))
    assert [chunk.text for chunk in found] == ["a b. c d. e f.", "e f. g h."]
    assert [chunk.text for chunk in chunks([Block("a b. c d. e f. g h.", 1)], words, size=9, overlap=0)] == [
        "a b. c d. e f.",
        "g h.",
    ]


def test_a_chunk_prefers_to_end_with_a_paragraph() -> None:
    blocks = [Block("a b. c d.", 1), Block("e f.", 3), Block("g h. i j.", 5)]
    found = list(chunks(blocks, words, size=12, overlap=0))
    assert [chunk.text for chunk in found] == ["a b. c d.\n\ne f.", "g h. i j."]
    assert [chunk.position for chunk in found] == [1, 5]


def test_records_stay_apart_and_positions_are_lines() -> None:
    rows = [Block("a b.", 7, record=0), Block("c d.", 9, record=1)]
    assert [(chunk.text, chunk.position) for chunk in chunks(rows, words, 50, 5)] == [("a b.", 7), ("c d.", 9)]
    text = [Block("a b.\nc d.\ne f.", 10, lined=True)]
    assert [chunk.position for chunk in chunks(text, words, 4, 0)] == [10, 11, 12]
    page = [Block("a b.\nc d.", 2)]
    assert {chunk.position for chunk in chunks(page, words, 4, 0)} == {2}


def test_a_long_line_is_cut_at_spaces_and_a_word_anywhere() -> None:
    found = [chunk.text for chunk in chunks([Block("ab " * 40, 1)], words, 8, 0)]
    assert " ".join(found).split() == ["ab"] * 40
    assert max(len(text.split()) for text in found) <= 8
    letters = [chunk.text for chunk in chunks([Block("x" * 1000, 1)], lambda texts: [len(t) for t in texts], 64, 0)]
    assert "".join(letters) == "x" * 1000
    assert max(map(len, letters)) <= 64


TEXTS = st.lists(st.sampled_from([*CORPUS, "one two.", "长" * 12, "x" * 90]), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.integers(8, 40), st.integers(0, 4))
def test_chunks_fit_the_model_and_lose_nothing(texts: list[str], size: int, overlap: int) -> None:
    blocks = [Block(text, 1) for text in texts]
    found = [chunk.text for chunk in chunks(blocks, count, size, overlap)]
    assert max(count(found)) <= size
    apart = [chunk.text for chunk in chunks(blocks, count, size, 0)]
    assert bare(*apart) == bare(*texts)
    assert bare(*texts).startswith(bare(found[0]))
    assert bare(*texts).endswith(bare(found[-1]))


def bare(*texts: str) -> str:
    return "".join("".join(text.split()) for text in texts)


_TOKENIZER = Tokenizer.train(CORPUS * 3, 400, 1 << 20)


def count(texts: Sequence[str]) -> list[int]:
    return [len(ids) - 1 for ids in _TOKENIZER.encode(texts)]
