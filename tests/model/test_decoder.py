from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from f2llm.model.decoder import INIT_STD, Decoder
from tests.conftest import SMALL, random_decoder

LENGTHS = [11, 7, 7, 7, 4, 1]
CU = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]


def some_ids(seed: int = 0) -> Tensor:
    return torch.randint(0, SMALL.vocab_size, (CU[-1],), generator=torch.Generator().manual_seed(seed))


def gradients(decoder: Decoder, ids: Tensor, cu: list[int]) -> list[Tensor]:
    decoder.zero_grad()
    decoder(ids, cu, last_token_only=True).square().sum().backward()
    return [parameter.grad.clone() for parameter in decoder.parameters() if parameter.grad is not None]


def test_a_pack_equals_its_sequences_one_by_one(small_decoder: Decoder) -> None:
    ids = some_ids()
    packed = small_decoder(ids, CU)
    alone = [small_decoder(ids[start:end], [0, end - start]) for start, end in pairwise(CU)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-6, rtol=0)


def test_the_order_of_a_pack_does_not_matter(small_decoder: Decoder) -> None:
    parts = some_ids().split(LENGTHS)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = [parts[index] for index in order]
    cu = torch.tensor([0, *(len(part) for part in shuffled)]).cumsum(0)
    pooled = small_decoder(torch.cat(shuffled), cu, last_token_only=True)
    expected = small_decoder(torch.cat(parts), CU, last_token_only=True)
    torch.testing.assert_close(pooled, expected[order], atol=2e-6, rtol=0)


def test_later_tokens_and_other_sequences_change_nothing_before_them(small_decoder: Decoder) -> None:
    ids = some_ids()
    changed = ids.clone()
    changed[5] = (changed[5] + 1) % SMALL.vocab_size
    before, after = small_decoder(ids, CU), small_decoder(changed, CU)
    same = [index for index in range(CU[-1]) if index < 5 or index >= CU[1]]
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[5:11], after[5:11])


def test_boundaries_may_be_a_list_or_a_tensor(small_decoder: Decoder) -> None:
    ids = some_ids()
    assert torch.equal(small_decoder(ids, CU), small_decoder(ids, torch.tensor(CU, dtype=torch.int32)))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_last_tokens_alone_have_the_same_values_and_gradients(layers: int, recompute: bool) -> None:
    decoder = random_decoder(replace(SMALL, layers=layers)).double()
    decoder.checkpoint_activations = recompute
    found = []
    for last_token_only in (False, True):
        h = decoder(some_ids(), CU, last_token_only=last_token_only)
        E = h if last_token_only else h[torch.tensor(CU[1:]) - 1]
        decoder.zero_grad()
        (E * torch.linspace(-1, 1, E.numel(), dtype=E.dtype).view_as(E)).sum().backward()
        found.append([E.detach(), *(parameter.grad.clone() for parameter in decoder.parameters())])
    for all_tokens, last_only in zip(*found, strict=True):
        torch.testing.assert_close(last_only, all_tokens, atol=1e-12, rtol=1e-10)


def test_the_same_call_gives_the_same_bits(small_decoder: Decoder) -> None:
    ids = some_ids()
    assert torch.equal(small_decoder(ids, CU), small_decoder(ids, CU))
    first, second = gradients(small_decoder, ids, CU), gradients(small_decoder, ids, CU)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_activation_checkpointing_changes_no_bit() -> None:
    plain, frugal = random_decoder(SMALL), random_decoder(SMALL)
    frugal.checkpoint_activations = True
    pairs = zip(gradients(plain, some_ids(), CU), gradients(frugal, some_ids(), CU), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_initial_weights_follow_the_seed() -> None:
    first, second, other = Decoder(SMALL), Decoder(SMALL), Decoder(SMALL)
    first.init_weights(3)
    second.init_weights(3)
    other.init_weights(4)
    for name, parameter in first.state_dict().items():
        assert torch.equal(parameter, second.state_dict()[name])
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            assert not torch.equal(parameter, other.state_dict()[name])
            assert parameter.std().item() == pytest.approx(INIT_STD, rel=0.1)


def test_boundaries_that_miss_the_pack_are_refused(small_decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="ends at 4, but the pack holds 5"):
        small_decoder(torch.zeros(5, dtype=torch.long), [0, 4])


def test_bfloat16_runs_and_stays_close(small_decoder: Decoder) -> None:
    half = Decoder(SMALL)
    half.load_state_dict(small_decoder.state_dict())
    found = half.to(torch.bfloat16)(some_ids(), CU)
    assert found.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(found.float(), small_decoder(some_ids(), CU), dim=-1)
    assert cosine.min() > 0.99
