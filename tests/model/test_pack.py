"""A prefix that many sequences continue: the same values and gradients as if each had it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from f2llm.model.attention import AttentionPlan
from f2llm.model.decoder import Decoder
from f2llm.model.embedder import Embedder
from f2llm.model.pack import MIN_SHARED, embed, make_pack, shared_prefix
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import SMALL, random_decoder

PREFIX = 5
OWN = [1, 1, 2, 4, 4, 7]  # tokens of the texts after the prefix
ALONE = [3, 3, 6]  # tokens of the texts that have none


def pieces() -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, SMALL.vocab_size, (PREFIX + sum(OWN) + sum(ALONE),), generator=generator)
    prefix, *rest = ids.split([PREFIX, *OWN, *ALONE])
    return prefix, rest[: len(OWN)], rest[len(OWN) :]


def cumulated(texts: list[Tensor]) -> list[int]:
    return [0, *torch.tensor([len(text) for text in texts]).cumsum(0).tolist()]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_values_and_gradients_are_those_of_the_whole_texts(layers: int, recompute: bool) -> None:
    decoder = random_decoder(replace(SMALL, layers=layers)).double()
    decoder.checkpoint_activations = recompute
    prefix, own, alone = pieces()
    whole = [torch.cat([prefix, text]) for text in own] + alone
    shared = [prefix, *own, *alone]
    found = []
    for texts, continuations in ((whole, 0), (shared, len(own))):
        decoder.zero_grad()
        E = decoder(torch.cat(texts), cumulated(texts), last_token_only=True, continuations=continuations)
        (E * torch.linspace(-1, 1, E.numel(), dtype=E.dtype).view_as(E)).sum().backward()
        found.append([E.detach(), *(parameter.grad.clone() for parameter in decoder.parameters())])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-9)


def test_all_hidden_states_are_those_of_the_whole_texts(small_decoder: Decoder) -> None:
    prefix, own, alone = pieces()
    shared = [prefix, *own, *alone]
    h = small_decoder(torch.cat(shared), cumulated(shared), continuations=len(own)).split([len(t) for t in shared])
    for text, states in zip(own, h[1:], strict=False):
        expected = small_decoder(torch.cat([prefix, text]), [0, PREFIX + len(text)])
        torch.testing.assert_close(states, expected[PREFIX:], atol=5e-6, rtol=1e-5)
        torch.testing.assert_close(h[0], expected[:PREFIX], atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("continuations", [-1, 2])
def test_a_prefix_needs_sequences_that_continue_it(continuations: int) -> None:
    with pytest.raises(ValueError, match="continuations, but 1 sequences"):
        AttentionPlan.from_cu_seqlens([0, 2, 5], continuations)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=5), st.integers(0, 8))
def test_the_shared_prefix_is_the_longest(rows: list[list[int]], common: int) -> None:
    texts = [np.array([7] * common + row) for row in rows]
    size = shared_prefix(texts)
    assert all(len(text) > size for text in texts)
    assert all((text[:size] == texts[0][:size]).all() for text in texts)
    assert size == 0 or size >= max(MIN_SHARED, min(common, min(map(len, texts)) - 1))


def test_packs_with_and_without_the_prefix_embed_alike(small_decoder: Decoder) -> None:
    texts = [np.array([5, 6, 7, 8, 9, 10 + i, 3][: 7 - i % 2]) for i in range(6)]
    assert shared_prefix(texts) == 5
    with torch.inference_mode():
        torch.testing.assert_close(embed(small_decoder, make_pack(texts, 5)), embed(small_decoder, make_pack(texts)))


def test_queries_with_an_instruction_have_the_vectors_of_lone_queries(
    small_decoder: Decoder, small_tokenizer: Tokenizer
) -> None:
    embedder = Embedder(small_decoder, small_tokenizer)
    texts = ["one", "", "two words", "Доброе утро", "one two three " * 9]
    together = embedder.encode_query(texts, instruction="Find the same.")
    alone = np.stack([embedder.encode_query(text, instruction="Find the same.") for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)
