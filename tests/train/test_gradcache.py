"""A batch in one pack or in micro-batches gives the gradient of its texts one by one."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.model.pack import Pack
from f2llm.train import distributed
from f2llm.train.batch import PackedBatch, pack_rows, pack_texts
from f2llm.train.distributed import Precision, Replica, World
from f2llm.train.gradcache import backward, embed_batch
from f2llm.train.losses import in_batch_loss
from f2llm.train.objective import LossSettings, Parts, make_objective

BUDGETS = {"one pass": 10**6, "parts": 60, "about a text each": 16}
# name -> (loss, source)
LOSSES = {
    "paper": (LossSettings(dims=(8, 16)), "pairs"),
    "clustering": (LossSettings(dims=(8, 16)), "groups"),
    "masks": (LossSettings(dims=(8, 16), mask_duplicates=True, false_negative_margin=0.02), "pairs"),
    "more negatives": (LossSettings(dims=(8, 16), share_hard_negatives=True, spread_out_weight=0.5), "pairs"),
    "same tower": (LossSettings(dims=(8, 16), same_tower=True, temperatures={"pairs": 0.1}), "pairs"),
}


def test_gradient_equals_that_of_the_texts_one_by_one(store: TokenStore, decoder: Decoder) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:30], dtype=np.int64))

    def loss(E_ND: Tensor) -> tuple[Tensor, Tensor]:
        return in_batch_loss(E_ND[batch.query], E_ND[batch.positive], torch.arange(30), [8, 16], 0.05)

    texts = [torch.from_numpy(store.text(int(i)).astype(np.int64)) for i in batch.text_ids]
    alone = torch.cat([decoder(text, [0, len(text)])[-1:] for text in texts])
    value, _ = loss(alone)
    decoder.zero_grad()
    value.backward()
    found = [(value, [p.grad.clone() for p in decoder.parameters() if p.grad is not None])]
    for budget in (10**6, 60):
        decoder.zero_grad()
        value, _ = backward(Replica(decoder, World(), "fsdp", "fp32"), batch, loss, budget)
        found.append((value, [p.grad.clone() for p in decoder.parameters() if p.grad is not None]))
    (one_by_one, expected), *packed = found
    for total, gradients in packed:
        torch.testing.assert_close(total, one_by_one, rtol=1e-5, atol=1e-6)
        for a, b in zip(gradients, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def make_batch(store: TokenStore, source: str = "pairs") -> PackedBatch:
    table = np.array(store.rows[source][:12], dtype=np.int64)
    table[3] = table[5]  # a row that comes twice
    table[1, 4:] = -1
    return pack_rows(store, source, table)


def objective(store: TokenStore, batch: PackedBatch, name: str = "paper") -> Callable[[Tensor], tuple[Tensor, Parts]]:
    """With a teacher."""
    T_ND = torch.randn(len(batch.text_ids), 24, generator=torch.Generator().manual_seed(3))
    return make_objective(LOSSES[name][0], batch, store.task_types[batch.source], T_ND)


def embed_as_is(decoder: Decoder, pack: Pack) -> Tensor:
    """Embeddings in the decoder's own type."""
    return decoder(pack.input_ids, pack.cu_seqlens, last_token_only=True, continuations=pack.continuations)  # type: ignore[no-any-return]


def gradient(decoder: Decoder) -> Tensor:
    """That of all parameters, one after the other."""
    found = torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])
    assert len(found) == sum(p.numel() for p in decoder.parameters())
    return found


def gradient_in_parts(
    decoder: Decoder, batch: PackedBatch, loss: Callable[[Tensor], Any], budget: int, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor]:
    decoder.zero_grad()
    value, _ = backward(Replica(decoder, World(), "fsdp", precision), batch, loss, budget)
    return value, gradient(decoder)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_whole_loss_in_parts_equals_one_plain_pass(
    name: str, recompute: bool, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "embed", embed_as_is)  # all in float64
    batch = make_batch(store, LOSSES[name][1])
    loss = objective(store, batch, name)
    value, _ = loss(embed_as_is(decoder.double(), pack_texts(store, batch.text_ids)))
    value.backward()  # type: ignore[no-untyped-call]
    expected = gradient(decoder)
    decoder.checkpoint_activations = recompute
    for budget in BUDGETS.values():
        total, found = gradient_in_parts(decoder, batch, loss, budget)
        torch.testing.assert_close(total, value.detach(), rtol=1e-10, atol=0)
        assert (found - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize("recompute", [False, True])
def test_parts_equal_one_pass_in_float32(recompute: bool, store: TokenStore, decoder: Decoder) -> None:
    batch = make_batch(store)
    decoder.checkpoint_activations = recompute
    (value, expected), *others = [
        gradient_in_parts(decoder, batch, objective(store, batch), budget) for budget in BUDGETS.values()
    ]
    for total, found in others:
        torch.testing.assert_close(total, value, rtol=1e-5, atol=0)
        assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("recompute", [False, True])
def test_mixed_precision_stays_close_and_keeps_float32_gradients(
    budget: str, recompute: bool, store: TokenStore, decoder: Decoder
) -> None:
    batch = make_batch(store)
    loss = objective(store, batch)
    value, expected = gradient_in_parts(decoder, batch, loss, 10**6)
    decoder.checkpoint_activations = recompute
    total, found = gradient_in_parts(decoder, batch, loss, BUDGETS[budget], "bf16")
    assert total.dtype == found.dtype == torch.float32
    torch.testing.assert_close(total, value, rtol=0.02, atol=0)
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_last_part_is_embedded_once_and_the_others_twice(budget: str, store: TokenStore, decoder: Decoder) -> None:
    batch, calls = make_batch(store), []
    decoder.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    gradient_in_parts(decoder, batch, objective(store, batch), BUDGETS[budget])
    parts = len(batch.shares(1, BUDGETS[budget]))
    assert calls == [False] * (parts - 1) + [True] * parts


class Kept:
    """A tensor that is kept for a backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # else what an operation keeps of its own result would hold itself


class Ledger:
    """Numbers kept for backward passes, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def keep(self, tensor: Tensor) -> Kept:
        kept, count = Kept(tensor), 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel()
        self._add(count)
        weakref.finalize(kept, self._add, -count)
        return kept

    def _add(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)


def most_kept(action: Callable[[], object]) -> int:
    ledger = Ledger()
    with torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda kept: kept.tensor):
        result = action()
    del result
    assert ledger.now == 0, "a graph outlived its backward pass"
    return ledger.most


def test_at_most_one_part_is_kept_for_its_backward_pass(store: TokenStore, decoder: Decoder) -> None:
    batch, replica = make_batch(store), Replica(decoder, World(), "fsdp", "fp32")
    loss = objective(store, batch)
    E_ND = embed_batch(replica, batch, 10**6).requires_grad_()
    of_loss = most_kept(lambda: loss(E_ND))
    found = {}
    for budget in (10**6, 60):
        parts = [most_kept(lambda pack=pack: replica.embed(pack)) for ((_, pack),) in batch.shares(1, budget)]  # type: ignore[misc]
        found[budget] = most_kept(lambda budget=budget: backward(replica, batch, loss, budget)[0])  # type: ignore[misc]
        assert max(parts) <= found[budget] <= max(parts) + of_loss
    assert len(parts) > 4
    assert found[60] < 0.5 * found[10**6]


@pytest.mark.parametrize("budget", BUDGETS)
def test_embeddings_without_gradient_come_in_the_order_of_the_batch(
    budget: str, store: TokenStore, decoder: Decoder
) -> None:
    batch = make_batch(store)
    found = embed_batch(Replica(decoder, World(), "fsdp", "fp32"), batch, BUDGETS[budget])
    assert not found.requires_grad
    expected = embed_as_is(decoder, pack_texts(store, batch.text_ids))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
