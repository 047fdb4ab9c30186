"""What the processes of the tests do: each case of a global batch, and its gradient, whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from f2llm.core.errors import TrainingError
from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from f2llm.train.batch import PackedBatch, pack_rows
from f2llm.train.distributed import Replica, World, join_world, leave_world, whole
from f2llm.train.evaluation import Embed, Evaluation
from f2llm.train.gradcache import backward
from f2llm.train.objective import LossSettings, make_objective

SHAPE = Shape(16, 3, 24, 4, 2, 8, 300)
PAPER = LossSettings(dims=(8, 16))
OPTIONS = LossSettings(
    dims=(8, 16), mask_duplicates=True, false_negative_margin=0.0, share_hard_negatives=True, spread_out_weight=0.1
)
# name -> (loss, distilled, strategy, token budget of a micro-batch)
Case = tuple[LossSettings, bool, str, int]
HALF: Case = (PAPER, True, "fsdp", 80)
CASES: dict[str, Case] = {
    "ddp": (PAPER, False, "ddp", 10_000),
    "ddp, parts": (PAPER, True, "ddp", 80),
    "fsdp": (PAPER, True, "fsdp", 10_000),
    "fsdp, parts": (PAPER, True, "fsdp", 80),
    "fsdp, options": (OPTIONS, True, "fsdp", 80),
    "ddp, options": (OPTIONS, False, "ddp", 10_000),
    "fsdp, relational, every dim": (
        LossSettings(dims=(8, 16), distill="relational", distill_matryoshka=True),
        True,
        "fsdp",
        80,
    ),
    "ddp, same tower": (LossSettings(dims=(8, 16), same_tower=True), False, "ddp", 10_000),
}


def make_decoder() -> Decoder:
    decoder = Decoder(SHAPE)
    decoder.init_weights(0)
    return decoder


def make_batch(store: TokenStore) -> PackedBatch:
    return pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:24], dtype=np.int64))


def teacher_of(batch: PackedBatch) -> torch.Tensor:
    return torch.randn(len(batch.text_ids), 20, generator=torch.Generator().manual_seed(7))


def gradient(
    store: TokenStore,
    world: World,
    loss: LossSettings,
    distilled: bool,
    strategy: str,
    budget: int,
    precision: str = "fp32",
) -> dict[str, np.ndarray[Any, Any]]:
    """The loss and every parameter's gradient, in the main process."""
    batch = make_batch(store)
    replica = Replica(make_decoder(), world, strategy, precision)  # type: ignore[arg-type]
    objective = make_objective(loss, batch, "retrieval", teacher_of(batch) if distilled else None, world.size)
    value, _ = backward(replica, batch, objective, budget)
    found = {name: whole(p.grad).numpy() for name, p in replica.decoder.named_parameters()}  # type: ignore[arg-type]
    return {"loss": value.numpy(), **found}


def evaluations(world: World) -> dict[str, np.ndarray[Any, Any]]:
    """What a scorer gets in the main process, sharded and copied: vectors, also after a failure and of one text."""
    generator = np.random.default_rng(0)
    texts = [generator.integers(SHAPE.vocab_size, size=size) for size in (5, 30, 1, 12, 12, 7)]
    found: dict[str, np.ndarray[Any, Any]] = {}
    for strategy in ("fsdp", "ddp"):

        def score(embed: Embed, seconds: float, strategy: str = strategy) -> dict[str, Any]:
            try:
                embed([])
            except TrainingError:
                found[f"{strategy}/many"], found[f"{strategy}/one"] = embed(texts), embed(texts[:1])
            raise ValueError("and no end")

        replica = Replica(make_decoder(), world, strategy, "fp32")
        for budget in (10_000, 20):
            entry = Evaluation(score, replica, budget).run(1, 9.0)
            assert entry.get("error") == ("ValueError: and no end" if world.is_main else None)
    return found


def run(rank: int, size: int, port: int, directory: Path, out: Path) -> None:
    """All cases in this process; the main one writes them to `out`."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = join_world()
    store, found = TokenStore(directory), {}
    for name, case in CASES.items():
        found |= {f"{name}/{key}": value for key, value in gradient(store, world, *case).items()}
    detached = LossSettings(dims=(8, 16), detach_across_processes=True)
    found |= {f"detached/{k}": v for k, v in gradient(store, world, detached, False, "ddp", 10_000).items()}
    found |= {f"evaluations/{k}": v for k, v in evaluations(world).items()}
    found |= {f"half/{k}": v for k, v in gradient(store, world, *HALF, precision="bf16").items()}
    if world.is_main:
        np.savez(out, **found)
    leave_world(world)
