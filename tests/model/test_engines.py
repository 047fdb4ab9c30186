"""The PyTorch engine: the decoder's states, prefixes kept and dropped, many threads at once, the choice by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from f2llm.core.errors import ConfigError
from f2llm.model.decoder import Decoder
from f2llm.model.engines import cpu
from f2llm.model.engines.load import load_engine
from f2llm.model.engines.pytorch import KEPT_PREFIXES, TorchEngine
from f2llm.model.pack import embed, make_pack
from tests.conftest import SMALL, random_decoder

LENGTHS = [1, 7, 3, 7, 12, 1, 30, 3]


def ids(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALL.vocab_size, length)


@pytest.fixture
def texts() -> list[np.ndarray]:
    return [ids(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lengths of the texts of every pass that the engine makes."""
    seen: list[list[int]] = []
    whole = TorchEngine._pass
    monkeypatch.setattr(TorchEngine, "_pass", lambda *a: seen.append([len(t) for t in a[1]]) or whole(*a))
    return seen


@pytest.mark.parametrize("block", [1, 5, 512])
@pytest.mark.parametrize("layers", [1, 3])
def test_states_are_the_decoders(
    texts: list[np.ndarray], block: int, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_BLOCK", block)
    decoder = random_decoder(replace(SMALL, layers=layers))
    with torch.inference_mode():
        expected = embed(decoder, make_pack(texts)).numpy()
    found = TorchEngine(decoder).embed(texts)
    assert (found.dtype, found.shape) == (np.float32, (len(texts), SMALL.hidden))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_prefix_gives_the_states_of_whole_texts(texts: list[np.ndarray], layers: int) -> None:
    engine, prefix = TorchEngine(random_decoder(replace(SMALL, layers=layers))), ids(6, 99)
    expected = engine.embed([np.concatenate([prefix, text]) for text in texts])
    for _ in range(2):  # computed, then kept
        np.testing.assert_allclose(engine.embed(texts, prefix), expected, atol=1e-5, rtol=0)
    for text, state in zip(texts, expected, strict=True):
        np.testing.assert_allclose(engine.embed([text], prefix)[0], state, atol=1e-5, rtol=0)


def test_the_decoder_is_left_as_it_was(texts: list[np.ndarray]) -> None:
    decoder = random_decoder(SMALL)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    TorchEngine(decoder).embed(texts, ids(6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.state_dict().items())
    decoder(torch.from_numpy(texts[1]), [0, 7]).sum().backward()  # the same weights still train
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_a_kept_prefix_is_not_computed_again(small_decoder: Decoder, passes: list[list[int]]) -> None:
    engine = TorchEngine(small_decoder)
    for _ in range(3):
        engine.embed([ids(4)], ids(9, 1))
    assert passes == [[9], [4], [4], [4]]


def test_few_prefixes_are_kept_the_last_used_ones(small_decoder: Decoder, passes: list[list[int]]) -> None:
    engine = TorchEngine(small_decoder)
    prefixes = [ids(5, seed) for seed in range(KEPT_PREFIXES + 1)]
    for prefix in [*prefixes[:-1], prefixes[0], prefixes[-1]]:  # the first is used again, so the second has to go
        engine.embed([ids(2)], prefix)
    passes.clear()
    engine.embed([ids(2)], prefixes[0])
    assert passes == [[2]]
    engine.embed([ids(2)], prefixes[1])
    assert passes == [[2], [5], [2]]


def test_many_threads_get_the_states_of_one(small_decoder: Decoder) -> None:
    engine = TorchEngine(small_decoder)
    calls = [([ids(3 + n % 5, n)], ids(5, n % 12)) for n in range(48)]
    expected = [TorchEngine(small_decoder).embed(*call) for call in calls]
    with ThreadPoolExecutor(6) as pool:
        for found, wanted in zip(pool.map(lambda call: engine.embed(*call), calls), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


def test_no_text_and_an_empty_prefix(small_decoder: Decoder) -> None:
    engine = TorchEngine(small_decoder)
    assert engine.embed([]).shape == (0, SMALL.hidden)
    np.testing.assert_array_equal(engine.embed([ids(3)], ids(0)), engine.embed([ids(3)]))


@pytest.mark.parametrize(
    ("kind", "least"), [(torch.bfloat16, 0.99), (torch.float16, 0.999999), (torch.int8, 0.99)], ids=str
)
def test_other_types_of_weights_are_near(texts: list[np.ndarray], kind: torch.dtype, least: float) -> None:
    decoder = random_decoder(SMALL)
    expected, engine = TorchEngine(decoder).embed(texts, ids(6)), TorchEngine(decoder, kind)
    found = engine.embed(texts, ids(6))
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > least
    for text, state in zip(texts, found, strict=True):  # the others of a pack do not change what is rounded
        assert cosines(engine.embed([text], ids(6)), state[None]).min() > 0.99999


def test_float16_holds_a_published_checkpoint_exactly(texts: list[np.ndarray]) -> None:
    """Weights that bfloat16 holds: the same states as in float32, up to the order of additions."""
    decoder = random_decoder(SMALL)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(parameter.bfloat16().float())
    expected = TorchEngine(decoder).embed(texts)
    np.testing.assert_allclose(TorchEngine(decoder, torch.float16).embed(texts), expected, atol=1e-5, rtol=0)


def test_the_engine_keeps_its_weights(texts: list[np.ndarray]) -> None:
    """On a CPU they are copied, all but the token table: training on does not change them under an engine."""
    decoder = random_decoder(SMALL)
    engine = TorchEngine(decoder)
    expected = engine.embed(texts)
    with torch.no_grad():
        for layer in decoder.layers:
            layer.mlp.down_proj.weight.zero_()
    np.testing.assert_array_equal(engine.embed(texts), expected)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunks_of_attention_do_not_matter(
    texts: list[np.ndarray], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, prefix = random_decoder(SMALL), ids(6)
    with torch.inference_mode():
        expected = embed(decoder, make_pack([np.concatenate([prefix, text]) for text in texts], 6)).numpy()
    monkeypatch.setattr(cpu, "_CHUNK", chunk)
    np.testing.assert_allclose(TorchEngine(decoder).embed(texts, prefix), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        TorchEngine(decoder).embed(texts), TorchEngine(decoder).embed(texts[::-1])[::-1], atol=1e-5
    )


def test_texts_of_many_chunks(small_decoder: Decoder) -> None:
    long = [ids(200, 1), ids(65, 2), ids(200, 3)]
    with torch.inference_mode():
        expected = embed(small_decoder, make_pack(long)).numpy()
    np.testing.assert_allclose(TorchEngine(small_decoder).embed(long), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        TorchEngine(small_decoder).embed([text[70:] for text in long[::2]], long[0][:70])[0], expected[0], atol=1e-5
    )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_engines_by_name(model_directory: Path) -> None:
    for name in ("auto", "torch"):
        engine = load_engine(model_directory, name)
        assert (engine.name, engine.width, engine.device) == ("torch", SMALL.hidden, "cpu")
    with pytest.raises(ConfigError, match="engine is 'onnx'; give one of auto, torch, openvino"):
        load_engine(model_directory, "onnx")
    with pytest.raises(ConfigError, match="the torch engine takes float32, bfloat16 or float16, and int8 on cpu"):
        load_engine(model_directory, "torch", dtype=torch.int32)
    with pytest.raises(ConfigError, match="runs float32 and int8 on cpu"):
        load_engine(model_directory, "openvino", device="cuda")
