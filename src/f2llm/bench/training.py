"""`f2llm bench train`: how fast whole training steps are, beside what the machine's matrix products allow.

A step is what the trainer does: build the batch, embed it, matryoshka losses, gradient, clipping, AdamW. The weights
are random and the learning rate is 0, so that all steps cost the same and the weights stay as they are.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from f2llm.bench.workload import Workload, data_folder, make_workload
from f2llm.core.errors import ConfigError
from f2llm.core.log import track
from f2llm.model.decoder import Decoder
from f2llm.model.fused import compile_fused
from f2llm.model.sizes import FAMILY, matryoshka_dims
from f2llm.train.batch import PackedBatch, pack_rows
from f2llm.train.distributed import Precision, Replica, join_world
from f2llm.train.gradcache import backward
from f2llm.train.objective import LossSettings, make_objective
from f2llm.train.operations import matrix_rate, training_operations
from f2llm.train.optim import make_optimizer


@dataclass(frozen=True)
class Setup:
    """What is measured: a size of the family, rows a batch, and how the step is done."""

    shape: str = "80M"
    rows: int = 4
    runs: int = 5
    precision: Precision = "fp32"
    micro_batch_tokens: int = 10**9
    checkpoint_activations: bool = False
    compile: bool = False


class TrainingStep:
    """One step of the engine on a batch of a workload; `decoder` is shared with whoever measures beside it."""

    def __init__(self, decoder: Decoder, workload: Workload, setup: Setup) -> None:
        decoder.checkpoint_activations = setup.checkpoint_activations
        self.workload, self.setup = workload, setup
        self.replica = Replica(decoder, join_world(), "fsdp", setup.precision)
        self.optimizer = make_optimizer(decoder, weight_decay=0.01, betas=(0.9, 0.98))
        self.loss = LossSettings(dims=tuple(matryoshka_dims(decoder.shape.hidden)))

    def batch(self, source: str) -> PackedBatch:
        return pack_rows(self.workload.store, source, self.workload.tables[source])

    def __call__(self, source: str) -> float:
        """Take the step; returns the loss."""
        batch = self.batch(source).to(self.replica.world.device)
        self.optimizer.zero_grad(set_to_none=True)
        objective = make_objective(self.loss, batch, "retrieval", None)
        value, _ = backward(self.replica, batch, objective, self.setup.micro_batch_tokens)
        nn.utils.clip_grad_norm_(self.replica.decoder.parameters(), 1.0)
        self.optimizer.step()
        return float(value.item())

    def operations(self) -> float:
        """Operations of the matrix products of one step on every source, recomputed ones not counted."""
        shape, batches = self.replica.decoder.shape, [self.batch(source) for source in self.workload.tables]
        return sum(training_operations(shape, b.tokens, len(b.text_ids), b.attention_pairs) for b in batches)


def make_decoder(shape: str, compiled: bool = False) -> Decoder:
    if shape not in FAMILY:
        raise ConfigError(f"--shape {shape}: unknown size; known: {', '.join(FAMILY)}")
    decoder = Decoder(FAMILY[shape])
    decoder.init_weights(0)
    if compiled:
        decoder.use_fused(compile_fused())
    return decoder


def bench_train(setup: Setup, data: Path | None = None) -> dict[str, Any]:
    """Medians over `setup.runs` rounds, each of one step on every source, after one that is not counted.

    The matrix rate is measured after every round; the share is that of the best.
    """
    decoder = make_decoder(setup.shape, setup.compile)
    with tempfile.TemporaryDirectory() as folder:
        workload = make_workload(data_folder(data), setup.rows, Path(folder), decoder.shape.vocab_size)
        step = TrainingStep(decoder, workload, setup)
        losses = {source: step(source) for source in workload.tables}
        found, rates = [], []
        for _ in track(range(setup.runs), "measuring"):
            found.append(sum(seconds(partial(step, source)) for source in workload.tables))
            rates.append(machine_rate(step.replica.world.device, setup.precision))
        median, rate, operations = statistics.median(found), max(rates), step.operations()
        return {
            **describe(setup, workload),
            "seconds": round(median, 3),
            "spread": [round(min(found), 3), round(max(found), 3)],
            "samples_per_s": round(setup.rows * len(workload.tables) / median, 3),
            "useful_tokens_per_s": round(workload.tokens / median, 1),
            "useful_gflops": round(operations / median / 1e9, 1),
            "gemm_gflops": round(rate / 1e9, 1),
            "gemm_share": round(operations / median / rate, 3),
            "peak_memory_mb": peak_memory_mb(step.replica.world.device),
            "losses": {source: round(loss, 4) for source, loss in losses.items()},
        }


def describe(setup: Setup, workload: Workload) -> dict[str, Any]:
    """What was measured, for the record."""
    return {
        "shape": setup.shape,
        "rows_a_batch": setup.rows,
        "workload": workload.description,
        "tokens": workload.tokens,
        "runs": setup.runs,
        "precision": setup.precision,
        "compile": setup.compile,
        "threads": torch.get_num_threads(),
    }


def machine_rate(device: torch.device, precision: Precision) -> float:
    """Operations a second of a large matrix product, measured now."""
    return matrix_rate.__wrapped__(device, torch.bfloat16 if precision == "bf16" else torch.float32)


def peak_memory_mb(device: torch.device) -> float:
    """Highest use of the GPU's memory, or of this process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
