"""One stage of training: batches in, weights out; resumable at every checkpoint, to the bit on CPU.

On several processes every one calls `train`; each builds the same batches, embeds its share of them, and takes the same
decisions, so that they stop, save and fail together. The next batch is built while the present one is computed.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import AdamW

from f2llm.core.errors import InterruptedRunError, TrainingError
from f2llm.core.files import sweep, write_json
from f2llm.core.log import Bar, log
from f2llm.core.types import TaskType
from f2llm.data.store import TokenStore
from f2llm.model.checkpoint import save_tensors
from f2llm.model.decoder import Decoder
from f2llm.model.fused import compile_fused
from f2llm.train.batch import PackedBatch, pack_rows
from f2llm.train.distributed import Replica, World, whole
from f2llm.train.evaluation import Evaluation, Scorer
from f2llm.train.gradcache import backward
from f2llm.train.memory import available_bytes, describe, micro_batch_tokens_for, plan_memory
from f2llm.train.metrics import Averages, Entry, MetricsLog, flatten
from f2llm.train.objective import Parts, make_objective
from f2llm.train.operations import matrix_rate, training_operations
from f2llm.train.optim import learning_rate, make_optimizer, set_learning_rate
from f2llm.train.sampler import BatchSampler, Draw, draw_rows
from f2llm.train.settings import TrainSettings, Upkeep, make_sampler
from f2llm.train.sinks import open_sinks
from f2llm.train.state import drop_older, latest_checkpoint, load_checkpoint, save_checkpoint, saved_run
from f2llm.train.teacher import OnlineTeacher, StoredTeacher, Teacher
from f2llm.train.validation import Validation

ALONE = World()


def train(
    decoder: Decoder,
    store: TokenStore,
    settings: TrainSettings,
    directory: Path,
    *,
    upkeep: Upkeep | None = None,
    teacher: Teacher | None = None,
    world: World = ALONE,
    inputs: Mapping[str, str] | None = None,
    scorer: Scorer | None = None,
    description: str = "training",
) -> dict[str, Tensor]:
    """Train `decoder` in place; returns its weights, whole, in the main process (nothing in the others).

    `directory` receives metrics.jsonl, checkpoints/ and milestones/; the newest valid checkpoint there is picked up,
    and refused where it belongs to other settings, data or `inputs` (digests of what the weights and teacher came
    from). SIGTERM to any process saves at the next step and raises InterruptedRunError in all. `scorer` measures the
    weights as often as `upkeep` says and changes nothing; where one process has it, all must.
    """
    upkeep = upkeep or Upkeep()
    run = _Run(decoder, store, settings, directory, upkeep, teacher, world, inputs or {}, scorer, description)
    try:
        with _sigterm_flag() as stop:
            run.loop(stop)
        return run.replica.whole_state()
    finally:
        run.close()


class Task(NamedTuple):
    """What a step works on: a batch, the rows it was made of, and the teacher's vectors of its texts, if stored."""

    batch: PackedBatch
    draw: Draw
    task_type: TaskType
    teacher_ND: Tensor | None


class BatchBuilder:
    """Builds the batch of a step, and of the step after it in the background."""

    def __init__(
        self, store: TokenStore, settings: TrainSettings, sampler: BatchSampler, teacher: Teacher | None
    ) -> None:
        self.store, self.settings, self.sampler, self.teacher = store, settings, sampler, teacher
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._next: tuple[int, Future[Task]] | None = None

    def task(self, step: int) -> Task:
        """The task of `step`; the one after it is started."""
        waiting, self._next = self._next, None
        found = waiting[1].result() if waiting is not None and waiting[0] == step else self._build(step)
        if step + 1 < self.settings.steps:
            self._next = (step + 1, self._pool.submit(self._build, step + 1))
        return found

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _build(self, step: int) -> Task:
        draw = self.sampler.draw(step)
        task_type = self.store.task_types[draw.source]
        rows = draw_rows(self.store, draw, self.settings.negatives(task_type), self.settings.seed)
        batch = pack_rows(self.store, draw.source, rows)
        stored = self.teacher[batch.text_ids] if isinstance(self.teacher, StoredTeacher) else None
        return Task(batch, draw, task_type, stored)


class _Run:
    def __init__(
        self,
        decoder: Decoder,
        store: TokenStore,
        settings: TrainSettings,
        directory: Path,
        upkeep: Upkeep,
        teacher: Teacher | None,
        world: World,
        inputs: Mapping[str, str],
        scorer: Scorer | None,
        description: str,
    ) -> None:
        self.store, self.settings, self.upkeep, self.world = store, settings, upkeep, world
        self.directory, self.checkpoints, self.description = directory, directory / "checkpoints", description
        self.resumed = world.gather(world.main_first(self._newest))[0]
        self.max_tokens = self._micro_batch_tokens(decoder)
        self._prepare(decoder)
        self.replica = Replica(decoder, world, settings.strategy, settings.precision)
        self.optimizer: AdamW = make_optimizer(decoder, weight_decay=settings.weight_decay, betas=settings.betas)
        self.run = self._identity(decoder, teacher, inputs)
        self.sampler = make_sampler(store, settings)
        self.teacher = teacher
        self.builder = BatchBuilder(store, settings, self.sampler, teacher)
        self.validation = Validation(store, settings, self.sampler)
        self.evaluation = None if scorer is None else Evaluation(scorer, self.replica, self.max_tokens)
        self.matrix_rate = world.size * matrix_rate(world.device, _compute_dtype(settings))
        every = settings.steps / (upkeep.milestones + 1)
        self.milestones = {round(every * i) for i in range(1, upkeep.milestones + 1)}

    def loop(self, stop: threading.Event) -> None:
        """All steps that are left."""
        first, upkeep = self._resume(), self.upkeep
        with Bar(self.description, self.settings.steps) as bar:
            bar.advance(first)
            for step in range(first, self.settings.steps):
                self.step(step)
                done = step + 1
                bar.advance(note=self._note())
                self._report(done)
                stopping = self.world.any(stop.is_set())
                if stopping or done % upkeep.checkpoint_every == 0:
                    self.save(done)
                if stopping:
                    raise InterruptedRunError(f"stopped after step {done} as asked; run the same command to continue")

    def step(self, step: int) -> dict[str, Any]:
        """One step: batch, gradient, clipping, update; what it came to goes to metrics.jsonl."""
        started, settings = time.perf_counter(), self.settings
        task = self.builder.task(step)
        batch = task.batch.to(self.world.device)
        teacher_ND = self._teacher_vectors(task, batch)
        objective = make_objective(settings.loss, batch, task.task_type, teacher_ND, self.world.size)
        self.optimizer.zero_grad(set_to_none=True)
        loss, parts = backward(self.replica, batch, objective, self.max_tokens)
        norm = whole(nn.utils.clip_grad_norm_(self.replica.decoder.parameters(), settings.clip_norm))
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            self._refuse(step, batch, loss, norm)
        rate = self._learning_rate(step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        entry: dict[str, Any] = {
            "step": step,
            "stage": settings.stage,
            "epoch": task.draw.epoch,
            "source": batch.source,
            "task_type": task.task_type,
            "loss": loss.item(),
            **{name: term.item() for name, term in parts.terms.items()},
            "lr": rate,
            "grad_norm": norm.item(),
            "tokens": batch.tokens,
            "rows": len(batch.query),
            "languages": self._by_language(task, parts),
        }
        seconds = time.perf_counter() - started
        share = self._operations(batch) / self.matrix_rate / seconds
        entry |= {"seconds": round(seconds, 4), "floor_share": round(share, 3), "memory_mb": _memory_mb(self.world)}
        self.averages.add(entry)
        if self.metrics is not None:
            self.metrics.write(entry)
        return entry

    def _teacher_vectors(self, task: Task, batch: PackedBatch) -> Tensor | None:
        if isinstance(self.teacher, OnlineTeacher):
            return self.teacher(batch)
        return None if task.teacher_ND is None else task.teacher_ND.to(self.world.device)

    def save(self, step: int) -> None:
        if self.metrics is not None:
            self.metrics.sync()
        position = {"learning_rate": self._learning_rate(step), "epoch": step / self.sampler.steps_per_epoch}
        save_checkpoint(self.checkpoints, step, self.replica, self.optimizer, self.run, position)
        if self.world.is_main:
            self._drop_older(step)

    def close(self) -> None:
        self.builder.close()
        for sink in getattr(self, "sinks", ()):
            sink.close()
        if getattr(self, "metrics", None) is not None:
            with suppress(OSError):  # every line was flushed, or the error of that is already on its way
                self.metrics.close()  # type: ignore[union-attr]

    def _drop_older(self, step: int) -> None:
        drop_older(self.checkpoints, step, self.upkeep.keep_last, self.upkeep.keep_every)

    def _newest(self) -> Path | None:
        return latest_checkpoint(self.checkpoints)

    def _resume(self) -> int:
        """Load the newest checkpoint, if any, and open the log and the trackers; returns the first step to run."""
        step = 0
        if self.resumed is not None:
            step = self.world.together(
                lambda: load_checkpoint(self.resumed, self.replica, self.optimizer, self.run)  # type: ignore[arg-type]
            )
            if self.world.is_main:
                log(f"  continuing after step {step}")
        self.averages = Averages()
        self.metrics = self.world.main_first(lambda: self._open_log(step))
        trackers = self.upkeep.trackers if self.world.is_main else ()
        self.sinks = open_sinks(trackers, self.directory, self.description, self.run, step > 0, step=step)
        return step

    def _open_log(self, step: int) -> MetricsLog:
        """The log, after what a killed predecessor could not clear away any more is gone."""
        sweep(self.directory)
        self._drop_older(step)
        self._tell_mixture()
        return MetricsLog(self.directory / "metrics.jsonl", step)

    def _tell_mixture(self) -> None:
        """Write down how many batches each source gives, and name the largest ones."""
        planned = self.sampler.planned(self.settings.steps)
        write_json(self.directory / "mixture.json", planned)
        largest = sorted(planned, key=lambda source: -planned[source]["share"])
        told = [f"{name} {planned[name]['share']:.0%}, {planned[name]['passes']:.2g} passes" for name in largest[:5]]
        more = f"; {len(largest) - 5} more in mixture.json" if len(largest) > 5 else ""
        log(f"  batches: {'; '.join(told)}{more}")

    def _report(self, done: int) -> None:
        """What is due after `done` steps: means to the trackers, validation, evaluation, weights to keep."""
        upkeep, last = self.upkeep, done == self.settings.steps
        if done % upkeep.log_every == 0 or last:
            values = flatten(self.averages.summary())
            for sink in self.sinks:
                sink.write(done, values)
        if self.validation.waiting and self._is_due(upkeep.validate_every, done):
            self._tell(done, self.validation.run(self.replica, self.max_tokens, upkeep.validation_seconds))
        if self.evaluation is not None and self._is_due(upkeep.evaluate_every, done):
            self._tell(done, self.evaluation.run(done, upkeep.evaluation_seconds))
        if done in self.milestones:
            tensors = self.replica.whole_state()
            path = self.directory / "milestones" / f"step-{done:08d}.safetensors"
            self.world.main_first(lambda: save_tensors(tensors, path))

    def _is_due(self, every: int, done: int) -> bool:
        """Every so many steps (0: never), and after the last one."""
        return every > 0 and (done % every == 0 or done == self.settings.steps)

    def _tell(self, done: int, entry: Entry) -> None:
        """An entry of a kind of its own, to metrics.jsonl and to the trackers."""
        if self.metrics is not None:
            self.metrics.write({"step": done, **entry})
        for sink in self.sinks:
            sink.write(done, {f"{entry['kind']}/{name}": value for name, value in flatten(entry).items()})

    def _note(self) -> str:
        """What the progress bar says besides its place."""
        parts = (self.averages.note(), self.evaluation.note if self.evaluation is not None else "")
        return ", ".join(part for part in parts if part)

    def _learning_rate(self, step: int) -> float:
        settings = self.settings
        return learning_rate(
            step,
            settings.steps,
            peak=settings.learning_rate,
            floor=settings.min_learning_rate,
            warmup=settings.warmup_steps,
        )

    def _prepare(self, decoder: Decoder) -> None:
        settings, world = self.settings, self.world
        decoder.checkpoint_activations = settings.checkpoint_activations
        decoder.append_states = settings.loss.hidden_states
        if settings.compile:
            decoder.use_fused(compile_fused())
        plan = plan_memory(
            decoder.shape,
            micro_batch_tokens=self.max_tokens,
            precision=settings.precision,
            checkpoint_activations=settings.checkpoint_activations,
            processes=world.size,
            strategy=settings.strategy if world.size > 1 else "single",
            name=self.description,
        )
        if world.is_main:
            log(f"  {describe(plan)}")

    def _micro_batch_tokens(self, decoder: Decoder) -> int:
        """As set, or as in the checkpoint that is continued, or as many as memory holds."""
        settings, world = self.settings, self.world
        if settings.micro_batch_tokens is not None:
            return settings.micro_batch_tokens
        if self.resumed is not None:
            return int(saved_run(self.resumed)["micro_batch_tokens"])
        here = max(1, world.size if world.device.type == "cpu" else 1)
        fitting = micro_batch_tokens_for(
            decoder.shape,
            available_bytes(world.device) // here,
            precision=settings.precision,
            checkpoint_activations=settings.checkpoint_activations,
            processes=world.size,
            strategy=settings.strategy if world.size > 1 else "single",
        )
        return min(world.gather(fitting))

    def _identity(self, decoder: Decoder, teacher: Teacher | None, inputs: Mapping[str, str]) -> dict[str, Any]:
        """All that a resumed run must have in common with this one."""
        settings = replace(self.settings, micro_batch_tokens=self.max_tokens)
        return {
            **asdict(settings),
            "shape": asdict(decoder.shape),
            "data": self.store.digest,
            "tokenizer": self.store.meta["tokenizer"],
            "teacher": None if teacher is None else teacher.name,
            "inputs": dict(inputs),
            "processes": self.world.size,
            "device": self.world.device.type,
        }

    def _by_language(self, task: Task, parts: Parts) -> dict[str, list[float]]:
        """Sum of the rows' hard losses and their number, by language of the query."""
        tags: NDArray[np.uint16] = self.store.languages(task.draw.source)[task.draw.rows, 0]
        losses = parts.rows_B.double().cpu().numpy()
        names = self.store.language_names
        return {names[tag]: [float(losses[tags == tag].sum()), int((tags == tag).sum())] for tag in np.unique(tags)}

    def _operations(self, batch: PackedBatch) -> float:
        """Operations of the step's matrix products, those that are computed again included."""
        parts = len(batch.shares(self.world.size, self.max_tokens))
        forwards = 1 + (parts - 1) / parts + self.settings.checkpoint_activations
        texts, pairs = len(batch.text_ids), batch.attention_pairs
        return training_operations(self.replica.decoder.shape, batch.tokens, texts, pairs, forwards=forwards)

    def _refuse(self, step: int, batch: PackedBatch, loss: Tensor, norm: Tensor) -> None:
        """Stop before a non-finite update reaches the weights, and write down which texts were in the batch."""
        path = self.directory / "non-finite-batch.json"
        if self.world.is_main:
            write_json(path, {"step": step, "source": batch.source, "text_ids": batch.text_ids.tolist()})
        raise TrainingError(
            f"step {step} on source {batch.source!r} gave loss {loss.item()} and gradient norm {norm.item()}; "
            f"nothing was updated, the batch is in {path}; lower the learning rate or look at those texts"
        )


def _compute_dtype(settings: TrainSettings) -> torch.dtype:
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


def _memory_mb(world: World) -> float | None:
    """Highest use of the GPU, or resident memory of this process now."""
    if world.device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(world.device) / 1e6, 1)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * 4096 / 1e6, 1)


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
