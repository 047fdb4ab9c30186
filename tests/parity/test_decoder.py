"""transformers' Qwen3Model, with the same random weights, is the oracle of the packed decoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model

from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from tests.conftest import random_decoder

SHAPES = {
    "grouped": Shape(64, 3, 96, 4, 2, 16, 500),
    "heads wider than hidden, as in 80M": Shape(320, 2, 512, 16, 8, 128, 600),
    "one key head": Shape(32, 4, 48, 8, 1, 8, 300, rope_theta=1e4, rms_eps=1e-5),
    "no grouping": Shape(48, 2, 80, 3, 3, 32, 100),
}
LENGTHS = [40, 21, 21, 9, 9, 9, 2, 1]
CU = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]


def oracle(decoder: Decoder) -> Qwen3Model:
    shape = decoder.shape
    config = Qwen3Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, rms_norm_eps=shape.rms_eps, max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, use_cache=False,
    )  # fmt: skip
    model = Qwen3Model(config).eval()
    model.load_state_dict(decoder.state_dict())
    return model


def one_by_one(model: Qwen3Model, ids: Tensor) -> Tensor:
    return torch.cat([model(part[None]).last_hidden_state[0] for part in ids.split(LENGTHS)])


@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states_and_gradients(name: str) -> None:
    decoder = random_decoder(SHAPES[name])
    model = oracle(decoder)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, decoder.shape.vocab_size, (CU[-1],), generator=generator)
    ours, theirs = decoder(ids, CU), one_by_one(model, ids)
    assert (ours - theirs).abs().max() < 1e-5
    upstream = torch.randn(ours.shape, generator=generator)
    (ours * upstream).sum().backward()
    (theirs * upstream).sum().backward()
    expected = {parameter_name: parameter.grad for parameter_name, parameter in model.named_parameters()}
    for parameter_name, parameter in decoder.named_parameters():
        scale = expected[parameter_name].abs().max()
        assert (parameter.grad - expected[parameter_name]).abs().max() < 1e-5 * scale, parameter_name


def test_a_padded_batch_of_transformers_gives_the_pooled_vectors() -> None:
    decoder = random_decoder(SHAPES["grouped"])
    model = oracle(decoder)
    ids = torch.randint(0, 500, (CU[-1],), generator=torch.Generator().manual_seed(8))
    padded = torch.nn.utils.rnn.pad_sequence(ids.split(LENGTHS), batch_first=True)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    states = model(padded, attention_mask=mask).last_hidden_state
    expected = states[torch.arange(len(LENGTHS)), torch.tensor(LENGTHS) - 1]
    assert (decoder(ids, CU, last_token_only=True) - expected).abs().max() < 1e-5
