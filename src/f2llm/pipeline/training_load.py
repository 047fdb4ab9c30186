"""What a planned training computes: batches by task type, operations, memory of a process; arithmetic, no data.

The counts are the trainer's own (`BatchSampler`, `training_operations`, `plan_memory`), fed with expected sizes: every
text of a batch is taken to be of the mean length and to occur once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Literal, NamedTuple

from f2llm.core.config import ModelConfig, Recipe, StageConfig, TrainingConfig
from f2llm.core.errors import ConfigError
from f2llm.core.types import TaskType
from f2llm.model.sizes import Shape
from f2llm.pipeline.devices import Device
from f2llm.pipeline.stage_data import StageData
from f2llm.train.memory import STEP, MemoryPlan, micro_batch_tokens_for, plan_memory
from f2llm.train.operations import training_operations
from f2llm.train.sampler import BatchSampler, Mixture, held_out_counts, negatives_of


class Load(NamedTuple):
    """The batches of one task type in a training: how many, and the rows and texts of one of them."""

    batches: int
    rows: float
    texts: float


def training_loads(recipe: Recipe, model: ModelConfig, stage: int, data: StageData) -> list[Load] | None:
    """What the steps of a training read, by task type; None where their number is not known yet."""
    own, training = recipe.stage(model, stage), recipe.training_of(model)
    sampler = expected_sampler(own, training, data, recipe.seed + stage)
    if sampler is None:
        return None
    steps = planned_steps(own, sampler)
    batches, rows = defaultdict[TaskType, int](int), defaultdict[TaskType, float](float)
    for source, planned in sampler.planned(steps).items():
        drawn = int(planned["drawn"])
        batches[data.task_types[source]] += drawn
        rows[data.task_types[source]] += drawn * planned["rows"] / planned["batches"]
    per_row = {kind: 2 + _negatives(kind, own, data) for kind in batches}
    return [Load(n, rows[kind] / n, per_row[kind] * rows[kind] / n) for kind, n in batches.items() if n]


def operations(shape: Shape, load: Load, length: float, tokens_at_once: int, checkpoint_activations: bool) -> float:
    """Of all steps of one task type, with what is computed again (as the trainer counts it).

    `tokens_at_once` is what all processes together embed in one go.
    """
    tokens = load.texts * length
    parts = max(1, math.ceil(tokens / tokens_at_once - 1e-9))
    forwards = 1 + (parts - 1) / parts + checkpoint_activations
    counts = round(tokens), round(load.texts), round(load.texts * _pairs(length))
    return load.batches * training_operations(shape, *counts, forwards=forwards)


def forward_operations(shape: Shape, texts: float, length: float) -> float:
    """Operations of a forward pass alone: what one more of them adds to a training step."""
    counts = round(texts * length), round(texts), round(texts * _pairs(length))
    return training_operations(shape, *counts, forwards=1) - training_operations(shape, *counts, forwards=0)


def memory_plan(
    shape: Shape, training: TrainingConfig, device: Device, length: float, step_tokens: float | None
) -> MemoryPlan:
    """Memory of a process at the recipe's token budget, as far as its share of the largest step fills it."""
    how: dict[str, Any] = {
        "precision": training.precision,
        "checkpoint_activations": training.checkpoint_activations,
        "processes": device.count,
        "strategy": training.parallel if device.count > 1 else "single",
    }
    budget = _token_budget(training.micro_batch_tokens, shape, device, how)
    if step_tokens is not None:
        budget = max(1, min(budget, math.ceil(step_tokens / device.count)))
    return plan_memory(shape, micro_batch_tokens=budget, sequences=math.ceil(budget / length), **how)


def _token_budget(stated: int | Literal["auto"], shape: Shape, device: Device, how: dict[str, Any]) -> int:
    if stated != "auto":
        return stated
    try:
        return micro_batch_tokens_for(shape, device.room, **how)
    except ConfigError:  # nothing fits; the plan shows how much the smallest budget needs
        return STEP


def planned_steps(own: StageConfig, sampler: BatchSampler) -> int:
    """How long a stage trains: the steps that the recipe gives, or its epochs."""
    return own.max_steps or max(round(own.epochs * sampler.steps_per_epoch), 1)


def mixture_of(training: TrainingConfig, data: StageData) -> Mixture:
    """The recipe's mixture, as far as it speaks of the sources and languages of a stage."""
    tags = {tag for shares in data.languages.values() for tag in shares}
    return Mixture(**training.mixture.model_dump()).about(data.rows, tags)


def expected_sampler(own: StageConfig, training: TrainingConfig, data: StageData, seed: int) -> BatchSampler | None:
    """The sampler over the expected rows; over equally large sources where only the number of steps is known."""
    sizes = {source: rows for source, rows in data.rows.items() if rows is not None}
    held_out = held_out_counts(sizes, training.validation_fraction, training.validation_rows)
    if len(sizes) < len(data.rows):
        if own.max_steps is None:
            return None
        sizes, held_out = dict.fromkeys(data.rows, own.max_steps * own.global_batch), {}
    mixture = mixture_of(training, data)
    return BatchSampler(sizes, own.global_batch, seed, mixture=mixture, languages=data.languages, held_out=held_out)


def _negatives(kind: TaskType, own: StageConfig, data: StageData) -> int:
    return min(negatives_of(kind, own.hard_negatives, own.clustering_hard_negatives), data.stored_negatives)


def _pairs(length: float) -> float:
    return length * (length + 1) / 2
