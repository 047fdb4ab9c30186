"""The dry run: what a recipe would do and cost on a stated device, without reading any data.

For each step its samples, tokens, floating point operations, memory and hours; for each model and the family the
totals. A device is taken to reach a stated share of its peak. Not counted: conversion, cleaning, mining, validation,
evaluation, the optimizer, and the loss. What is assumed beyond that is listed in the plan.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from f2llm.core.config import ModelConfig, Recipe, RecipeFile
from f2llm.core.errors import F2LLMError
from f2llm.data.sources import CAP, ROWS_AFTER_CAP
from f2llm.model import checkpoint
from f2llm.model.sizes import QWEN3_VOCAB, Shape
from f2llm.pipeline.checks import matches_hidden, model_shape
from f2llm.pipeline.devices import Device
from f2llm.pipeline.plan import Export, exports, make_plan
from f2llm.pipeline.registry import registered, with_registry
from f2llm.pipeline.stage_data import StageData, stage_data
from f2llm.pipeline.training_load import Load, forward_operations, memory_plan, operations, training_loads
from f2llm.text.tokenizer import Tokenizer

UNKNOWN = "unknown until the data steps have run"
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
_FLOAT16, _FLOAT32, _TOKEN_ID = 2, 4, 4


@dataclass(frozen=True)
class PlannedStep:
    """One line of the plan; what is None does not apply, or is not known (then `note` says so).

    `samples` are rows, or texts where a teacher or a parent reads them. `memory` is of one process, `disk` of what the
    step leaves, both in bytes. `micro_batch_tokens`: what a process embeds at once.
    """

    name: str
    kind: str
    model: str | None = None
    steps: int | None = None
    samples: int | None = None
    tokens: int | None = None
    training_flops: float | None = None
    teacher_flops: float | None = None
    micro_batch_tokens: int | None = None
    memory: int | None = None
    disk: int | None = None
    note: str = ""

    @property
    def flops(self) -> float | None:
        parts = [part for part in (self.training_flops, self.teacher_flops) if part is not None]
        return sum(parts) if parts else None


@dataclass(frozen=True)
class Totals:
    """Sums over the steps of a model or of the family; `unknown` steps are not in them."""

    name: str
    parameters: int
    training_flops: float
    teacher_flops: float
    tokens: int
    memory: int
    unknown: int

    @property
    def flops(self) -> float:
        return self.training_flops + self.teacher_flops


@dataclass(frozen=True)
class GridCost:
    """What the grid of a recipe costs: of all its `trainings`, those that are `computed`; what is shared counts once.

    `unknown` steps are not in the operations; `hours` from start to end, as of a plan.
    """

    variants: int
    seeds: int
    trainings: int
    computed: int
    flops: float
    hours: float
    unknown: int


@dataclass(frozen=True)
class Plan:
    """The steps in order, totals by model, and what all of it rests on; `grid` where the recipe has one."""

    recipe: str
    device: Device
    steps: Sequence[PlannedStep]
    models: Sequence[Totals]
    assumptions: Sequence[str] = field(default_factory=list)
    grid: GridCost | None = None

    @property
    def totals(self) -> Totals:
        """Of the whole family."""
        return _totals("all", sum(model.parameters for model in self.models), self.steps)

    @property
    def hours(self) -> float:
        """From start to end."""
        return hours_of(self.steps, self.device)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers: counts, FLOPs, bytes and device hours."""
        grid = {} if self.grid is None else {"grid": vars(self.grid)}
        return {
            "recipe": self.recipe,
            "device": self.device.to_json(),
            "steps": [_with_hours(step, self.device) for step in self.steps],
            "models": [_with_hours(model, self.device) for model in self.models],
            "totals": {**_with_hours(self.totals, self.device), "hours": self.hours},
            "assumptions": list(self.assumptions),
            **grid,
        }


def hours_of(steps: Sequence[PlannedStep], device: Device) -> float:
    """From start to end: all devices train together, and one alone computes a teacher's stored vectors."""
    alone = sum(step.flops or 0.0 for step in steps if step.kind == "teach")
    return device.hours(alone) + device.hours(sum(step.flops or 0.0 for step in steps) - alone) / device.count


def _with_hours(item: PlannedStep | Totals, device: Device) -> dict[str, Any]:
    hours = None if item.flops is None else device.hours(item.flops)
    return {**vars(item), "flops": item.flops, "gpu_hours": hours}


def estimate(recipe: Recipe, file: RecipeFile, device: Device, out: Path | None = None) -> Plan:
    """The plan of a recipe on `device`; finished token stores below `out` replace assumptions by counts.

    ConfigError where the recipe is wrong; files and directories that it names need not be there.
    """
    full = with_registry(recipe, file)
    names = [step.name for step in make_plan(full, file, data_there=False)]
    planner = _Planner(full, file, device, out)
    steps = list(planner.steps(names))
    models = [
        _totals(model.name, planner.shape(model).parameters, [step for step in steps if step.model == model.name])
        for model in full.models
    ]
    return Plan(full.name, device, steps, models, planner.assumptions(steps))


def _totals(name: str, parameters: int, steps: Sequence[PlannedStep]) -> Totals:
    costly = [step for step in steps if step.kind in ("train", "teach")]
    return Totals(
        name=name,
        parameters=parameters,
        training_flops=sum(step.training_flops or 0.0 for step in costly),
        teacher_flops=sum(step.teacher_flops or 0.0 for step in costly),
        tokens=sum(step.tokens or 0 for step in costly if step.kind == "train"),
        memory=max((step.memory or 0 for step in costly), default=0),
        unknown=sum(step.flops is None for step in costly),
    )


class _Planner:
    def __init__(self, recipe: Recipe, file: RecipeFile, device: Device, out: Path | None) -> None:
        self.recipe, self.file, self.device = recipe, file, device
        self.data = {stage: stage_data(recipe, stage, out) for stage in (1, 2)}
        self.exports = {f"export/{export.name}": export for export in exports(recipe, file)}
        self.vocab_size, self.vocab_known = self._vocab_size()

    def steps(self, names: Sequence[str]) -> Iterable[PlannedStep]:
        """A line for each step, or one for all of a group."""
        groups = {"convert": self._convert, "mine": self._mine, "evaluate": self._evaluate}
        told: set[str] = set()
        for name in names:
            group, _, rest = name.partition("/")
            if group in groups:
                if group not in told:
                    yield groups[group](sum(other.startswith(f"{group}/") for other in names))
                told.add(group)
            elif group == "train":
                model, _, stage = rest.rpartition("/stage")
                yield self._train(name, self.recipe.model(model), int(stage))
            elif group == "teach":
                yield self._teach(name, rest)
            elif group == "tokenize":
                yield self._tokenize(name, self.data[int(rest.removeprefix("stage"))])
            elif group == "score":
                yield self._score(name, self.recipe.model(rest))
            elif group == "prune":
                yield self._prune(name, self.recipe.model(rest))
            elif name in self.exports:
                yield self._export(name, self.exports[name])
            else:
                yield PlannedStep(name, "report" if name in ("baseline", "report") else "data")

    def shape(self, model: ModelConfig) -> Shape:
        return model_shape(self.recipe, model, self.vocab_size)

    def _vocab_size(self) -> tuple[int, bool]:
        """Rows of the token table of the recipe's own sizes, and whether they are known."""
        own = self.recipe.tokenizer
        if own.vocab_size is not None:
            return own.vocab_size, True
        try:
            return Tokenizer.load(self.file.resolve(own.path or ""), own.max_seq_length).vocab_size, True
        except F2LLMError:
            return QWEN3_VOCAB, not self.recipe.sizes

    # The data steps

    def _convert(self, count: int) -> PlannedStep:
        known = registered(self.recipe)
        rows = sum(source.rows for source in known.values())
        unknown = count - len(known)
        note = f"{unknown} own source{'s' * (unknown != 1)} not counted" if unknown and known else ""
        return PlannedStep(f"convert: {_counted(count, 'source')}", "data", samples=rows or None, note=note)

    def _mine(self, count: int) -> PlannedStep:
        note = "negatives are given" if registered(self.recipe) else ""
        return PlannedStep(f"mine: {_counted(count, 'source')}", "data", note=note)

    def _evaluate(self, count: int) -> PlannedStep:
        return PlannedStep(f"evaluate: {_counted(count, 'model')}", "report")

    def _tokenize(self, name: str, data: StageData) -> PlannedStep:
        disk = None if data.tokens is None else _TOKEN_ID * data.tokens
        note = "counted" if data.measured else "" if data.total_rows is not None else UNKNOWN
        return PlannedStep(name, "data", samples=data.total_rows, tokens=data.tokens, disk=disk, note=note)

    # Models

    def _train(self, name: str, model: ModelConfig, stage: int) -> PlannedStep:
        data, shape, training = self.data[stage], self.shape(model), self.recipe.training_of(model)
        loads, length = training_loads(self.recipe, model, stage, data), data.tokens_per_text
        largest = None if loads is None else max(load.texts for load in loads) * length
        memory = memory_plan(shape, training, self.device, length, largest)
        if loads is None:
            return PlannedStep(name, "train", model.name, memory=memory.total, note=UNKNOWN)
        checkpointed, full = training.checkpoint_activations, memory.micro_batch_tokens * self.device.count
        step = PlannedStep(
            name,
            "train",
            model.name,
            steps=sum(load.batches for load in loads),
            samples=round(sum(load.batches * load.rows for load in loads)),
            tokens=round(sum(load.batches * load.texts for load in loads) * length),
            training_flops=sum(operations(shape, load, length, full, checkpointed) for load in loads),
            micro_batch_tokens=memory.micro_batch_tokens,
            memory=memory.total,
            note="" if memory.total <= self.device.room else f"needs more than {self.device.room / 1e9:.0f} GB",
        )
        online = stage == 2 and model.teacher and training.teacher_vectors == "online"
        return self._with_teacher(step, model, loads, length) if online else step

    def _with_teacher(self, step: PlannedStep, model: ModelConfig, loads: list[Load], length: float) -> PlannedStep:
        """A training whose teacher embeds every batch beside it."""
        shape = self._teacher_shape(model.teacher or "")
        if shape is None:
            return replace(step, note="the teacher is not there, its cost is unknown")
        texts = sum(load.batches * load.texts for load in loads)
        sharded = self.device.count if self.recipe.training_of(model).parallel == "fsdp" else 1
        weights = _FLOAT32 * shape.parameters // sharded
        return replace(
            step, teacher_flops=forward_operations(shape, texts, length), memory=(step.memory or 0) + weights
        )

    def _teach(self, name: str, teacher: str) -> PlannedStep:
        """Vectors of each distinct text that the students draw, once."""
        students = [
            model
            for model in self.recipe.models
            if model.teacher is not None
            and teacher in (model.teacher, Path(model.teacher).name)
            and self.recipe.training_of(model).teacher_vectors == "stored"
        ]
        known, texts = [model.name for model in self.recipe.models], self._taught_texts(students)
        shape = self._teacher_shape(students[0].teacher or "")
        step = PlannedStep(name, "teach", teacher if teacher in known else None, samples=texts)
        if shape is None or texts is None:
            return replace(step, note=UNKNOWN if shape else "the teacher is not there, its cost is unknown")
        length = self.data[2].tokens_per_text
        states = max(self._states(student, shape) for student in students)
        return replace(
            step,
            tokens=round(texts * length),
            teacher_flops=forward_operations(shape, texts, length),
            memory=_FLOAT32 * shape.parameters,
            disk=_FLOAT16 * texts * shape.hidden * (1 + states),
            note=f"for {', '.join(_short_names([student.name for student in students]))}",
        )

    def _states(self, student: ModelConfig, teacher: Shape) -> int:
        """How many hidden states of each text are stored for a student, at most."""
        if not matches_hidden(self.recipe, student):
            return 0
        first = self.recipe.prune_of(student).depth == "first"
        return (self.shape(student) if first else teacher).layers - 1

    def _taught_texts(self, students: Sequence[ModelConfig]) -> int | None:
        """Distinct texts that the students read: at most all there are, and at most all that they draw."""
        drawn = [training_loads(self.recipe, student, 2, self.data[2]) for student in students]
        most = [self.data[2].texts]
        if None not in drawn:
            most.append(round(sum(load.batches * load.texts for loads in drawn for load in loads or [])))
        return min((count for count in most if count is not None), default=None)

    def _teacher_shape(self, teacher: str) -> Shape | None:
        """That of a model of the recipe or of a directory; None where there is no such directory."""
        inside = next((model for model in self.recipe.models if model.name == teacher), None)
        if inside is not None:
            return self.shape(inside)
        try:
            return checkpoint.read_shape(self.file.resolve(teacher))
        except F2LLMError:
            return None

    def _score(self, name: str, parent: ModelConfig) -> PlannedStep:
        texts = min(self.recipe.prune.calibration_texts, self.data[1].texts or sys.maxsize)
        tokens = round(texts * self.data[1].tokens_per_text)
        return PlannedStep(name, "prune", parent.name, samples=texts, tokens=tokens)

    def _prune(self, name: str, model: ModelConfig) -> PlannedStep:
        parent = self.shape(self.recipe.model(model.pruned_from or "")).parameters
        own = self.shape(model).parameters
        note = f"{shortened(parent)} -> {shortened(own)} parameters"
        return PlannedStep(name, "prune", model.name, disk=_FLOAT32 * own, note=note)

    def _export(self, name: str, export: Export) -> PlannedStep:
        return PlannedStep(name, "export", export.model.name, disk=_FLOAT32 * self.shape(export.model).parameters)

    # What the plan rests on

    def assumptions(self, steps: Sequence[PlannedStep]) -> list[str]:
        """One sentence for each thing that is taken for granted."""
        found = [
            self.device.assumption(),
            "Not counted: conversion, cleaning, mining, validation, evaluation, the loss and the optimizer.",
            *self._about_data(),
            "All texts are taken to be of the mean length, and all texts of a batch to differ; instructions that "
            "a batch shares are computed once, which makes the true number of tokens smaller.",
        ]
        if any(step.kind == "teach" for step in steps):
            found.append("One process computes a teacher's vectors, of all texts that its students may draw.")
        if not self.device.host and any(
            training.precision == "fp32" for training in map(self.recipe.training_of, self.recipe.models)
        ):
            found.append("The recipe trains in fp32, but the peak is that of bf16: the hours are a lower bound.")
        if any(self.recipe.training_of(model).micro_batch_tokens == "auto" for model in self.recipe.models):
            found.append(f"micro_batch_tokens = auto: as many as fit into {self.device.room / 1e9:.1f} GB of a device.")
        if not self.vocab_known:
            found.append(f"The tokenizer is not there: {QWEN3_VOCAB:,} tokens, Qwen3's.")
        return found

    def _about_data(self) -> Iterable[str]:
        for stage, data in self.data.items():
            if data.measured:
                counted = f"rows, texts and {data.tokens_per_text:.1f} tokens a text"
                yield f"Stage {stage}: {counted} as in the finished store."
        unmeasured = [data for data in self.data.values() if data.rows and not data.measured]
        if not unmeasured:
            return
        yield f"{self.recipe.plan.tokens_per_text} tokens a text (plan.tokens_per_text)."
        if registered(self.recipe):
            yield from self._about_registry()
        if any(data.total_rows is None for data in unmeasured):
            yield "Own sources are taken to give equally many batches, where a training has max_steps."
        if self.recipe.training.mixture.language_floors or self.recipe.training.mixture.language_caps:
            yield "Bounds of the mixture by language are left out: languages are counted with the data."

    def _about_registry(self) -> Iterable[str]:
        assert self.recipe.registry is not None
        cap = self.recipe.registry.max_rows
        total = self.data[2].total_rows
        if cap is not None and total is not None:
            published = (
                f"an estimate: of the whole registry {ROWS_AFTER_CAP:,} are published, and no row counts by unit"
            )
            basis = published if cap == CAP else "an upper bound: row counts by unit are not published"
            yield f"Stage 2 has {total:,} rows under the cap of {cap:,} a unit, {basis}."
        yield "Cleaning drops no row, besides the share that it holds out."
        yield "A row of stage 2 brings 6.1 distinct texts with 24 negatives, as in the whole registry."


def shortened(number: int) -> str:
    """Three digits and a letter for large numbers: 1,234, 17.6M, 43.2B."""
    for unit, letter in _UNITS:
        if number >= unit:
            return f"{number / unit:.3g}{letter}" if number < 999.5 * unit else f"{number / unit:,.0f}{letter}"
    return f"{number:,}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _short_names(names: list[str]) -> list[str]:
    """Names without what they all start with, up to a hyphen."""
    start = names[0].rpartition("-")[0] + "-"
    return [names[0], *(name.removeprefix(start) for name in names[1:])]
