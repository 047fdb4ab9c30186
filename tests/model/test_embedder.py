import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2llm.core.errors import ConfigError, ModelError
from f2llm.model.decoder import Decoder
from f2llm.model.embedder import Embedder, common_prefix, packs
from f2llm.model.engines.pytorch import TorchEngine
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS

TEXTS = ["", "one", "two words", *CORPUS]
SCRIPTS = [
    "Latin", "кириллица", "ελληνικά", "العربية", "עברית", "हिन्दी", "বাংলা", "தமிழ்", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "සිංහල",
    "ไทย", "ລາວ", "မြန်မာ", "ខ្មែរ", "ქართული", "հայերեն", "አማርኛ", "中文", "日本語", "한국어", "བོད་ཡིག", "ᓄᓇᕗᑦ",
]  # fmt: skip
STRANGE = [
    "\0",
    "a\0b",
    "\ud800",
    "x\udfff",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u202e\ufeff",
    "\n\r\t ",
    "e\u0301" * 50,
    "<|im_end|>",
    "9" * 300,
    *SCRIPTS,
]


@pytest.fixture(scope="module")
def embedder(model_directory: Path) -> Embedder:
    return Embedder.load(model_directory)


@pytest.fixture(scope="module")
def roomy(small_decoder: Decoder, small_tokenizer: Tokenizer) -> Embedder:
    """With room for a text behind its prompt, which has 79 tokens of the small vocabulary."""
    return Embedder(small_decoder, small_tokenizer.limited_to(256))


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("f2llm.model.embedder.warn", said.append)
    return said


def test_settings_come_from_the_directory(embedder: Embedder) -> None:
    assert (embedder.dims, embedder.matryoshka_dims, embedder.max_seq_length) == (48, [8, 16, 32, 48], 40)
    assert embedder.prompts["query"] == query_prompt(DEFAULT_INSTRUCTION)
    assert embedder.prompts["document"] == ""


def test_vectors_are_the_decoders_last_states(embedder: Embedder, small_decoder: Decoder) -> None:
    found = embedder.encode(TEXTS, normalize=False)
    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), 48))
    for text, vector in zip(TEXTS, found, strict=True):
        ids = embedder.tokenizer.encode([text])[0]
        expected = small_decoder(torch.tensor(ids), [0, len(ids)])[-1].detach().numpy()
        np.testing.assert_allclose(vector, expected, atol=2e-6)
    unit = embedder.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 30, 100_000])
def test_company_does_not_matter(embedder: Embedder, batch_tokens: int) -> None:
    together = embedder.encode(TEXTS)
    np.testing.assert_allclose(embedder.encode(TEXTS[::-1], batch_tokens=batch_tokens)[::-1], together, atol=1e-6)


def test_the_same_call_gives_the_same_bits(embedder: Embedder) -> None:
    np.testing.assert_array_equal(embedder.encode(TEXTS), embedder.encode(TEXTS))


def test_windows_of_a_long_list_fit_together(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = embedder.encode(TEXTS)
    monkeypatch.setattr("f2llm.model.embedder._WINDOW", 4)
    np.testing.assert_allclose(embedder.encode(TEXTS, progress=True), expected, atol=1e-6)
    assert embedder.last_stats.texts == len(TEXTS)


def test_one_text_no_text(embedder: Embedder) -> None:
    assert embedder.encode("one").shape == (48,)
    np.testing.assert_allclose(embedder.encode_query("one", truncate_dim=8), embedder.encode_query(["one"])[0, :8] /
                               np.linalg.norm(embedder.encode_query(["one"])[0, :8]), atol=1e-6)  # fmt: skip
    assert embedder.encode([]).shape == (0, 48)
    assert embedder.encode([], truncate_dim=16).shape == (0, 16)
    assert embedder.encode_ids([]).shape == (0, 48)


def test_truncated_dimensions_are_normalised_prefixes(embedder: Embedder, model_directory: Path) -> None:
    full = embedder.encode(TEXTS, normalize=False)
    short = full[:, :16] / np.linalg.norm(full[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.encode(TEXTS, truncate_dim=16), short, atol=1e-6)
    always = Embedder.load(model_directory, truncate_dim=16)
    assert always.dims == 16
    np.testing.assert_allclose(always.encode(TEXTS), short, atol=1e-6)
    assert always.encode(TEXTS, truncate_dim=32).shape == (len(TEXTS), 32)
    for wrong in (0, 49):
        with pytest.raises(ConfigError, match=rf"truncate_dim is {wrong}; give 1 to 48, best one of \[8, 16"):
            embedder.encode(TEXTS, truncate_dim=wrong)


def test_prompts(embedder: Embedder) -> None:
    default = embedder.encode(TEXTS[:2], prompt=query_prompt(DEFAULT_INSTRUCTION))
    np.testing.assert_array_equal(embedder.encode_query(TEXTS[:2]), default)
    own = embedder.encode(TEXTS[:2], prompt="Instruct: Mine.\nQuery: ")
    np.testing.assert_array_equal(embedder.encode_query(TEXTS[:2], instruction="Mine."), own)
    named = embedder.encode(TEXTS[:2], prompt=embedder.prompts["sts"])
    np.testing.assert_array_equal(embedder.encode_query(TEXTS[:2], prompt_name="sts"), named)
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), embedder.encode(TEXTS))
    with pytest.raises(ConfigError, match=r"no prompt 'x'; it has \['document', 'query', 'sts'\]"):
        embedder.encode_query(TEXTS, prompt_name="x")
    with pytest.raises(ConfigError, match="give one of them"):
        embedder.encode_query(TEXTS, prompt_name="sts", instruction="Mine.")


def test_cut_texts_are_counted_and_told_once(embedder: Embedder, warnings: list[str]) -> None:
    embedder.encode(["long text " * 200, "short", "longer text " * 300])
    assert warnings == ["2 of 3 texts are longer than 40 tokens and were cut"]
    stats = embedder.last_stats
    assert (stats.texts, stats.truncated, stats.tokens > 80, stats.seconds > 0) == (3, 2, True, True)
    embedder.encode(["short"])
    assert len(warnings) == 1
    assert embedder.last_stats.truncated == 0


def test_ids_give_the_same_vectors_as_their_texts(embedder: Embedder) -> None:
    ids = embedder.tokenizer.encode(TEXTS)
    np.testing.assert_array_equal(embedder.encode_ids(ids), embedder.encode(TEXTS))
    raw = embedder.encode_ids(ids, normalize=False, truncate_dim=8)
    np.testing.assert_array_equal(raw, embedder.encode(TEXTS, normalize=False)[:, :8])


def test_similarity_is_cosine(embedder: Embedder) -> None:
    raw = embedder.encode(TEXTS, normalize=False)
    found = embedder.similarity(raw, raw[:2])
    assert found.shape == (len(TEXTS), 2)
    np.testing.assert_allclose(found[:2].diagonal(), 1, atol=1e-6)


def test_packs_hold_every_row_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 1, 20, 3]
    found = list(packs(lengths, 20))
    assert sorted(row for pack in found for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= 20 or len(pack) == 1 for pack in found)
    flat = [lengths[row] for pack in found for row in pack]
    assert flat == sorted(lengths, reverse=True)


def test_a_bare_checkpoint_gets_the_familys_prompts_and_dims(
    model_directory: Path, tmp_path: Path, small_decoder: Decoder, small_tokenizer: Tokenizer
) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(model_directory / name, tmp_path)
    config = json.loads((model_directory / "config.json").read_text())
    del config["matryoshka_dimensions"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    bare = Embedder.load(tmp_path)
    assert (bare.max_seq_length, bare.matryoshka_dims) == (40_960, [8, 16, 32, 48])
    assert bare.prompts == Embedder(small_decoder, small_tokenizer).prompts
    assert Embedder(small_decoder, small_tokenizer, prompts={}).prompts == {"query": "", "document": ""}


def test_any_text_has_a_unit_vector_in_any_company(roomy: Embedder, warnings: list[str]) -> None:
    together = roomy.encode_query(STRANGE)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for text, vector in zip(STRANGE, together, strict=True):
        assert roomy.encode_query(text) @ vector > 0.99999


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(), max_size=80), min_size=1, max_size=6), st.booleans(), st.data())
def test_company_and_order_do_not_matter(
    roomy: Embedder, small_decoder: Decoder, warnings: list[str], texts: list[str], query: bool, data: st.DataObject
) -> None:
    """Alone, among others, in any order, by any packing, with a prompt that was or was not kept before."""
    prompt = roomy.prompts["query"] if query else ""
    order = data.draw(st.permutations(range(len(texts))))
    shuffled = roomy.encode(
        [texts[place] for place in order], prompt=prompt, batch_tokens=data.draw(st.integers(1, 90))
    )
    fresh = Embedder(small_decoder, roomy.tokenizer, roomy.prompts)
    for place, vector in zip(order, shuffled, strict=True):
        assert fresh.encode(texts[place], prompt=prompt) @ vector > 0.99999


def test_a_megabyte_is_cut_with_eos_at_its_end(embedder: Embedder, warnings: list[str]) -> None:
    long = "many words of " * 75_000
    found = embedder.encode([long, "short"])
    ids = embedder.tokenizer.encode([long])[0]
    assert (len(ids), ids[-1]) == (embedder.max_seq_length, embedder.tokenizer.eos_id)
    np.testing.assert_allclose(found[0], embedder.encode_ids([ids])[0], atol=1e-6)
    assert (embedder.last_stats.truncated, len(warnings)) == (1, 1)


def test_what_the_tokenizer_joins_across_the_prompt_is_not_shared(roomy: Embedder, small_decoder: Decoder) -> None:
    """The prompt ends in a space that the text's first word may take: whole ids decide, not the prompt's."""
    prompt = roomy.prompts["query"]
    bare = roomy.tokenizer.encode([prompt])[0][:-1]
    seen: list[int] = []
    engine = TorchEngine(small_decoder)
    whole = engine.embed
    engine.embed = lambda texts, prefix: seen.append(len(prefix)) or whole(texts, prefix)  # type: ignore[method-assign]
    recorder = Embedder(engine, roomy.tokenizer, roomy.prompts)
    texts = ["how are you", " spaced", "9", "早上好", "", "."]
    for text in texts:
        ids = roomy.tokenizer.encode([prompt + text])[0]
        found = recorder.encode_query(text)
        np.testing.assert_allclose(found, roomy.encode_ids([ids])[0], atol=1e-5)
        assert seen[-1] == next((n for n, (a, b) in enumerate(zip(bare, ids, strict=False)) if a != b), len(bare))
    assert min(seen) < len(bare) == max(seen), "some texts join with the prompt's end, others do not"


def test_the_common_prefix_leaves_every_text_a_token() -> None:
    start = [1, 2, 3, 4, 5, 6]
    assert common_prefix(start, [[*start, 7], [*start, 8]]) == 6
    assert common_prefix(start, [[*start, 7], [1, 2, 3, 4, 9, 6, 7]]) == 4
    assert common_prefix(start, [start]) == 5
    assert common_prefix(start, [[1, 2, 3, 9, 9]]) == 0  # too short to pay
    assert common_prefix(start, []) == 0
    assert common_prefix(list(range(2000)), [list(range(2000))]) == 512


def test_streams_give_the_same_vectors_and_read_no_further(embedder: Embedder, warnings: list[str]) -> None:
    read: list[str] = []
    texts = [*TEXTS, "long text " * 90]
    stream = embedder.encode_stream((read.append(text) or text for text in texts), block=4, truncate_dim=16)
    first = next(stream)
    assert (first.shape, read) == ((4, 16), texts[:4])
    assert embedder.last_stats.texts == 4
    found = np.concatenate([first, *stream])
    np.testing.assert_allclose(found, embedder.encode(texts, truncate_dim=16), atol=1e-6)
    assert list(embedder.encode_stream(iter([]))) == []
    warnings.clear()
    list(embedder.encode_stream(texts, block=3))
    assert warnings == ["1 of 10 texts are longer than 40 tokens and were cut"]
    assert (embedder.last_stats.texts, embedder.last_stats.truncated) == (10, 1)
    with pytest.raises(ConfigError, match="block is 0"):
        embedder.encode_stream([], block=0)
    with pytest.raises(ConfigError, match="precision is 'int3'"):
        embedder.encode_stream([], precision="int3")


def test_precisions(embedder: Embedder, model_directory: Path) -> None:
    full = embedder.encode(TEXTS)
    int8 = Embedder.load(model_directory, precision="int8")
    stored = int8.encode(TEXTS)
    assert (stored.dtype, stored.shape) == (np.int8, (len(TEXTS), 48))
    np.testing.assert_array_equal(int8.encode(TEXTS[1]), stored[1])
    np.testing.assert_allclose(int8.similarity(stored, stored), embedder.similarity(full, full), atol=0.01)
    np.testing.assert_allclose(int8.similarity(full, stored), embedder.similarity(full, full), atol=0.01)
    bits = embedder.encode(TEXTS, precision="binary", truncate_dim=32)
    assert (bits.dtype, bits.shape) == (np.int8, (len(TEXTS), 4))
    assert embedder.similarity(bits, bits, "binary").shape == (len(TEXTS), len(TEXTS))
    np.testing.assert_allclose(embedder.similarity(bits, bits, "binary").diagonal(), 1, atol=1e-6)
    assert embedder.encode_query(TEXTS, precision="float16").dtype == np.float16
    with pytest.raises(ConfigError, match="not of precision float32"):
        embedder.similarity(bits, bits)
    with pytest.raises(ConfigError, match="4 is no multiple of 8"):
        embedder.encode(TEXTS, precision="binary", truncate_dim=4)


def test_tasks_name_a_prompt_or_a_type(embedder: Embedder) -> None:
    np.testing.assert_array_equal(embedder.encode_query("a", task="sts"), embedder.encode_query("a", prompt_name="sts"))
    asked = embedder.encode_query("a", instruction="Retrieve translations of the following text.")
    np.testing.assert_array_equal(embedder.encode_query("a", task="BitextMining"), asked)
    with pytest.raises(ConfigError, match=r"task 'NoTask' is neither .*\(document, query, sts\).*STS, BitextMining"):
        embedder.encode_query("a", task="NoTask")
    with pytest.raises(ConfigError, match="both prompt_name and task are given"):
        embedder.encode_query("a", task="STS", prompt_name="sts")


def test_several_processes_give_the_same_vectors(embedder: Embedder, model_directory: Path) -> None:
    loaded = Embedder.load(model_directory)
    found = loaded.encode_query(TEXTS, processes=2, batch_tokens=30)
    np.testing.assert_allclose(found, embedder.encode_query(TEXTS), atol=1e-6)
    assert loaded.last_stats.texts == len(TEXTS)


def test_processes_that_cannot_be(small_decoder: Decoder, small_tokenizer: Tokenizer, embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match="several need a model that Embedder"):
        Embedder(small_decoder, small_tokenizer).encode(TEXTS, processes=2)
    with pytest.raises(ConfigError, match="processes is 0; give 1 or more"):
        embedder.encode(TEXTS, processes=0)


def test_a_process_that_dies_is_told(model_directory: Path) -> None:
    loaded = Embedder.load(model_directory)
    loaded._make_engine = _die
    with pytest.raises(ModelError, match="ended early"):
        loaded.encode(TEXTS, processes=2)


def _die() -> TorchEngine:
    os._exit(9)
