import gzip
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from f2llm.core.errors import ConfigError, ModelError
from f2llm.text import trim
from f2llm.text.tokenizer import EOS_TOKEN, PAD_TOKEN, Tokenizer
from f2llm.text.trim import after_space, count_tokens, covering, scripts_of, tokens_of_scripts, trim_tokenizer
from tests.conftest import CORPUS

LIMIT = 10_000
ENGLISH, RUSSIAN, CHINESE = CORPUS[0], CORPUS[2], CORPUS[4]
ANY_TEXT = st.text(st.one_of(st.sampled_from("".join(CORPUS)), st.characters()), max_size=80)


def assert_same_pieces(old: Tokenizer, new: Tokenizer, old_ids: NDArray[np.int64], texts: Sequence[str]) -> None:
    before, after = old.limited_to(LIMIT).encode(texts), new.limited_to(LIMIT).encode(texts)
    assert [old_ids[ids].tolist() for ids in after] == before


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer._backend.encode(text, add_special_tokens=False).tokens)


def handmade(merges: Sequence[tuple[str, str]], **changes: object) -> Tokenizer:
    """Bytes, these merges in this order, `<think>` as an ordinary added token, and the two special tokens."""
    content = json.loads(Tokenizer.train([], 258, LIMIT)._backend.to_str())
    vocab = content["model"]["vocab"]
    for piece in dict.fromkeys(a + b for a, b in merges):
        vocab[piece] = len(vocab)
    content["model"] |= {"merges": [list(pair) for pair in merges], **changes}
    content["added_tokens"] = [
        {**content["added_tokens"][0], "id": len(vocab) + number, "content": token, "special": token != "<think>"}
        for number, token in enumerate((PAD_TOKEN, "<think>", EOS_TOKEN))
    ]
    content["post_processor"] = None
    return Tokenizer(RustTokenizer.from_str(json.dumps(content)), LIMIT)


def ids_of(tokenizer: Tokenizer, *found: str) -> set[int]:
    return {tokenizer._backend.token_to_id(piece) for piece in found}


def test_whole_texts_are_counted_without_eos(small_tokenizer: Tokenizer) -> None:
    texts = [ENGLISH * 50, RUSSIAN, ""]
    counts = count_tokens(small_tokenizer, iter(texts))
    expected = [i for ids in small_tokenizer.limited_to(LIMIT).encode(texts) for i in ids[:-1]]
    assert counts.by_id.tolist() == np.bincount(expected, minlength=400).tolist()
    assert (counts.tokens, counts.characters) == (len(expected), sum(map(len, texts)))
    assert counts.per_character == len(expected) / sum(map(len, texts))


def test_counts_of_many_parts_sum_up(small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count_tokens(small_tokenizer, CORPUS)
    monkeypatch.setattr(trim, "_CHARACTERS_AT_ONCE", 60)
    assert (count_tokens(small_tokenizer, CORPUS).by_id == whole.by_id).all()


def test_no_text_has_no_tokens(small_tokenizer: Tokenizer) -> None:
    assert (count_tokens(small_tokenizer, []).per_character, covering(np.zeros(3, np.int64), 1.0)) == (0.0, set())


def test_covering_takes_the_fewest() -> None:
    counts = np.array([5, 0, 80, 1, 14])
    assert [covering(counts, share) for share in (0.01, 0.8, 0.81, 0.94, 0.95, 0.99, 1)] == [
        {2}, {2}, {2, 4}, {2, 4}, {2, 4, 0}, {2, 4, 0}, {2, 4, 0, 3}
    ]  # fmt: skip
    for wrong in (0, -0.1, 1.01, float("nan")):
        with pytest.raises(ConfigError, match=r"coverage is .* above 0 and at most 1"):
            covering(counts, wrong)


def test_first_words() -> None:
    assert list(after_space(["one two\nthree", "早上好，你", "  a b", "", " "])) == [
        " one", " 早上好，你", "   a", " ", "  "
    ]  # fmt: skip


def test_scripts_of_languages() -> None:
    assert scripts_of(["eng", "deu", "yor"]) == {"Latn"}
    assert scripts_of(["srp"]) == {"Cyrl", "Latn"} == scripts_of(["sr"])
    assert scripts_of(["srp_Latn", "zh-TW"]) == {"Latn", "Hant"}
    assert scripts_of(["python", "ada"]) == {"Latn"}
    assert scripts_of([]) == set()
    with pytest.raises(ConfigError, match="no language 'xyzzy'"):
        scripts_of(["eng", "xyzzy"])


def test_mixtures_of_scripts() -> None:
    japanese = trim._characters(["Jpan"])
    assert japanese >= set("日ひカ、1")
    assert not japanese & set("éж한")
    assert trim._characters(["Kore"]) >= set("한漢")


def test_an_unknown_script_is_named(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="no script 'Abcd'"):
        tokens_of_scripts(small_tokenizer, ["Latn", "Abcd"])


def test_possible_bytes_against_all_texts() -> None:
    characters = ["a", "é", "日", "😀"]
    texts = {"".join(text).encode() for size in (1, 2, 3, 4) for text in product(characters, repeat=size)}
    found = {text[i:j] for text in texts for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    occurrence = trim._Occurrence(set(characters))
    alphabet = {bytes([byte]) for text in texts for byte in text} | {b"b", b"\xff"}
    tried = [b"".join(parts) for size in (1, 2, 3, 4) for parts in product(sorted(alphabet), repeat=size)]
    wrong = [piece for piece in tried if occurrence.possible(piece) != (piece in found)]
    assert len(tried) > 10_000
    assert not wrong


def test_bytes_of_letters() -> None:
    byte_of = trim._byte_of()
    assert sorted(byte_of.values()) == list(range(256))
    backend = handmade([])._backend
    for text in ("az09~", "\x00\n \x7f\u00a0\u00ad", "éß日😀"):
        tokens = backend.encode(text, add_special_tokens=False).tokens
        assert bytes(byte_of[letter] for letter in "".join(tokens)).decode() == text


@pytest.mark.parametrize(("script", "sample"), [("Latn", ENGLISH), ("Cyrl", RUSSIAN), ("Hans", CHINESE)])
def test_every_text_of_a_script_keeps_its_pieces(small_tokenizer: Tokenizer, script: str, sample: str) -> None:
    new, old_ids = trim_tokenizer(small_tokenizer, tokens_of_scripts(small_tokenizer, [script]))
    assert 258 < new.vocab_size < 400
    characters = sorted(trim._characters([script]))

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.one_of(st.sampled_from(sample), st.sampled_from(characters)), max_size=80))
    def check(text: str) -> None:
        assert_same_pieces(small_tokenizer, new, old_ids, [text])

    check()
    assert_same_pieces(small_tokenizer, new, old_ids, [sample])
    assert len(pieces(new, CORPUS[3])) > len(pieces(small_tokenizer, CORPUS[3]))


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=3), kept=st.sets(st.sampled_from(CORPUS), max_size=3))
def test_texts_of_kept_tokens_keep_their_pieces(small_tokenizer: Tokenizer, texts: list[str], kept: set[str]) -> None:
    wanted = covering(count_tokens(small_tokenizer, kept).by_id, 1.0)
    new, old_ids = trim_tokenizer(small_tokenizer, wanted)
    assert wanted <= set(old_ids.tolist())
    inside = [text for text in texts if set(small_tokenizer.limited_to(LIMIT).encode([text])[0]) <= set(old_ids)]
    assert_same_pieces(small_tokenizer, new, old_ids, [*kept, *inside])
    wide, old = new.limited_to(LIMIT), small_tokenizer.limited_to(LIMIT)
    assert [wide.decode(ids) for ids in wide.encode(texts)] == [old.decode(ids) for ids in old.encode(texts)]
    assert all(ids.count(new.eos_id) == 1 and ids[-1] == new.eos_id for ids in new.encode(texts))


def test_everything_wanted_changes_nothing(small_tokenizer: Tokenizer) -> None:
    new, old_ids = trim_tokenizer(small_tokenizer, range(400))
    assert new.digest() == small_tokenizer.digest()
    assert old_ids.tolist() == list(range(400))


def test_nothing_wanted_leaves_bytes_and_added_tokens() -> None:
    old = handmade([("a", "b")])
    new, old_ids = trim_tokenizer(old, [])
    assert new.vocab_size == 259
    assert old_ids.tolist() == [*range(256), 257, 258, 259]
    assert (new.pad_id, new.eos_id, new.max_seq_length) == (256, 258, LIMIT)
    assert pieces(new, "ab<think>") == ["a", "b", "<think>"]
    assert_same_pieces(old, new, old_ids, ["a <think> b", f"{EOS_TOKEN}{PAD_TOKEN}"])


def test_kept_ids_close_up_in_order() -> None:
    merges = [("x", "y"), ("a", "b"), ("ab", "c"), ("q", "r"), ("abc", "d")]
    old = handmade(merges)
    new, old_ids = trim_tokenizer(old, ids_of(old, "abcd", "qr"))
    assert [old._backend.id_to_token(i) for i in old_ids[256:]] == [
        "ab", "abc", "qr", "abcd", PAD_TOKEN, "<think>", EOS_TOKEN
    ]  # fmt: skip
    assert pieces(new, "abcdqrxyab") == ["abcd", "qr", "x", "y", "ab"]


@settings(max_examples=200, deadline=None)
@given(text=st.text("abcd", max_size=12))
def test_a_token_with_several_merges(text: str) -> None:
    old = handmade([("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc"), ("c", "d"), ("ab", "cd"), ("abc", "d")])
    new, old_ids = trim_tokenizer(old, ids_of(old, "abc"))
    assert set(old_ids) == {*range(256), *ids_of(old, "abc", "ab", "bc", PAD_TOKEN, "<think>", EOS_TOKEN)}
    before = pieces(old, text)
    if not {"cd", "abcd"} & set(before):
        assert pieces(new, text) == before


def test_a_model_that_takes_whole_words_first() -> None:
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("x", "y")]
    old = handmade(merges, ignore_merges=True)
    assert (pieces(old, "abc"), pieces(handmade(merges), "abc")) == (["abc"], ["a", "bc"])
    new, old_ids = trim_tokenizer(old, ids_of(old, "abc"))
    assert_same_pieces(old, new, old_ids, ["abc", "ab\nabc\nabb"])


def test_an_added_token_that_is_also_in_the_vocabulary() -> None:
    content = json.loads(handmade([("a", "b"), ("x", "y")])._backend.to_str())
    content["added_tokens"].append({**content["added_tokens"][1], "id": 257, "content": "xy"})
    content["added_tokens"].sort(key=lambda token: token["id"])
    old = Tokenizer(RustTokenizer.from_str(json.dumps(content)), LIMIT)
    new, old_ids = trim_tokenizer(old, [])
    assert old_ids.tolist() == [*range(256), 257, 258, 259, 260]
    assert_same_pieces(old, new, old_ids, ["axyb", "xy<think>"])


def test_merges_written_as_strings(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    content = json.loads(small_tokenizer._backend.to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    old = Tokenizer.load(tmp_path, LIMIT)
    new, old_ids = trim_tokenizer(old, covering(count_tokens(old, [ENGLISH]).by_id, 1.0))
    assert_same_pieces(old, new, old_ids, [ENGLISH])


def test_saved_files_give_the_same_ids_everywhere(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    new, _ = trim_tokenizer(small_tokenizer, covering(count_tokens(small_tokenizer, CORPUS[:2]).by_id, 1.0))
    new.save(tmp_path)
    texts = [*CORPUS, "", f"a {EOS_TOKEN} b", "long text " * 100]
    expected = new.encode(texts)
    assert Tokenizer.load(tmp_path, 64).encode(texts) == expected
    assert AutoTokenizer.from_pretrained(tmp_path)(texts, truncation=True)["input_ids"] == expected
    rust = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rust.enable_truncation(64)
    rust.encode_special_tokens = True
    assert [encoding.ids for encoding in rust.encode_batch(texts)] == expected


def test_other_kinds_of_models_are_refused(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match=r"no byte-level BPE .*BPE.* can be trimmed"):
        trim_tokenizer(handmade([], end_of_word_suffix="</w>"), [])
    content = json.loads(small_tokenizer._backend.to_str())
    content["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    content["added_tokens"] = [{**token, "id": n} for n, token in enumerate(content["added_tokens"], 1)]
    content["post_processor"] = None
    words = Tokenizer(RustTokenizer.from_str(json.dumps(content)), LIMIT)
    with pytest.raises(ModelError, match="model type WordLevel"):
        trim_tokenizer(words, [])


@pytest.fixture(scope="module")
def qwen3(shared_data: Path) -> Tokenizer:
    return Tokenizer.load(shared_data / "qwen3-tokenizer", LIMIT)


def lines_of(shared_data: Path, code: str) -> list[str]:
    files = sorted((shared_data / "ntrex-128").glob(f"NTREX-128/*.{code}.txt.gz"))
    return [line for file in files for line in gzip.open(file, "rt", encoding="utf-8").read().split("\n") if line]


@pytest.mark.data
def test_qwen3_by_languages(qwen3: Tokenizer, shared_data: Path) -> None:
    scripts = scripts_of(["eng", "deu", "yor"])
    new, old_ids = trim_tokenizer(qwen3, tokens_of_scripts(qwen3, scripts))
    assert 100_000 < new.vocab_size < 108_000, "of 151,669"
    known = trim._characters(scripts)
    for code in ("eng", "deu", "yor"):
        lines = lines_of(shared_data, code)
        inside = [line for line in lines if known.issuperset(line)]
        assert len(inside) > 0.99 * len(lines) > 1900, "a few Yoruba lines have Greek letters"
        assert_same_pieces(qwen3, new, old_ids, inside)
    assert count_tokens(new, [CHINESE]).tokens > count_tokens(qwen3, [CHINESE]).tokens


@pytest.mark.data
def test_qwen3_one_small_script(qwen3: Tokenizer, shared_data: Path) -> None:
    new, old_ids = trim_tokenizer(qwen3, tokens_of_scripts(qwen3, ["Thai"]))
    assert 10_000 < new.vocab_size < 13_000
    known = trim._characters(["Thai"])
    inside = [line for line in lines_of(shared_data, "tha") if known.issuperset(line)]
    assert len(inside) > 900
    assert_same_pieces(qwen3, new, old_ids, inside)


@pytest.mark.data
def test_qwen3_by_corpus(qwen3: Tokenizer, shared_data: Path) -> None:
    texts = [line for code in ("swa", "tha", "rus") for line in lines_of(shared_data, code)]
    wanted = covering(count_tokens(qwen3, texts).by_id, 1.0)
    new, old_ids = trim_tokenizer(qwen3, wanted)
    assert len(wanted) < new.vocab_size < 11_000
    assert_same_pieces(qwen3, new, old_ids, texts)
    most, _ = trim_tokenizer(qwen3, covering(count_tokens(qwen3, texts).by_id, 0.999))
    assert most.vocab_size < new.vocab_size
    assert count_tokens(most, texts).tokens < 1.01 * count_tokens(qwen3, texts).tokens
