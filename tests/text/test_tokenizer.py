import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from f2llm.core.errors import ConfigError, ModelError
from f2llm.text.tokenizer import EOS_TOKEN, PAD_TOKEN, Tokenizer, mend
from tests.conftest import CORPUS

LIMIT = 64
LITERAL = f"a {EOS_TOKEN} b {PAD_TOKEN}"
ODD = ["", " ", "\x00", "\r\n\t", "x" * 3000, LITERAL, "e\u0301 \u00e9", "🏳️‍🌈 👩‍👩‍👧", "\ufeff\u200b", "\U0010ffff"]


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(codec=None, exclude_categories=()), max_size=200))
def test_every_text_ends_in_exactly_one_eos(small_tokenizer: Tokenizer, text: str) -> None:
    ids = small_tokenizer.encode([text])[0]
    assert 1 <= len(ids) <= LIMIT
    assert ids[-1] == small_tokenizer.eos_id
    assert ids.count(small_tokenizer.eos_id) == 1
    assert small_tokenizer.pad_id not in ids


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_survive_the_round_trip(small_tokenizer: Tokenizer, text: str) -> None:
    wide = small_tokenizer.limited_to(10_000)
    assert wide.decode(wide.encode([text])[0]) == text.replace("e\u0301", "\u00e9")


def test_truncation_restores_eos_and_is_counted(small_tokenizer: Tokenizer) -> None:
    exact, over = "a" * (LIMIT - 1), "b" * 5000
    texts = ["z", exact, over]
    ids, truncated = small_tokenizer.encode_counted(texts)
    assert [len(sequence) <= LIMIT for sequence in ids] == [True] * 3
    assert truncated == sum(
        len(sequence) > LIMIT for sequence in small_tokenizer.limited_to(9999).encode(["z", exact, over])
    )
    assert all(sequence[-1] == small_tokenizer.eos_id for sequence in ids)


def test_lone_surrogates_become_replacement_characters(small_tokenizer: Tokenizer) -> None:
    assert mend("a\ud800b") == "a\ufffdb"
    assert mend("\ud83d\ude00") == "\U0001f600"
    assert small_tokenizer.encode(["a\ud800b"]) == small_tokenizer.encode(["a\ufffdb"])


def test_literal_special_tokens_are_plain_text(small_tokenizer: Tokenizer) -> None:
    ids = small_tokenizer.encode([LITERAL])[0]
    assert len(ids) > 10
    assert small_tokenizer.decode(ids) == LITERAL


def test_a_value_that_is_no_text_is_named(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] is NoneType"):
        small_tokenizer.encode(["a", None])  # type: ignore[list-item]


def test_no_texts(small_tokenizer: Tokenizer) -> None:
    assert small_tokenizer.encode_counted([]) == ([], 0)


def test_training_does_not_depend_on_the_run_or_the_order_of_texts(small_tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(reversed(CORPUS * 3), 400, LIMIT).digest() == small_tokenizer.digest()
    assert Tokenizer.train(CORPUS[:3], 400, LIMIT).digest() != small_tokenizer.digest()
    assert small_tokenizer.limited_to(10).digest() != small_tokenizer.digest()


def test_training_keeps_to_the_size_and_puts_special_tokens_last(small_tokenizer: Tokenizer) -> None:
    assert small_tokenizer.vocab_size == 400
    assert (small_tokenizer.pad_id, small_tokenizer.eos_id) == (398, 399)
    with pytest.raises(ConfigError, match="vocab_size is 100"):
        Tokenizer.train(CORPUS, 100, LIMIT)
    with pytest.raises(ConfigError, match="max_seq_length is 1"):
        Tokenizer.train(CORPUS, 400, 1)


def test_saved_files_give_the_same_ids_everywhere(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    small_tokenizer.save(tmp_path)
    texts = [*CORPUS, *ODD, "long text " * 100]
    expected = small_tokenizer.encode(texts)
    again = Tokenizer.load(tmp_path, LIMIT)
    assert again.digest() == small_tokenizer.digest()
    assert again.encode(texts) == expected
    transformers = AutoTokenizer.from_pretrained(tmp_path)
    assert transformers(texts, truncation=True)["input_ids"] == expected
    assert (transformers.eos_token, transformers.pad_token) == (EOS_TOKEN, PAD_TOKEN)
    rust = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rust.enable_truncation(LIMIT)
    rust.encode_special_tokens = True
    assert [encoding.ids for encoding in rust.encode_batch(texts)] == expected


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Tokenizer.load(tmp_path, LIMIT)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="can be read"):
        Tokenizer.load(tmp_path, LIMIT)


def test_a_foreign_vocabulary_is_refused(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    small_tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"], content["post_processor"] = [], None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"no token '<\|im_end\|>'"):
        Tokenizer.load(tmp_path, LIMIT)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=200), max_size=6))
def test_arrays_hold_the_same_ids(small_tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, lengths, cut = small_tokenizer.encode_arrays(texts)
    expected, truncated = small_tokenizer.encode_counted(texts)
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths))[:-1]] == expected
    assert cut.sum() == truncated
