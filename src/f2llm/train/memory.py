"""What one process of a training run needs in memory, before it starts, and the token budget that fits.

The parts that live all the time: float32 weights and gradients, two float32 moments of AdamW. On top of them comes the
larger of two passing needs: all that autograd saves of one micro-batch (with the bfloat16 copies of the weights), or,
when all that is released again, the dense gradient of the token table before it is added to the one that is there.
Not counted: the loss, which works on N embeddings, the interpreter, and what an allocator wastes (see `HOST_SHARE`).
DDP is taken to reduce the gradients in place (`gradient_as_bucket_view`), FSDP to keep them sharded.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import torch
from rich.table import Table

from f2llm.core.errors import ConfigError
from f2llm.model.sizes import FAMILY, Shape

Precision = Literal["fp32", "bf16"]
Strategy = Literal["single", "ddp", "fsdp"]

FLOAT32 = 4
STEP = 256
"""Token budgets are multiples of this."""
TOKENS_PER_TEXT = 32
"""How long a text is taken to be where nobody says."""
GPU_SHARE, HOST_SHARE = 0.8, 0.5
"""Part of the free memory that a plan may take.

On a host glibc's heap holds more than is in use: 1.2 to 1.35 times a plan's total, with `checkpoint_activations` (many
small freed blocks between the kept ones) 1.4 to 3 times. The share covers the former and not always the latter.
"""
FALLBACK = 8 * 2**30
"""Bytes that a machine is taken to have where it does not tell."""


class _CgroupFiles(NamedTuple):
    mount: str
    limit: str
    usage: str
    cached: str


_CGROUP_FILES = {
    "": _CgroupFiles("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": _CgroupFiles(
        "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    ),
}
"""By controller, as /proc/self/cgroup names it; version 2 has no name there."""


class Item(NamedTuple):
    """A tensor and its elements per token (or text).

    `exact`: float32 also in bf16. `every_token`: the last layer, too, has a row per token of it, and not one per text.
    """

    name: str
    elements: int
    exact: bool = False
    every_token: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that one process needs.

    `copies` are the bfloat16 weights that autocast keeps while a graph lives, `gathered` is what FSDP has unsharded,
    `table_gradient` comes when activations and copies are gone again: `total` counts the larger of the two.
    """

    name: str
    parameters: int
    micro_batch_tokens: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    copies: int
    gathered: int
    table_gradient: int
    total: int

    @property
    def passing(self) -> int:
        """All of the total besides weights, gradients, optimizer and activations."""
        return self.total - self.weights - self.gradients - self.optimizer - self.activations


def layer_items(shape: Shape) -> list[Item]:
    """What one layer saves per token; a tensor that several operations save is here once."""
    inner, kv_inner = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        Item("input", shape.hidden, exact=True, every_token=True),
        Item("input_layernorm: 1 / rms", 1, exact=True, every_token=True),
        Item("q_proj, k_proj, v_proj: input", shape.hidden, every_token=True),
        Item("q_norm: input", inner),
        Item("q_norm: 1 / rms", shape.heads, exact=True),
        Item("k_norm: input", kv_inner, every_token=True),
        Item("k_norm: 1 / rms", shape.kv_heads, exact=True, every_token=True),
        Item("attention: query", inner),
        Item("attention: key", kv_inner, every_token=True),
        Item("attention: value", kv_inner, every_token=True),
        Item("attention: output", inner),
        Item("attention: logsumexp", shape.heads, exact=True),
        Item("o_proj: input", inner),
        Item("post_attention_layernorm: input", shape.hidden, exact=True),
        Item("post_attention_layernorm: 1 / rms", 1, exact=True),
        Item("gate_proj, up_proj: input", shape.hidden),
        Item("SwiGLU: gate", shape.mlp),
        Item("SwiGLU: up", shape.mlp),
        Item("down_proj: input", shape.mlp),
    ]


def working_items(shape: Shape) -> list[Item]:
    """What the backward pass of one layer needs at once beyond what was saved, per token."""
    return [Item("gradient of down_proj's input", shape.mlp), Item("gradients of gate and up", 2 * shape.mlp)]


def pack_items(shape: Shape) -> list[Item]:
    """What is saved per token once for all layers."""
    return [Item("token ids (int64)", 2, exact=True), Item("cosines and sines", 2 * shape.head_dim, exact=True)]


def text_items(shape: Shape) -> list[Item]:
    """What is saved per text besides the last layer's items: the last token's rows, the final norm, its place."""
    return [
        Item("last layer: q_proj: input", shape.hidden),
        Item("last layer: cosines and sines", 2 * shape.head_dim, exact=True),
        Item("norm: input", shape.hidden, exact=True),
        Item("norm: 1 / rms", 1, exact=True),
        Item("place of the last token (int64)", 2, exact=True),
    ]


def saved_bytes(shape: Shape, tokens: int, texts: int, precision: Precision, checkpoint_activations: bool) -> int:
    """Bytes that autograd keeps of a micro-batch at the fullest moment.

    With `checkpoint_activations`: the input of every layer, and all of the one layer that is being recomputed.
    """
    items = layer_items(shape)
    layer = tokens * _bytes(items, precision)
    last = tokens * _bytes([item for item in items if item.every_token], precision)
    last += texts * _bytes([item for item in items if not item.every_token], precision)
    once = tokens * _bytes(pack_items(shape), precision) + texts * _bytes(text_items(shape), precision)
    if not checkpoint_activations:
        return once + (shape.layers - 1) * layer + last
    inputs = (shape.layers - 1) * tokens * shape.hidden * FLOAT32
    return once + inputs + (layer if shape.layers > 1 else last)


def plan_memory(
    shape: Shape,
    *,
    micro_batch_tokens: int,
    sequences: int | None = None,
    precision: Precision = "fp32",
    checkpoint_activations: bool = False,
    processes: int = 1,
    strategy: Strategy = "single",
    name: str = "",
) -> MemoryPlan:
    """What each of `processes` needs; `sequences` are the texts of a micro-batch (default: of 32 tokens each)."""
    texts = _ceil(micro_batch_tokens, TOKENS_PER_TEXT) if sequences is None else sequences
    sharded = strategy == "fsdp"
    own = FLOAT32 * _ceil(shape.parameters, processes if sharded else 1)
    saved = saved_bytes(shape, micro_batch_tokens, texts, precision, checkpoint_activations)
    activations = saved + micro_batch_tokens * _bytes(working_items(shape), precision)
    copies = 2 * _linear_parameters(shape) if precision == "bf16" and not sharded else 0
    gathered = _gathered_bytes(shape, precision) if sharded else 0
    table_gradient = FLOAT32 * shape.embedding_parameters
    return MemoryPlan(
        name=name,
        parameters=shape.parameters,
        micro_batch_tokens=micro_batch_tokens,
        weights=own,
        gradients=own,
        optimizer=2 * own,
        activations=activations,
        copies=copies,
        gathered=gathered,
        table_gradient=table_gradient,
        total=4 * own + gathered + max(activations + copies, table_gradient),
    )


def micro_batch_tokens_for(
    shape: Shape,
    budget_bytes: int,
    *,
    precision: Precision = "fp32",
    checkpoint_activations: bool = False,
    processes: int = 1,
    strategy: Strategy = "single",
) -> int:
    """The largest token budget, a multiple of 256, whose plan fits into `budget_bytes`; ConfigError where none does."""

    def need(tokens: int) -> int:
        plan = plan_memory(
            shape,
            micro_batch_tokens=tokens,
            precision=precision,
            checkpoint_activations=checkpoint_activations,
            processes=processes,
            strategy=strategy,
        )
        return plan.total

    # A token takes more than one byte, so a budget of tokens beyond the number of bytes never fits.
    fitting = bisect_right(range(STEP, max(budget_bytes, STEP) + 1, STEP), budget_bytes, key=need)
    if not fitting:
        raise ConfigError(
            f"training needs {_gb(need(STEP))} GB even with micro_batch_tokens {STEP}, and may use {_gb(budget_bytes)} "
            "GB; set checkpoint_activations, take a smaller size or more processes with fsdp, or free some memory"
        )
    return fitting * STEP


def available_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that a plan may take: 80% of what is free on the GPU, half of it on the machine and in its cgroups.

    What this process holds already counts as taken. Processes on one machine without GPUs share what it says.
    """
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    free = min([*_machine_room(root), *_cgroup_rooms(root)], default=_physical_bytes() // 2)
    return int(HOST_SHARE * free)


def family_plans(micro_batch_tokens: int, precision: Precision, processes: int, strategy: Strategy) -> list[MemoryPlan]:
    """The plan of each size of the family."""
    return [
        plan_memory(
            shape,
            micro_batch_tokens=micro_batch_tokens,
            precision=precision,
            processes=processes,
            strategy=strategy,
            name=name,
        )
        for name, shape in FAMILY.items()
    ]


def memory_table(rows: Sequence[MemoryPlan]) -> Table:
    """One line per plan, in GB; `passing` is what comes and goes besides the activations (see `MemoryPlan`)."""
    table = Table(box=None)
    table.add_column("size")
    for column in ("weights", "gradients", "optimizer", "activations", "passing", "total"):
        table.add_column(column, justify="right")
    for plan in rows:
        parts = (plan.weights, plan.gradients, plan.optimizer, plan.activations, plan.passing, plan.total)
        table.add_row(plan.name, *map(_gb, parts))
    return table


def describe(plan: MemoryPlan) -> str:
    """One sentence: the total and its parts."""
    parts = {
        "weights": plan.weights,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "activations": plan.activations,
        "passing": plan.passing,
    }
    told = ", ".join(f"{name} {_told(size)}" for name, size in parts.items())
    name = plan.name or "training"
    return f"{name} needs {_told(plan.total)} per process at {plan.micro_batch_tokens:,} tokens: {told}"


def _told(size: int) -> str:
    return f"{_gb(size)} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def _bytes(items: Sequence[Item], precision: Precision) -> int:
    width = FLOAT32 if precision == "fp32" else 2
    return sum(item.elements * (FLOAT32 if item.exact else width) for item in items)


def _ceil(value: int, parts: int) -> int:
    return -(-value // parts)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"


def _layer_parameters(shape: Shape) -> int:
    return (shape.parameters - shape.embedding_parameters - shape.hidden) // shape.layers


def _linear_parameters(shape: Shape) -> int:
    norms = 2 * shape.hidden + 2 * shape.head_dim
    return shape.layers * (_layer_parameters(shape) - norms)


def _gathered_bytes(shape: Shape, precision: Precision) -> int:
    """FSDP: one layer and the root group (token table, norm) as a whole, and the layer's gradients in float32."""
    layer, root = _layer_parameters(shape), shape.embedding_parameters + shape.hidden
    return (layer + root) * (FLOAT32 if precision == "fp32" else 2) + layer * FLOAT32


def _machine_room(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """Limit minus usage of each memory cgroup (v1 or v2) that holds this process, its ancestors included."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for name in _CGROUP_FILES.keys() & controllers.split(","):
            files = _CGROUP_FILES[name]
            for place in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield from _cgroup_room(root / files.mount / place.relative_to("/"), files)


def _cgroup_room(folder: Path, files: _CgroupFiles) -> Iterator[int]:
    """Room of one cgroup, if it has a limit; file pages that the kernel drops when asked count as free."""
    limit, usage = ("".join(_lines(folder / name)) for name in (files.limit, files.usage))
    if limit.isdecimal() and usage.isdecimal():
        fields = (line.split() for line in _lines(folder / "memory.stat"))
        cached = sum(int(value) for name, value in fields if name == files.cached)
        yield max(int(limit) - int(usage) + cached, 0)


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel; none where it does not exist."""
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return FALLBACK
