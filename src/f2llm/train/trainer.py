"""One stage of training: batches in, weights out; resumable at every checkpoint, to the bit on CPU.

The loss of a step (section 2.3 of the paper): hard cross-entropy for every task, plus in-batch cross-entropy for
retrieval, both over all matryoshka dims, plus the distillation MSE where there is a teacher.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from f2llm.core.errors import InterruptedRunError, TrainingError
from f2llm.core.files import digest_json, write_json
from f2llm.core.log import Bar, log
from f2llm.core.types import TaskType
from f2llm.data.store import TokenStore
from f2llm.model.checkpoint import save_weights
from f2llm.model.decoder import Decoder
from f2llm.train.batch import PackedBatch, pack_rows
from f2llm.train.gradcache import backward
from f2llm.train.losses import distill_loss, hard_loss, in_batch_loss
from f2llm.train.metrics import MetricsLog
from f2llm.train.optim import learning_rate, make_optimizer, set_learning_rate
from f2llm.train.sampler import BatchSampler, draw_rows, negatives_of
from f2llm.train.state import drop_older, latest_checkpoint, load_checkpoint, save_checkpoint
from f2llm.train.teacher import TeacherVectors


@dataclass(frozen=True)
class TrainSettings:
    """All that determines a stage besides the data and the initial weights."""

    stage: int
    steps: int
    global_batch: int
    learning_rate: float
    hard_negatives: int
    clustering_hard_negatives: int
    dims: tuple[int, ...]
    temperature: float
    distill_weight: float
    mask_duplicates: bool
    warmup_steps: int
    min_learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    clip_norm: float
    micro_batch_tokens: int
    checkpoint_every: int
    milestones: int
    seed: int

    def negatives(self, task_type: TaskType) -> int:
        return negatives_of(task_type, self.hard_negatives, self.clustering_hard_negatives)


def make_sampler(store: TokenStore, settings: TrainSettings) -> BatchSampler:
    sizes = {source: len(rows) for source, rows in store.rows.items()}
    return BatchSampler(sizes, settings.global_batch, settings.seed)


def train(
    decoder: Decoder,
    store: TokenStore,
    settings: TrainSettings,
    directory: Path,
    *,
    teacher: TeacherVectors | None = None,
    description: str = "training",
) -> None:
    """Train `decoder` in place; `directory` receives metrics.jsonl, checkpoints/ and milestones/.

    Picks up the newest valid checkpoint there. SIGTERM saves at the next step and raises InterruptedRunError.
    """
    run = _Run(decoder, store, settings, directory, teacher)
    first = run.resume()
    with Bar(description, settings.steps) as bar, _sigterm_flag() as stop:
        bar.advance(first)
        for step in range(first, settings.steps):
            entry = run.step(step)
            bar.advance(note=f"loss {entry['loss']:.3f}")
            if stop.is_set() or (step + 1) % settings.checkpoint_every == 0:
                run.save(step + 1)
            if stop.is_set():
                raise InterruptedRunError(f"stopped after step {step + 1} as asked; run the same command to continue")
    run.metrics.close()


class _Run:
    def __init__(
        self,
        decoder: Decoder,
        store: TokenStore,
        settings: TrainSettings,
        directory: Path,
        teacher: TeacherVectors | None,
    ) -> None:
        self.decoder, self.store, self.settings, self.teacher = decoder, store, settings, teacher
        self.directory, self.checkpoints = directory, directory / "checkpoints"
        self.sampler = make_sampler(store, settings)
        self.optimizer: AdamW = make_optimizer(decoder, weight_decay=settings.weight_decay, betas=settings.betas)
        sizes = {source: len(rows) for source, rows in store.rows.items()}
        self.digest = digest_json([asdict(settings), sizes, store.meta["tokenizer"], teacher is not None])
        every = settings.steps / (settings.milestones + 1)
        self.milestones = {round(every * i) for i in range(1, settings.milestones + 1)}

    def resume(self) -> int:
        """Load the newest checkpoint, if any; returns the first step to run."""
        checkpoint = latest_checkpoint(self.checkpoints)
        step = 0
        if checkpoint is not None:
            step = load_checkpoint(checkpoint, self.decoder, self.optimizer, self.digest)
            log(f"  continuing after step {step}")
        self.metrics = MetricsLog(self.directory / "metrics.jsonl", step)
        return step

    def save(self, step: int) -> None:
        save_checkpoint(self.checkpoints, step, self.decoder, self.optimizer, self.digest)
        drop_older(self.checkpoints, keep=2)

    def step(self, step: int) -> dict[str, Any]:
        started = time.perf_counter()
        settings = self.settings
        rate = learning_rate(
            step,
            settings.steps,
            peak=settings.learning_rate,
            floor=settings.min_learning_rate,
            warmup=settings.warmup_steps,
        )
        batch, task_type, epoch = self._batch(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss, parts = backward(self.decoder, batch, self._loss(batch, task_type), settings.micro_batch_tokens)
        norm = nn.utils.clip_grad_norm_(self.decoder.parameters(), settings.clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            self._refuse(step, batch, loss, norm)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        if step + 1 in self.milestones:
            self._keep(step + 1)
        entry = {
            "step": step,
            "stage": settings.stage,
            "epoch": epoch,
            "source": batch.source,
            "loss": loss.item(),
            **parts,
            "lr": rate,
            "grad_norm": norm.item(),
            "tokens": batch.tokens,
            "rows": len(batch.query),
            "seconds": round(time.perf_counter() - started, 4),
        }
        self.metrics.write(entry)
        return entry

    def _batch(self, step: int) -> tuple[PackedBatch, TaskType, int]:
        draw = self.sampler.draw(step)
        task_type = self.store.task_types[draw.source]
        rows = draw_rows(self.store, draw, self.settings.negatives(task_type), self.settings.seed)
        return pack_rows(self.store, draw.source, rows), task_type, draw.epoch

    def _loss(self, batch: PackedBatch, task_type: TaskType) -> Any:
        """The loss of this batch as a function of its embeddings, and the parts it is made of."""
        settings, dims = self.settings, self.settings.dims
        candidates = torch.cat([batch.positive[:, None], batch.negatives], dim=1)
        same = batch.positive[:, None] == batch.positive[None, :] if settings.mask_duplicates else None

        def loss(E_ND: Tensor) -> tuple[Tensor, dict[str, float]]:
            # Not E_ND[...]: with several threads the gradient of indexing adds up in another order at each run.
            Q_BD, P_BD = E_ND.index_select(0, batch.query), E_ND.index_select(0, batch.positive)
            C_BKD = E_ND.index_select(0, candidates.clamp_min(0).flatten()).view(*candidates.shape, -1)
            parts = {"hard": hard_loss(Q_BD, C_BKD, candidates >= 0, dims, settings.temperature)}
            if task_type == "retrieval":
                parts["in_batch"] = in_batch_loss(Q_BD, P_BD, dims, settings.temperature, same)
            if self.teacher is not None:
                groups = [batch.query, batch.positive, batch.negatives.flatten()]
                parts["distill"] = settings.distill_weight * distill_loss(E_ND, self.teacher[batch.text_ids], groups)
            total = torch.stack(list(parts.values())).sum()
            return total, {name: part.item() for name, part in parts.items()}

        return loss

    def _keep(self, step: int) -> None:
        """Keep the weights of an intermediate step for later study."""
        save_weights(self.decoder, self.directory / "milestones" / f"step-{step:08d}.safetensors")

    def _refuse(self, step: int, batch: PackedBatch, loss: Tensor, norm: Tensor) -> None:
        """Stop before a non-finite update reaches the weights, and write down which texts were in the batch."""
        path = self.directory / "non-finite-batch.json"
        write_json(path, {"step": step, "source": batch.source, "text_ids": batch.text_ids.tolist()})
        raise TrainingError(
            f"step {step} on source {batch.source!r} gave loss {loss.item()} and gradient norm {norm.item()}; "
            f"nothing was updated, the batch is in {path}; lower the learning rate or look at those texts"
        )


@contextmanager
def _sigterm_flag() -> Iterator[threading.Event]:
    """An event that SIGTERM sets (in the main thread only; elsewhere it is never set)."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
