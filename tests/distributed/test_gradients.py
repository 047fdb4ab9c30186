"""Two processes give the gradient of one, however the model is spread and the batch cut."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from f2llm.data.store import TokenStore
from f2llm.model.pack import embed
from f2llm.train.batch import pack_texts
from f2llm.train.distributed import World
from f2llm.train.losses import matryoshka_weights
from tests.distributed.work import CASES, HALF, evaluations, gradient, make_batch, make_decoder, run
from tests.train.conftest import store, tokenizer  # noqa: F401 (fixtures)

Arrays = Mapping[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def two(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Arrays:  # noqa: F811
    """What two processes find, by case."""
    out = tmp_path_factory.mktemp("two") / "found.npz"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=run, args=(rank, 2, port, store.directory, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0, 0]
    return dict(np.load(out))


def of_case(found: Arrays, case: str) -> Arrays:
    return {key.removeprefix(f"{case}/"): value for key, value in found.items() if key.startswith(f"{case}/")}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_gradient_of_one(case: str, two: Arrays, store: TokenStore) -> None:  # noqa: F811
    loss, distilled, _, _ = CASES[case]
    one = gradient(store, World(), loss, distilled, "ddp", 10_000)
    found = of_case(two, case)
    assert found.keys() == one.keys()
    for name, expected in one.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_half_precision_stays_near_when_sharded(two: Arrays, store: TokenStore) -> None:  # noqa: F811
    found, one = of_case(two, "half"), gradient(store, World(), *HALF)
    assert all(value.dtype == np.float32 for value in found.values())
    for name, expected in one.items():
        cosine = (found[name] * expected).sum() / np.sqrt((found[name] ** 2).sum() * (expected**2).sum())
        assert cosine > 0.99, name


def test_a_scorer_gets_the_vectors_of_one_process(two: Arrays) -> None:
    """Only the main process runs it; its failures leave no process waiting."""
    found, one = of_case(two, "evaluations"), evaluations(World())
    assert found.keys() == one.keys()
    for name, expected in one.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_switch_gives_the_detached_gather_of_the_published_code(
    two: Arrays,
    store: TokenStore,  # noqa: F811
) -> None:
    """Each process has half of the rows; its positives come back from the gather without gradient, also its own."""
    expected = published_gradient(store)
    found = of_case(two, "detached")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    whole = of_case(two, "ddp")["layers.0.mlp.up_proj.weight"]
    assert np.abs(found["layers.0.mlp.up_proj.weight"] - whole).max() > 1e-3, "and that is another gradient"


def published_gradient(store: TokenStore, processes: int = 2) -> dict[str, np.ndarray[Any, Any]]:  # noqa: F811
    """The formula as it stands: mean over the processes of their rows' losses, positives of all detached."""
    decoder, batch = make_decoder(), make_batch(store)
    E_ND = embed(decoder, pack_texts(store, batch.text_ids))
    Q, P, N = E_ND[batch.query], E_ND[batch.positive], E_ND[batch.negatives]
    total = torch.zeros(())
    for rows in torch.arange(len(Q)).chunk(processes):
        for dim, weight in zip((8, 16), matryoshka_weights((8, 16)), strict=True):
            q, p, n, everyone = (F.normalize(x[..., :dim], dim=-1) for x in (Q[rows], P[rows], N[rows], P.detach()))
            hard = torch.cat([(q * p).sum(-1, keepdim=True), torch.einsum("bd,bkd->bk", q, n)], 1) / 0.05
            total = total + weight * F.cross_entropy(hard, torch.zeros(len(q), dtype=torch.long)) / processes
            total = total + weight * F.cross_entropy(q @ everyone.T / 0.05, rows) / processes
    total.backward()
    return {name: p.grad.numpy() for name, p in decoder.named_parameters() if p.grad is not None}
