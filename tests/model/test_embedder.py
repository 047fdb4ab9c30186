import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from f2llm.core.errors import ConfigError
from f2llm.model.decoder import Decoder
from f2llm.model.embedder import Embedder, packs
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS

TEXTS = ["", "one", "two words", *CORPUS]


@pytest.fixture(scope="module")
def embedder(model_directory: Path) -> Embedder:
    return Embedder.load(model_directory)


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
